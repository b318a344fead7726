"""The commands about users of the management API."""
