"""``nanohook deliveries``: the log of what came to the webhook, beside a running service or without one."""

import asyncio
import collections
import datetime as dt
import functools
from typing import Annotated, Final

import typer

from nanohook import clock, errors, ids, replays, reports
from nanohook.cli import serving
from nanohook.cli.opening import opened
from nanohook.cli.printing import plain, print_json
from nanohook.database import Database
from nanohook.flow.receive import Receipt
from nanohook.flow.terms import Terms
from nanohook.stores import audit, delivery_log, shorthand
from nanohook.stores.audit import COMMAND_LINE
from nanohook.stores.deliveries import Effect, Source
from nanohook.stores.delivery_log import Filter, Line, Verdict, Whole
from nanohook.web.query import MOST_LIMIT

commands = typer.Typer(help="What came to the webhook: look, and apply again.", no_args_is_help=True)

_CHUNK: Final = 1_000
"""Ids held at once: a replay may be of very many."""

Id = Annotated[
    str, typer.Argument(metavar="ID", help="Of a delivery, or 8 characters or more of its beginning or end.")
]
OfEffect = Annotated[Effect | None, typer.Option("--effect", help="With this effect alone.")]
OfSource = Annotated[Source | None, typer.Option("--source", help="That came this way alone.")]
OfJob = Annotated[str | None, typer.Option("--job-id", help="Of this job.")]
OfTask = Annotated[str | None, typer.Option("--task-id", help="Of this NanoBanana task.")]
Since = Annotated[str | None, typer.Option(help="Received then or later, such as 2026-03-01T10:00:00Z.")]
Until = Annotated[str | None, typer.Option(help="Received before.")]
Json = Annotated[bool, typer.Option("--json", help="For scripts.")]


@commands.command("list")
def list_(
    *,
    verdict: Annotated[Verdict | None, typer.Option(help="Of this verdict alone.")] = None,
    effect: OfEffect = None,
    source: OfSource = None,
    job_id: OfJob = None,
    task_id: OfTask = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_LIMIT, help="Most lines.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on below this id.")] = None,
    json: Json = False,
) -> None:
    """List deliveries, newest first: taken, refused, and answers of record-info."""
    wanted = Filter(
        verdict=verdict,
        effect=effect,
        source=source,
        job_id=job_id,
        task_id=task_id,
        since_us=_moment("--since", since),
        until_us=_moment("--until", until),
    )
    page, after = asyncio.run(_listed(wanted, cursor=cursor, limit=limit))
    if json:
        print_json({"deliveries": [reports.delivery(line) for line in page], "next_cursor": after})
        return
    for line in page:
        typer.echo(_line(line))
    if after is not None:
        typer.echo(f"more: --cursor {after}")


@commands.command()
def show(delivery_id: Id, *, json: Json = False) -> None:
    """Show one with its headers and body; what opens something is masked."""
    found = reports.whole_delivery(asyncio.run(_found(delivery_id)))
    if json:
        print_json(found)
        return
    headers, body = found.pop("headers"), found.pop("body")
    for name, value in found.items():
        if value is not None:
            typer.echo(plain(f"{name:<12} {value}"))
    for part in filter(None, (headers, body)):
        typer.echo(plain(f"\n{part}", may_fold=True))


@commands.command()
def replay(
    delivery_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="As for show; or a filter.")
    ] = None,
    *,
    effect: OfEffect = None,
    source: OfSource = None,
    job_id: OfJob = None,
    task_id: OfTask = None,
    since: Since = None,
    until: Until = None,
    json: Json = False,
) -> None:
    """Apply deliveries again, oldest first; exit 1 if one of them could not be."""
    wanted = Filter(
        effect=effect,
        source=source,
        job_id=job_id,
        task_id=task_id,
        since_us=_moment("--since", since),
        until_us=_moment("--until", until),
    )
    if bool(delivery_ids) == (wanted != Filter()):
        raise errors.ConfigError("name deliveries, or a filter such as --effect dead")
    receipts = asyncio.run(_replayed(delivery_ids or [], wanted))
    counts = collections.Counter(receipt.effect.value for receipt in receipts)
    if json:
        print_json(
            {
                "replayed": len(receipts),
                "effects": dict(counts),
                "deliveries": [
                    {"delivery_id": receipt.delivery_id, "effect": receipt.effect, "reason": receipt.reason}
                    for receipt in receipts
                ],
            }
        )
    else:
        for receipt in receipts:
            typer.echo(
                plain(f"{ids.short(receipt.delivery_id)}  {receipt.effect:<9}  {receipt.reason or ''}").rstrip()
            )
        typer.echo(f"replayed {len(receipts)}")
    if counts[Effect.UNAPPLIED]:
        raise typer.Exit(1)


async def _listed(wanted: Filter, *, cursor: str | None, limit: int) -> tuple[list[Line], str | None]:
    async with opened(serving.configured()) as found:
        return await found.read(lambda tx: delivery_log.page(tx, wanted, before_id=cursor, most=limit))


async def _found(name: str) -> Whole:
    async with opened(serving.configured()) as found:
        delivery_id = await _resolved(found, name)
        whole = await found.read(lambda tx: delivery_log.one(tx, delivery_id))
    if whole is None:
        raise errors.ConfigError("there is no such delivery")
    return whole


async def _replayed(names: list[str], wanted: Filter) -> list[Receipt]:
    settings = serving.configured()
    terms = Terms.of(settings)
    async with opened(settings) as found:
        if names:
            return await replay_named(found, names, terms=terms)
        return await _all(found, wanted, terms)


async def replay_named(found: Database, names: list[str], *, terms: Terms) -> list[Receipt]:
    """
    Apply deliveries again that are named by the beginnings of their ids.

    Raises:
        ConfigError: One of the names names none or several, or one that was refused.
    """
    chosen = sorted({await _resolved(found, name) for name in names})
    known = await found.read(lambda tx: delivery_log.taken(tx, chosen))
    if len(known) < len(chosen):
        raise errors.ConfigError("one of them was refused at the door: a replay does not verify again")
    for name in chosen:
        await _note(found, "delivery.replay", name)
    return await replays.replay(found, chosen, terms=terms)


async def _all(found: Database, wanted: Filter, terms: Terms) -> list[Receipt]:
    """Apply everything that *wanted* finds, however much."""
    await _note(found, "deliveries.replay", wanted.written())
    receipts: list[Receipt] = []
    after: str | None = None
    while True:
        look = functools.partial(delivery_log.oldest, wanted=wanted, after_id=after, most=_CHUNK)
        chosen, after = await found.read(look)
        receipts += await replays.replay(found, chosen, terms=terms)
        if after is None:
            return receipts


async def _resolved(found: Database, name: str) -> str:
    """
    Find the one delivery whose id begins or ends with *name*.

    Raises:
        ConfigError: None does, or several do.
    """
    name = name.removeprefix("…")  # as it is printed
    if len(name) < shorthand.LEAST_CHARS:
        raise errors.ConfigError(f"give at least {shorthand.LEAST_CHARS} characters of a delivery's id")
    matches = await found.read(lambda tx: delivery_log.named(tx, name))
    if not matches:
        raise errors.ConfigError("there is no delivery whose id begins or ends so")
    if len(matches) > 1:
        raise errors.ConfigError("several deliveries have an id that begins or ends so: give more of it")
    return matches[0]


async def _note(found: Database, action: str, subject: str) -> None:
    await found.write(
        lambda tx: audit.append(tx, actor=COMMAND_LINE, action=action, subject=subject, now_us=clock.now_us())
    )


def _moment(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else clock.from_rfc3339(text)
    except ValueError as exc:
        raise errors.ConfigError(f"{option} {exc}") from None


def _line(line: Line) -> str:
    """One line for people: when by this machine's clock, which, what it did, whose, why."""
    at = dt.datetime.fromtimestamp(line.received_at / 1e6).astimezone()
    did = line.verdict.value if line.effect is None else line.effect.value
    whose = f"{ids.short(line.job_id)}/{line.attempt}/{line.index}" if line.job_id else line.peer or ""
    again = f"  again {line.repeats}x" if line.repeats else ""
    way = "" if line.source is None else line.source.value
    which = f"{at:%Y-%m-%d %H:%M:%S}  {ids.short(line.id)}"
    return plain(f"{which}  {did:<9}  {way:<7}  {whose:<13}  {line.reason or ''}{again}").rstrip()
