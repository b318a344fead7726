"""The agent's memory: one SQLite file that survives a crash at any moment."""
