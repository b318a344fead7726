"""What all stores share: the schema, the engine, migrations, partitions and notifications."""
