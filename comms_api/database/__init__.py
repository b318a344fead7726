"""The common parts of all stores: the schema, the engine, migrations, partitions and notifications."""
