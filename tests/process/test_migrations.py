"""The schema and the keys of a data dir: brought up once, by one, and never by those they do not belong to."""

import asyncio
import contextlib
import pathlib
import shutil
import sqlite3
import stat

import alembic.command
import alembic.util
import pytest
import sqlalchemy

from nanohook import app, errors, migrations, settings, signing_keys
from nanohook.cli import people
from nanohook.cli.opening import opened
from nanohook.tables import metadata
from tests import live
from tests.process import child, post_mortem

NOWHERE = "http://127.0.0.1:9"
REVISION = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "9999", "{head}", None, None


def upgrade():
    op.create_table("later", sa.Column("id", sa.Text(), primary_key=True))
    {then}
"""


def database(folder: pathlib.Path) -> pathlib.Path:
    return app.database_path(settings.fixed(data_dir=folder))


def revision(path: pathlib.Path) -> str:
    [row] = rows(path, "SELECT version_num FROM alembic_version")
    return str(row[0])


def tables(path: pathlib.Path) -> set[str]:
    return {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}


def rows(path: pathlib.Path, sql: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


@contextlib.contextmanager
def connected(path: pathlib.Path):
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def test_an_empty_folder_gets_the_newest_schema_and_only_once(tmp_path):
    path = database(tmp_path / "deep" / "data")
    newest = migrations.upgrade(path)
    assert newest == revision(path)
    assert tables(path) - {"sqlite_sequence", "alembic_version"} == set(metadata.tables)
    assert migrations.upgrade(path) is None
    assert [name.name for name in path.parent.glob("*before-upgrade*")] == []


def test_nobody_who_opens_the_database_later_has_to_change_its_journal(tmp_path):
    # SQLite does not wait when two change it at once: a service and a command beside it would refuse to start.
    path = database(tmp_path)
    migrations.upgrade(path)
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


def test_the_migrations_make_what_the_tables_say(tmp_path):
    path = database(tmp_path)
    migrations.upgrade(path)
    with connected(path) as connection:
        # Raises when a revision is missing.
        alembic.command.check(migrations.config(connection))

    # Constraints and partial indexes, which alembic does not compare.
    drawn = tmp_path / "drawn.db"
    with connected(drawn) as connection:
        metadata.create_all(connection)
        connection.commit()
    assert clauses(path) == clauses(drawn)


def clauses(path: pathlib.Path) -> dict[str, list[str]]:
    """Each table and index as the sorted clauses of its statement; an added column stands at the end of it."""
    found = rows(path, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name != 'alembic_version'")
    return {str(name): sorted(clause_list(" ".join(str(sql).replace('"', "").split()))) for name, sql in found}


def clause_list(sql: str) -> list[str]:
    """Split a statement at the commas of its outermost parentheses."""
    depth, parts = 0, [""]
    for sign in sql:
        depth += (sign == "(") - (sign == ")")
        if (sign == "," and depth == 1) or (sign in "()" and depth == (sign == "(")):
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


@pytest.fixture
def newer(tmp_path):
    """Install, as a wheel would, a nanohook with one more revision; gives what its environment needs."""

    def install(then: str = "pass") -> dict[str, str]:
        place = tmp_path / "newer"
        shutil.rmtree(place, ignore_errors=True)
        package = shutil.copytree(child.ROOT / "src" / "nanohook", place / "nanohook")
        folder = shutil.copytree(migrations.folder(), package / "migrations_folder", dirs_exist_ok=True)
        text = REVISION.format(head=newest(), then=then)
        (folder / "versions" / "9999_later.py").write_text(text)
        return {"PYTHONPATH": str(place), "NANOHOOK_DATA_DIR": str(tmp_path / "data")}

    return install


def newest() -> str:
    script = alembic.script.ScriptDirectory.from_config(migrations.config())
    return str(script.get_current_head())


async def test_an_older_database_is_copied_and_upgraded_and_a_newer_one_is_refused(tmp_path, newer):
    path = database(tmp_path / "data")
    here = {"NANOHOOK_DATA_DIR": str(path.parent), "NANOHOOK_PUBLIC_URL": NOWHERE}
    await people.create(
        settings.fixed(data_dir=path.parent),
        people.NewAccount(email="ada@example.org", is_verified=True, credits=1_000_000),
    )

    upgraded = await child.ran("migrate", folder=tmp_path / "logs", env=newer(), cwd=tmp_path)
    assert upgraded.code == 0, upgraded.said
    assert "9999" in upgraded.printed
    assert revision(path) == "9999"
    assert "later" in tables(path)
    [copy] = path.parent.glob("*before-upgrade*.db")
    assert revision(copy) == newest()
    assert "later" not in tables(copy)
    for each in (path, copy):
        assert rows(each, "SELECT email FROM users") == [("ada@example.org",)]

    before = path.read_bytes()
    commands = [("serve", "--port", "0"), ("migrate",), ("user", "create", "eve@example.org")]
    refused = await asyncio.gather(
        *(child.ran(*words, folder=tmp_path / words[0], env=here, cwd=tmp_path) for words in commands)
    )
    for each in refused:
        assert (each.code, "newer nanohook: revision 9999" in each.said) == (2, True), each.said
        assert "Traceback" not in each.said
    assert path.read_bytes() == before


async def test_an_upgrade_that_fails_leaves_the_database_as_it_was(tmp_path, newer):
    path = database(tmp_path / "data")
    migrations.upgrade(path)
    env = newer(then="op.execute('SELECT * FROM nowhere')")
    failed = await child.ran("migrate", folder=tmp_path / "logs", env=env, cwd=tmp_path)
    assert failed.code == 2, failed.said
    assert "cannot be brought up" in failed.said
    assert revision(path) == newest()
    assert "later" not in tables(path)
    with connected(path) as connection:
        alembic.command.check(migrations.config(connection))


async def test_nothing_is_upgraded_beneath_a_running_service(tmp_path, newer):
    data, port = tmp_path / "data", live.closed_port()
    async with child.service(data, port=port, upstream=NOWHERE) as service:
        env = newer()
        commands = [("serve", "--port", "0"), ("user", "create", "eve@example.org")]
        refused = await asyncio.gather(
            *(child.ran(*words, folder=tmp_path / words[0], env=env, cwd=tmp_path) for words in commands)
        )
        assert revision(database(data)) == newest()
        for each in refused:
            assert each.code == 2, each.said
            assert "NANOHOOK_DATA_DIR" in each.said
        assert await service.stopped() == 0


async def test_of_two_that_start_at_once_one_serves_and_commands_beside_them_work(tmp_path):
    data = tmp_path / "data"
    env = {"NANOHOOK_DATA_DIR": str(data)}
    ports = [live.closed_port(), live.closed_port()]
    with contextlib.ExitStack() as stack:
        services = [
            stack.enter_context(
                child.started((*child.NANOHOOK, "serve", "--port", str(port)), tmp_path / str(port), env=env)
            )
            for port in ports
        ]
        commands = await asyncio.gather(
            *(
                child.ran(*words, folder=tmp_path / words[-1], env=env)
                for words in (("migrate",), ("user", "create", "ada@example.org"))
            )
        )
        assert [each.code for each in commands] == [0, 0], [each.said for each in commands]
        up = [
            await service.is_up(f"http://127.0.0.1:{port}") for service, port in zip(services, ports, strict=True)
        ]
        assert sorted(up) == [False, True]
        first, second = services if up[0] else reversed(services)
        assert second.code == 2
        assert "NANOHOOK_DATA_DIR: another nanohook serves from" in second.said
        assert await first.stopped() == 0
    assert rows(database(data), "PRAGMA integrity_check") == [("ok",)]
    assert post_mortem.rows(data, "SELECT email FROM users") == [{"email": "ada@example.org"}]
    assert stat.S_IMODE((data / "secret").stat().st_mode) == 0o600


FORMER, NEXT, FOREIGN = (f"{name}-key-of-more-than-16-characters" for name in ("former", "next", "foreign"))


async def test_keys_may_be_changed_only_while_a_former_one_is_still_named(tmp_path):
    async def use(*names: str) -> list[str]:
        chosen = settings.fixed(data_dir=tmp_path, secret_keys=names)
        async with opened(chosen, may_make=True) as found:
            return await signing_keys.load(chosen, found)

    assert await use(FORMER) == [FORMER]
    assert await use(NEXT, FORMER) == [NEXT, FORMER]
    assert await use(NEXT) == [NEXT]
    for foreign in ([FOREIGN], [FORMER], []):
        with pytest.raises(errors.ConfigError, match="NANOHOOK_SECRET_KEYS"):
            await use(*foreign)
    assert await use(NEXT) == [NEXT]


async def test_a_service_with_a_foreign_key_does_not_start(tmp_path):
    data = tmp_path / "data"
    generated = settings.fixed(data_dir=data)
    async with opened(generated, may_make=True) as found:
        [secret] = await signing_keys.load(generated, found)
    env = {"NANOHOOK_DATA_DIR": str(data), "NANOHOOK_SECRET_KEYS": FOREIGN}
    refused = await child.ran("serve", "--port", "0", folder=tmp_path / "logs", env=env)
    assert refused.code == 2, refused.said
    assert "NANOHOOK_SECRET_KEYS" in refused.said
    assert "Traceback" not in refused.said
    assert FOREIGN not in refused.said + refused.printed
    assert secret not in refused.said + refused.printed
    assert "serves" not in refused.printed
