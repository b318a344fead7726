"""Revocations, which end a subject's tokens on every node."""
