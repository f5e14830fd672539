"""``nanohook doctor``: looks at everything that has to be right, and names the cure of what is not."""

import asyncio
from collections.abc import AsyncIterator

import typer

from nanohook import logs
from nanohook.cli import reach, surroundings
from nanohook.cli.findings import Finding, has_failed, warn
from nanohook.cli.printing import print_json
from nanohook.settings import Settings


def run(*, port: int | None, as_json: bool) -> int:
    """
    Look at everything, and say it.

    Args:
        port: Where the service listens; without it, where it said that it does.

    Returns:
        The exit code: 1 if something failed.
    """
    # The findings say it all.
    logs.configure(level="ERROR", form="text")
    return asyncio.run(_run(port=port, as_json=as_json))


async def _run(*, port: int | None, as_json: bool) -> int:
    chosen, found = surroundings.read_settings()
    if not as_json:
        _say(found)
    rest = [warn("the rest", "it was not looked at", "correct the settings first")] if chosen is None else []
    if chosen is not None:
        async for finding in examine(chosen, local_url=reach.local_url_of(chosen, port)):
            rest.append(finding)
            if not as_json:
                _say([finding])
    elif not as_json:
        _say(rest)
    found += rest
    if as_json:
        print_json({"ok": not has_failed(found), "findings": [each.shown() for each in found]})
    return int(has_failed(found))


async def examine(chosen: Settings, *, local_url: str) -> AsyncIterator[Finding]:
    """Look at everything but the settings themselves, in the order in which one thing needs the other."""
    yield await asyncio.to_thread(surroundings.look_at_data_dir, chosen)
    has_database, finding = await surroundings.look_at_database(chosen)
    yield finding
    if has_database:
        yield await surroundings.look_at_clock(chosen)
        found = await surroundings.look_at_proxy(chosen)
        if found is not None:
            yield found
    keys, finding = await surroundings.look_at_keys(chosen, has_database=has_database)
    yield finding
    yield await surroundings.look_at_storage(chosen)
    yield await asyncio.to_thread(surroundings.look_at_disk, chosen)
    for finding in await reach.look_at_nanobanana(chosen):
        yield finding
    is_running, finding = await reach.look_at_service(local_url)
    yield finding
    way, finding = await reach.look_at_public_url(chosen, local_url)
    yield finding
    if way is not None:
        for finding in await reach.look_at_way_back(chosen, way, keys, is_running=is_running):
            yield finding


def _say(found: list[Finding]) -> None:
    for finding in found:
        typer.echo(finding.lines())
