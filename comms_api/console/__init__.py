"""The console: pages for people, served by the management API at `/console`. It calls services and runs no SQL."""
