"""The embedded PostgreSQL, used when no database URL is set: its cluster, home, users and locks."""
