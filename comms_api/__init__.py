"""The communications API for a fleet of security agents: logins, events, states, commands and results."""

from importlib.metadata import version

__version__ = version("comms-api")
"""The version in `pyproject.toml`."""
