"""Generated action videos for demos and tests; nothing else in the library imports them."""
