"""Webhooks: post events of the fleet and results of commands to other programs, each at least once."""
