"""Whether this process serves, and whether agents should connect to it."""
