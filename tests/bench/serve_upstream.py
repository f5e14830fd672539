"""
The sandbox; results of prompts with ``HANGING`` in them are on a host of the caller's choice.

``/bench/callbacks`` tells how long the callbacks of all other tasks took since it was last asked.
"""

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nanohook.sandbox import options, orders, tasks
from nanohook.sandbox.app import create_app
from tests import rig
from tests.bench import figures
from tests.bench.unfriendly import HANGING

_CREDIT = 1_000_000_000


class _Table(tasks.Table):
    """The sandbox's memory, which remembers besides whose callbacks are to be told."""

    def __init__(self, hanging: str) -> None:
        super().__init__(credit=_CREDIT)
        self._hanging = hanging
        self.fresh: list[tasks.Task] = []

    def add(self, order: orders.Order, behaviour: options.Behaviour, *, base_url: str) -> tasks.Task:
        hangs = HANGING in str(order.params.get("prompt"))
        task = super().add(order, behaviour, base_url=self._hanging if hangs else base_url)
        self.fresh += [] if hangs else [task]
        return task


async def _callbacks(request: Request) -> JSONResponse:
    table: _Table = request.app.state.tasks
    ended = [task for task in table.fresh if task.ended.is_set()]
    table.fresh = [task for task in table.fresh if not task.ended.is_set()]
    return JSONResponse(
        {
            "took": [task.callback_took_s for task in ended if task.callback_took_s is not None],
            "again": sum(task.callbacks_sent > 1 for task in ended),
        }
    )


def main() -> None:
    """Serve until SIGTERM."""
    chosen = figures.options()
    app = create_app(
        options.Options(latency_s=chosen["latency_s"], picture_bytes=rig.picture(512, 512, kind="JPEG"), seed=1)
    )
    app.state.tasks = _Table(chosen["hanging"])
    app.router.routes.append(Route("/bench/callbacks", _callbacks))
    listener = figures.listen()
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    figures.tell_port(listener)
    uvicorn.Server(config).run(sockets=[listener])


main()
