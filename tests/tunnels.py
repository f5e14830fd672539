"""The ngrok agent's API as a test wants it to be."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Ngrok:
    """Lists the *tunnels* it has: pairs of a public address and what that leads to."""

    def __init__(self, *tunnels: tuple[str, str]) -> None:
        self.tunnels = list(tunnels)
        self.asked = 0
        self.app = Starlette(routes=[Route("/api/tunnels", self._list)])
        """As an older agent, which has no list of endpoints."""

    async def _list(self, _request: Request) -> Response:
        self.asked += 1
        return JSONResponse(listed(*self.tunnels))


def listed(*tunnels: tuple[str, str]) -> dict[str, object]:
    """What the agent says, as ngrok 3 writes it."""
    found = [
        {
            "name": f"nanohook-{number}",
            "ID": f"{number:032x}",
            "uri": f"/api/tunnels/nanohook-{number}",
            "public_url": public_url,
            "proto": public_url.partition(":")[0],
            "config": {"addr": addr, "inspect": True},
            "metrics": {"conns": {"count": 0}, "http": {"count": 0}},
        }
        for number, (public_url, addr) in enumerate(tunnels)
    ]
    return {"tunnels": found, "uri": "/api/tunnels"}
