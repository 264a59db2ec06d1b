"""Alembic's migrations. Run by ``carscraper.db.schema``, on a connection that it hands over."""
