"""The diagnosis of one agent: what it waits for, and why."""
