"""`comms-api demo`: a server, agents on this host and commands, live; at the end a comparison with the database."""

from comms_api.cli.demo.command import demo

__all__ = ["demo"]
