"""The yardstick of requests: a bare Starlette endpoint that answers JSON with the same JSON."""

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench import figures


async def _echo(request: Request) -> JSONResponse:
    return JSONResponse(await request.json())


def main() -> None:
    """Serve until SIGTERM."""
    figures.options()
    app = Starlette(routes=[Route("/api/webhooks/image-completion/{token}", _echo, methods=["POST"])])
    listener = figures.listen()
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    figures.tell_port(listener)
    uvicorn.Server(config).run(sockets=[listener])


main()
