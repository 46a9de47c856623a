"""From a feature to logits, a loss and predictions."""
