"""Keep files of every kind that xmodal writes, made once, and check that they stay readable."""
