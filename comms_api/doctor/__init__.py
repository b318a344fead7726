"""Check a deployment from end to end, and say how to mend what is wrong."""
