"""Accounts by the command line: what it prints, what it refuses, and what it leaves behind."""

import asyncio
import contextlib
import os
import pathlib
import re
import sqlite3
import termios

import argon2
import httpx
import orjson

from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from tests import live, rig
from tests.process import child

ADA, EVE, BOB = "ada@example.org", "eve@example.org", "bob@example.org"
PASSWORD = "s3cret-correct-horse"
PICTURE = rig.picture()
KEY = r"nh_[\w-]{43}"


@contextlib.contextmanager
def database(folder: pathlib.Path):
    with contextlib.closing(sqlite3.connect(folder / "data" / "nanohook.db")) as opened:
        opened.row_factory = sqlite3.Row
        yield opened


def rows(folder, sql):
    with database(folder) as opened:
        return [tuple(row) for row in opened.execute(sql)]


class Desk:
    """Runs commands on one data folder, several at once."""

    def __init__(self, folder, **env):
        self.folder = folder
        self.env = {"NANOHOOK_DATA_DIR": str(folder / "data"), **env}

    async def run(self, *words, **env):
        """One after ``user``."""
        logs = self.folder / "logs" / re.sub(r"\W+", "_", " ".join(words))[:80]
        return await child.ran("user", *words, folder=logs, env=self.env | env, cwd=self.folder)

    async def all(self, *commands):
        return await asyncio.gather(*(self.run(*command.split()) for command in commands))


def refused(run, why):
    """One line that says why, and the exit code of what was asked wrongly."""
    assert run.code == 2, run.said + run.printed
    assert why in run.said
    assert "Traceback" not in run.said
    assert run.printed == ""


def key_of(run):
    """The key stands alone on the last line, and nowhere else."""
    assert run.code == 0, run.said
    key = run.printed.splitlines()[-1]
    assert re.fullmatch(KEY, key)
    assert re.findall(KEY, run.printed + run.said) == [key]
    return key


async def test_accounts_are_made_listed_and_given_credits(tmp_path):
    desk = Desk(tmp_path, NANOHOOK_FREE_CREDITS="25")
    made = await desk.all(
        f"create {ADA} --verified --admin --credits 7",
        "create Eve@Example.ORG",
        f"create {BOB} --verified",
    )
    keys = [key_of(run) for run in made]
    assert len(set(keys)) == 3
    assert "with 7 credits" in made[0].printed
    assert (
        (await desk.run("create", "ADA@example.org")).said.strip().endswith("this address has an account already")
    )

    as_json, as_text = await desk.all("list --json", "list")
    listed = orjson.loads(as_json.printed)
    assert [
        (one["email"], one["is_admin"], one["is_verified"], one["is_disabled"], one["available"], one["reserved"])
        for one in listed
    ] == [
        (ADA, True, True, False, 7, 0),
        # Verified later, the address brings its free credits then, and once.
        (BOB, False, True, False, 25, 0),
        (EVE, False, False, False, 0, 0),
    ]
    assert as_text.printed.splitlines() == [
        f"{ADA}  7 credits  admin verified",
        f"{BOB}  25 credits  verified",
        f"{EVE}  0 credits",
    ]
    for key in keys:
        assert key not in as_json.printed + as_text.printed

    asked = {
        (EVE, "5"): ["5", "credits"],
        (BOB, "--", "-25"): ["0", "credits"],
        (ADA, "--", "-8"): "a balance does not go below nothing",
        (ADA, "1000000000"): "a balance stays below 1,000,000,000 credits",
        (ADA, "9" * 30): "Invalid value",
        ("nobody@example.org", "1"): "there is no account of this address",
    }
    runs = await asyncio.gather(*(desk.run("credits", *words) for words in asked))
    for run, said in zip(runs, asked.values(), strict=True):
        if isinstance(said, str):
            refused(run, said)
        else:
            assert (run.code, run.printed.split()[-2:]) == (0, said)
    assert rows(tmp_path, "SELECT email, available FROM balances JOIN users ON id = owner_id ORDER BY email") == [
        (ADA, 7),
        (BOB, 0),
        (EVE, 5),
    ]
    granted = rows(tmp_path, "SELECT email, kind, available FROM ledger JOIN users ON users.id = owner_id")
    assert sorted(granted) == [
        (ADA, "grant", 7),
        (BOB, "grant", -25),
        (BOB, "grant", 25),
        (EVE, "grant", 5),
    ]
    audit = rows(
        tmp_path,
        "SELECT actor, action, email, before, after FROM audit JOIN users ON users.id = subject "
        "WHERE action != 'user.create'",
    )
    assert sorted(audit) == [
        ("command line", "credits.change", BOB, "25", "0"),
        ("command line", "credits.change", EVE, "0", "5"),
    ]
    written = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("nanohook.db*"))
    assert not [key for key in keys if key.encode() in written]


NOTHING_MADE = {
    ("create", "ada.example.org"): "no e-mail address",
    ("create", ADA, "--credits", "9" * 30): "Invalid value",
    ("disable", "Ada <ada@example.org>"): "no e-mail address",
    ("credits", "ada@example.org\nx", "5"): "no e-mail address",
}


async def test_what_is_no_address_leaves_nothing_behind(tmp_path):
    desk = Desk(tmp_path)
    runs = await asyncio.gather(*(desk.run(*words) for words in NOTHING_MADE))
    for run, why in zip(runs, NOTHING_MADE.values(), strict=True):
        refused(run, why)
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}


class Terminal:
    """A person at a keyboard, who types when asked."""

    def __init__(self, run, keyboard):
        self._run = run
        self._keyboard = keyboard

    async def asked(self, text):
        await live.until(lambda: text in self._run.printed + self._run.said, timeout_s=20)
        # What is typed before the echo is off is thrown away.
        await live.until(lambda: not termios.tcgetattr(self._keyboard)[3] & termios.ECHO, timeout_s=20)

    def type(self, text):
        os.write(self._keyboard, f"{text}\n".encode())


@contextlib.contextmanager
def at_a_terminal(desk, name, *words):
    keyboard, screen = os.openpty()
    try:
        command = (*child.NANOHOOK, "user", *words)
        folder = desk.folder / "logs" / name
        with child.started(command, folder, env=desk.env, cwd=desk.folder, stdin=screen) as run:
            yield run, Terminal(run, keyboard)
    finally:
        os.close(screen)
        os.close(keyboard)


async def test_a_password_is_asked_for_and_never_shown(tmp_path):
    desk = Desk(tmp_path)
    with at_a_terminal(desk, "right", "create", ADA, "--verified", "--password") as (run, person):
        await person.asked("Password")
        person.type(PASSWORD)
        await person.asked("Repeat")
        person.type(PASSWORD)
        await run.exited()
    key_of(run)
    assert PASSWORD not in run.printed + run.said
    [(stored,)] = rows(tmp_path, "SELECT password_hash FROM users")
    assert argon2.PasswordHasher().verify(stored, PASSWORD)

    # A script writes it into a pipe: as an option, every list of processes would show it.
    typed = tmp_path / "typed"
    for text, name in ((f"{PASSWORD}\n", EVE), ("short\n", BOB)):
        typed.write_text(text)
        command = (*child.NANOHOOK, "user", "create", name, "--password", "--admin")
        with (
            typed.open("rb") as pipe,
            child.started(command, tmp_path / name, env=desk.env, cwd=tmp_path, stdin=pipe.fileno()) as run,
        ):
            await run.exited()
        if name == EVE:
            key_of(run)
        else:
            refused(run, "the password needs at least 8 characters")
        assert PASSWORD not in run.printed + run.said
    [(stored, is_admin)] = rows(tmp_path, f"SELECT password_hash, is_admin FROM users WHERE email = '{EVE}'")
    assert (argon2.PasswordHasher().verify(stored, PASSWORD), is_admin) == (True, 1)
    assert rows(tmp_path, "SELECT COUNT(*) FROM users") == [(2,)]


async def test_who_is_disabled_is_out_at_once_beside_a_running_service(tmp_path):
    async with (
        live.serve(create_sandbox(Options())) as upstream,
        child.serving(tmp_path, upstream=upstream) as (service, base, env),
    ):
        desk = Desk(tmp_path, **env)
        key = key_of(await desk.run("create", ADA, "--verified", "--admin", "--credits", "9"))
        async with (
            httpx.AsyncClient(
                base_url=base, trust_env=False, headers={"Authorization": f"Bearer {key}"}
            ) as by_key,
            httpx.AsyncClient(base_url=base, trust_env=False, headers={"Origin": base}) as browser,
        ):

            async def login():
                asked = {"email": ADA, "password": PASSWORD}
                return (await browser.post("/api/auth/login", json=asked)).status_code

            async def reached():
                return [(await client.get("/api/auth/me")).status_code for client in (by_key, browser)]

            said = (await by_key.get("/api/auth/me")).json()
            assert (said["is_admin"], said["is_verified"], said["credits"]["available"]) == (True, True, 9)
            first = await by_key.post("/api/auth/password", json={"new_password": PASSWORD})
            assert (first.status_code, await login(), await reached()) == (204, 200, [200, 200])

            out, more = await asyncio.gather(desk.run("disable", "ADA@example.org"), desk.run("credits", ADA, "3"))
            assert (out.code, more.code) == (0, 0)
            assert (await reached(), await login()) == ([401, 401], 401)
            listed = orjson.loads((await desk.run("list", "--json")).printed)
            assert [(one["email"], one["is_disabled"]) for one in listed] == [(ADA, True)]

            assert (await desk.run("disable", ADA, "--undo")).code == 0
            # Sessions are over, keys live again.
            assert (await reached(), await login()) == ([200, 401], 200)
            assert await reached() == [200, 200]
            assert (await by_key.get("/api/credits")).json()["available"] == 12
        assert await service.stopped() == 0
    acts = rows(tmp_path, "SELECT actor, action FROM audit")
    assert sorted(acts) == [
        ("command line", "credits.change"),
        ("command line", "key.create"),
        ("command line", "user.create"),
        ("command line", "user.disable"),
        ("command line", "user.enable"),
    ]
    assert PASSWORD not in service.said + service.printed
    assert key not in service.said + service.printed


async def test_an_account_is_deleted_with_its_images_beside_a_running_service(tmp_path):
    async with (
        live.serve(create_sandbox(Options(latency_s=600))) as upstream,
        child.serving(tmp_path, upstream=upstream) as (service, base, env),
    ):
        desk = Desk(tmp_path, **env)
        key = key_of(await desk.run("create", ADA, "--verified", "--credits", "900"))
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=base, trust_env=False, headers=headers, timeout=20) as ada:
            project = await ada.post("/api/projects", data={"name": "holidays"}, files={"cover": ("x", PICTURE)})
            assert project.status_code == 201
            uploads = [await ada.post("/api/images", files={"file": ("x", PICTURE)}) for _ in range(52)]
            asked = await ada.post("/api/generate-image", json={"prompt": "a kite"})
            assert {answer.status_code for answer in (*uploads, asked)} == {201, 202}
            picture = uploads[0].json()["original"]["url"]
            assert (await ada.get(picture)).status_code == 200

            unsure = await desk.run("delete", ADA)
            assert (unsure.code, (await ada.get("/api/auth/me")).status_code) == (1, 200)
            async with ada.stream("GET", "/api/events") as stream:
                gone = await desk.run("delete", "ADA@example.org", "--yes")
                assert (gone.code, gone.printed) == (0, "account ADA@example.org is deleted\n")
                assert [line async for line in stream.aiter_lines()][-1].startswith("retry:")
            assert (await ada.get("/api/auth/me")).status_code == 401
            assert (await ada.get(picture)).status_code == 404
        assert orjson.loads((await desk.run("list", "--json")).printed) == []
        refused(await desk.run("delete", ADA, "--yes"), "there is no account of this address")
        # The address is free, and what is made with it has nothing of what was.
        other = key_of(await desk.run("create", ADA, "--verified"))
        async with httpx.AsyncClient(base_url=base, trust_env=False) as anew:
            listed = await anew.get("/api/images", headers={"Authorization": f"Bearer {other}"})
            assert listed.json()["images"] == []
        assert await service.stopped() == 0
    assert rows(tmp_path, "SELECT COUNT(*) FROM jobs WHERE deleted_at IS NULL") == [(0,)]
    assert rows(tmp_path, "SELECT COUNT(*) FROM projects") == [(0,)]
    [(former,)] = rows(tmp_path, f"SELECT email FROM users WHERE email != '{ADA}'")
    assert re.fullmatch(r"deleted [0-9a-f-]{36}", former)
    assert rows(tmp_path, "SELECT COUNT(*) FROM ledger")[0][0] > 1
    acts = [action for (action,) in rows(tmp_path, "SELECT action FROM audit ORDER BY id")]
    assert acts == ["user.create", "user.disable", "user.delete", "user.create"]
    audit = await child.ran("doctor", "--audit", folder=tmp_path / "logs" / "audit", env=desk.env, cwd=tmp_path)
    assert audit.code == 0, audit.printed + audit.said
