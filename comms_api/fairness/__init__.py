"""Share memory, CPU time, threads and the rounds of the event loop fairly among clients."""
