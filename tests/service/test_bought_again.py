"""Retries, cancels and deletions of what NanoBanana may have: nothing is bought beside it, and nothing lost."""

import pytest

from nanohook.flow.plans import UNSEEN_US
from nanohook.rules.job import Step
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.settings import Settings
from nanohook.stores import claims
from tests.flow_database import SECOND
from tests.flow_world import PRICE

UNSEEN_S = UNSEEN_US // SECOND


def accepted(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "accepted")
    return job_id, post


def asked(world, job_id):
    """Ask for a job's task now, whenever that is due."""
    world.wait(1)
    task = world.task(job_id)
    world.do(lambda tx: claims.ask_soon(tx, now_us=world.now))
    world.ask(task)


def fetched(world):
    world.fetch()
    return [world.finish() for _ in range(len(world.finishing))]


# Beside one that was canceled too late.


@pytest.mark.parametrize("comes_first", [0, 1])
def test_who_buys_another_gets_that_and_the_first_is_kept_whichever_result_comes_first(world, comes_first):
    job_id = world.create()
    posts = [world.submit()]
    world.cancel(job_id)
    world.retry(job_id, buy_again=True)
    posts.append(world.submit())
    for post in reversed(posts):
        world.answer(post, "accepted")
        world.end(post, "ok")
    for post in (posts[comes_first], posts[1 - comes_first]):
        world.call_back(post)
        fetched(world)
    assert world.job(job_id).status is ImageJobStatus.COMPLETED
    assert set(world.files.values()) == {world.address(post) for post in posts}
    assert (world.spent(), world.late(job_id)) == (2 * PRICE, [(1, 0)])


def test_a_result_that_comes_before_the_second_is_submitted_is_taken_instead(world):
    job_id = world.create()
    first = world.submit()
    world.cancel(job_id)
    world.retry(job_id, buy_again=True)
    world.answer(first, "accepted")
    world.end(first, "ok")
    world.call_back(first)
    fetched(world)
    assert world.submit() is None
    fetched(world)
    assert world.job(job_id).status is ImageJobStatus.COMPLETED
    assert (world.spent(), len(world.posts), world.late(job_id)) == (PRICE, 1, [])


# "Task not found".


def test_a_task_that_nanobanana_does_not_show_yet_is_not_bought_again(world):
    assert Settings.model_fields["reconcile_after_s"].default < UNSEEN_S  # or nobody asks that early
    job_id, post = accepted(world)
    world.cancel(job_id)
    world.retry(job_id)
    post.is_forgotten = True
    asked(world, job_id)
    assert world.task(job_id).step is Step.ASK
    assert world.submit() is None
    post.is_forgotten = False
    world.end(post, "ok")
    asked(world, job_id)
    fetched(world)
    assert (world.job(job_id).status, world.spent()) == (ImageJobStatus.COMPLETED, PRICE)


def test_one_that_it_has_not_shown_for_two_minutes_is(world):
    job_id, post = accepted(world)
    world.cancel(job_id)
    world.retry(job_id)
    world.forget(post)
    world.wait(UNSEEN_S - 5)
    asked(world, job_id)
    assert world.task(job_id).step is Step.ASK
    world.wait(5)
    asked(world, job_id)
    assert world.submit().place == (job_id, 0)


def test_what_was_canceled_is_given_up_when_it_was_not_shown_for_two_minutes(world):
    job_id, post = accepted(world)
    world.cancel(job_id)
    world.forget(post)
    asked(world, job_id)
    assert world.task(job_id).step is Step.ASK
    world.wait(UNSEEN_S)
    asked(world, job_id)
    assert world.task(job_id).step is None


# A server error in place of a record.


def test_an_outage_of_nanobanana_is_no_answer_about_a_task_for_a_quarter_of_an_hour(world):
    job_id, _ = accepted(world)
    world.wait(900 + 850)
    for _ in range(5):
        heard(world, code=500)
    assert world.task(job_id).stage is Stage.GENERATING
    world.wait(60)
    heard(world, code=500)
    assert world.task(job_id).fault.code == "deadline"


def test_a_machine_that_slept_does_not_take_the_first_fault_for_the_end(world):
    job_id, post = accepted(world)
    world.wait(900 + 36_000)
    for _ in range(2):
        heard(world, code=500)
    assert world.task(job_id).stage is Stage.GENERATING
    world.end(post, "ok")
    world.look()
    world.wait(60)
    world.look()
    fetched(world)
    assert (world.job(job_id).status, world.spent()) == (ImageJobStatus.COMPLETED, PRICE)


@pytest.mark.parametrize(("code", "after_s", "times"), [(500, 900 + 900, 3), (404, 900, 1), (422, 900, 1)])
def test_then_it_is_as_good_as_none(world, code, after_s, times):
    job_id, _ = accepted(world)
    world.wait(after_s)
    for _ in range(times):
        assert world.job(job_id).fault is None
        heard(world, code=code)
    job = world.job(job_id)
    assert (job.stage, job.fault.code, world.spent()) == (Stage.FAILED, "deadline", 0)


def heard(world, *, code):
    [claimed] = world.begin_asking()
    world.hear(claimed, code=code)
    world.wait(6)


# A hope that was canceled.


@pytest.mark.parametrize("fate", ["failed", "ok"])
def test_a_retry_that_only_hoped_for_a_result_costs_nothing_when_it_is_canceled(world, fate):
    job_id, post = accepted(world)
    world.end(post, "failed")
    world.call_back(post)
    world.look()
    assert (world.job(job_id).stage, world.spent()) == (Stage.FAILED, 0)
    world.retry(job_id)
    world.cancel(job_id)
    assert world.entries(job_id)[-2:] == [(2, 0, "reserve"), (2, 0, "return")]
    post.fate = fate  # NanoBanana has come to another opinion
    asked(world, job_id)
    fetched(world)
    assert world.late(job_id) == ([(2, 0)] if fate == "ok" else [])
    assert (world.job(job_id).stage, world.spent()) == (Stage.CANCELED, 0)
    if fate == "ok":
        world.accept_late(job_id)
        assert (world.job(job_id).stage, world.spent()) == (Stage.COMPLETED, PRICE)


# A deletion that is taken back.


@pytest.mark.parametrize("answers", ["before", "while it is deleted", "after"])
def test_what_was_running_when_its_job_was_deleted_is_fetched_for_who_restores_it(world, answers):
    job_id = world.create()
    post = world.submit()
    for moment, happens in (
        ("before", world.delete),
        ("while it is deleted", world.restore),
        ("after", lambda _: None),
    ):
        if answers == moment:
            world.answer(post, "accepted")
        happens(job_id)
    world.end(post, "ok")
    asked(world, job_id)
    fetched(world)
    assert (world.job(job_id).status, world.late(job_id)) == (ImageJobStatus.CANCELED, [(1, 0)])
    assert world.spent() == PRICE
    world.retry(job_id)
    fetched(world)
    assert (world.job(job_id).status, world.spent()) == (ImageJobStatus.COMPLETED, PRICE)
    assert len(world.posts) == 1


def test_a_word_for_a_deleted_job_does_nothing_and_its_result_is_found_after_it_is_restored(world):
    job_id, post = accepted(world)
    world.delete(job_id)
    world.end(post, "ok")
    world.call_back(post)
    assert fetched(world) == []
    world.restore(job_id)
    world.look()
    fetched(world)
    assert world.late(job_id) == [(1, 0)]
