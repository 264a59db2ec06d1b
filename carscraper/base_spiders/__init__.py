"""What every dealer has in common, by platform."""
