"""The line of those who wait for their submit: who is next, and where everybody stands."""

import collections
import shutil

import pytest

from nanohook.rules.job import Step
from nanohook.stores import claims
from tests.flow_world import World


@pytest.fixture
def world(empty, tmp_path):
    made = World(shutil.copy(empty, tmp_path / "nanohook.db"), credits=10_000)
    yield made
    made.close()


def served(world, number):
    """The jobs of the next tasks that are submitted."""
    return [world.submit().claimed.job_id for _ in range(number)]


def test_the_thousand_tasks_of_one_person_do_not_keep_anothers_only_one_waiting(world):
    for _ in range(250):
        world.create(4)
    served(world, 5)
    other = world.create(owner_id=world.person())
    assert world.place(other) in {1, 2, 3}
    assert other in served(world, 3)


def test_nor_does_who_comes_later_go_before_all_who_have_waited(world):
    for _ in range(10):
        world.create(4)
    served(world, 20)
    other = world.person()
    theirs = {world.create(4, owner_id=other) for _ in range(10)}
    counted = collections.Counter(job_id in theirs for job_id in served(world, 20))
    assert counted[True] == pytest.approx(counted[False], abs=2)


def test_a_higher_priority_goes_first_whoever_waits(world):
    low, normal, high = (world.create(priority=name) for name in ("low", "normal", "high"))
    second = world.create(priority="high", owner_id=world.person())
    assert [world.place(job_id) for job_id in (high, second, normal, low)] == [1, 2, 3, 4]
    assert served(world, 4) == [high, second, normal, low]


def test_nobodys_hurry_keeps_another_waiting(world):
    for _ in range(50):
        world.create(4, priority="high")
    served(world, 5)
    other = world.create(owner_id=world.person())
    assert other in served(world, 3)


def test_an_urgent_task_passes_by_its_owners_others(world):
    for _ in range(10):
        world.create(4)
    urgent = world.create(priority="high")
    assert world.place(urgent) == 1
    assert served(world, 1) == [urgent]


def test_of_two_people_who_want_much_the_one_in_a_hurry_is_served_twice_as_often(world):
    for _ in range(20):
        world.create(4)
    other = world.person()
    theirs = {world.create(4, priority="high", owner_id=other) for _ in range(20)}
    counted = collections.Counter(job_id in theirs for job_id in served(world, 30))
    assert counted[True] == pytest.approx(20, abs=2)


def test_a_place_counts_the_tasks_before_it_and_comes_nearer(world):
    first, second = world.create(3), world.create(2)
    assert (world.place(first), world.place(second)) == (1, 4)
    served(world, 2)
    assert (world.place(first), world.place(second)) == (1, 2)
    world.cancel(first)
    assert (world.place(first), world.place(second)) == (None, 1)
    served(world, 2)
    assert world.place(second) is None


def test_who_is_put_off_keeps_the_place_and_is_passed_by(world):
    first, second, third = world.create(), world.create(), world.create()
    [claimed] = world.claim(Step.SUBMIT, most=1)
    world.do(lambda tx: claims.release(tx, claimed, Step.SUBMIT, due_at=world.now + 60_000_000))
    assert [world.place(job_id) for job_id in (first, second, third)] == [1, 2, 3]
    assert served(world, 1) == [second]
    world.wait(61)
    assert served(world, 2) == [first, third]
