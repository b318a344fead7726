"""What all stores share: the schema, the engine, the embedded server, migrations, partitions and notifications."""
