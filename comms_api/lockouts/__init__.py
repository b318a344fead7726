"""Lock out clients that fail to log in again and again, by name and network, on all nodes together."""
