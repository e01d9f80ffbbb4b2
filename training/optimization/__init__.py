"""Around the gradient of the objective: micro-batches, the optimizer, guards, looks before and after."""
