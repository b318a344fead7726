"""Login of agents: exchange credentials for tokens, and keep the signing keys that all nodes share."""
