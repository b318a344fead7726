"""Orders: one command for one recipient each, offered until it is answered or expires."""
