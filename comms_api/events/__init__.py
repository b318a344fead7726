"""Stateless events of agents, appended to a table or a stream."""
