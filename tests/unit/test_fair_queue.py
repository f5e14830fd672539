"""Who has much that waits stands behind who has little, and nobody is passed over."""

import pytest

from nanohook.fair_queue import FairQueue


def filled(*things, **bounds):
    queue = FairQueue(**{"max_of_one": 100, "max_of_all": 100, **bounds})
    for thing in things:
        queue.put(thing[0], thing)
    return queue


def drained(queue, **more):
    return [queue.pop(**more)[1] for _ in range(len(queue))]


def test_people_take_turns_and_each_ones_things_keep_their_order():
    assert drained(filled("a1", "a2", "a3", "a4", "b1", "c1", "b2")) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_whoever_had_a_turn_and_comes_again_stands_behind_those_who_wait():
    queue = filled("a1", "b1")
    assert queue.pop() == ("a", "a1")
    queue.put("a", "a2")
    assert drained(queue) == ["b1", "a2"]


def test_those_who_are_passed_by_keep_their_turn():
    queue = filled("a1", "b1", "c1")
    assert queue.pop(without={"a"}) == ("b", "b1")
    assert queue.waits(without={"a"})
    assert not queue.waits(without={"a", "c"})
    assert drained(queue) == ["a1", "c1"]
    with pytest.raises(LookupError):
        queue.pop()


def test_what_is_forgotten_takes_no_room():
    queue = filled("a1", "a2", "b1", max_of_one=2, max_of_all=3)
    assert queue.is_full_for("a")
    assert queue.is_full
    queue.remove("a", "a1")
    queue.remove("a", "a1")
    queue.remove("nobody", "x")
    assert not queue.is_full_for("a")
    assert not queue.is_full
    assert (len(queue), list(queue)) == (2, ["a2", "b1"])
    queue.remove("a", "a2")
    assert drained(queue) == ["b1"]
