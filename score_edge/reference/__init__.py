"""The shipped reference model: its procedural world, its training, its bundle."""
