"""Show untrusted text safely, describe faults in it, and log it within limits."""
