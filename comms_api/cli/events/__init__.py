"""`comms-api events`: search, export and follow the events of agents, and relay those of JetStream."""
