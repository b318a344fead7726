"""`comms-api demo`: run a server, agents on this host and commands, and compare the counts with the database."""

from comms_api.cli.demo.command import demo

__all__ = ["demo"]
