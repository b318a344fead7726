"""The commands about orders and actions."""
