"""validate → images → database: the way of every car."""
