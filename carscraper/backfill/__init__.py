"""What a backfill has to do: its arguments, the cars that are work, and the photos of an archive."""
