"""What people do with a trained model: call it, look at it, search with it, serve it. Knows all modalities."""
