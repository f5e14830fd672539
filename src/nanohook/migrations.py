"""Bringing the schema up: one process at a time, after a copy of the file."""

import contextlib
import fcntl
import logging
import pathlib
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any, Final

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
import sqlalchemy

from nanohook import errors
from nanohook.values import frozen

logger = logging.getLogger(__name__)

_PACKAGED: Final = pathlib.Path(__file__).parent / "migrations_folder"


@frozen
class Standing:
    """How a database file is, as far as it can be told without changing it."""

    present: str | None
    """Its revision; ``None``: it has no schema of ours."""
    newest: str
    is_known: bool
    """This version knows the revision: otherwise the file is of a newer one."""


def folder() -> pathlib.Path:
    """
    Find the migrations: inside an installed package, or at the root of a checkout.

    Raises:
        ConfigError: Neither is there.
    """
    here = pathlib.Path(__file__)
    for place in (_PACKAGED, here.parents[2] / "alembic"):
        if (place / "env.py").is_file():
            return place
    raise errors.ConfigError("the migrations are missing: install nanohook again")


def upgrade(path: pathlib.Path) -> str | None:
    """
    Bring the SQLite file at *path* to the newest schema; a file of older schema is copied first.

    Returns:
        The revision it was brought to, or ``None`` if it was there already.

    Raises:
        ConfigError: The file is of a newer schema than this version knows, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _in_turn(path), _connection(path) as connection:
            return _upgrade(path, connection)
    except (OSError, sqlalchemy.exc.DBAPIError) as exc:
        raise errors.ConfigError(f"the database at {path} cannot be brought up: {exc}") from exc


def standing(path: pathlib.Path) -> Standing:
    """
    Look through the SQLite file at *path*, read-only: its pages, and its schema's revision.

    Raises:
        ConfigError: It cannot be opened, or it is damaged.
    """
    script = alembic.script.ScriptDirectory.from_config(config())
    try:
        uri = f"file:{urllib.parse.quote(str(path))}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as file:
            found = [str(row[0]) for row in file.execute("PRAGMA quick_check(1)")]
            if found != ["ok"]:
                raise errors.ConfigError(f"the database at {path} is damaged: {found[0][:200] if found else ''}")
            tables = {row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            rows = file.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
            present = next((str(row[0]) for row in rows), None)
    except sqlite3.Error as exc:
        raise errors.ConfigError(f"the database at {path} cannot be read: {exc}") from exc
    known = {revision.revision for revision in script.walk_revisions()}
    return Standing(
        present=present, newest=script.get_current_head() or "", is_known=present is None or present in known
    )


@contextlib.contextmanager
def alone(data_dir: pathlib.Path) -> Iterator[None]:
    """
    Hold the data dir: one process does its work, so whatever a former one held is free at once.

    Raises:
        ConfigError: Another process holds it.
    """
    with (data_dir / "work.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.ConfigError(
                f"NANOHOOK_DATA_DIR: another nanohook serves from {data_dir}; stop it, or choose another folder"
            ) from None
        yield


def config(connection: sqlalchemy.Connection | None = None) -> alembic.config.Config:
    """Build alembic's configuration for our migrations, over *connection* if one is given."""
    made = alembic.config.Config()
    made.set_main_option("script_location", str(folder()))
    if connection is not None:
        made.attributes["connection"] = connection
    return made


def _upgrade(path: pathlib.Path, connection: sqlalchemy.Connection) -> str | None:
    settings = config(connection)
    script = alembic.script.ScriptDirectory.from_config(settings)
    present = alembic.migration.MigrationContext.configure(connection).get_current_revision()
    newest = script.get_current_head()
    if present == newest:
        return None
    if present is not None and present not in {revision.revision for revision in script.walk_revisions()}:
        raise errors.ConfigError(f"the database at {path} is of a newer nanohook: revision {present}")
    with contextlib.ExitStack() as stack:
        if present is not None:
            # Nobody serves from it, and nobody starts to: an older service would meet a newer schema.
            stack.enter_context(alone(path.parent))
            _copy(path, revision=present)
        connection.commit()
        alembic.command.upgrade(settings, "head")
        connection.commit()
    logger.info("database.upgraded", extra={"from_revision": present, "to_revision": newest})
    return newest


@contextlib.contextmanager
def _in_turn(path: pathlib.Path) -> Iterator[None]:
    """Hold a lock beside the file: a second process waits, then finds nothing to do."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _connection(path: pathlib.Path) -> Iterator[sqlalchemy.Connection]:
    def prepare(raw: Any, _record: object) -> None:
        # Left to itself the driver commits before every CREATE: a revision that fails would stay half done.
        raw.isolation_level = None
        # The file keeps this. Set here, in turn: SQLite does not wait when two processes change it at once.
        raw.execute("PRAGMA journal_mode=WAL").close()

    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    sqlalchemy.event.listen(engine, "connect", prepare)
    sqlalchemy.event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _copy(path: pathlib.Path, *, revision: str) -> None:
    """Copy the file with what its log still holds; SQLite's own backup reads both."""
    target = path.with_name(f"{path.stem}-before-upgrade-{revision}-{int(time.time())}.db")
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
    logger.info("database.copied", extra={"path": str(target)})
