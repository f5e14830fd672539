"""``nanohook jobs``: look after everybody's jobs, beside a running service or without one."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import typer

from nanohook import clock, errors, reports
from nanohook.cli import job_acts, job_views, people, serving
from nanohook.cli.job_acts import Done
from nanohook.cli.opening import opened
from nanohook.cli.printing import counted, plain, print_json
from nanohook.database import Database
from nanohook.flow.terms import SECOND_US
from nanohook.flow.workload import Workload
from nanohook.rules.status import ImageJobStatus
from nanohook.settings import Settings

commands = typer.Typer(help="Everybody's jobs: look, retry, cancel, hold.", no_args_is_help=True)

T = TypeVar("T")
_MOST: Final = 1_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WHY: Final = {
    "may_be_paid": "NanoBanana may have taken it: --buy-again pays once more",
    "not_failed": "it has not failed",
    "job_ended": "it has ended",
    "insufficient_credits": "its owner has too few credits",
    "no_public_url": "NANOHOOK_PUBLIC_URL is not set, NanoBanana could not fetch its picture",
    "not_found": "it was deleted a moment ago",
}
"""What stood against it, by code."""

Ids = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID",
        help="Job ids, 8 or more characters that only one begins or ends with, or NanoBanana's task ids.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For scripts.")]


@commands.command("list")
def list_(
    *,
    status: Annotated[
        list[ImageJobStatus] | None,
        typer.Option(case_sensitive=False, help="Of this status alone; may be repeated."),
    ] = None,
    owner: Annotated[str | None, typer.Option(metavar="EMAIL", help="Of this account alone.")] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Open, and nothing happened for 10 minutes.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="Most lines.")] = 50,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    email = None if owner is None else people.spelt(owner)
    found = _run(
        lambda opened, _: job_views.listed(
            opened, statuses=tuple(status or ()), email=email, is_stuck=stuck, most=limit
        )
    )
    if json:
        print_json(found)
        return
    if not found:
        typer.echo("no job is stuck" if stuck else "there are no such jobs")
        return
    _table(
        ("JOB", "STATUS", "STAGE", "%", "AGE", "QUIET", "TASK", "OWNER"),
        [
            (
                job["job_id"],
                job["status"],
                job["error"] or job["stage"],
                job["progress"],
                _span(job["age_s"]),
                _span(job["quiet_s"]),
                job["task_id"] or "-",
                job["owner"],
            )
            for job in found
        ],
    )


@commands.command()
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="A job's id, part of it, or NanoBanana's task id.")],
    *,
    json: Json = False,
) -> None:
    """Tell everything about one job: tasks, attempts, deliveries, events, files."""
    told: dict[str, Any] = _run(lambda opened, _: job_views.whole(opened, job_id))
    if json:
        print_json(told)
        return
    many = {name: told.pop(name) for name in ("tasks", "attempts", "deliveries", "events", "files")}
    options = told.pop("options")
    for name, value in {**told, **options}.items():
        if value is not None:
            typer.echo(plain(f"{name.removesuffix('_s'):<14} {_span(value) if name.endswith('_s') else value}"))
    for name, lines in many.items():
        typer.echo(f"\n{name}" if lines else f"\n{name}: none")
        if lines:
            known = [key for key in lines[0] if any(line.get(key) not in {None, ""} for line in lines)]
            _table(known, [["-" if line.get(key) is None else line[key] for key in known] for line in lines])


@commands.command()
def retry(
    job_ids: Ids = None,
    *,
    all_failed: Annotated[
        bool, typer.Option("--all-failed", help="Every failed job for which trying again can help.")
    ] = False,
    buy_again: Annotated[
        bool, typer.Option("--buy-again", help="Pay once more for what NanoBanana may have taken.")
    ] = False,
    json: Json = False,
) -> None:
    """Start the next attempt of jobs, at the step that failed; exit 1 if one that was named could not be."""
    _check_named(job_ids, is_all=all_failed, option="--all-failed")
    if all_failed and buy_again:
        raise errors.ConfigError("--buy-again is for jobs that are named, one by one")

    async def do(opened: Database, settings: Settings) -> Done:
        if job_ids is None or all_failed:
            return await job_acts.retry_failed(opened, settings)
        meant = await job_views.named(opened, job_ids)
        return await job_acts.retry(opened, settings, meant, may_buy_again=buy_again)

    _tell(_run(do), "retried", json=json, is_failure=not all_failed)


@commands.command()
def cancel(job_ids: Ids = None, *, json: Json = False) -> None:
    """Cancel open jobs; exit 1 if one of them had ended."""
    _check_named(job_ids, is_all=False, option=None)

    async def do(opened: Database, _: Settings) -> Done:
        return await job_acts.stop(opened, await job_views.named(opened, job_ids or []))

    _tell(_run(do), "canceled", json=json, is_failure=True)


@commands.command()
def reconcile(
    job_ids: Ids = None,
    *,
    all_jobs: Annotated[bool, typer.Option("--all", help="Every open job.")] = False,
    json: Json = False,
) -> None:
    """Ask NanoBanana now for what it has, and finish now what it has made."""
    _check_named(job_ids, is_all=all_jobs, option="--all")

    async def do(opened: Database, _: Settings) -> dict[str, Any]:
        meant = None if all_jobs else await job_views.named(opened, job_ids or [])
        hurried = await job_acts.reconcile(opened, meant)
        return {"due": hurried.due, "unknown": hurried.unknown}

    told = _run(do)
    if json:
        print_json(told)
        return
    typer.echo(f"{counted(told['due'], 'task')} asked for or finished at once")
    for job_id in told["unknown"]:
        typer.echo(
            f"{job_id}  its submit was not answered and has no task id: only a callback or its deadline tells"
        )


@commands.command()
def pause(*, json: Json = False) -> None:
    """Submit nothing for now, whosever it is; what NanoBanana has goes on."""
    _tell_work(_run(lambda opened, _: job_acts.pause(opened, is_draining=False)), json=json)


@commands.command()
def resume(*, json: Json = False) -> None:
    """Submit again."""
    _tell_work(_run(lambda opened, _: job_acts.resume(opened)), json=json)


@commands.command()
def drain(
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing is under way any more.")] = False,
    json: Json = False,
) -> None:
    """Submit nothing, and let what is under way end; `resume` takes it back."""

    async def do(opened: Database, _: Settings) -> Workload:
        stands = await job_acts.pause(opened, is_draining=True)
        return await job_acts.drained(opened, _Progress()) if wait else stands

    try:
        stands = _run(do)
    except KeyboardInterrupt:
        typer.echo("\nnot drained yet, and still draining; nanohook jobs resume takes it back", err=True)
        raise typer.Exit(1) from None
    _tell_work(stands, json=json)
    if wait and stands.state != "drained":
        typer.echo("somebody has ended the draining", err=True)
        raise typer.Exit(1)


@commands.command()
def clear(
    *,
    status: Annotated[
        list[ImageJobStatus] | None,
        typer.Option(case_sensitive=False, help="FAILED or CANCELED; both without it."),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE", help="Ended longer ago than 12h, 7d or the like.", show_default="all that ended"
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Hide jobs that failed or were canceled, as their owners can; they can be had back for 24 hours."""
    statuses = tuple(dict.fromkeys(status or job_acts.ENDED))
    if not set(statuses) <= set(job_acts.ENDED):
        raise errors.ConfigError(f"--status: only {' and '.join(job_acts.ENDED)} jobs can be cleared")
    before_us = clock.now_us() - (0 if older_than is None else _seconds(older_than)) * SECOND_US
    found = _run(lambda opened, _: job_acts.to_clear(opened, statuses, before_us=before_us))
    if found and not yes:
        if json or not sys.stdin.isatty():
            raise errors.ConfigError(f"this clears {counted(len(found), 'job')}: say so with --yes")
        typer.confirm(f"Clear {counted(len(found), 'job')}?", abort=True, err=True)
    cleared = _run(lambda opened, _: job_acts.clear(opened, found, statuses, before_us=before_us)) if found else 0
    if json:
        print_json({"cleared": cleared})
    else:
        typer.echo(f"{counted(cleared, 'job')} cleared")


def _run(do: Callable[[Database, Settings], Awaitable[T]]) -> T:
    """Do something with the service's database."""
    settings = serving.configured()

    async def with_database() -> T:
        async with opened(settings) as found:
            return await do(found, settings)

    return asyncio.run(with_database())


def _check_named(job_ids: list[str] | None, *, is_all: bool, option: str | None) -> None:
    if bool(job_ids) == is_all:
        raise errors.ConfigError("name jobs" if option is None else f"name jobs, or give {option}")


class _Progress:
    """Tells how draining goes on: one line that changes on a terminal, a line for each change elsewhere."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, stands: Workload) -> None:
        text = f"{stands.state}: {stands.load.under_way} under way"
        if text == self._last:
            return
        is_terminal = sys.stderr.isatty()
        is_over = stands.state != "draining"
        begin = "\r" if is_terminal else ""
        typer.echo(f"{begin}{text:<{len(self._last)}}", err=True, nl=is_over or not is_terminal)
        self._last = text


def _tell(done: Done, verb: str, *, json: bool, is_failure: bool) -> None:
    if json:
        print_json(
            {verb: done.done, "skipped": [{"job_id": job_id, "code": code} for job_id, code in done.skipped]}
        )
    else:
        for job_id in done.done:
            typer.echo(f"{job_id}  {verb}")
        for job_id, code in done.skipped:
            typer.echo(f"{job_id}  not {verb}: {_WHY.get(code, code)}")
        typer.echo(f"{counted(len(done.done), 'job')} {verb}, {len(done.skipped)} not")
    if done.skipped and is_failure:
        raise typer.Exit(1)


def _tell_work(stands: Workload, *, json: bool) -> None:
    if json:
        print_json(reports.whole_work(stands))
    else:
        typer.echo(f"{stands.state}: {stands.load.under_way} under way, {stands.load.waiting} waiting")


def _seconds(text: str) -> int:
    """
    Read a length of time such as ``7d``.

    Raises:
        ConfigError: It is none.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise errors.ConfigError("--older-than: a number and s, m, h or d, such as 12h or 7d")
    return int(found[1]) * _UNITS[found[2]]


def _span(seconds: object) -> str:
    """Write a length of time as people say it: the two largest units that fit."""
    left, parts = int(str(seconds)), []
    for unit, size in reversed(_UNITS.items()):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts[:2]) or "0s"


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """Print lines in columns, each as wide as what it holds."""
    texts = [list(heads), *([plain(str(value)) for value in line] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        typer.echo("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())
