"""Groups: named sets of agents, the usual target of a command."""
