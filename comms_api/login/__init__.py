"""Login of agents: credentials for a token; and the keys and revocations that every node's tokens share."""
