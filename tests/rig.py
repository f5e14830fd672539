"""The whole service over HTTP for a test: a real uvicorn, a real SQLite file, the sandbox as upstream."""

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from PIL import Image
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from nanohook import app, clock, server, settings
from nanohook.cli import people
from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from nanohook.sandbox.tasks import Table
from nanohook.web import credentials
from nanohook.web.parts import Parts
from tests import conform, live


@dataclass
class Rig:
    """A running service and what a test needs of it."""

    base: str
    client: httpx.AsyncClient
    """Signed in as a verified person."""
    service: Starlette
    upstream: Table
    """The sandbox's tasks."""
    upstream_url: str
    chosen_parts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Those that stand in for the service's own."""

    @property
    def parts(self) -> Parts:
        return dataclasses.replace(self.service.state.parts, **self.chosen_parts)

    @property
    def cookie(self) -> str:
        """Name of the session's cookie."""
        return credentials.session_cookie(self.parts)

    async def upload(self, body: bytes | None = None) -> dict[str, Any]:
        answer = await self.client.post("/api/images", files={"file": ("x.png", body or picture())})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def generate(self, prompt: str = "a kite", **more: Any) -> dict[str, Any]:
        answer = await self.client.post("/api/generate-image", json={"prompt": prompt, **more})
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def job(self, job_id: str) -> dict[str, Any]:
        return (await self.client.get(f"/api/images/{job_id}")).raise_for_status().json()

    async def ended(self, job_id: str, *, timeout_s: float = 20.0) -> dict[str, Any]:
        """Wait for a job's final event on its stream; return the job."""
        async with self.client.stream("GET", f"/api/images/{job_id}/events", timeout=timeout_s) as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                if line.startswith("data:") and orjson.loads(line[5:]).get("status") in FINAL:
                    return await self.job(job_id)
        raise AssertionError("the stream ended before the job")

    def token(self, job_id: str, *, attempt: int = 1, index: int = 0, expires_at_s: int = 4_000_000_000) -> str:
        return self.parts.tokens.sign_callback(
            job_id=job_id, attempt=attempt, index=index, expires_at_s=expires_at_s
        )

    async def call_back(self, job_id: str, body: object, **of: int) -> httpx.Response:
        """Send a callback with a validly signed address."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        path = f"/api/webhooks/image-completion/{self.token(job_id, **of)}"
        return await self.client.post(path, content=content, headers={"Content-Type": "application/json"})


class _With:
    """The service with some of its parts replaced, for every request."""

    def __init__(self, app: ASGIApp, chosen: dict[str, Any]) -> None:
        self._app = app
        self._chosen = chosen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["state"]["parts"] = dataclasses.replace(scope["state"]["parts"], **self._chosen)
        await self._app(scope, receive, send)


CREDITS = 1_000_000
FINAL = ("COMPLETED", "FAILED", "CANCELED")


def picture(width: int = 320, height: int = 180, *, kind: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(held, kind)
    return held.getvalue()


@contextlib.asynccontextmanager
async def running(
    data_dir: pathlib.Path,
    *,
    sandbox: Options | None = None,
    sign_up: bool = True,
    parts: dict[str, Any] | None = None,
    **chosen: Any,
) -> AsyncIterator[Rig]:
    """
    Run sandbox and service.

    Args:
        parts: Of the web side, in place of the service's own.
        chosen: Settings, which win over those of the rig.
    """
    async with contextlib.AsyncExitStack() as stack:
        upstream = create_sandbox(sandbox or Options(latency_s=0.05, callback_pause_s=0.05))
        upstream_url = await stack.enter_async_context(live.serve(upstream))
        listener = server.listen("127.0.0.1", 0)
        base = server.address(listener)
        values: dict[str, Any] = {
            "nanobanana_api_key": "sandbox",
            "nanobanana_url": upstream_url,
            "public_url": base,
            "data_dir": data_dir,
            "download_hosts": (upstream_url.removeprefix("http://"),),
            "upstream_rate": "1000/second",
            "disk_reserve_bytes": 0,
            # A test asks as fast as it can; the limits have tests of their own.
            "rate_status": "1000000/second",
            "rate_write": "1000000/second",
            "rate_upload": "1000000/second",
        }
        service = app.create_app(settings.fixed(**{**values, **chosen}))
        if parts:
            service.middleware_stack = _With(service.middleware_stack, parts)
        await stack.enter_async_context(server.serving(service, listener))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=base, trust_env=False, timeout=20, limits=httpx.Limits(keepalive_expiry=2))
        )
        rig = Rig(base, client, service, upstream.state.tasks, upstream_url, parts or {})
        if sign_up:
            client.headers["Authorization"] = f"Bearer {await make_account(rig)}"
        yield rig


async def make_account(rig: Rig, email: str = "ada@example.org", *, is_verified: bool = True, **more: Any) -> str:
    """Make another account; return its API key."""
    asked = {"credits": CREDITS, **more}
    return await people.create_in(
        rig.parts.database, people.NewAccount(email=email, is_verified=is_verified, **asked)
    )


async def person(rig: Rig, *, document: dict[str, Any] | None = None, **more: Any) -> Rig:
    """
    Make somebody of their own for a test; close their ``client``.

    Args:
        document: OpenAPI, that every answer is held against.
    """
    key = await make_account(rig, f"p{clock.now_us()}@example.org", **more)
    client = httpx.AsyncClient(
        base_url=rig.base,
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=30,
        event_hooks={"response": [] if document is None else [conform.Document(document).check]},
    )
    return dataclasses.replace(rig, client=client)
