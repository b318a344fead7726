"""The actions that commands name, and the JSON Schemas of their args."""
