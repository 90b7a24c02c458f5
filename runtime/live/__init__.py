"""A stream without end: perception, memory, questions, events."""
