"""Names of the weights in official checkpoints, and ours: one template for both directions."""
