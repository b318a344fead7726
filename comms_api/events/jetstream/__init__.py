"""Events in a replicated stream of NATS JetStream. Needs the extra `jetstream`, so its modules are imported by name."""
