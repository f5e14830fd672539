"""Answers of JSON."""

import orjson
from starlette.responses import Response


def json_answer(content: object, *, status: int = 200, media_type: str = "application/json") -> Response:
    """Build an answer of *content*."""
    return Response(orjson.dumps(content), status, media_type=media_type)
