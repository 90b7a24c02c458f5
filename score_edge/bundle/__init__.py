"""The deployable folder: its schema, reading and writing it, where it comes from."""
