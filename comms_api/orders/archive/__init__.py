"""Finished orders: packed into chunks after some days, read back for an agent, and deleted in the end."""
