"""States: what agents report of themselves, kept up to date by stateful batches."""
