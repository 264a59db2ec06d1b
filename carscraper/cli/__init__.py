"""What commands print and ask: arguments and words over functions that live elsewhere."""
