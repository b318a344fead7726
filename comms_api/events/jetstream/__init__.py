"""Events in a replicated stream of NATS JetStream. They need the extra `jetstream`, so they are imported by name."""
