"""Files of every kind that the suite writes, made once, which stay readable."""
