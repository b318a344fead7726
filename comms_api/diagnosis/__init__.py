"""The reasons why an agent waits."""
