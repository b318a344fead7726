"""Users: the people and services of the management API, and their passwords."""
