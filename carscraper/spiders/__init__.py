"""One dealer a file."""
