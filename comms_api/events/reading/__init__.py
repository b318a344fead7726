"""Read stored events: search them, export them, and follow them without gaps."""
