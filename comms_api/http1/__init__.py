"""HTTP/1.1 (RFC 9112) for an ASGI app, on a listening socket that the caller opens."""
