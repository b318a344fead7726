"""The simulated fleet: it knows the protocol as `docs/protocol.md` tells it, and no code of the server."""
