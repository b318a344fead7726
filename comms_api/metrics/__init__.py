"""Metrics in Prometheus' format: each worker shares a snapshot of its metrics, and any worker answers for all."""
