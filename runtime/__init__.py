"""What runs on the board: frames in, answers out, no torch."""
