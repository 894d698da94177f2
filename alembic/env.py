"""How migrations run: one at a time, in a transaction each, with timeouts. Or as SQL for psql.

Arguments of `alembic -x name=value`:

* `url=...` - the database, instead of QTS_DATABASE_URL;
* `edition=community|apache|postgresql` - with `--sql` only: the edition for which the script is written;
* `allow_data_loss=yes` - run operations that destroy data (a shorter retention, an aggregate whose ticks are gone);
* `timescaledb=off` - use plain PostgreSQL on a server that offers the extension.
"""

from __future__ import annotations

import logging.config
from typing import Any

from alembic import context
from alembic.util import CommandError

from qts_data import bootstrap
from qts_data.database.engine import parse_url
from qts_data.database.migrations import AUTOGENERATE_OPTIONS, MIGRATION_LOCK_KEY, migration_connection
from qts_data.errors import QtsDataError
from qts_data.models import Base
from qts_data.settings import load_settings
from qts_data.timescale import Edition
from qts_data.timescale.autogenerate import PLUGIN_NAME

config = context.config
arguments = context.get_x_argument(as_dictionary=True)
unknown = set(arguments) - {"url", "edition", "timescaledb", "allow_data_loss"}
if unknown:
    raise CommandError(
        f"-x does not know {', '.join(sorted(unknown))}; it takes url, edition, timescaledb and allow_data_loss"
    )
if arguments.get("timescaledb", "off") != "off":
    raise CommandError("-x timescaledb takes only off: the edition is read from the server")

# Alembic's command line sets up logging here; a program that calls Alembic from code has its own. A short alembic.ini,
# of a project that uses the wheel, has no such sections.
if config.config_file_name is not None and "url" not in config.attributes and config.get_section("formatters"):
    logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)

options: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "transaction_per_migration": True,
    **AUTOGENERATE_OPTIONS,
    "autogenerate_plugins": [*AUTOGENERATE_OPTIONS["autogenerate_plugins"], PLUGIN_NAME],
    "timescale_allow_data_loss": arguments.get("allow_data_loss", "no") == "yes"
    or config.attributes.get("allow_data_loss", False),
    "timescaledb_off": "timescaledb" in arguments or config.attributes.get("timescaledb_off", False),
}


def run_offline() -> None:
    """Print the SQL, without connecting to a server."""
    if "edition" not in arguments:
        raise CommandError("offline SQL needs an edition: pass -x edition=community, apache or postgresql")
    if arguments["edition"] not in list(Edition):
        raise CommandError(f"-x edition is one of {', '.join(Edition)}, not {arguments['edition']!r}")
    settings = load_settings()
    context.configure(
        dialect_name="postgresql",
        # Otherwise every % is doubled for the driver; psql needs it single.
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        timescale_edition=arguments["edition"],
        trading_time_zone=settings.trading_time_zone,
        **options,
    )
    emit = context.get_context().impl.static_output
    emit(f"-- For the {arguments['edition']} edition. Run it with psql -v ON_ERROR_STOP=1.")
    emit("SET client_encoding = 'UTF8';")
    emit(f"SET lock_timeout = {int(settings.migration_lock_timeout_seconds * 1000)};")
    emit(f"SET statement_timeout = {int(settings.migration_statement_timeout_seconds * 1000)};")
    emit(f"SELECT pg_advisory_lock({MIGRATION_LOCK_KEY});")
    context.run_migrations()
    emit(f"SELECT pg_advisory_unlock({MIGRATION_LOCK_KEY});")


def run_online() -> None:
    """Migrate the database."""
    if "edition" in arguments:
        raise CommandError("-x edition is for --sql only: online, the edition is read from the server")
    settings = load_settings()
    url = parse_url(arguments["url"]) if "url" in arguments else config.attributes.get("url")
    with migration_connection(
        url or bootstrap.database_url(settings),
        config=settings.database,
        wait_seconds=settings.migration_wait_seconds,
        lock_timeout_seconds=settings.migration_lock_timeout_seconds,
        statement_timeout_seconds=settings.migration_statement_timeout_seconds,
    ) as connection:
        context.configure(
            connection=connection,
            trading_time_zone=settings.trading_time_zone,
            **options,
        )
        context.run_migrations()


try:
    if context.is_offline_mode():
        run_offline()
    else:
        run_online()
except QtsDataError as error:
    # One sentence on Alembic's command line, not a traceback.
    raise CommandError(str(error)) from error
