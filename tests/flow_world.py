"""
The flow on a real SQLite file, and a world around it that does nothing by itself.

``World`` has a person and a NanoBanana that takes, refuses, loses, forgets and repeats as it is told. A POST that
was sent is answered, a question that was asked and a download that was begun end when the test says so: whatever
can happen in between does. ``check`` tells whether all that is stored is as it must be.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
from typing import Any

import orjson

from nanohook import errors, ids
from nanohook.address import PublicAddress
from nanohook.flow import (
    accept,
    blocking,
    cancel,
    create,
    gate,
    receive,
    reconcile,
    replay,
    retry,
    settle,
    submit,
)
from nanohook.flow.settle import Kept
from nanohook.flow.terms import Terms
from nanohook.rules import callbacks, credit
from nanohook.rules.downloads import Outcome
from nanohook.rules.job import Fault, Step, Stored, Task
from nanohook.rules.wishes import Wish
from nanohook.stores import claims, deliveries, tasks
from nanohook.stores.deliveries import Delivery, Effect, Source
from nanohook.work.submit import Submitter
from tests import books, flow_rules
from tests.flow_database import LEASE, SECOND, Database

PRICE = 4
HOSTS = ("cdn.example", "elsewhere.example", "mirror.example")
"""The first is believed without a question."""
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
    """As it was when the submit began."""
    task_id: str | None = None
    """NanoBanana has taken it."""
    fate: str | None = None
    """What came of it there: ``ok`` or ``failed``."""
    is_refused: bool = False
    never_came: bool = False
    """It was lost on its way; nobody here can know that."""
    is_forgotten: bool = False
    """NanoBanana does not know it any more."""
    may_be_repeated: bool = False
    """NanoBanana said that it has nothing, or its owner would rather pay twice."""
    is_late: bool = False
    """Its result was told when its task had ended."""
    is_lost: str | None = None
    """Why there may be nothing to show for a result that was told."""

    @property
    def place(self) -> tuple[str, int]:
        return self.claimed.job_id, self.claimed.index


class World(Database):
    def __init__(self, path: pathlib.Path, *, credits: int = 1_000) -> None:
        super().__init__(path)
        self.posts: list[Post] = []
        self.in_flight: list[Post] = []
        self.asking: list[Task] = []
        self.finishing: list[tuple[Task, bool]] = []
        """What is being fetched, and whether it is there already."""
        self.files: dict[str, str] = {}
        """Keys of the pictures that are stored, and the address that each was fetched from."""
        self.forgiven: set[tuple[str, int]] = set()
        """Where what was bought may stay unpaid: no answer in time, or a result that cannot be fetched."""
        self.may_probe = False
        self.submitter = Submitter(
            database=None, client=None, pace=None, tokens=None, terms=TERMS, account=self, open_tasks=100
        )
        self.owner = {"owner_id": self.person(credits)}

    # What a person does, and an admin.

    def create(self, number: int = 1, *, priority: str = "normal", owner_id: str | None = None) -> str:
        wish = dataclasses.replace(WISH, num_images=number, priority=priority)
        named = {"owner_id": owner_id or self.owner["owner_id"], "image_id": None, "project_id": None}
        return self.do(lambda tx: create.generate(tx, wish, **named, price=PRICE, now_us=self.now)).id

    def cancel(self, job_id: str) -> None:
        self.do(lambda tx: cancel.cancel(tx, **self.owner, job_id=job_id, now_us=self.now))

    def delete(self, job_id: str) -> None:
        self.do(lambda tx: cancel.delete(tx, **self.owner, job_id=job_id, now_us=self.now))
        for post in self.posts:
            post.is_lost = "its job was deleted" if post.place[0] == job_id else post.is_lost

    def restore(self, job_id: str) -> None:
        self.do(lambda tx: cancel.restore(tx, **self.owner, job_id=job_id, now_us=self.now))

    def retry(self, job_id: str, *, buy_again: bool = False) -> None:
        asked = {"job_id": job_id, "may_buy_again": buy_again, "prices": credit.Prices()}
        known = {row["task_id"] for row in self.all("SELECT task_id FROM tasks WHERE task_id IS NOT NULL")}
        dead = self.dead_results(job_id) if buy_again else set()
        self.do(lambda tx: retry.retry(tx, **self.owner, **asked, now_us=self.now))
        for post in self.posts:
            if buy_again and post.place[0] == job_id and (post.task_id not in known or post.place[1] in dead):
                post.may_be_repeated = True

    def accept_late(self, job_id: str) -> None:
        self.do(lambda tx: accept.accept_late(tx, **self.owner, job_id=job_id, now_us=self.now))

    def pause(self) -> None:
        self.do(lambda tx: gate.pause(tx, actor="cli", now_us=self.now))

    def resume(self) -> None:
        self.do(lambda tx: gate.resume(tx, actor="cli", now_us=self.now))

    # Submitting.

    def submit(self) -> Post | None:
        """Send the POST of the task that is next in line, if the gate lets it through."""
        if self.do(self.submitter.is_open) <= 0:
            return None
        found = self.claim(Step.SUBMIT, most=1)
        if not found:
            return None
        try:
            probe = {"is_probe": self.may_probe, "now_us": self.now}
            begun = self.do(lambda tx: submit.begin(tx, found[0], terms=TERMS, **probe))
        except errors.LeaseLost:
            return None
        if begun is None:
            return None
        post = Post(begun.task)
        for former in self.posts:
            assert former.place != post.place or former.is_refused or former.may_be_repeated, "bought twice"
        self.posts.append(post)
        self.in_flight.append(post)
        return post

    def take(self, post: Post) -> str:
        """NanoBanana takes it; its answer is still on the way."""
        post.task_id = post.task_id or f"t{len(self.posts)}-{ids.new_id()}"
        return post.task_id

    def answer(self, post: Post, outcome: str) -> None:
        """The answer of a POST arrives: ``accepted lost busy refused faulty`` or ``blocked``."""
        self.in_flight.remove(post)
        outcome = "accepted" if post.task_id and outcome != "lost" else outcome
        claimed, now = post.claimed, {"now_us": self.now}
        fault = Fault(code="upstream_rejected")
        if outcome in {"accepted", "lost"}:
            task_id = self.take(post)
        else:
            post.is_refused = True
        if outcome == "accepted":
            self.may_probe = False
            self.do(lambda tx: submit.accepted(tx, claimed, task_id, terms=TERMS, **now))
            self.do(gate.unblock)
        elif outcome == "lost":
            self.do(lambda tx: submit.unknown(tx, claimed, task_id=None, terms=TERMS, **now))
        elif outcome == "busy":
            self.do(lambda tx: submit.again(tx, claimed, due_at=self.now, **now))
        elif outcome == "blocked":
            self.may_probe = False
            self.do(lambda tx: blocking.blocked(tx, claimed, 402, due_at=self.now, **now))
        elif outcome == "faulty":
            self.do(lambda tx: submit.once_more(tx, claimed, fault, **now))
        else:
            self.do(lambda tx: submit.refused(tx, claimed, fault, **now))

    def credit_comes(self) -> None:
        """NanoBanana answers for the account again."""
        self.may_probe = True

    def fail_blocked(self) -> int:
        return self.do(lambda tx: blocking.fail_blocked(tx, most=100, now_us=self.now))

    # What NanoBanana says.

    def there(self) -> list[Post]:
        """What NanoBanana has, or will have had."""
        return [post for post in self.posts if not (post.is_refused or post.never_came)]

    def named(self) -> list[Post]:
        """What it calls by a name."""
        return [post for post in self.there() if post.task_id]

    def end(self, post: Post, fate: str) -> None:
        """NanoBanana comes to an end with a task that it has taken."""
        self.take(post)
        post.fate = post.fate or fate

    def call_back(self, post: Post, *, by: str = "token", host: str = "cdn.example", word: str = "x") -> Effect:
        """
        NanoBanana tells what it has of a task.

        Args:
            by: ``token``: to its address; ``headers``: signed, and found by the task's id.
            word: Another one makes other bytes of it.
        """
        body = orjson.dumps({"code": 200, "msg": word, "data": self._record(post, host=host)["data"]})
        told = self._delivery(post.claimed, Source.TOKEN, body)
        if by == "headers":
            nobody = {"job_id": None, "attempt": None, "index": None}
            told = dataclasses.replace(
                told, source=Source.HEADERS, webhook_id=f"{post.task_id}-{word}-{host}-{post.fate}", **nobody
            )
        way = receive.callback if by == "token" else receive.signed
        return self._tell(post, lambda tx: way(tx, told, callbacks.read(body), terms=TERMS, now_us=self.now))

    def apply(self) -> None:
        """Apply what was parked until its task was known."""
        lease = {"now_us": self.now, "lease_until_us": self.now + LEASE}
        for told in self.do(lambda tx: deliveries.claim_unapplied(tx, **lease, most=20)):
            task_id = callbacks.read(told.body).task_id
            [post] = [post for post in self.posts if post.task_id == task_id]
            self._tell(post, lambda tx: replay.apply(tx, told, terms=TERMS, now_us=self.now))  # noqa: B023

    def _tell(self, post: Post, unit: Any) -> Effect:
        """What is told of a task that has ended changes nothing that its owner sees."""
        ended = self._has_ended(post)
        before = self.seen(post.claimed.job_id)
        effect = self.do(unit).effect
        if ended:
            assert self.seen(post.claimed.job_id) == before, "a late word changed the job"
            is_news = effect is not Effect.PARKED and ended == "without a picture"
            post.is_late = post.is_late or (is_news and post.fate == "ok")
        return effect

    def ask(self, task: Task) -> None:
        """Ask after a task that has an id."""
        lease = {"now_us": self.now, "lease_until_us": self.now + LEASE}
        # However short a while ago it was asked for.
        self.do(lambda tx: tx.run("UPDATE tasks SET asked_at = NULL"))
        claimed = self.do(lambda tx: claims.claim_to_ask(tx, task, **lease))
        if claimed is not None:
            self.asking.append(claimed)
            self.hear(claimed)

    def look(self) -> None:
        """Ask for all that is due."""
        for claimed in self.begin_asking():
            self.hear(claimed)

    def begin_asking(self) -> list[Task]:
        """Claim what is due of asking, with an id or without."""
        claimed = self.claim(Step.ASK, most=50)
        self.asking += claimed
        return claimed

    def hear(self, claimed: Task, *, code: int | None = None, host: str = "cdn.example") -> None:
        """The answer of a question arrives; with a *code* it has no record."""
        self.asking.remove(claimed)
        if claimed.task_id is None:
            self.give_up(claimed)
            return
        [post] = [post for post in self.posts if post.task_id == claimed.task_id]
        if code == 404:
            self.forget(post)
        if post.is_forgotten or post.fate == "failed":
            post.may_be_repeated = True
        code = 404 if post.is_forgotten else code
        body = orjson.dumps(self._record(post, host=host) if code is None else {"code": code, "data": None})
        record = callbacks.read_record(body, http_status=200)
        told = self._delivery(claimed, Source.RECORD, body + ids.new_id().encode())
        before = self.seen(claimed.job_id)
        of_task = {"job_id": claimed.job_id, "attempt": claimed.attempt, "index": claimed.index}
        asked = self.do(lambda tx: tasks.load(tx, **of_task))
        receipt = self.do(lambda tx: reconcile.answer(tx, told, record, claimed, terms=TERMS, now_us=self.now))
        if asked.is_ended:
            assert self.seen(claimed.job_id) == before, "a late answer changed the job"
        if receipt is not None and receipt.reason == "past its deadline":
            self.forgiven.add((claimed.job_id, claimed.index))
        self._see_whether_it_is_gone(claimed)

    def give_up(self, claimed: Task) -> None:
        """There is nothing to ask by: what is known by its deadline decides."""
        self.forgiven.add((claimed.job_id, claimed.index))
        with contextlib.suppress(errors.LeaseLost):
            self.do(lambda tx: submit.give_up(tx, claimed, terms=TERMS, now_us=self.now))

    def hear_nothing(self, claimed: Task, *, is_unreadable: bool = False, pause_s: int = 60) -> None:
        """No answer of a question arrives, or one without sense."""
        self.asking.remove(claimed)
        if claimed.task_id is None:
            self.give_up(claimed)
            return
        silence = {"is_unreadable": is_unreadable, "pause_us": pause_s * SECOND, "terms": TERMS}
        self.do(lambda tx: reconcile.no_answer(tx, claimed, **silence, now_us=self.now))
        self.forgiven.add((claimed.job_id, claimed.index))
        of_task = {"job_id": claimed.job_id, "attempt": claimed.attempt, "index": claimed.index}
        if self.do(lambda tx: tasks.load(tx, **of_task)).step is None:
            for post in self.posts:
                if post.task_id == claimed.task_id:
                    post.is_lost = post.is_lost or "nobody answers for it"
        self._see_whether_it_is_gone(claimed)

    def forget(self, post: Post) -> None:
        """NanoBanana does not know a task any more."""
        post.is_forgotten = True
        post.is_lost = post.is_lost or "NanoBanana has forgotten it"

    # Finishing.

    def fetch(self) -> None:
        """Begin to finish what waits for it."""
        for claimed in self.claim(Step.FINISH, most=4):
            with contextlib.suppress(errors.LeaseLost):
                begun = self.do(lambda tx: settle.begin(tx, claimed))  # noqa: B023
                self.finishing.append((claimed, begun.is_there))

    def finish(
        self, which: int = 0, *, comes: str = "whole", pause_s: int = 60, can_ask: bool = True
    ) -> Kept | None:
        """A result was fetched ``whole``, or an ``Outcome`` of that name came of it."""
        claimed, is_there = self.finishing.pop(which)
        url = None if claimed.next_candidate is None else claimed.next_candidate.url
        name = f"results/{claimed.job_id}/{claimed.attempt}-{claimed.index}-{claimed.claim}"
        stored = Stored(
            key=name, thumbnail_key=f"{name}-s", content_type="image/png", width_px=1, height_px=1, size_bytes=1
        )
        now = {"now_us": self.now}
        with contextlib.suppress(errors.LeaseLost):
            if is_there:
                self.do(lambda tx: settle.take(tx, claimed, **now))
            elif comes == "whole":
                before = self.seen(claimed.job_id)
                kept = self.do(lambda tx: settle.finished(tx, claimed, stored, sha256=b"x", **now))
                if kept is not Kept.SPARE:
                    assert name not in self.files
                    self.files[name] = url
                assert kept is Kept.RESULT or self.seen(claimed.job_id) == before, "a late result changed the job"
                return kept
            else:
                came = {"detail": comes, "pause_us": pause_s * SECOND, "can_ask": can_ask}
                self.do(lambda tx: settle.failed(tx, claimed, url or "", Outcome(comes), **came, **now))
                self._see_whether_it_is_gone(claimed)
        return None

    def dead_results(self, job_id: str) -> set[int]:
        """Indexes of the tasks whose result was told, and is at none of its addresses any more."""
        group = self.do(lambda tx: tasks.of_jobs(tx, [job_id]))[job_id]
        return {task.index for task in group if task.has_result and task.next_candidate is None}

    def _see_whether_it_is_gone(self, claimed: Task) -> None:
        """Forgive that a result is not there whose addresses are all dead."""
        of_task = {"job_id": claimed.job_id, "attempt": claimed.attempt, "index": claimed.index}
        task = self.do(lambda tx: tasks.load(tx, **of_task))
        if task is None or task.step is not None or not task.candidates or task.next_candidate is not None:
            return
        self.forgiven.add((claimed.job_id, claimed.index))
        known = {each.url for each in task.candidates}
        for post in self.posts:
            if known & self.addresses(post):
                post.is_lost = post.is_lost or "it is gone from its host"

    # What goes wrong.

    def lose(self, post: Post) -> None:
        """NanoBanana has taken it, and nobody is left who could hear that."""
        self.take(post)
        self.in_flight.remove(post)
        self.forgiven.add(post.place)

    def crash(self, *, arrived: bool = True) -> None:
        """
        The process is gone, and with it all that it was doing; another one starts.

        Args:
            arrived: What was being sent has reached NanoBanana.
        """
        for post in self.in_flight:
            self.forgiven.add(post.place)
            post.never_came = not arrived and post.task_id is None
            if not post.never_came:
                self.take(post)
        self.in_flight, self.asking, self.finishing, self.may_probe = [], [], [], False
        self.do(lambda tx: submit.recover(tx, terms=TERMS, now_us=self.now))

    def wait(self, seconds: int, *, lapse: bool = False) -> None:
        """Time passes; what is under way keeps its lease, unless all leases *lapse*."""
        self.now += seconds * SECOND
        if lapse:
            return
        held = [(post.claimed, Step.SUBMIT) for post in self.in_flight]
        held += [(claimed, Step.ASK) for claimed in self.asking]
        held += [(claimed, Step.FINISH) for claimed, _ in self.finishing]
        for claimed, step in held:
            self.do(lambda tx: claims.extend(tx, claimed, step, until_us=self.now + LEASE))  # noqa: B023

    def jump(self, seconds: int) -> None:
        """The wall clock is set; whoever works sees that, and what it has under way stays its own."""
        self.now += seconds * SECOND
        if seconds < 0:
            self.wait(0)
            far = {"now_us": self.now, "furthest_us": 60 * SECOND}
            self.do(lambda tx: claims.pull_in(tx, **far))

    def run_out(self) -> None:
        """
        Nobody answers any more, and no host gives anything: whatever is open must come to its end by the clock.

        Submits are refused, for what waits for its submit has no deadline.
        """
        self.resume()
        for _ in range(2_000):
            found = self.all("SELECT MIN(due_at) AS due FROM tasks WHERE step IS NOT NULL")
            if found[0]["due"] is None and not (self.in_flight or self.asking or self.finishing):
                break
            self.now = max(self.now, found[0]["due"] or 0)
            for post in list(self.in_flight):
                self.answer(post, "lost" if post.task_id else "refused")
            for claimed in list(self.asking):
                self.hear_nothing(claimed, is_unreadable=claimed.index == 0, pause_s=3_600)
            while self.finishing:
                self.finish(comes="away", pause_s=3_600)
            self.may_probe = True
            self.submit()
            self.fetch()
            self.begin_asking()
        assert self.jobs_that("completed_at IS NULL AND stage != 'uploaded' AND deleted_at IS NULL") == []
        assert self.reserved() == 0, "set aside for ever"

    def addresses(self, post: Post) -> set[str]:
        """Where its result may be told to be."""
        return {self.address(post, host) for host in HOSTS}

    def address(self, post: Post, host: str = "cdn.example") -> str:
        return f"https://{host}/{post.task_id}.png"

    def check(self) -> None:
        flow_rules.check(self)

    def _has_ended(self, post: Post) -> str | None:
        """Tell whether the task of *post* has ended, and so has whoever goes on with it."""
        job_id, index = post.place
        found = self.all("SELECT * FROM tasks WHERE job_id = ? AND idx = ?", job_id, index)
        mine = [row for row in found if row["attempt"] == post.claimed.attempt or row["task_id"] == post.task_id]
        if any(row["stage"] not in books.FINAL_STAGES for row in mine):
            return None
        return "without a picture" if all(row["stage"] != "completed" for row in mine) else "with a picture"

    def _record(self, post: Post, *, host: str = "cdn.example") -> dict[str, Any]:
        flag = {None: 0, "ok": 1, "failed": 3}[post.fate]
        response = {"resultImageUrl": self.address(post, host)} if post.fate == "ok" else None
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
