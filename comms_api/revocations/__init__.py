"""Revocations of tokens: what ends a subject's tokens on every node."""
