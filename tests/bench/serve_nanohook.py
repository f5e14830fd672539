"""The service as it is deployed, with two more routes at the end of its table for the benchmark."""

import asyncio
import pathlib
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nanohook import app, clock, logs, server, settings
from nanohook.database import Topic, Transaction
from nanohook.rules import views
from nanohook.stores import events, jobs
from tests.bench import figures


async def _figures(request: Request) -> JSONResponse:
    parts = request.app.state.parts
    return JSONResponse({**figures.memory(), "streams": len(parts.hub), "sent": parts.hub.sent})


async def _burst(request: Request) -> JSONResponse:
    """Write events of one job into the log, as ``history`` would, in one commit."""
    job_id, count = request.query_params["job"], int(request.query_params["n"])

    async def write(tx: Transaction) -> list[int]:
        job = await jobs.load(tx, job_id)
        if job is None:
            raise LookupError(job_id)
        now = clock.now_us()
        payload = orjson.dumps(views.event(job, (), now_us=now)).decode()
        tx.wake(Topic.EVENTS)
        return [
            await events.append(
                tx,
                owner_id=job.owner_id,
                job_id=job.id,
                name="status",
                is_last=False,
                payload=payload,
                now_us=now,
            )
            for _ in range(count)
        ]

    return JSONResponse({"ids": await request.app.state.parts.database.write(write)})


def main() -> None:
    """Serve until SIGTERM."""
    chosen: dict[str, Any] = figures.options()
    port, protocol = chosen.pop("port", 0), chosen.pop("protocol", None)
    chosen["data_dir"] = pathlib.Path(chosen["data_dir"])
    logs.configure(level="INFO", form="json")
    service = app.create_app(settings.fixed(**chosen))
    service.router.routes += [
        Route("/bench/figures", _figures),
        Route("/bench/burst", _burst, methods=["POST"]),
    ]
    listener = server.listen("127.0.0.1", port)
    figures.tell_port(listener)
    running = server.Server(service)
    figures.speak(running, protocol)
    with asyncio.Runner(loop_factory=running.config.get_loop_factory()) as runner:
        runner.run(running.serve(sockets=[listener]))


main()
