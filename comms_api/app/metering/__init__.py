"""Connects the metrics to the services whose counters they read."""
