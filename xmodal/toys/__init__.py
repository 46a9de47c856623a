"""Generated images, captions and benchmarks for demos and tests; nothing else in the library imports them."""
