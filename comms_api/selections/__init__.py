"""Selections: frozen sets of agents that a user acts on, so that the number shown is the number acted on."""
