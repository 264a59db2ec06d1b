"""validate → cars → images: the way of every car."""
