"""Questions people ask of a finished run, each a plain function in a file of its own; answers are plain data."""
