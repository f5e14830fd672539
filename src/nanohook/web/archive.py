"""Several images' pictures in one ZIP, written while it is sent."""

import asyncio
import contextlib
import pathlib
import zipfile
from collections.abc import Generator
from typing import Final, NamedTuple

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from nanohook import errors
from nanohook.database import Lane, Transaction
from nanohook.rules.job import ResultPicture
from nanohook.stores import jobs, pictures
from nanohook.web.parts import Call

MOST_FILES: Final = 200
MOST_BYTES: Final = 1024**3
_CHUNK_BYTES: Final = 256 * 1024


class _File(NamedTuple):
    name: str
    path: pathlib.Path


async def archive(call: Call) -> Response:
    """Send the pictures of the images named, as files that the archive's tools can open."""
    names = list(dict.fromkeys(call.request.query_params.getlist("id")))
    if not 1 <= len(names) <= MOST_FILES:
        raise errors.Invalid("the images are not named", fields={"id": f"1 to {MOST_FILES} images"})

    async def read(tx: Transaction) -> list[tuple[str, ResultPicture]]:
        found = await jobs.some(tx, names, owner_id=call.sees)
        if len(found) < len(names):
            raise errors.NotFound("no such image")
        results = await pictures.results_of(tx, names)
        return [(job_id, picture) for job_id in names for picture in results[job_id]]

    async with call.turn():
        chosen = await call.read(read, lane=Lane.PAGE)
    if len(chosen) > MOST_FILES or sum(picture.stored.size_bytes for _, picture in chosen) > MOST_BYTES:
        raise errors.Invalid(
            "that is too much for one archive", fields={"id": f"at most {MOST_FILES} pictures and 1 GiB"}
        )
    if not chosen:
        raise errors.Conflict("none of these images has a result", code="no_result")
    files = await asyncio.to_thread(_files, call, chosen)
    headers = {"Content-Disposition": 'attachment; filename="images.zip"', "Cache-Control": "no-store"}
    if call.request.method == "HEAD":
        return Response(headers=headers, media_type="application/zip")
    # Refused while there still can be an answer that says so.
    call.parts.shares.archives.check(call.person.id)
    return _Archive(files, place=call.parts.shares.archives.take(call.person.id), headers=headers)


def _files(call: Call, chosen: list[tuple[str, ResultPicture]]) -> list[_File]:
    """Find the files; one that is missing is known before the answer begins."""
    found = []
    for job_id, picture in chosen:
        path = call.parts.storage.path(picture.stored.key)
        if path is None or not path.is_file():
            raise errors.StorageFailed(f"a picture of image {job_id} cannot be read")
        number = f"-{picture.index + 1}" if picture.index else ""
        found.append(_File(f"{job_id}{number}{path.suffix}", path))
    return found


class _Archive(StreamingResponse):
    """An archive on its way, with its *place*; however that ends, no file stays open."""

    def __init__(
        self, files: list[_File], *, place: contextlib.AbstractContextManager[None], headers: dict[str, str]
    ) -> None:
        self._pieces = _zipped(files)
        self._place = place
        super().__init__(self._pieces, headers=headers, media_type="application/zip")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._place:
                await super().__call__(scope, receive, send)
        finally:
            # Who leaves in the middle leaves it halfway, in the middle of a file.
            self._pieces.close()


def _zipped(files: list[_File]) -> Generator[bytes, None, None]:
    """Write the archive piece by piece: pictures are compressed already, so they are stored as they are."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as made:  # type: ignore[call-overload]
        for name, path in files:
            with path.open("rb") as source, made.open(zipfile.ZipInfo.from_file(path, name), "w") as target:
                while piece := source.read(_CHUNK_BYTES):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()


class _Sink:
    """Takes what is written, until somebody takes that."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        """Nothing waits here for longer than a piece takes."""

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
