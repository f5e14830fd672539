"""What comes in between: an answer about a task that was bought anew, a cancel during the submit, a long stop."""

import dataclasses

import orjson
import pytest

from nanohook.flow import blocking, receive, replay, settle, submit
from nanohook.rules import callbacks
from nanohook.rules.job import Step
from nanohook.rules.status import Stage
from nanohook.stores import claims, deliveries
from nanohook.stores.deliveries import Effect, Source
from tests.flow_database import SECOND
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
    world.wait(31, lapse=True)
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


def test_a_host_whose_failures_change_their_kind_for_ever_comes_to_an_end(world):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post)
    began = world.now
    for tries in range(200):
        world.fetch()
        world.finish(comes=("missing", "away", "broken")[tries % 3], pause_s=60, can_ask=False)
        world.wait(61)
        if world.job(job_id).status.is_final:
            break
    assert world.job(job_id).fault.code in {"download_failed", "not_an_image"}
    assert world.now - began < 10 * 60 * SECOND


def test_a_long_sleep_takes_no_patience_from_a_host(world):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post)
    world.wait(90_000)
    for comes in ("missing", "away", "missing"):
        world.fetch()
        world.finish(comes=comes, can_ask=False)
        world.wait(61)
    fetched(world)
    assert world.job(job_id).stage is Stage.COMPLETED


def test_addresses_without_end_come_to_an_end(world):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post)
    for number in range(2_000):
        world.fetch()
        while world.finishing:
            world.finish(comes="away", pause_s=3_600)
        for claimed in world.begin_asking():
            world.hear(claimed, host=f"mirror{number}.example")
        if world.job(job_id).status.is_final:
            break
        world.wait(3_601)
    assert world.job(job_id).fault.code == "download_failed"
    assert number < 24 * 5


def test_a_lie_about_the_time_of_a_submit_keeps_no_task_open_for_ever(world):
    job_id = world.create()
    world.jump(365 * 24 * 3600)
    post = world.submit()
    world.answer(post, "lost")
    world.jump(-365 * 24 * 3600)
    for _ in range(3):
        world.look()
        world.wait(901)
    assert (world.job(job_id).fault.code, world.reserved()) == ("unknown_outcome", 0)


def test_a_task_that_has_killed_the_process_is_decoded_alone_by_a_retry_too(world):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post)
    for _ in range(4):
        task = world.task(job_id)
        of_task = {"job_id": job_id, "attempt": task.attempt, "index": 0}
        world.do(lambda tx: settle.suspect(tx, **of_task, now_us=world.now))  # noqa: B023
    assert world.job(job_id).fault.code == "internal"
    assert world.dead_results(job_id) == {0}
    world.retry(job_id)
    assert (world.task(job_id).step, world.task(job_id).suspect_deaths) == (Step.ASK, 0)
    world.look()
    assert (world.task(job_id).step, world.task(job_id).suspect_deaths) == (Step.FINISH, 0)
    world.cancel(job_id)


def test_a_success_on_a_host_that_is_not_believed_outlives_an_outage_of_record_info(world):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post, host="elsewhere.example")
    for _ in range(30):
        for claimed in world.begin_asking():
            world.hear_nothing(claimed, pause_s=3_600)
        world.wait(3_601)
    fetched(world)
    assert world.job(job_id).stage is Stage.COMPLETED
    assert list(world.files.values()) == [world.address(post, "elsewhere.example")]


def test_a_success_word_ends_the_deadline_though_record_info_lags_behind(world):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post, host="elsewhere.example")
    post.fate = None
    world.wait(1_000)
    world.look()
    assert world.job(job_id).status.is_final is False
    post.fate = "ok"
    world.wait(60)
    world.look()
    fetched(world)
    assert world.job(job_id).stage is Stage.COMPLETED


def test_words_that_are_not_confirmed_ask_one_question_at_a_time(world):
    _, post = accepted(world)
    world.end(post, "failed")
    world.call_back(post, word="first")
    [asked] = world.begin_asking()
    for word in ("second", "third", "fourth"):
        world.call_back(post, word=word)
        assert world.begin_asking() == []
    world.hear(asked)


@pytest.mark.parametrize("times", [1, 2])
def test_a_fault_of_record_info_does_not_end_a_result_whose_address_is_dead(world, times):
    job_id, post = accepted(world)
    world.end(post, "ok")
    world.call_back(post)
    world.fetch()
    world.finish(comes="too_large")
    for _ in range(times):
        [asked] = world.begin_asking()
        world.hear(asked, code=500)
        assert world.job(job_id).status.is_final is False
        world.wait(60)
    [asked] = world.begin_asking()
    world.hear(asked, host="mirror.example")
    world.wait(1)
    fetched(world)
    assert world.job(job_id).stage is Stage.COMPLETED


def test_no_first_question_is_later_than_the_deadline(world):
    job_id = world.create()
    post = world.submit()
    slow = dataclasses.replace(TERMS, ask_every_us=3_600 * SECOND, deadline_us=20 * SECOND)
    world.take(post)
    world.in_flight.remove(post)
    world.do(lambda tx: submit.unknown(tx, post.claimed, task_id=post.task_id, terms=slow, now_us=world.now))
    assert world.task(job_id).due_at <= post.claimed.submit_started_at + 20 * SECOND
