"""The simulated fleet. It follows `docs/protocol.md` and imports no code of the server."""
