"""What comes in between: an answer about a task that was bought anew, a cancel during the submit, a long stop."""

import dataclasses

import orjson
import pytest

from nanohook.flow import blocking, receive, replay, submit
from nanohook.rules import callbacks
from nanohook.rules.job import Step
from nanohook.rules.status import Stage
from nanohook.stores import claims, deliveries
from nanohook.stores.deliveries import Effect, Source
from tests.flow_world import PRICE, TERMS


def accepted(world, number=1):
    job_id = world.create(number)
    posts = [world.submit() for _ in range(number)]
    for post in posts:
        world.answer(post, "accepted")
    return job_id, posts[0]


def ask_now(world):
    world.do(lambda tx: claims.ask_soon(tx, now_us=world.now))


def fetched(world):
    world.fetch()
    return [world.finish() for _ in range(len(world.finishing))]


def told(world, post, *, host, stage="completed"):
    """A callback of the shape that names no task of NanoBanana's."""
    body = orjson.dumps({"job_id": post.claimed.job_id, "status": stage, "data": {"url": f"https://{host}/x.png"}})
    said = world._delivery(post.claimed, Source.TOKEN, body)
    receipt = world.do(lambda tx: receive.callback(tx, said, callbacks.read(body), terms=TERMS, now_us=world.now))
    return receipt.effect


def test_of_two_answers_about_a_task_the_second_says_nothing_about_the_one_bought_since(world):
    job_id, post = accepted(world)
    world.wait(901)
    world.look()
    world.retry(job_id)
    ask_now(world)
    world.begin_asking()
    world.end(post, "failed")
    world.call_back(post)
    world.begin_asking()
    first, second = list(world.asking)
    world.hear(first)
    bought = world.submit()
    world.hear(second)
    assert world.job(job_id).status.is_final is False
    world.answer(bought, "accepted")
    world.end(bought, "ok")
    world.call_back(bought)
    fetched(world)
    assert (world.job(job_id).stage, world.spent()) == (Stage.COMPLETED, PRICE)


def test_nor_does_an_old_answer_that_is_replayed(world):
    job_id, post = accepted(world)
    world.end(post, "failed")
    for _ in range(2):
        ask_now(world)
        world.look()
        if world.job(job_id).status.is_final:
            world.retry(job_id)
    bought = world.submit()
    world.answer(bought, "accepted")
    for row in world.all("SELECT id FROM deliveries ORDER BY id"):
        kept = world.do(lambda tx: deliveries.load(tx, row["id"]))  # noqa: B023
        # The world marks its answers apart behind their end.
        plain = dataclasses.replace(kept, body=kept.body[: kept.body.rindex(b"}") + 1])
        receipt = world.do(lambda tx: replay.apply(tx, plain, terms=TERMS, now_us=world.now))  # noqa: B023
        assert receipt.effect is Effect.NO_EFFECT
    assert world.task(job_id).step is Step.ASK
    world.end(bought, "ok")
    world.call_back(bought)
    fetched(world)
    assert world.job(job_id).stage is Stage.COMPLETED


def test_a_submit_that_a_long_stop_cut_off_while_work_is_paused_waits_for_its_callback_and_no_longer(world):
    job_id = world.create()
    post = world.submit()
    world.take(post)
    world.pause()
    world.wait(60, lapse=True)
    world.crash()
    assert world.task(job_id).step is Step.ASK
    world.wait(901)
    world.look()
    assert world.job(job_id).fault.code == "unknown_outcome"


def test_a_restore_fetches_nothing_that_a_later_attempt_has(world):
    job_id, post = accepted(world)
    world.cancel(job_id)
    world.retry(job_id)
    world.end(post, "ok")
    world.call_back(post)
    fetched(world)
    world.delete(job_id)
    world.restore(job_id)
    assert world.all("SELECT 1 FROM tasks WHERE step IS NOT NULL") == []


def test_a_restore_goes_on_fetching_what_has_no_id(world):
    job_id = world.create()
    post = world.submit()
    assert told(world, post, host="cdn.example") is Effect.APPLIED
    world.answer(post, "lost")
    world.cancel(job_id)
    world.delete(job_id)
    world.restore(job_id)
    assert world.task(job_id).step is Step.FINISH


@pytest.mark.parametrize("names_it", [True, False])
def test_a_task_canceled_during_its_submit_is_fetched_by_what_the_answer_or_a_callback_told(world, names_it):
    job_id = world.create()
    post = world.submit()
    if not names_it:
        told(world, post, host="elsewhere.example")
    world.cancel(job_id)
    world.take(post)
    world.in_flight.remove(post)
    known = post.task_id if names_it else None
    world.do(lambda tx: submit.unknown(tx, post.claimed, task_id=known, terms=TERMS, now_us=world.now))
    assert world.task(job_id).step is (Step.ASK if names_it else Step.FINISH)
    assert world.job(job_id).stage is Stage.CANCELED
    world.forget(post)


def test_a_fault_of_record_info_past_the_deadline_ends_no_late_result(world):
    job_id, post = accepted(world)
    world.cancel(job_id)
    world.wait(905)
    world.end(post, "ok")
    world.call_back(post, host="elsewhere.example")
    [asked] = world.begin_asking()
    world.hear(asked, code=500)
    assert world.task(job_id).step is Step.ASK
    world.wait(10)
    world.look()
    fetched(world)
    assert world.late(job_id) == [(1, 0)]


def test_a_late_result_that_comes_at_the_second_try_changes_no_error(world):
    job_id, post = accepted(world)
    world.wait(901)
    world.look()
    world.end(post, "ok")
    world.call_back(post)
    world.fetch()
    world.finish(comes="away")
    world.wait(60)
    fetched(world)
    assert (world.task(job_id).fault.code, world.late(job_id)) == ("deadline", [(1, 0)])


def test_one_that_was_busy_for_long_is_not_given_up_at_the_first_refusal_of_the_account(world):
    job_id = world.create()
    for _ in range(blocking.BLOCKED_TRIES):
        world.answer(world.submit(), "busy")
    world.answer(world.submit(), "blocked")
    assert world.job(job_id).status.is_final is False
    for _ in range(blocking.BLOCKED_TRIES - 1):
        world.credit_comes()
        world.wait(61)
        world.answer(world.submit(), "blocked")
    assert world.job(job_id).status.is_final is False
    world.credit_comes()
    world.wait(61)
    world.answer(world.submit(), "blocked")
    assert world.job(job_id).fault.code == "no_credit"


def test_a_late_result_that_is_kept_is_not_fetched_again_whoever_tells_of_it(world):
    job_id, post = accepted(world)
    world.cancel(job_id)
    ask_now(world)
    [asked] = world.begin_asking()
    world.end(post, "ok")
    world.call_back(post)
    assert len(fetched(world)) == 1
    world.hear(asked)
    world.call_back(post, word="y")
    assert fetched(world) == []
    assert (world.task(job_id).step, world.late(job_id)) == (None, [(1, 0)])


def test_a_host_whose_failures_change_their_kind_for_ever_comes_to_an_end_after_a_day(world):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post)
    tries = 0
    while not world.job(job_id).status.is_final and tries < 200:
        world.fetch()
        world.finish(comes=("missing", "away")[tries % 2], pause_s=1_800, can_ask=False)
        tries += 1
        world.wait(1_801)
    assert world.job(job_id).fault.code == "download_failed"
    assert tries == 49


def test_a_change_of_kind_after_a_long_sleep_still_leaves_three_tries(world):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post)
    world.wait(90_000)
    for left, comes in ((2, "missing"), (1, "away"), (0, "missing")):
        world.fetch()
        world.finish(comes=comes, can_ask=False)
        assert world.job(job_id).status.is_final is (left == 0)
        world.wait(61)
