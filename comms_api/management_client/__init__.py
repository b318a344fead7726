"""A client of the management API, for programs and for the command line."""
