"""Every command and its options."""

import asyncio
import pathlib
import sys
import time
from typing import Annotated, Literal

import typer

from nanohook import app, errors, http1, logs, migrations, server
from nanohook.cli import backup, deliveries, integrity, jobs, people, reach, serving
from nanohook.cli import demo as demo_run
from nanohook.cli import dev as dev_run
from nanohook.cli import doctor as doctor_run
from nanohook.cli.printing import counted, plain, print_json
from nanohook.flow.terms import CALLBACK_GRACE_S
from nanohook.rules.credit import MOST_CREDITS
from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options

commands = typer.Typer(
    help="Signed callbacks in, finished pictures out: the NanoBanana image API without polling.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
users = typer.Typer(help="Accounts.", no_args_is_help=True)
commands.add_typer(users, name="user")
commands.add_typer(jobs.commands, name="jobs")
commands.add_typer(deliveries.commands, name="deliveries")

Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
PortBeside = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Where the service listens, if it does not run from this data dir."),
]
_ONE_PROCESS = "NANOHOOK_DATABASE_URL: more than one process needs PostgreSQL, which is not supported yet"


@commands.command()
def demo(
    image: Annotated[
        pathlib.Path | None, typer.Option(help="A picture of yours; a packaged one of 1024x576 without it.")
    ] = None,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="Where the result goes; ./nanohook-demo.<ext> without it.")
    ] = None,
) -> None:
    """Run the main job, whole, on this machine: no account, no key, no network."""
    raise typer.Exit(asyncio.run(demo_run.run(image=image, out=out)))


@commands.command()
def dev(
    port: Port = 8000,
    *,
    live: Annotated[
        bool, typer.Option("--live", help="Use the real NanoBanana: needs a key, and ngrok or a public URL.")
    ] = False,
) -> None:
    """Run service and sandbox on this machine, and print a login link."""
    asyncio.run(dev_run.run(port=port, live=live))


@commands.command()
def serve(
    host: Annotated[str, typer.Option(help="Loopback unless told.")] = "127.0.0.1",
    port: Port = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Over 1 needs PostgreSQL.")] = 1,
    *,
    no_work: Annotated[bool, typer.Option("--no-work", help="No background work; needs PostgreSQL.")] = False,
) -> None:
    """Run the service, background work inside."""
    if workers > 1 or no_work:
        raise errors.ConfigError(_ONE_PROCESS)
    chosen = serving.configured()
    listener = server.listen(host, port)
    limits = http1.Limits(keep_alive_s=chosen.keep_alive_s, connections=server.bearable_connections())
    serving.run(app.create_app(chosen), listener, name="nanohook", limits=limits)


@commands.command()
def worker() -> None:
    """Do background work beside other processes: needs PostgreSQL."""
    raise errors.ConfigError(_ONE_PROCESS)


@commands.command()
def sandbox(  # noqa: PLR0917 - every one is a switch of its own
    host: Annotated[str, typer.Option(help="Loopback unless --unsafe-public is given.")] = "127.0.0.1",
    port: Port = 8001,
    latency: Annotated[float, typer.Option(min=0, help="Seconds until a picture is made.")] = 2.0,
    fail_rate: Annotated[float, typer.Option(min=0, max=1, help="Share of the tasks that fail.")] = 0.0,
    fail_code: Annotated[int, typer.Option(help="The code they fail with: 400, 500 or 501.")] = 500,
    duplicate: Annotated[int, typer.Option(min=0, help="Repeats of an acknowledged callback.")] = 0,
    drop: Annotated[float, typer.Option(min=0, max=1, help="Share of the callbacks never sent.")] = 0.0,
    late: Annotated[float, typer.Option(min=0, help="Seconds a callback comes late.")] = 0.0,
    trouble: Annotated[float, typer.Option(min=0, max=1, help="Share of tasks that each fault befalls.")] = 0.0,
    shape: Annotated[Literal["a", "b", "auto"], typer.Option(help="Shape of the callbacks.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="Makes every chance repeatable.")] = None,
    *,
    early: Annotated[bool, typer.Option("--early", help="Call back before the submit is answered.")] = False,
    unsafe_public: Annotated[bool, typer.Option("--unsafe-public", help="Listen beyond loopback.")] = False,
) -> None:
    """Run a NanoBanana look-alike: real HTTP, real pictures, real callbacks."""
    if host not in serving.LOOPBACK and not unsafe_public:
        raise errors.ConfigError("the sandbox answers anybody: --unsafe-public is needed beyond loopback")
    if fail_code not in {400, 500, 501}:
        raise errors.ConfigError("--fail-code: tasks fail with 400, 500 or 501")
    logs.configure(level="INFO", form="auto")
    options = Options(
        latency_s=latency,
        fail_rate=fail_rate,
        fail_code=fail_code,
        duplicate=duplicate,
        drop=drop,
        late_s=late,
        trouble=trouble,
        early=early,
        shape=shape,
        seed=seed,
    )
    listener = server.listen(host, port)
    serving.run(create_sandbox(options), listener, name="the sandbox")


@commands.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    revision = migrations.upgrade(app.database_path(serving.configured()))
    typer.echo("the schema is the newest" if revision is None else f"the schema is now {revision}")


@commands.command("backup")
def back_up(
    folder: Annotated[
        pathlib.Path, typer.Argument(metavar="DIR", help="A folder that is empty, or not there yet.")
    ],
) -> None:
    """Copy the database and the pictures that belong to it, beside a running service."""
    chosen = serving.configured()
    made = backup.run(chosen, folder)
    typer.echo(f"{counted(made.pictures, 'picture')} and the database, {made.size_bytes:,} bytes, are in {folder}")
    typer.echo("a service on it starts paused, and submits once told to by: nanohook jobs resume")
    if chosen.secret_keys:
        typer.echo("NANOHOOK_SECRET_KEYS is not among them: keep it in another place")


@commands.command()
def sign(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="Of a job that was generated.")],
    index: Annotated[int, typer.Option(min=0, help="Which of its tasks.")] = 0,
    port: PortBeside = None,
) -> None:
    """Print a signed callback address of a job, for tests by hand."""
    chosen = serving.configured()
    base = asyncio.run(reach.public_url(chosen, reach.local_url_of(chosen, port)))
    expires = int(time.time() + chosen.job_deadline_s + CALLBACK_GRACE_S)
    token = asyncio.run(people.callback_token(chosen, job_id=job_id, index=index, expires_at_s=expires))
    typer.echo(f"{base}/api/webhooks/image-completion/{token}")


@commands.command()
def doctor(
    port: PortBeside = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Check instead that what is stored agrees.")] = False,
) -> None:
    """Check that everything is right, and name the cure of what is not; exit 1 if something fails."""
    if audit:
        raise typer.Exit(integrity.run(serving.configured(), json=json))
    raise typer.Exit(doctor_run.run(port=port, as_json=json))


Email = Annotated[str, typer.Argument(metavar="EMAIL", help="Its address.")]
Amount = Annotated[
    int,
    typer.Argument(
        metavar="N", min=-MOST_CREDITS, max=MOST_CREDITS, help="How many to add; below 0 to take back, after --."
    ),
]


@users.command("create")
def user_create(
    email: Email,
    credits: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_CREDITS - 1,
            help="NANOHOOK_FREE_CREDITS without it, as soon as the address is confirmed.",
        ),
    ] = None,
    *,
    password: Annotated[
        bool, typer.Option("--password", help="Asks for one, for the page's login; or reads a line of a pipe.")
    ] = False,
    verified: Annotated[bool, typer.Option("--verified", help="The address needs no confirmation.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Account and key carry admin rights.")] = False,
) -> None:
    """Make an account; its API key is printed once, alone on the last line."""
    spelt = people.spelt(email)
    chosen = serving.configured()
    # Who confirms the address later gets the free ones then, as everybody does.
    free = chosen.free_credits if verified else 0
    asked = people.NewAccount(
        email=spelt,
        password=_asked_password() if password else None,
        is_verified=verified,
        is_admin=admin,
        credits=free if credits is None else credits,
    )
    key = asyncio.run(people.create(chosen, asked))
    typer.echo(f"account {spelt} created with {asked.credits} credits; its API key, shown this once:")
    typer.echo(key)


def _asked_password() -> str:
    """Ask for a password twice without showing it; as an option it would stand in every list of processes."""
    if sys.stdin.isatty():
        asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    return sys.stdin.readline().rstrip("\r\n")


@users.command("list")
def user_list(*, json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False) -> None:
    """List every account with its credits."""
    listed = asyncio.run(people.accounts_of(serving.configured()))
    if json:
        print_json(listed)
        return
    for account in listed:
        marks = [mark for mark in ("admin", "verified", "disabled") if account[f"is_{mark}"]]
        typer.echo(plain(f"{account['email']}  {account['available']} credits  {' '.join(marks)}").rstrip())


@users.command("disable")
def user_disable(
    email: Email, *, undo: Annotated[bool, typer.Option("--undo", help="Let it in again.")] = False
) -> None:
    """Shut an account out at once: its sessions end, its keys open nothing."""
    asyncio.run(people.disable(serving.configured(), email=email, is_disabled=not undo))
    typer.echo(f"account {email} is {'open again' if undo else 'disabled'}")


@users.command("delete")
def user_delete(
    email: Email, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether this is meant.")] = False
) -> None:
    """Delete an account and its images: gone from every list at once, from the disk a day later."""
    if not yes:
        typer.confirm(f"delete the account {email} and all its images?", abort=True, err=True)
    asyncio.run(people.delete(serving.configured(), email=email))
    typer.echo(f"account {email} is deleted")


@users.command("credits")
def user_credits(email: Email, amount: Amount) -> None:
    """Give an account credits, or take some back."""
    available = asyncio.run(people.change_credits(serving.configured(), email=email, amount=amount))
    typer.echo(f"account {email} now has {available} credits")
