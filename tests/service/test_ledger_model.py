"""What people pay against what was bought for them, over any order of events: the flow on a real SQLite file."""

import contextlib
import shutil
import sqlite3
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from nanohook import errors
from nanohook.rules.job import Step
from nanohook.rules.status import Stage
from nanohook.stores.deliveries import Effect
from tests.flow_world import HOSTS, PRICE, TERMS, World


def test_a_picture_is_paid_once(world):
    job_id = world.create()
    post = world.submit()
    world.end(post, "ok")
    world.answer(post, "accepted")
    world.call_back(post)
    world.fetch()
    world.finish()
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
    world.finish()
    assert world.job(job_id).stage is Stage.COMPLETED
    assert world.entries(job_id) == [(1, 0, "reserve"), (1, 0, "charge")]


@pytest.mark.parametrize("outcome", ["refused", "busy"])
@pytest.mark.parametrize("is_retried", [False, True])
def test_what_nanobanana_refused_after_the_cancel_is_given_back(world, outcome, is_retried):
    job_id = world.create()
    post = world.submit()
    world.cancel(job_id)
    assert (world.spent(), world.reserved()) == (0, PRICE)
    if is_retried:
        world.retry(job_id, buy_again=True)
    world.answer(post, outcome)
    assert (world.spent(), world.reserved()) == (0, PRICE if is_retried else 0)
    if not is_retried:
        world.retry(job_id)  # nothing was taken: no word about buying again is needed
    second = world.submit()
    world.answer(second, "accepted")
    world.end(second, "ok")
    world.call_back(second)
    world.fetch()
    world.finish()
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
    while world.finishing:  # the first one's result too, which is paid and kept
        world.finish()
    assert world.spent() == 2 * PRICE
    assert world.late(job_id) == [(1, 0)]


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
    world.finish()
    assert world.entries(job_id) == [(1, 0, "reserve"), (1, 0, "charge")]


def test_each_of_several_pictures_has_its_own_fate(world):
    job_id = world.create(3)
    posts = [world.submit() for _ in range(3)]
    for post, fate in zip(posts, ("ok", "failed", "ok"), strict=True):
        world.answer(post, "accepted")
        world.end(post, fate)
        world.ask(world.task(job_id, post.claimed.index))
    world.fetch()
    while world.finishing:
        world.finish()
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
    world.finish()
    assert world.spent() == 3 * PRICE


def test_the_ledger_takes_no_second_entry_of_a_kind(world):
    job_id = world.create()
    columns = "owner_id, kind, available, reserved, job_id, attempt, idx, note, created_at"
    again = f"INSERT INTO ledger ({columns}) SELECT {columns} FROM ledger WHERE job_id = ?"
    with pytest.raises(sqlite3.IntegrityError):
        world.connection.execute(again, (job_id,))


def made_late(world):
    """A job whose task was canceled, then made; its result has come."""
    job_id = world.create()
    post = world.submit()
    world.answer(post, "accepted")
    world.cancel(job_id)
    world.end(post, "ok")
    world.call_back(post)
    world.fetch()
    world.finish()
    return job_id


def test_what_came_late_and_is_paid_is_not_paid_again_by_who_would_have_bought_another(world):
    job_id = world.create()
    post = world.submit()
    world.cancel(job_id)
    world.answer(post, "lost")
    world.retry(job_id, buy_again=True)
    world.end(post, "ok")
    world.call_back(post)
    world.fetch()
    world.finish()
    assert world.late(job_id) == [(1, 0)]
    assert world.submit() is None
    world.fetch()
    world.finish()
    assert world.job(job_id).stage is Stage.COMPLETED
    assert world.spent() == PRICE


def test_a_late_result_that_was_given_back_is_paid_when_it_is_accepted(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "accepted")
    world.wait(901)
    world.look()
    world.end(post, "ok")
    world.call_back(post)
    world.fetch()
    world.finish()
    assert (world.spent(), world.late(job_id)) == (0, [(1, 0)])
    world.accept_late(job_id)
    assert world.entries(job_id) == [(1, 0, "reserve"), (1, 0, "return"), (1, 0, "charge")]
    with pytest.raises(errors.Conflict, match="no result"):
        world.accept_late(job_id)


def test_a_late_result_that_is_paid_is_accepted_for_nothing(world):
    job_id = made_late(world)
    world.accept_late(job_id)
    assert world.job(job_id).stage is Stage.COMPLETED
    assert world.entries(job_id) == [(1, 0, "reserve"), (1, 0, "charge")]


def test_a_submit_that_a_crash_cut_off_is_not_failed_because_the_account_is_refused(world):
    first, second = world.create(), world.create()
    cut_off, refused = world.submit(), world.submit()
    world.answer(refused, "blocked")
    world.crash()
    assert (world.task(first).step, world.task(second).step) == (Step.ASK, Step.SUBMIT)
    world.wait(3601)
    assert world.fail_blocked() == 1
    assert (world.job(first).fault, world.job(second).fault.code) == (None, "no_credit")
    world.end(cut_off, "ok")
    world.call_back(cut_off)
    world.fetch()
    world.finish()
    assert world.job(first).stage is Stage.COMPLETED


def test_a_callback_parked_under_an_id_is_applied_when_the_submit_is_answered(world):
    job_id = world.create()
    post = world.submit()
    world.end(post, "ok")
    assert world.call_back(post, by="headers") is Effect.PARKED
    world.answer(post, "accepted")
    world.apply()
    assert world.task(job_id).step is Step.FINISH


def test_a_callback_parked_under_an_id_is_applied_when_another_one_names_the_task(world):
    job_id = world.create()
    post = world.submit()
    world.end(post, "ok")
    assert world.call_back(post, by="headers") is Effect.PARKED
    world.answer(post, "lost")
    post.fate = None
    world.call_back(post)  # it was sent before the other, and comes after it
    post.fate = "ok"
    world.apply()
    assert world.task(job_id).step is Step.FINISH


def test_a_callback_of_an_older_attempt_is_for_the_one_that_goes_on_with_its_task(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "accepted")
    world.cancel(job_id)
    world.retry(job_id)
    world.end(post, "ok")
    assert world.call_back(post) is Effect.APPLIED
    assert world.task(job_id).step is Step.FINISH
    assert world.late(job_id) == []


def test_what_has_come_by_its_address_too_is_not_applied_again_when_the_id_is_known(world):
    job_id = world.create()
    post = world.submit()
    world.take(post)
    for word in ("x", "y"):
        assert world.call_back(post, by="headers", word=word) is Effect.PARKED
    world.call_back(post)
    world.answer(post, "accepted")
    world.apply()
    found = world.all("SELECT effect, job_id FROM deliveries ORDER BY id")
    assert [row["effect"] for row in found] == ["no_effect", "no_effect", "applied"]
    assert world.job(job_id).stage is Stage.GENERATING


def test_to_cancel_who_would_have_taken_a_late_result_costs_nothing_and_leaves_it_there(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "accepted")
    world.wait(901)
    world.look()
    world.end(post, "ok")
    world.call_back(post)
    world.fetch()
    world.finish()
    world.retry(job_id)
    world.cancel(job_id)
    assert (world.spent(), world.late(job_id)) == (0, [(1, 0)])
    assert world.task(job_id).step is None
    world.accept_late(job_id)
    assert world.spent() == PRICE


def test_what_is_still_fetched_is_kept_although_a_retry_takes_another_late_result(world):
    job_id = world.create()
    first = world.submit()
    world.cancel(job_id)
    world.answer(first, "lost")
    world.retry(job_id, buy_again=True)
    second = world.submit()
    world.answer(second, "accepted")
    world.cancel(job_id)
    world.end(first, "ok")
    world.call_back(first)
    world.fetch()
    world.finish()
    world.end(second, "ok")
    world.call_back(second)
    world.retry(job_id)
    world.fetch()
    while world.finishing:
        world.finish()
    assert world.job(job_id).stage is Stage.COMPLETED
    assert len(world.late(job_id)) == 1  # paid, like the one that was taken


def test_an_answer_that_was_given_up_too_early_is_asked_for_in_good_time(world):
    job_id = world.create()
    post = world.submit()
    world.wait(31, lapse=True)
    assert world.submit() is None
    assert world.task(job_id).step is Step.SUBMIT  # the process may be frozen, and its answer on the way
    world.wait(90)
    assert world.submit() is None
    assert world.task(job_id).step is Step.ASK
    world.answer(post, "accepted")
    assert world.task(job_id).due_at <= world.now + TERMS.ask_after_us


def test_who_has_bought_another_gets_that_and_the_first_one_is_kept(world):
    job_id = world.create()
    first = world.submit()
    world.cancel(job_id)
    world.retry(job_id, buy_again=True)
    second = world.submit()
    for post in (first, second):
        world.answer(post, "accepted")
        world.end(post, "ok")
        world.call_back(post)
        world.fetch()
        world.finish()
    assert (world.spent(), world.late(job_id)) == (2 * PRICE, [(1, 0)])
    assert set(world.files.values()) == {world.address(first), world.address(second)}


@pytest.mark.parametrize("lapsed_s", [31, 121])
def test_a_refusal_counts_whoever_holds_the_task_by_now(world, lapsed_s):
    busy, refused = world.create(), world.create()
    posts = [world.submit(), world.submit()]
    world.wait(31, lapse=True)
    assert (world.submit(), world.submit()) == (None, None)
    if lapsed_s > 31:  # taken for lost meanwhile
        world.wait(lapsed_s - 31, lapse=True)
        assert (world.submit(), world.submit()) == (None, None)
        assert world.task(busy).step is Step.ASK
    world.answer(posts[0], "busy")
    world.answer(posts[1], "refused")
    if lapsed_s == 31:
        assert world.job(refused).fault.code == "upstream_rejected"
    assert world.submit().place == (busy, 0)


OPEN, ENDED = "completed_at IS NULL", "completed_at IS NOT NULL AND deleted_at IS NULL"
LATE = f"{ENDED} AND id IN (SELECT job_id FROM unclaimed)"
POSSIBLE = {
    "finish": lambda world: world.finishing,
    "fetch": lambda world: world.waits_for(Step.FINISH),
    "apply": lambda world: world.all("SELECT 1 FROM deliveries WHERE due_at <= ?", world.now),
    "accept_late": lambda world: world.jobs_that(LATE),
    "create": lambda world: len(world.jobs_that("deleted_at IS NULL")) < 3,
    "ask": lambda world: world.waits_for(Step.ASK),
    "hear": lambda world: world.asking,
    "call_back": lambda world: world.named(),
    "wait": lambda world: world.posts,
    "jump": lambda world: world.posts,
    "stop": lambda world: world.jobs_that(OPEN),
    "operate": lambda world: world.posts,
    "crash": lambda world: world.in_flight or world.asking or world.finishing,
    "lose": lambda world: world.in_flight,
    "restore": lambda world: world.jobs_that("deleted_at IS NOT NULL"),
    "delete": lambda world: world.jobs_that("deleted_at IS NULL"),
    "forget": lambda world: world.named(),
    "retry": lambda world: world.jobs_that(ENDED),
    "end": lambda world: any(post.fate is None for post in world.there()),
    "submit": lambda world: world.waits_for(Step.SUBMIT),
    "answer": lambda world: world.in_flight,
}
"""What may happen, and when it can. Hypothesis draws the ends of a list more often than its middle."""
RARE = {"call_back", "operate", "crash", "lose", "restore", "delete", "forget", "wait", "jump", "stop"}


class Anything(RuleBasedStateMachine):
    """
    Whatever people, the service, its fate and NanoBanana may do, in any order.

    One rule that draws among what is possible: of many rules, Hypothesis leaves some out of every run, and a
    picture needs most of them.
    """

    def __init__(self, empty):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(shutil.copy(empty, self.folder.name + "/nanohook.db"), credits=10 * PRICE)

    def teardown(self):
        # After whatever has happened, and with nobody left who answers.
        self.world.run_out()
        self.world.check()
        self.world.close()
        self.folder.cleanup()

    @rule(data=st.data())
    def something(self, data):
        possible = [name for name, when in POSSIBLE.items() if when(self.world)]
        possible = [name for name in possible for _ in range(1 if name in RARE else 4)]
        name = data.draw(st.sampled_from(possible))
        with contextlib.suppress(errors.Conflict, errors.NotFound, errors.TooPoor):
            getattr(self, name)(lambda *choices: data.draw(st.sampled_from(choices)))

    def create(self, pick):
        self.world.create(pick(1, 2), priority=pick("low", "normal", "high"))

    def stop(self, pick):
        self.world.cancel(pick(*self.world.jobs_that(OPEN)))

    def delete(self, pick):
        self.world.delete(pick(*self.world.jobs_that("deleted_at IS NULL")))

    def restore(self, pick):
        self.world.restore(pick(*self.world.jobs_that("deleted_at IS NOT NULL")))

    def retry(self, pick):
        self.world.retry(pick(*self.world.jobs_that(ENDED)), buy_again=pick(True, False))

    def accept_late(self, pick):
        self.world.accept_late(pick(*self.world.jobs_that(LATE)))

    def submit(self, pick):
        self.world.submit()

    def answer(self, pick):
        outcomes = *["accepted"] * 5, "lost", "busy", "refused", "faulty", "blocked"
        self.world.answer(pick(*self.world.in_flight), pick(*outcomes))

    def lose(self, pick):
        self.world.lose(pick(*self.world.in_flight))

    def crash(self, pick):
        self.world.crash(arrived=pick(True, False))

    def end(self, pick):
        self.world.end(
            pick(*(post for post in self.world.there() if post.fate is None)), pick("ok", "ok", "failed")
        )

    def call_back(self, pick):
        host = pick(HOSTS[0], *HOSTS)
        way = {"by": pick("token", "token", "headers"), "host": host, "word": pick("x", "y")}
        self.world.call_back(pick(*self.world.named()), **way)

    def apply(self, pick):
        self.world.apply()

    def forget(self, pick):
        self.world.forget(pick(*self.world.named()))

    def wait(self, pick):
        self.world.wait(pick(1, 10, 100, 901, 3601), lapse=pick(False, False, True))

    def ask(self, pick):
        self.world.begin_asking()

    def hear(self, pick):
        claimed = pick(*self.world.asking)
        if pick(True, True, False):
            self.world.hear(claimed, code=pick(None, None, None, 500, 404), host=pick(*HOSTS))
        else:
            self.world.hear_nothing(claimed, is_unreadable=pick(True, False), pause_s=pick(1, 60, 3600))

    def jump(self, pick):
        self.world.jump(pick(-3600, -20, 20, 3600))

    def fetch(self, pick):
        self.world.fetch()

    def finish(self, pick):
        comes = pick("whole", "whole", "away", "missing", "broken", "forbidden", "too_large", "not_stored")
        self.world.finish(pick(*range(len(self.world.finishing))), comes=comes, pause_s=pick(1, 60, 3600))

    def operate(self, pick):
        getattr(self.world, pick("pause", "resume", "resume", "fail_blocked", "credit_comes", "credit_comes"))()

    @invariant()
    def all_is_as_it_must_be(self):
        self.world.check()


def test_in_any_order_of_events_the_books_are_right(empty):
    chosen = settings(
        max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(lambda: Anything(empty), settings=chosen)
