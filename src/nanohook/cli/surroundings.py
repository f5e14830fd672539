"""What ``nanohook doctor`` looks at on this machine: settings, data dir, database, keys, storage."""

import asyncio
import difflib
import os
import pathlib
import shutil
import tempfile
from typing import Final

from nanohook import app, clock, database, errors, ids, migrations, settings, signing_keys
from nanohook.cli.findings import Finding, fail, ok, warn
from nanohook.database_file import RESTORE
from nanohook.rules import signing
from nanohook.settings import Settings
from nanohook.storage import Storage
from nanohook.stores import events, facts
from nanohook.web import forwarded

ENV_FILE: Final = pathlib.Path(".env")
_OFTEN_S: Final = 3
_BEHIND_S: Final = 5
_LATELY_US: Final = 24 * 3600 * 1_000_000
_MEGABYTE: Final = 1_000_000


def read_settings(env_file: pathlib.Path | None = ENV_FILE) -> tuple[Settings | None, list[Finding]]:
    """Read the settings; ``None`` if they cannot be used."""
    found = [*_unknown(env_file)]
    try:
        chosen = settings.load(env_file=env_file)
    except errors.ConfigError as exc:
        _, *lines = str(exc).splitlines()
        cure = "correct it in the environment or in .env; README.md, Settings, tells what each means"
        return None, [*(fail("settings", line.strip(), cure) for line in lines), *found]
    if chosen.reconcile_every_s < _OFTEN_S:
        text = f"NANOHOOK_RECONCILE_EVERY_S: below {_OFTEN_S} NanoBanana may answer 429"
        found.append(warn("settings", text, "leave it unset: 5 seconds"))
    return chosen, found or [ok("settings", "all can be used")]


def _unknown(env_file: pathlib.Path | None) -> list[Finding]:
    known = [f"NANOHOOK_{field}".upper() for field in Settings.model_fields]
    found = []
    for name in settings.unknown_names(env_file):
        near = difflib.get_close_matches(name, known, n=1)
        cure = f"perhaps {near[0]} is meant" if near else "remove it, or see README.md, Settings"
        found.append(warn("settings", f"{name}: there is no setting of this name", cure))
    for name in settings.former_names(env_file):
        cure = "leave it out: NANOHOOK_REDIS_URL will take its place once Redis is supported"
        found.append(warn("settings", f"{name}: it is not read", cure))
    return found


def look_at_data_dir(chosen: Settings) -> Finding:
    """Write a file into the data dir, or where it would be made, and remove it."""
    folder = chosen.data_dir.absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    cure = "give it to the user that runs nanohook, or set NANOHOOK_DATA_DIR to another folder"
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".nanohook-doctor-") as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        return fail("data dir", f"{folder} cannot be written: {exc.strerror or type(exc).__name__}", cure)
    if there != folder:
        return ok("data dir", f"{folder} is not there yet, and can be made")
    return ok("data dir", f"{folder} can be written")


def look_at_disk(chosen: Settings) -> Finding:
    """Compare what is free with the reserve."""
    folder = chosen.data_dir.absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free, reserve = shutil.disk_usage(there).free, chosen.disk_reserve_bytes
    text = f"{free // _MEGABYTE} MB are free, the reserve is {reserve // _MEGABYTE} MB"
    if free < reserve:
        cure = "make room, or lower NANOHOOK_DISK_RESERVE_BYTES: uploads and new jobs are refused with 507"
        return fail("disk", text, cure)
    return ok("disk", text)


async def look_at_database(chosen: Settings) -> tuple[bool, Finding]:
    """Look through the database, read-only; also tell whether its tables can be asked."""
    path = app.database_path(chosen)
    if not await asyncio.to_thread(path.exists):
        cure = "nanohook serve makes it, and so does nanohook migrate"
        return False, warn("database", f"there is none yet at {path}", cure)
    try:
        standing = await asyncio.to_thread(migrations.standing, path)
    except errors.ConfigError as exc:
        return False, fail("database", str(exc), RESTORE)
    if not standing.is_known:
        text = f"its schema {standing.present} is of a newer nanohook than this one, which knows {standing.newest}"
        return False, fail("database", text, "install the newer nanohook again, or put back an older backup")
    if standing.present != standing.newest:
        text = f"its schema is {standing.present or 'none of ours'}, the newest is {standing.newest}"
        return False, warn("database", text, "nanohook serve and nanohook migrate bring it up, after a copy")
    return True, ok("database", f"schema {standing.present}, every page can be read")


async def look_at_clock(chosen: Settings) -> Finding:
    """Compare the wall clock with the newest time in the database, which was now once."""
    try:
        async with database.open_database(app.database_path(chosen)) as opened:
            newest = await opened.read(events.newest_at)
    except errors.NanohookError as exc:
        return fail("clock", f"it cannot be compared with the database: {exc}", RESTORE)
    behind_s = 0 if newest is None else (newest - clock.now_us()) // 1_000_000
    if behind_s > _BEHIND_S:
        text = f"it is {behind_s:,} s behind the newest entry of the database: it was set back"
        return warn(
            "clock", text, "let the system keep it right (timedatectl set-ntp true); work goes on meanwhile"
        )
    return ok("clock", "not behind what was written before")


async def look_at_proxy(chosen: Settings) -> Finding | None:
    """Tell whether writes were refused lately because a proxy's word was not taken; nothing is said if not."""
    try:
        async with database.open_database(app.database_path(chosen)) as opened:
            noted = await opened.read(lambda tx: facts.get(tx, facts.UNTRUSTED_PROXY))
    except errors.NanohookError:
        return None  # another check has said so
    at, _, peer = (noted or "0 ").partition(" ")
    address, trusted = forwarded.parse_address(peer), forwarded.networks(chosen.trusted_proxies)
    is_cured = chosen.public_url is not None or (address is not None and forwarded.is_within(address, trusted))
    if clock.now_us() - int(at) > _LATELY_US or is_cured:
        return None
    text = f"logins or writes of pages were refused (403 wrong_origin) that came through a proxy at {peer}"
    return warn(
        "proxy", text, f"set NANOHOOK_TRUSTED_PROXIES={peer}, or NANOHOOK_PUBLIC_URL to what browsers ask for"
    )


async def look_at_keys(chosen: Settings, *, has_database: bool) -> tuple[list[str], Finding]:
    """Find the signing keys, the one that signs first, and compare them with those the database was used with."""
    keys = [key.get_secret_value() for key in chosen.secret_keys]
    known: list[str] = []
    try:
        if has_database:
            async with database.open_database(app.database_path(chosen)) as opened:
                known = (await opened.read(lambda tx: facts.get(tx, signing_keys.FINGERPRINTS)) or "").split()
        if not keys:
            keys = (await asyncio.to_thread(signing_keys.secret_path(chosen).read_text)).split()
    except FileNotFoundError:
        if not known:
            return [], warn("keys", "none yet", "nanohook serve makes one in the data dir")
        cure = "put the file `secret` back from your backup, or set NANOHOOK_SECRET_KEYS to the former key"
        return [], fail(
            "keys", f"{signing_keys.secret_path(chosen)} is gone: every address given out is void", cure
        )
    except (OSError, errors.NanohookError) as exc:
        return [], fail("keys", f"they cannot be read: {exc}", "let the user that runs nanohook read the data dir")
    if known and not set(known) & {signing.fingerprint(key) for key in keys}:
        text = "none of the keys is one that the database was used with: every address given out is void"
        return [], fail("keys", text, "add the former key to NANOHOOK_SECRET_KEYS, or put the file `secret` back")
    return keys, ok("keys", f"{len(keys)}, the first signs" if len(keys) > 1 else "one")


async def look_at_storage(chosen: Settings) -> Finding:
    """Put a file, get it, and remove it."""
    if not await asyncio.to_thread(chosen.data_dir.is_dir):
        return ok("storage", "made with the data dir")
    key, body = f"doctor/{ids.new_id()}.bin", os.urandom(64)
    cure = "give the folder `media` in the data dir to the user that runs nanohook, and see that the disk is well"
    try:
        storage = await asyncio.to_thread(Storage, chosen.data_dir / "media")
        try:
            await storage.put(key, body)
            got = await storage.get(key)
        finally:
            await storage.delete(key)
    except errors.NanohookError as exc:
        return fail("storage", str(exc), cure)
    if got != body:
        return fail("storage", "what was put is not what came back", "have the disk checked")
    return ok("storage", "a file was put, fetched and removed")
