"""Describe this host as state documents, and find what has changed since the last scan."""
