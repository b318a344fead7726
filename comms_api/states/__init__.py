"""States: documents that describe an agent's host, kept up to date by stateful batches."""
