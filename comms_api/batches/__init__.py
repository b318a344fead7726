"""The batches of lines that agents send, whatever is in them."""
