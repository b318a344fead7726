"""The PostgreSQL that this package brings for operators who name none: its cluster, home, users and locks."""
