"""Show untrusted text, describe what is wrong with it, and log it within limits."""
