"""The `comms-api` command: `comms-api NOUN VERB`."""
