"""Point clouds through a frozen image encoder."""
