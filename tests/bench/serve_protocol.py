"""The smallest app there is, behind one of the three classes that can speak HTTP/1 for it."""

import asyncio
from typing import Any

from nanohook import server
from tests.bench import figures

_BODY = b'{"status":"accepted"}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


class _App:
    """Reads the body, and says the same to everybody."""

    class state:  # noqa: N801 - as Starlette has it
        """What the server notes of it."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        await send({"type": "http.response.body", "body": _BODY})


def main() -> None:
    """Serve until SIGTERM."""
    chosen = figures.options()
    listener = server.listen("127.0.0.1", 0)
    figures.tell_port(listener)
    running = server.Server(_App())  # type: ignore[arg-type]
    figures.speak(running, chosen.get("protocol"))
    with asyncio.Runner(loop_factory=running.config.get_loop_factory()) as runner:
        runner.run(running.serve(sockets=[listener]))


main()
