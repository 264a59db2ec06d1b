"""Alembic's entry: runs the migrations in the transaction that ``carscraper.db.schema`` opened."""

from alembic import context

from carscraper.db.models import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
context.run_migrations()
