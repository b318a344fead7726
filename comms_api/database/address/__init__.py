"""From `database_url` to a connection: the URL and its parameters, the hosts it names, and poolers in between."""
