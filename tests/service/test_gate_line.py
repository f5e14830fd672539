"""The line before a closed gate: who stands at its head holds up nobody, and what was claimed already stays."""

from nanohook.flow import gate, submit
from nanohook.flow.blocking import BLOCKED_TRIES
from nanohook.remote.nanobanana import Blocked
from nanohook.rules.job import Step
from nanohook.rules.status import ImageJobStatus, Stage
from tests.flow_database import SECOND
from tests.flow_world import TERMS

HOUR_S = 3600


def refused(world, post, code=402):
    """NanoBanana refuses the account when *post* is tried."""
    world.in_flight.remove(post)
    post.is_refused, world.may_probe = True, False
    found = {"public_url": "https://hook.example", "now_us": world.now}
    world.do(lambda tx: world.submitter._apply(tx, post.claimed, Blocked(code), **found))


def begin(world, claimed, *, is_probe=False):
    chosen = {"is_probe": is_probe, "now_us": world.now}
    return world.do(lambda tx: submit.begin(tx, claimed, terms=TERMS, **chosen))


def state(world):
    return world.do(gate.read)


# Little credit is left.


def test_who_is_too_dear_for_what_is_left_lets_the_others_pass(world):
    dear, cheap = world.create(), [world.create(owner_id=world.person()) for _ in range(3)]
    served = []
    for _ in range(12):  # its pauses are drawn: it may be back before the others, but not again and again
        world.credit_comes()
        post = world.submit()
        if post is None:
            continue
        if post.claimed.job_id == dear:
            before = world.now
            refused(world, post)
            assert world.task(dear).due_at > before
            assert world.place(dear) == 1
        else:
            world.answer(post, "accepted")
            served.append(post.claimed.job_id)
    assert served == cheap
    assert world.task(dear).stage is Stage.SUBMITTING
    world.wait(60)
    world.credit_comes()
    assert world.submit().claimed.job_id == dear


def test_its_pauses_grow_and_after_an_hour_of_them_it_fails(world):
    dear = world.create()
    pauses_us = []
    for _ in range(BLOCKED_TRIES):
        world.credit_comes()
        refused(world, world.submit())
        pauses_us.append(world.task(dear).due_at - world.now)
        world.wait(60)
    assert max(pauses_us[:2]) < 2 * SECOND < max(pauses_us) <= 60 * SECOND
    assert BLOCKED_TRIES * 30 == HOUR_S  # half of the longest pause is the usual one
    assert world.job(dear).stage is Stage.SUBMITTING
    world.credit_comes()
    refused(world, world.submit())
    job = world.job(dear)
    assert (job.status, job.fault.code, job.fault.detail) == (ImageJobStatus.FAILED, "no_credit", "code 402")
    assert world.spent() == 0


# The gate closes behind what was claimed.


def test_what_was_claimed_when_the_operator_paused_is_not_submitted(world):
    job_id = world.create()
    [claimed] = world.claim(Step.SUBMIT, most=1)
    world.pause()
    assert begin(world, claimed) is None
    assert begin_again(world, is_probe=True) is None
    assert (world.job(job_id).status, world.place(job_id)) == (ImageJobStatus.PENDING, 1)
    assert world.task(job_id).submit_started_at is None
    world.resume()
    assert world.submit().place == (job_id, 0)


def begin_again(world, **chosen):
    [claimed] = world.claim(Step.SUBMIT, most=1)
    return begin(world, claimed, **chosen)


def test_what_was_claimed_when_the_account_was_refused_waits_but_for_one_that_tries_again(world):
    world.create(3)
    first = world.submit()
    rest = world.claim(Step.SUBMIT, most=2)
    refused(world, first, 401)
    assert [begin(world, claimed) for claimed in rest] == [None, None]
    assert world.submit() is None
    world.credit_comes()
    second = world.submit()
    world.answer(second, "accepted")
    assert state(world).is_open
    assert world.submit() is not None


# Who waits.


def test_nobody_fails_while_the_operator_has_paused_the_work(world):
    job_id = world.create()
    refused(world, world.submit(), 401)
    world.wait(HOUR_S + 1)
    world.pause()
    assert world.fail_blocked() == 0
    world.resume()
    assert world.fail_blocked() == 1
    assert (world.job(job_id).fault.code, world.spent()) == ("bad_key", 0)


def test_who_came_later_has_an_hour_from_then(world):
    refused(world, (world.create(), world.submit())[1])
    world.wait(HOUR_S // 2)
    later = world.create()
    world.wait(HOUR_S // 2 + 1)
    assert world.fail_blocked() == 1
    assert world.job(later).status is ImageJobStatus.PENDING
