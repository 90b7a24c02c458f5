"""Which tokens are kept: residual, one file per selector, dithering, budgets. Imports nothing of the runtime."""
