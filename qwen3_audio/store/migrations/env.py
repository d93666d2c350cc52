"""Run by Alembic for every upgrade; the connection and its transaction are the caller's."""

from alembic import context

from qwen3_audio.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
context.run_migrations()
