"""The duties of a process: work that it repeats beside its requests, and the health of each."""
