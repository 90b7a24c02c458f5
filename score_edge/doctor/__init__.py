"""What is on this machine and whether it fits together, each finding with its fix as a command."""
