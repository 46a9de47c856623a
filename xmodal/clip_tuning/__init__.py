"""Few-shot methods that train inside CLIP's towers and so need the images in every step."""
