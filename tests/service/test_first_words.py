"""Callbacks that come before the submit's answer, without an id, or for what nobody waits for."""

import base64
import hashlib

import orjson
import pytest

from nanohook import errors, ids
from nanohook.flow import create, receive
from nanohook.flow.receive import MOST_PARKED, MOST_TESTS, TEST_BYTES, TEST_JOB
from nanohook.remote.nanobanana import Busy, Refused
from nanohook.rules import callbacks
from nanohook.rules.job import Step, Stored
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.stores.deliveries import Delivery, Effect, Source
from tests.flow_world import PRICE, TERMS

ELSEWHERE = "https://elsewhere.example/a.png"


def said(world, body, *, job_id=None, attempt=1, post=None):
    """Say *body* to the address that *post* told, or that is signed for *job_id*; or sign it by its headers."""
    content = orjson.dumps(body)
    named = (post.claimed.job_id, post.claimed.attempt, post.claimed.index) if post else (job_id, attempt, 0)
    by_address = named[0] is not None
    delivery = Delivery(
        id=ids.new_id(),
        source=Source.TOKEN if by_address else Source.HEADERS,
        job_id=named[0],
        attempt=named[1] if by_address else None,
        index=named[2] if by_address else None,
        webhook_id=None if by_address else ids.new_id(),
        headers="",
        body=content,
        body_sha256=hashlib.sha256(content).digest(),
        received_at=world.now,
    )
    way = receive.callback if by_address else receive.signed
    return world.do(lambda tx: way(tx, delivery, callbacks.read(content), terms=TERMS, now_us=world.now))


def word(text, **more):
    return {"status": text, "data": more}


def fetched(world):
    world.fetch()
    return [world.finish() for _ in range(len(world.finishing))]


def answered(world, post, outcome):
    """The POST is answered by a refusal."""
    world.in_flight.remove(post)
    post.is_refused = True
    found = {"public_url": "https://hook.example", "now_us": world.now}
    world.do(lambda tx: world.submitter._apply(tx, post.claimed, outcome, **found))


# Ids.


def test_a_callback_that_names_anothers_task_is_refused_while_ours_has_no_id(world):
    theirs = world.create()
    first = world.submit()
    world.answer(first, "accepted")
    ours = world.create()
    post = world.submit()
    with pytest.raises(errors.SignatureInvalid, match="a task of another job"):
        said(world, word("generating", taskId=first.task_id), post=post)
    assert world.task(ours).task_id is None
    assert world.task(theirs).task_id == first.task_id


def test_nanobananas_own_answer_wins_over_an_id_that_a_callback_brought_before_it(world):
    job_id = world.create()
    post = world.submit()
    said(world, word("generating", taskId="somebody-elses"), post=post)
    assert world.task(job_id).task_id == "somebody-elses"
    world.answer(post, "accepted")
    world.end(post, "ok")
    assert world.task(job_id).task_id == post.task_id
    assert world.call_back(post) is Effect.APPLIED
    fetched(world)
    assert (world.job(job_id).status, world.spent()) == (ImageJobStatus.COMPLETED, PRICE)


# Without an id, when nobody knows of one.


def test_a_success_without_id_after_an_unknown_outcome_is_fetched_from_wherever_it_is(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "lost")
    receipt = said(world, word("completed", url=ELSEWHERE), post=post)
    assert (receipt.effect, receipt.reason) == (Effect.APPLIED, "nothing to ask by")
    world.end(post, "ok")
    fetched(world)
    assert (world.job(job_id).status, world.spent()) == (ImageJobStatus.COMPLETED, PRICE)
    assert list(world.files.values()) == [ELSEWHERE]


def test_one_that_comes_too_late_is_kept(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "lost")
    world.wait(901)
    world.look()
    assert world.job(job_id).fault.code == "unknown_outcome"
    said(world, word("completed", url=ELSEWHERE), post=post)
    fetched(world)
    assert (world.job(job_id).status, world.late(job_id)) == (ImageJobStatus.FAILED, [(1, 0)])


def test_a_success_without_id_or_address_changes_nothing(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "lost")
    assert said(world, word("completed"), post=post).effect is Effect.NO_EFFECT
    assert world.task(job_id).step is Step.ASK


# During the POST.


@pytest.mark.parametrize("text", ["completed", "failed", "canceled"])
def test_a_final_word_during_the_post_is_noted_and_confirmed_when_the_answer_brings_the_id(world, text):
    job_id = world.create()
    post = world.submit()
    receipt = said(world, word(text, url=ELSEWHERE), post=post)
    assert (receipt.effect, receipt.reason) == (Effect.APPLIED, "noted until its submit is answered")
    assert world.job(job_id).stage is Stage.SUBMITTING
    world.answer(post, "accepted")
    assert world.job(job_id).stage is Stage.GENERATING
    world.end(post, "ok")
    world.look()  # at once
    fetched(world)
    assert (world.job(job_id).status, world.spent()) == (ImageJobStatus.COMPLETED, PRICE)
    assert list(world.files.values()) == [world.address(post)]


@pytest.mark.parametrize("canceled", ["before the answer", "after it"])
def test_an_address_that_was_noted_is_not_fetched_from_by_a_retry_that_can_ask(world, canceled):
    job_id = world.create()
    post = world.submit()
    said(world, word("completed", url=ELSEWHERE), post=post)
    if canceled == "before the answer":
        world.cancel(job_id)
    world.answer(post, "accepted")
    world.cancel(job_id)
    world.retry(job_id)
    assert (world.task(job_id).step, world.task(job_id).candidates) == (Step.ASK, ())


def test_a_failure_during_the_post_that_record_info_confirms_fails_the_job(world):
    job_id = world.create()
    post = world.submit()
    said(world, word("failed", error="odd"), post=post)
    world.answer(post, "accepted")
    world.end(post, "failed")
    world.look()
    assert (world.job(job_id).fault.code, world.spent()) == ("upstream_failed", 0)


ENDS = [("lost", None), ("crash", None), ("refused", Refused(422, "no")), ("busy", Busy(429, None))]


@pytest.mark.parametrize(("name", "outcome"), ENDS, ids=[name for name, _ in ENDS])
@pytest.mark.parametrize("text", ["completed", "failed"])
def test_without_an_id_the_word_that_was_noted_counts(world, name, outcome, text):
    job_id = world.create()
    post = world.submit()
    said(world, word(text, url=ELSEWHERE, error="odd"), post=post)
    if outcome is not None:
        answered(world, post, outcome)
        post.is_refused = False  # it has told of it: NanoBanana has taken it, whatever it answered
    elif name == "crash":
        world.crash()
    else:
        world.answer(post, name)
    fetched(world)
    job = world.job(job_id)
    if text == "completed":
        assert (job.status, list(world.files.values())) == (ImageJobStatus.COMPLETED, [ELSEWHERE])
    else:
        assert (job.status, job.fault.code, world.spent()) == (ImageJobStatus.FAILED, "upstream_failed", 0)
    assert world.submit() is None


@pytest.mark.parametrize("text", ["completed", "failed"])
def test_a_word_for_what_was_refused_for_the_moment_counts_at_once(world, text):
    job_id = world.create()
    post = world.submit()
    answered(world, post, Busy(429, 120.0))
    post.is_refused = False
    said(world, word(text, url=ELSEWHERE), post=post)
    world.wait(121)
    assert world.submit() is None
    fetched(world)
    assert world.job(job_id).status is (ImageJobStatus.COMPLETED if text == "completed" else ImageJobStatus.FAILED)


# Signed by headers.


def test_a_word_for_a_deleted_job_has_no_effect_however_it_is_named(world):
    job_id = world.create()
    post = world.submit()
    world.answer(post, "accepted")
    world.delete(job_id)
    for names in ({"job_id": job_id}, {"taskId": post.task_id}, {"job_id": job_id, "taskId": post.task_id}):
        body = {**word("generating"), **names}
        assert said(world, body).reason == "the job was deleted"


def test_a_word_for_a_picture_for_which_nothing_was_asked_says_so(world):
    stored = Stored(key="k", thumbnail_key="s", content_type="image/png", width_px=1, height_px=1, size_bytes=1)
    whose = {**world.owner, "project_id": None, "language": "en"}
    job = world.do(lambda tx: create.upload(tx, stored, **whose, now_us=world.now))
    with pytest.raises(errors.Invalid, match="for which nothing was asked"):
        said(world, {"job_id": job.id, **word("generating")})


# Tests of the address.


def tried(world, number, *, most=0):
    nonce = base64.b64encode(b"%d" % number).decode().ljust(most, "x")
    return said(world, {"job_id": TEST_JOB, **word("pending", nonce=nonce)}, job_id=TEST_JOB)


def test_a_hundred_test_callbacks_are_kept_of_an_hour(world):
    for number in range(MOST_TESTS):
        assert tried(world, number).reason == "a test callback"
    with pytest.raises(errors.TooMany):
        tried(world, MOST_TESTS)
    world.wait(3601)
    assert tried(world, MOST_TESTS).effect is Effect.NO_EFFECT
    assert world.all("SELECT COUNT(*) AS n FROM deliveries") == [{"n": 1}]
    assert (MOST_TESTS, MOST_PARKED) == (100, 2_000)


def test_a_test_callback_is_small(world):
    fits = TEST_BYTES - len(orjson.dumps({"job_id": TEST_JOB, **word("pending", nonce="")}))
    assert tried(world, 1, most=fits).is_new
    with pytest.raises(errors.TooLarge, match="4096"):
        tried(world, 1, most=fits + 1)
