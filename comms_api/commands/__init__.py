"""Commands: each becomes one order per targeted agent, offered until it is answered or expires."""
