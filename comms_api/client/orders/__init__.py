"""Poll for orders, execute each once, and report its result."""
