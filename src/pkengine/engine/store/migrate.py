"""Bring the tables to the form that this version of pkengine knows."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from pkengine.engine.store.schema import metadata
from pkengine.errors import StoreError


def configuration() -> Config:
    """Give Alembic's configuration; the scripts are part of the package."""
    config = Config()
    location = Path(__file__).with_name("migrations")
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    return config


def migrate(connection: Connection) -> None:
    """Run the migrations that the database lacks, all in the transaction of `connection`.

    Raises:
        StoreError: a newer pkengine, or another program, made the tables.
    """
    _keep_others_out(connection)
    config = configuration()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = MigrationContext.configure(connection).get_current_revision()
    name = connection.engine.url.render_as_string(hide_password=True)
    if found is not None and found not in known:
        raise StoreError(
            f"The database {name} was made by a newer pkengine: its tables have revision "
            f"{found}, this version knows up to {max(known)}. Nothing was changed; run the "
            "newer version, or restore a backup of the database."
        )
    foreign = set(inspect(connection).get_table_names()) & set(metadata.tables)
    if found is None and foreign:
        raise StoreError(
            f"The database {name} has tables of another program, such as "
            f"'{min(foreign)}'. Nothing was changed; give pkengine a database of its own."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _keep_others_out(connection: Connection) -> None:
    """Let one engine after the other do this; the later one sees what the first has done."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL READ COMMITTED"))
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('pkengine migrations'))"))
