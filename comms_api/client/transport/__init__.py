"""Talk to the agent API: connect, log in, retry, and send what the spool holds."""
