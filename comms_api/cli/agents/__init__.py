"""The commands about agents, groups and enrollment tokens."""
