"""
kill -9 in the middle of a job, at every named point; then a restart, and the job ends as if nothing had been.

The scenes mostly wait, so they run side by side, once for the whole module; each test looks at one of them.
``once.done`` is in ``test_kill_once.py``, ``purge.files_gone`` and ``unclaimed.rows_gone`` are in
``test_kill_sweep.py``.
"""

import asyncio
import pathlib
import re

import orjson
import pytest

from nanohook import faults
from nanohook.sandbox import callbacks
from tests.process import play
from tests.process.play import Outcome, Scene

REPEATS = 5
"""Of a callback: the vendor gives up after three, but a busy machine takes longer than these to restart."""
NO_PUBLIC_URL = {"given": {"public_url": None}, "error": "unknown_outcome"}
SOON_LATE = {"given": {"job_deadline_s": 2}}

BY_CALLBACK = [
    # The answer to the upload or to the order is lost, and the person looks whether it is there, and asks again.
    Scene(point="upload.stored", has_original=True, orphans=2),
    Scene(point="upload.settled", has_original=True),
    Scene(point="accept.read"),
    Scene(point="accept.committed", has_original=True),
    Scene(point="submit.claimed", has_original=True),
    # Nobody can know whether it was sent: never again by itself, and no callback comes.
    Scene(point="submit.started", **SOON_LATE, error="unknown_outcome", submitted=0),
    # It was sent, and its callback arrives at the restarted service.
    Scene(point="submit.answered", has_original=True),
    Scene(point="submit.settled"),
    Scene(point="webhook.read"),
    Scene(point="webhook.committed"),
    Scene(point="finish.claimed"),
    Scene(point="finish.downloaded"),
    Scene(point="finish.decoding"),
    Scene(point="finish.resized", has_original=True),
    Scene(point="finish.half_stored", orphans=1),
    Scene(point="finish.stored", orphans=2),
    Scene(point="finish.settled"),
    # A callback that is not simply believed is asked for.
    *(
        Scene(point=point, word="doubted", error="content_policy")
        for point in ("webhook.committed", "ask.claimed", "ask.answered", "ask.settled")
    ),
    # In the middle of several: what is stored stays, what is bought is not bought again.
    Scene(point="submit.answered:2", num_images=3),
    Scene(point="finish.stored:2", num_images=3, has_original=True, given={"finish_concurrency": 1}, orphans=2),
]
# No webhook is reached: there are no callbacks. Where the answer to the submit is lost, nobody ever hears of it.
BY_RECORD = [
    Scene(point="submit.claimed", word="record"),
    Scene(point="submit.started", **NO_PUBLIC_URL, submitted=0),
    Scene(point="submit.answered", word="record", **SOON_LATE, error="unknown_outcome"),
    Scene(point="submit.answered", **NO_PUBLIC_URL),
    Scene(point="submit.settled", word="record"),
    Scene(point="ask.claimed", word="record"),
    Scene(point="ask.answered", word="record"),
    Scene(point="ask.settled", word="record"),
    Scene(point="finish.claimed", word="record"),
    Scene(point="finish.downloaded", word="record"),
    Scene(point="finish.resized", word="record"),
    Scene(point="finish.half_stored", word="record", orphans=1),
    Scene(point="finish.stored", word="record", orphans=2),
    Scene(point="finish.settled", word="record"),
]
# What was sent is paid, and kept for its owner. Before ``submit.answered`` NanoBanana has nothing to keep back: a
# job that is canceled then is never submitted, and the point is not reached.
CANCELED_BEFORE = [
    Scene(point="submit.answered", canceled="submit"),
    Scene(point="submit.settled", canceled="submit"),
    Scene(point="webhook.read", canceled="submit"),
    Scene(point="webhook.committed", canceled="submit"),
    Scene(point="ask.claimed", word="record", canceled="submit"),
    Scene(point="ask.answered", word="record", canceled="ask"),
    Scene(point="ask.settled", word="record", canceled="ask"),
    Scene(point="finish.claimed", canceled="submit"),
    Scene(point="finish.claimed", word="record", canceled="ask"),
    Scene(point="finish.downloaded", canceled="picture"),
    Scene(point="finish.resized", canceled="picture"),
    Scene(point="finish.half_stored", canceled="picture", orphans=1),
    Scene(point="finish.stored", canceled="picture", orphans=2),
    Scene(point="finish.settled", canceled="picture"),
]
# Not after ``finish.settled``: the job has ended, there is nothing to cancel.
CANCELED_AFTER = [
    Scene(point="accept.committed", canceled="after", submitted=0),
    Scene(point="submit.claimed", canceled="after", submitted=0),
    Scene(point="submit.started", canceled="after", **SOON_LATE, submitted=0),
    Scene(point="submit.answered", canceled="after"),
    Scene(point="submit.settled", canceled="after"),
    Scene(point="webhook.read", canceled="after"),
    Scene(point="webhook.committed", canceled="after"),
    Scene(point="ask.claimed", word="record", canceled="after"),
    Scene(point="ask.answered", word="record", canceled="after"),
    Scene(point="ask.settled", word="record", canceled="after"),
    Scene(point="finish.claimed", canceled="after"),
    Scene(point="finish.downloaded", canceled="after"),
    Scene(point="finish.half_stored", canceled="after", orphans=1),
    Scene(point="finish.stored", canceled="after", orphans=2),
]
SCENES = [*BY_CALLBACK, *BY_RECORD, *CANCELED_BEFORE, *CANCELED_AFTER]


def test_somebody_dies_or_crashes_at_every_point():
    source = pathlib.Path(faults.__file__).parent
    points = {
        point for path in source.rglob("*.py") for point in re.findall(r'reach\("(.+?)"\)', path.read_text())
    }
    scenes = "".join(path.read_text() for path in pathlib.Path(__file__).parents[1].rglob("test_*.py"))
    assert [point for point in points if f'"{point}"' not in scenes] == []


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Every scene that a test of this run looks at."""
    wanted = [
        item.callspec.params["scene"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "REPEATS", REPEATS)
        return asyncio.run(play.play_all(wanted, tmp_path_factory.mktemp("kill")))


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_a_job_survives_a_kill(outcomes: dict[str, Outcome | BaseException], scene: Scene):
    outcome = outcomes[str(scene)]
    if isinstance(outcome, BaseException):
        raise outcome
    play.assert_died_and_went(outcome)
    [job] = outcome.rows("SELECT * FROM jobs WHERE id = ?")
    assert (job["status"], job["error_code"]) == (scene.ended, "canceled" if scene.canceled else scene.error)
    _paid_once(scene, outcome)
    _stored_once(scene, outcome)
    _told_once(outcome, job)


def _paid_once(scene: Scene, outcome: Outcome) -> None:
    assert outcome.submitted == (scene.num_images if scene.submitted is None else scene.submitted)
    tasks = outcome.rows("SELECT * FROM tasks WHERE job_id = ?")
    assert [(task["step"], task["due_at"]) for task in tasks] == [(None, None)] * scene.num_images
    callbacks = outcome.rows("SELECT * FROM deliveries WHERE job_id = ? AND source = 'token'")
    assert len(callbacks) <= scene.num_images
    paid = outcome.rows("SELECT 1 FROM ledger WHERE kind = 'charge' AND job_id = ?")
    # One that is canceled is paid if NanoBanana turns out to have taken it.
    is_sent = scene.canceled and scene.point not in {"accept.committed", "submit.claimed", "submit.started"}
    assert len(paid) == (1 if is_sent else scene.made)


def _stored_once(scene: Scene, outcome: Outcome) -> None:
    """``post_mortem.audit`` has compared the files with these rows."""
    table, other = ("unclaimed", "pictures") if scene.canceled else ("pictures", "unclaimed")
    pictures = outcome.rows(f"SELECT * FROM {table} WHERE job_id = ?")
    assert len(pictures) == scene.made
    assert outcome.rows(f"SELECT * FROM {other} WHERE job_id = ?") == []
    size = (320, 180) if scene.has_original else (256, 256)
    assert all((picture["width_px"], picture["height_px"]) == size for picture in pictures)


def _told_once(outcome: Outcome, job: dict[str, object]) -> None:
    """Ids grow, the last event is the job's state, and the browser saw just that."""
    events = outcome.rows("SELECT * FROM events WHERE job_id = ? ORDER BY id")
    assert job["last_event_id"] == events[-1]["id"]
    assert job["status"] == orjson.loads(events[-1]["payload"])["status"]
    assert [False] * (len(events) - 1) + [True] == [bool(event["is_last"]) for event in events]
    ids = [event_id for event_id, _ in outcome.seen]
    assert ids == sorted(set(ids))
    assert ids == [event["id"] for event in events][-len(ids) :]
    progress = [state["progress"] for _, state in outcome.seen]
    assert progress == sorted(progress)
