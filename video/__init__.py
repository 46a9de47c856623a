"""Action recognition in video through a frozen image encoder."""
