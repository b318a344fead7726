"""The communications API for a fleet of security agents: logins, events, states, commands and results."""
