"""The reference agent: what a real agent does, in a form that can be read."""
