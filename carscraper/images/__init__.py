"""What the bytes of a photo are, what of them is kept, and small copies of it."""
