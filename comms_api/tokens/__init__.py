"""Short-lived signed tokens: issued at login, verified on every request without a database query."""
