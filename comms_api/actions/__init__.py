"""Actions: what a command can ask for, and the JSON Schemas of their args."""
