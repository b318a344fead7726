"""Short-lived signed tokens: issued at login, checked on every request without asking the database."""
