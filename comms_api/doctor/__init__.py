"""Check a whole deployment, and suggest a remedy for each problem."""
