"""The configuration files of groups: their versions, the agents that run them, and the orders that announce them."""
