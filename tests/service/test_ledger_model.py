"""
What people pay against what was bought for them, over any order of events: the flow on a real SQLite file.

``World`` has one person and a NanoBanana that takes, refuses, loses and forgets as it is told. Nothing runs by
itself: a POST that was sent is answered when the test says so, so that whatever can happen in between does.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
import sqlite3
import tempfile

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nanohook import errors, ids, migrations, units
from nanohook.address import PublicAddress
from nanohook.database import Transaction
from nanohook.flow import accounts, cancel, create, receive, retry, settle, submit
from nanohook.flow.terms import Terms
from nanohook.rules import callbacks, credit
from nanohook.rules.job import Fault, Step, Stored, Task
from nanohook.rules.status import Stage
from nanohook.rules.wishes import Wish
from nanohook.stores import jobs, tasks
from nanohook.stores.deliveries import Delivery, Source
from tests import books

PRICE = 4
SECOND = 1_000_000
TERMS = Terms(
    believed_hosts=frozenset({"cdn.example"}),
    deadline_us=900 * SECOND,
    callback_wait_us=90 * SECOND,
    ask_every_us=5 * SECOND,
    address=PublicAddress("https://hook.example"),
)
WISH = Wish(
    prompt="a kite",
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


@dataclasses.dataclass(eq=False)
class Post:
    """A submit that was sent."""

    claimed: Task
    task_id: str | None = None
    """NanoBanana has taken it."""
    fate: str | None = None
    """What came of it there: ``ok`` or ``failed``."""
    is_refused: bool = False

    @property
    def place(self) -> tuple[str, int]:
        return self.claimed.job_id, self.claimed.index


class World:
    def __init__(self, path: pathlib.Path, *, credits: int = 1_000) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA foreign_keys=ON")
        self.connection.execute("PRAGMA synchronous=OFF")
        self.now = 1_700_000_000 * SECOND
        self.posts: list[Post] = []
        self.in_flight: list[Post] = []
        self.finishing: list[Task] = []
        self.forgiven: set[tuple[str, int]] = set()
        """Where what was bought may stay unpaid: no answer in time, or a result that cannot be fetched."""
        account = {"email": f"{ids.new_id()}@example.org", "password_hash": None, "credits": credits}
        person = self.do(
            lambda tx: accounts.create(tx, **account, is_admin=False, is_verified=True, now_us=self.now)
        )
        self.owner = {"owner_id": person.id}

    def close(self) -> None:
        self.connection.close()

    def do(self, unit):
        """One transaction; then the books are right."""
        self.now += 1_000
        self.connection.execute("BEGIN")
        try:
            result = units.drive(unit, Transaction(self.connection))
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return result

    def all(self, sql, *values):
        return books.of(self.connection, sql, *values)

    # What a person does.

    def create(self, number: int = 1) -> str:
        wish = dataclasses.replace(WISH, num_images=number)
        named = {"image_id": None, "project_id": None, "price": PRICE}
        return self.do(lambda tx: create.generate(tx, wish, **self.owner, **named, now_us=self.now)).id

    def cancel(self, job_id: str) -> None:
        self.do(lambda tx: cancel.cancel(tx, **self.owner, job_id=job_id, now_us=self.now))

    def delete(self, job_id: str) -> None:
        self.do(lambda tx: cancel.delete(tx, **self.owner, job_id=job_id, now_us=self.now))

    def restore(self, job_id: str) -> None:
        self.do(lambda tx: cancel.restore(tx, **self.owner, job_id=job_id, now_us=self.now))

    def retry(self, job_id: str, *, buy_again: bool = False) -> None:
        asked = {"job_id": job_id, "may_buy_again": buy_again, "prices": credit.Prices()}
        self.do(lambda tx: retry.retry(tx, **self.owner, **asked, now_us=self.now))

    # What the service does, and NanoBanana.

    def submit(self) -> Post | None:
        """Send the POST of a task that waits for it."""
        found = self._claim(Step.SUBMIT, most=1)
        if not found:
            return None
        try:
            begun = self.do(lambda tx: submit.begin(tx, found[0], terms=TERMS, now_us=self.now))
        except errors.LeaseLost:
            return None
        if begun is None:
            return None
        post = Post(found[0])
        self.posts.append(post)
        self.in_flight.append(post)
        return post

    def take(self, post: Post) -> str:
        """NanoBanana takes it; its answer is still on the way."""
        post.task_id = post.task_id or f"t{len(self.posts)}-{ids.new_id()}"
        return post.task_id

    def answer(self, post: Post, outcome: str) -> None:
        """The answer of a POST arrives."""
        self.in_flight.remove(post)
        outcome = "accepted" if post.task_id and outcome in {"refused", "busy"} else outcome
        claimed, now = post.claimed, {"now_us": self.now}
        if outcome == "accepted":
            task_id = self.take(post)
            self.do(lambda tx: submit.accepted(tx, claimed, task_id, terms=TERMS, **now))
        elif outcome == "lost":
            self.take(post)
            self.do(lambda tx: submit.unknown(tx, claimed, task_id=None, terms=TERMS, **now))
        elif outcome == "busy":
            post.is_refused = True
            self.do(lambda tx: submit.again(tx, claimed, due_at=self.now, **now))
        else:
            post.is_refused = True
            fault = Fault(code="upstream_rejected")
            self.do(lambda tx: submit.refused(tx, claimed, fault, **now))

    def end(self, post: Post, fate: str) -> None:
        """NanoBanana comes to an end with a task that it has taken."""
        self.take(post)
        post.fate = post.fate or fate

    def call_back(self, post: Post) -> None:
        """NanoBanana tells what it has of a task."""
        data = self._record(post)["data"]
        body = orjson.dumps({"code": 200, "msg": "x", "data": data})
        told = self._delivery(post.claimed, Source.TOKEN, body)
        self.do(lambda tx: receive.callback(tx, told, callbacks.read(body), terms=TERMS, now_us=self.now))

    def ask(self, task: Task) -> None:
        """Ask after a task that has an id."""
        lease = {"now_us": self.now, "lease_until_us": self.now + 30 * SECOND}
        claimed = self.do(lambda tx: tasks.claim_to_ask(tx, task, asked_before_us=self.now, **lease))
        if claimed is not None:
            self._ask(claimed)

    def look(self) -> None:
        """Do what is due of asking, with an id or without."""
        for claimed in self._claim(Step.ASK, most=50):
            if claimed.task_id is not None:
                self._ask(claimed)
                continue
            self.forgiven.add((claimed.job_id, claimed.index))
            with contextlib.suppress(errors.LeaseLost):
                self.do(lambda tx: submit.give_up(tx, claimed, terms=TERMS, now_us=self.now))  # noqa: B023

    def _ask(self, claimed: Task) -> None:
        post = next((post for post in self.posts if post.task_id == claimed.task_id), None)
        body = orjson.dumps({"code": 404, "data": None} if post is None else self._record(post))
        record = callbacks.read_record(body, http_status=200)
        told = self._delivery(claimed, Source.RECORD, body + ids.new_id().encode())
        receipt = self.do(lambda tx: receive.answer(tx, told, record, claimed, terms=TERMS, now_us=self.now))
        if receipt is not None and receipt.reason == "past its deadline":
            self.forgiven.add((claimed.job_id, claimed.index))

    def fetch(self) -> None:
        """Begin to finish what waits for it."""
        self.finishing += self._claim(Step.FINISH, most=4)

    def finish(self, claimed: Task, *, is_there: bool = True) -> None:
        """A result was fetched, or is gone from its host."""
        self.finishing.remove(claimed)
        name = f"results/{claimed.job_id}/{claimed.attempt}-{claimed.index}-{claimed.claim}"
        stored = Stored(
            key=name, thumbnail_key=f"{name}-s", content_type="image/png", width_px=1, height_px=1, size_bytes=1
        )
        now = {"now_us": self.now}
        fault = Fault(code="download_failed")
        with contextlib.suppress(errors.LeaseLost):
            if is_there:
                self.do(lambda tx: settle.finished(tx, claimed, stored, sha256=b"x", **now))
            else:
                self.do(lambda tx: settle.failed(tx, claimed, fault, retry_at=None, **now))
                self.forgiven.add((claimed.job_id, claimed.index))

    def crash(self, post: Post) -> None:
        """NanoBanana has taken it, and nobody is left who could hear that."""
        self.take(post)
        self.in_flight.remove(post)
        self.forgiven.add(post.place)

    def wait(self, seconds: int) -> None:
        """Time passes; what is under way keeps its lease."""
        self.now += seconds * SECOND
        until = self.now + 30 * SECOND
        held = [(post.claimed, Step.SUBMIT) for post in self.in_flight]
        for claimed, step in [*held, *((claimed, Step.FINISH) for claimed in self.finishing)]:
            self.do(lambda tx: tasks.extend(tx, claimed, step, until_us=until))  # noqa: B023

    def _claim(self, step: Step, *, most: int) -> list[Task]:
        lease = {"now_us": self.now, "lease_until_us": self.now + 30 * SECOND}
        return self.do(lambda tx: tasks.claim(tx, step, **lease, most=most))

    def _record(self, post: Post) -> dict:
        flag = {None: 0, "ok": 1, "failed": 3}[post.fate]
        response = {"resultImageUrl": f"https://cdn.example/{post.task_id}.png"} if post.fate == "ok" else None
        return {"code": 200, "data": {"taskId": post.task_id, "successFlag": flag, "response": response}}

    def _delivery(self, task: Task, source: Source, body: bytes) -> Delivery:
        return Delivery(
            id=ids.new_id(),
            source=source,
            job_id=task.job_id,
            attempt=task.attempt,
            index=task.index,
            webhook_id=None,
            headers="",
            body=body,
            body_sha256=hashlib.sha256(body).digest(),
            received_at=self.now,
        )

    # What can be seen.

    def job(self, job_id: str):
        return self.do(lambda tx: jobs.load(tx, job_id))

    def task(self, job_id: str, index: int = 0) -> Task:
        attempt = self.job(job_id).attempt
        return self.do(lambda tx: tasks.load(tx, job_id=job_id, attempt=attempt, index=index))

    def entries(self, job_id: str) -> list[tuple[int, int, str]]:
        found = self.all("SELECT attempt, idx, kind FROM ledger WHERE job_id = ? ORDER BY id", job_id)
        return [(entry["attempt"], entry["idx"], entry["kind"]) for entry in found]

    def spent(self) -> int:
        [balance] = self.all("SELECT available, reserved FROM balances WHERE owner_id = ?", self.owner["owner_id"])
        [given] = self.all("SELECT SUM(available) AS n FROM ledger WHERE kind = 'grant'")
        return given["n"] - balance["available"] - balance["reserved"]

    def check(self) -> None:
        """Nothing is paid twice, and nothing is had for nothing."""
        books.audit(self.connection)
        charged: dict[tuple[str, int], int] = {}
        reserved: dict[tuple[str, int], int] = {}
        for sums in self.all(
            "SELECT job_id, idx, SUM(kind = 'charge') - SUM(kind = 'return' AND reserved = 0) AS charged, "
            "SUM(kind = 'reserve') - SUM(reserved < 0) AS reserved FROM ledger "
            "WHERE job_id IS NOT NULL GROUP BY 1, 2"
        ):
            place = sums["job_id"], sums["idx"]
            charged[place], reserved[place] = sums["charged"], sums["reserved"]
        for picture in self.all("SELECT job_id, idx FROM pictures"):
            assert charged[picture["job_id"], picture["idx"]] >= 1, "a picture for nothing"
        for place, paid in charged.items():
            posts = [post for post in self.posts if post.place == place and not post.is_refused]
            assert paid <= len(posts), "paid for what NanoBanana did not take"
            good = sum(post.fate == "ok" for post in posts)
            assert place in self.forgiven or good <= paid + reserved[place], "bought and never paid"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "nanohook.db"
    migrations.upgrade(path)
    return path


@pytest.fixture
def world(empty, tmp_path):
    made = World(shutil.copy(empty, tmp_path / "nanohook.db"))
    yield made
    made.check()
    made.close()


def test_a_picture_is_paid_once(world):
    job_id = world.create()
    post = world.submit()
    world.end(post, "ok")
    world.answer(post, "accepted")
    world.call_back(post)
    world.fetch()
    world.finish(world.finishing[0])
    world.call_back(post)
    assert world.entries(job_id) == [(1, 0, "reserve"), (1, 0, "charge")]
    assert world.spent() == PRICE


def test_what_was_canceled_too_late_is_paid_and_taken_by_a_retry(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "accepted")
    world.cancel(job_id)
    assert world.spent() == PRICE
    world.retry(job_id)
    world.cancel(job_id)
    world.retry(job_id)
    world.end(post, "ok")
    world.ask(world.task(job_id))
    world.fetch()
    world.finish(world.finishing[0])
    assert world.job(job_id).stage is Stage.COMPLETED
    assert world.entries(job_id) == [(1, 0, "reserve"), (1, 0, "charge")]


@pytest.mark.parametrize("outcome", ["refused", "busy"])
@pytest.mark.parametrize("is_retried", [False, True])
def test_what_nanobanana_refused_after_the_cancel_is_given_back(world, outcome, is_retried):
    job_id = world.create()
    post = world.submit()
    world.cancel(job_id)
    assert world.spent() == PRICE
    if is_retried:
        world.retry(job_id, buy_again=True)
    world.answer(post, outcome)
    assert world.spent() == 0
    if not is_retried:
        world.retry(job_id)  # nothing was taken: no word about buying again is needed
    second = world.submit()
    world.answer(second, "accepted")
    world.end(second, "ok")
    world.call_back(second)
    world.fetch()
    world.finish(world.finishing[0])
    assert world.spent() == PRICE


def test_a_refusal_of_a_deleted_job_is_given_back(world):
    job_id = world.create()
    post = world.submit()
    world.delete(job_id)
    world.answer(post, "refused")
    assert world.spent() == 0


def test_a_second_purchase_that_was_given_back_is_owed_when_it_is_taken_up(world):
    job_id = world.create()
    first = world.submit()
    world.cancel(job_id)
    world.retry(job_id, buy_again=True)
    world.answer(first, "accepted")
    world.end(first, "ok")
    second = world.submit()
    world.answer(second, "accepted")
    world.wait(901)
    world.look()
    assert world.job(job_id).fault.code == "deadline"
    assert world.spent() == PRICE
    world.retry(job_id)
    assert world.entries(job_id)[-1] == (3, 0, "reserve")
    world.end(second, "ok")
    world.ask(world.task(job_id))
    world.fetch()
    world.finish(world.finishing[0])
    assert world.spent() == 2 * PRICE


def test_what_was_paid_and_failed_upstream_is_made_anew_without_paying_again(world):
    job_id = world.create()
    first = world.submit()
    world.answer(first, "accepted")
    world.cancel(job_id)
    world.end(first, "failed")
    world.retry(job_id)
    world.ask(world.task(job_id))
    assert world.task(job_id).step is Step.SUBMIT
    # Canceled before it is submitted, and refused when it is: neither costs anything.
    world.cancel(job_id)
    world.retry(job_id)
    second = world.submit()
    world.answer(second, "refused")
    assert world.job(job_id).stage is Stage.FAILED
    world.retry(job_id)
    third = world.submit()
    world.answer(third, "accepted")
    world.end(third, "ok")
    world.call_back(third)
    world.fetch()
    world.finish(world.finishing[0])
    assert world.entries(job_id) == [(1, 0, "reserve"), (1, 0, "charge")]


def test_each_of_several_pictures_has_its_own_fate(world):
    job_id = world.create(3)
    posts = [world.submit() for _ in range(3)]
    for post, fate in zip(posts, ("ok", "failed", "ok"), strict=True):
        world.answer(post, "accepted")
        world.end(post, fate)
        world.ask(world.task(job_id, post.claimed.index))
    world.fetch()
    for claimed in list(world.finishing):
        world.finish(claimed)
    assert world.job(job_id).stage is Stage.COMPLETED
    assert world.spent() == 2 * PRICE
    world.retry(job_id)
    assert world.entries(job_id)[-1] == (2, 1, "reserve")
    world.ask(world.task(job_id, 1))
    again = world.submit()
    assert again.place == (job_id, 1)
    world.answer(again, "accepted")
    world.end(again, "ok")
    world.call_back(again)
    world.fetch()
    world.finish(world.finishing[0])
    assert world.spent() == 3 * PRICE


def test_the_ledger_takes_no_second_entry_of_a_kind(world):
    job_id = world.create()
    columns = "owner_id, kind, available, reserved, job_id, attempt, idx, note, created_at"
    again = f"INSERT INTO ledger ({columns}) SELECT {columns} FROM ledger WHERE job_id = ?"
    with pytest.raises(sqlite3.IntegrityError):
        world.connection.execute(again, (job_id,))


class Anything(RuleBasedStateMachine):
    """Whatever a person, the service and NanoBanana may do, in any order."""

    def __init__(self, empty):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(shutil.copy(empty, self.folder.name + "/nanohook.db"), credits=10 * PRICE)
        self.jobs = []

    def teardown(self):
        self.world.close()
        self.folder.cleanup()

    def pick(self, data, choices):
        return data.draw(st.sampled_from(choices))

    @precondition(lambda self: len(self.jobs) < 3)
    @rule(number=st.integers(1, 2))
    def create(self, number):
        with contextlib.suppress(errors.TooPoor):
            self.jobs.append(self.world.create(number))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), act=st.sampled_from(["cancel", "cancel", "cancel", "delete", "restore"]))
    def stop(self, data, act):
        with contextlib.suppress(errors.Conflict, errors.NotFound):
            getattr(self.world, act)(self.pick(data, self.jobs))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), buy_again=st.booleans())
    def retry(self, data, buy_again):
        with contextlib.suppress(errors.Conflict, errors.NotFound, errors.TooPoor):
            self.world.retry(self.pick(data, self.jobs), buy_again=buy_again)

    @precondition(lambda self: self.jobs)
    @rule()
    def submit(self):
        self.world.submit()

    @precondition(lambda self: self.world.in_flight)
    @rule(data=st.data(), outcome=st.sampled_from(["accepted", "accepted", "accepted", "lost", "busy", "refused"]))
    def answer(self, data, outcome):
        self.world.answer(self.pick(data, self.world.in_flight), outcome)

    @precondition(lambda self: self.world.in_flight)
    @rule(data=st.data())
    def crash(self, data):
        self.world.crash(self.pick(data, self.world.in_flight))

    def unrefused(self):
        return [post for post in self.world.posts if not post.is_refused]

    @precondition(lambda self: self.unrefused())
    @rule(data=st.data(), fate=st.sampled_from(["ok", "ok", "failed"]))
    def end(self, data, fate):
        self.world.end(self.pick(data, self.unrefused()), fate)

    @precondition(lambda self: any(post.task_id for post in self.unrefused()))
    @rule(data=st.data())
    def call_back(self, data):
        self.world.call_back(self.pick(data, [post for post in self.unrefused() if post.task_id]))

    @precondition(lambda self: self.world.posts)
    @rule(seconds=st.sampled_from([1, 10, 100, 901]))
    def look(self, seconds):
        self.world.wait(seconds)
        self.world.look()

    @precondition(lambda self: self.world.posts)
    @rule()
    def fetch(self):
        self.world.fetch()

    @precondition(lambda self: self.world.finishing)
    @rule(data=st.data(), is_there=st.sampled_from([True, True, False]))
    def finish(self, data, is_there):
        self.world.finish(self.pick(data, self.world.finishing), is_there=is_there)

    @invariant()
    def the_books_are_right(self):
        self.world.check()


def test_in_any_order_of_events_the_books_are_right(empty):
    chosen = settings(
        max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(lambda: Anything(empty), settings=chosen)
