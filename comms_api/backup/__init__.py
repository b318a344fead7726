"""Back up a server into one file, and restore it: its database, secret, certificates and settings."""
