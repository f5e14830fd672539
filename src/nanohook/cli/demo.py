"""``nanohook demo``: the main job, whole, over real HTTP, with nothing but this machine."""

import asyncio
import contextlib
import importlib.resources
import pathlib
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nanohook import app, errors, logs, server
from nanohook.cli import dev, people
from nanohook.cli.printing import plain
from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options

PROMPT: Final = "make it a winter evening"
WAIT_S: Final = 120.0
"""People wait this long for a picture before they give up."""
_ENDINGS: Final = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


@dataclass
class _Steps:
    """The steps done so far, with their times; the open one is what an error is blamed on."""

    done: list[tuple[str, float]] = field(default_factory=list)
    present: str = "start"

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.present = name
        started = time.perf_counter()
        yield
        self.done.append((name, time.perf_counter() - started))


async def run(*, image: pathlib.Path | None, out: pathlib.Path | None) -> int:
    """
    Run the demo.

    Returns:
        The exit code: 0, or 1 after naming the step that failed; 143 after SIGTERM.
    """
    console, steps = Console(soft_wrap=True), _Steps()
    told = _canceled_by_sigterm()
    # Nothing but the demo itself is shown, unless something goes wrong.
    logs.configure(level="WARNING", form="text")
    try:
        with tempfile.TemporaryDirectory(prefix="nanohook-demo-") as folder:
            summary, path = await _demo(steps, console, pathlib.Path(folder), image=image, out=out)
    except (errors.NanohookError, httpx.HTTPError, OSError, TimeoutError, _FailedError) as exc:
        console.print(f"[red]nanohook demo failed at step: {steps.present}[/]")
        console.print(plain(f"{type(exc).__name__}: {exc}"), markup=False)
        return 1
    except asyncio.CancelledError:
        if not told.is_set():
            raise
        return 128 + signal.SIGTERM
    table = Table("step", "seconds")
    for name, seconds in steps.done:
        table.add_row(name, f"{seconds:.2f}")
    console.print(table)
    console.print(summary, highlight=False, markup=False)
    console.print(str(path), highlight=False, markup=False)
    return 0


def _canceled_by_sigterm() -> asyncio.Event:
    """Let SIGTERM end the present task in order, with nothing left behind; return what is set then."""
    told, main = asyncio.Event(), asyncio.current_task()

    def end() -> None:
        server.exit_within(server.EXIT_S, code=128 + signal.SIGTERM)
        told.set()
        if main is not None:
            main.cancel()

    with contextlib.suppress(NotImplementedError):  # where there are no signals
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    return told


class _FailedError(Exception):
    """The service answered something else than a finished picture."""


async def _demo(
    steps: _Steps,
    console: Console,
    folder: pathlib.Path,
    *,
    image: pathlib.Path | None,
    out: pathlib.Path | None,
) -> tuple[str, pathlib.Path]:
    async with contextlib.AsyncExitStack() as stack:
        with steps.step("read the picture"):
            picture = await asyncio.to_thread(_read, image)
        with steps.step("start service and sandbox"):
            client = await stack.enter_async_context(_service(folder))
        with steps.step("upload"):
            files = {"file": (image.name if image else "sample.jpg", picture)}
            job = _answer(await client.post("/api/images", files=files))
        with steps.step("ask for the picture"):
            wish = {"image_id": job["job_id"], "prompt": PROMPT}
            started = _answer(await client.post("/api/generate-image", json=wish))
        with steps.step("generate, call back, finish"):
            final = await asyncio.wait_for(_follow(client, console, started["links"]["events"]), WAIT_S)
        if final["status"] != "COMPLETED":
            raise _FailedError(f"the job ended {final['status']}: {final['message']}")
        with steps.step("fetch the result"):
            result = _answer(await client.get(started["links"]["result"]))["images"][0]
            body = (await client.get(result["url"])).raise_for_status().content
            path = out or pathlib.Path(f"nanohook-demo.{_ENDINGS[result['content_type']]}")
            await asyncio.to_thread(path.write_bytes, body)
    original = job["original"]
    summary = f"original {original['width']}x{original['height']}  result {result['width']}x{result['height']}"
    return summary, path.resolve()


@contextlib.asynccontextmanager
async def _service(folder: pathlib.Path) -> AsyncIterator[httpx.AsyncClient]:
    """Start sandbox and service on free ports; give a client that is signed in."""
    async with contextlib.AsyncExitStack() as stack:
        listeners = [server.listen("127.0.0.1", 0) for _ in range(2)]
        upstream, here = (server.address(listener) for listener in listeners)
        sandbox = create_sandbox(Options(latency_s=1.0))
        service = app.create_app(dev.local_settings(here=here, upstream=upstream, data_dir=folder))
        await stack.enter_async_context(server.serving(sandbox, listeners[0]))
        await stack.enter_async_context(server.serving(service, listeners[1]))
        key = await people.create_in(
            service.state.parts.database,
            people.NewAccount(email=dev.EMAIL, is_verified=True, credits=dev.CREDITS),
        )
        yield await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=here, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30
            )
        )


async def _follow(client: httpx.AsyncClient, console: Console, events: str) -> dict[str, Any]:
    """Follow a job's stream with a progress bar, to its final event."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("connecting", total=100)
        async with client.stream("GET", events, timeout=WAIT_S) as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event: dict[str, Any] = orjson.loads(line.removeprefix("data: "))
                progress.update(bar, completed=event["progress"], description=event["message"])
                if event["status"] in {"COMPLETED", "FAILED", "CANCELED"}:
                    return event
    raise _FailedError("the stream ended before the job did")


def _answer(response: httpx.Response) -> dict[str, Any]:
    content: dict[str, Any] = response.json()
    if response.is_error:
        raise _FailedError(f"HTTP {response.status_code}: {content.get('detail')} {content.get('errors', '')}")
    return content


def _read(image: pathlib.Path | None) -> bytes:
    if image is not None:
        return image.read_bytes()
    return (importlib.resources.files("nanohook.cli") / "sample.jpg").read_bytes()
