"""What agents tell: stateless events, appended, and states, kept up to date by stateful batches."""
