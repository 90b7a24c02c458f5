"""What keeping fewer tokens costs and saves: accuracy, selectivity, comparison with unpruned, pictures, demo."""
