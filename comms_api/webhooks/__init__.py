"""Webhooks: send events of the fleet and results of commands to the URLs of others, at least once each."""
