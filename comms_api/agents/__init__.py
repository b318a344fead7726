"""Agents: their enrollment, keys, status and when they were last seen."""
