"""Jobs that stand where a callback is awaited, written by the service's own functions before it starts."""

import asyncio
import pathlib
import shutil
from dataclasses import dataclass, replace

from nanohook import clock, database, ids, migrations
from nanohook.app import database_path
from nanohook.cli import people
from nanohook.database import Transaction
from nanohook.flow import create, history
from nanohook.rules import signing
from nanohook.rules.job import Job, Step, Stored
from nanohook.rules.status import Stage
from nanohook.rules.wishes import Wish
from nanohook.settings import fixed
from nanohook.stores import tasks

KEY = "the-key-of-the-benchmark"
_FAR_US = 24 * 3600 * 1_000_000
_TOKEN_EXPIRES_S = 4_000_000_000
_WISH = Wish(
    prompt="a kite over the sea",
    transformation_type="custom",
    model="nano-banana",
    num_images=1,
    aspect_ratio=None,
    resolution=None,
    output_format=None,
    fit="cover",
    use="original",
    priority="normal",
    language="en",
)
_tokens = signing.Tokens([KEY])


@dataclass(frozen=True, slots=True)
class Seeded:
    """A data dir with its jobs, and the API key of the person they belong to."""

    folder: pathlib.Path
    api_key: str
    job_ids: list[str]

    def copy(self, name: str) -> "Seeded":
        """Copy the data dir, so that each measurement begins with the same rows."""
        place = self.folder.with_name(f"{self.folder.name}-{name}")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder, place)
        return replace(self, folder=place)

    def remove(self) -> None:
        """Delete the data dir."""
        shutil.rmtree(self.folder)


def seed(folder: pathlib.Path, *, count: int, original: tuple[int, int] | None = None) -> Seeded:
    """Make *count* jobs that NanoBanana has accepted; with *original*, each changes a picture of that size."""
    return asyncio.run(_seed(folder, count=count, original=original))


def path(job_id: str) -> str:
    """Where a job's callback goes."""
    token = _tokens.sign_callback(job_id=job_id, attempt=1, index=0, expires_at_s=_TOKEN_EXPIRES_S)
    return f"/api/webhooks/image-completion/{token}"


def task_id(job_id: str) -> str:
    """NanoBanana's name for a job's task."""
    return f"task-{job_id}"


def read(token: str) -> signing.CallbackToken:
    """Tell what a callback's address was signed for."""
    return _tokens.read_callback(token, now_s=0)


async def _seed(folder: pathlib.Path, *, count: int, original: tuple[int, int] | None) -> Seeded:
    where = database_path(fixed(data_dir=folder))
    migrations.upgrade(where)
    async with database.open_database(where) as opened:
        api_key = await people.create_in(
            opened, people.NewAccount(email="bench@example.org", is_verified=True, credits=900_000_000)
        )
        person = await people.person(opened, "bench@example.org", credits=0)

        async def fill(tx: Transaction) -> list[str]:
            return [(await _accepted(tx, person.id, original)).id for _ in range(count)]

        job_ids = await opened.write(fill)
    return Seeded(folder, api_key, job_ids)


async def _accepted(tx: Transaction, owner_id: str, original: tuple[int, int] | None) -> Job:
    now = clock.now_us()
    image_id = None
    if original is not None:
        image_id = (await _uploaded(tx, owner_id, original, now_us=now)).id
    job = await create.generate(
        tx, _WISH, owner_id=owner_id, image_id=image_id, project_id=None, price=4, now_us=now
    )
    (task,) = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
    taken = replace(
        task,
        task_id=task_id(job.id),
        stage=Stage.GENERATING,
        progress=60,
        step=Step.ASK,
        due_at=now + _FAR_US,
        submit_started_at=now,
        accepted_at=now,
    )
    return await history.move(tx, job, taken, now_us=now)


async def _uploaded(tx: Transaction, owner_id: str, size: tuple[int, int], *, now_us: int) -> Job:
    name = ids.new_id()
    stored = Stored(
        key=f"originals/{name}.jpg",
        thumbnail_key=f"originals/{name}-small.jpg",
        content_type="image/jpeg",
        width_px=size[0],
        height_px=size[1],
        size_bytes=1,
    )
    return await create.upload(tx, stored, owner_id=owner_id, project_id=None, language="en", now_us=now_us)
