"""Follow log files and make an event of each new line."""
