"""What runs the language model, and how a clip becomes its prompt."""
