"""HTTP/1.1 (RFC 9112) for an ASGI app, on connections that somebody else accepts."""
