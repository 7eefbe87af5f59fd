"""What Alembic runs: migrations on the connection that `migrate` hands over."""

from alembic import context

from pkengine.engine.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
