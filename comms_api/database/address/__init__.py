"""From `database_url` to a connection: the URL and its parameters, its hosts, and poolers."""
