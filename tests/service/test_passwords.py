"""Passwords are hashed in two threads, and how long a no takes does not say why."""

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time

import argon2
import pytest

from nanohook import errors, passwords, threads
from tests import live

CHEAP = {"time_cost": 1, "memory_cost": 64, "parallelism": 1}
RIGHT = "correct horse battery"


class Watched(argon2.PasswordHasher):
    """Counts who is inside, and holds them there until the gate opens."""

    def __init__(self):
        super().__init__(**CHEAP)
        self.gate = threading.Event()
        self.gate.set()
        self.inside = self.most_inside = 0
        self.seen = []
        self.lock = threading.Lock()

    def hash(self, password, **options):
        return self._watched(password, super().hash, password, **options)

    def verify(self, hash, password):  # noqa: A002 - the library's name
        return self._watched(password, super().verify, hash, password)

    def _watched(self, password, work, *args, **options):
        with self.lock:
            self.seen.append(password)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        try:
            assert self.gate.wait(10)
            return work(*args, **options)
        finally:
            with self.lock:
                self.inside -= 1


class Broken(argon2.PasswordHasher):
    """Finds no memory."""

    def hash(self, password, **options):
        raise argon2.exceptions.HashingError("Memory allocation error")


@pytest.fixture
def hasher():
    return Watched()


@pytest.fixture
def cheap(hasher):
    made = passwords.Passwords(hasher)
    yield made
    hasher.gate.set()
    made.close()


@pytest.fixture
def real():
    made = passwords.Passwords()
    yield made
    made.close()


async def test_only_the_right_password_is_right(real):
    stored = await real.hash(RIGHT)
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert await real.verify(stored, RIGHT) is True
    assert await real.verify(stored, RIGHT + " ") is False
    assert await real.verify(stored, "") is False
    assert await real.verify(None, RIGHT) is False
    assert await real.hash(RIGHT) != stored


async def test_what_was_hashed_otherwise_is_to_be_hashed_again(real, cheap):
    stored = await cheap.hash(RIGHT)
    assert await real.verify(stored, RIGHT)
    assert real.needs_rehash(stored)
    assert not cheap.needs_rehash(stored)
    assert not real.needs_rehash(await real.hash(RIGHT))
    assert real.needs_rehash("no hash at all")


async def test_at_most_two_are_hashed_at_once(cheap, hasher):
    hasher.gate.clear()
    running = [asyncio.create_task(cheap.hash(f"{RIGHT} {number}")) for number in range(8)]
    running += [asyncio.create_task(cheap.verify(None, f"{RIGHT} {number}")) for number in range(8)]
    await live.until(lambda: hasher.inside == 2)
    hasher.gate.set()
    done = await asyncio.gather(*running)
    assert len(set(done[:8])) == 8
    assert done[8:] == [False] * 8
    assert hasher.most_inside == 2
    assert len(hasher.seen) == 16


async def test_the_loop_goes_on_while_one_is_hashed():
    # Ten times the usual work, so that what the machine does besides matters little.
    slow = passwords.Passwords(argon2.PasswordHasher(time_cost=30))
    gaps = []

    async def tick():
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - last)
            last += gaps[-1]

    ticking = asyncio.create_task(tick())
    began = time.perf_counter()
    await slow.hash(RIGHT)
    took = time.perf_counter() - began
    ticking.cancel()
    slow.close()
    assert max(gaps) < took / 2
    assert len(gaps) > 10


async def test_one_too_many_is_told_to_come_back(cheap, hasher):
    hasher.gate.clear()
    places = passwords.THREADS + passwords.MOST_WAITING
    running = [asyncio.create_task(cheap.verify(None, RIGHT)) for _ in range(places)]
    await live.until(lambda: hasher.inside == 2)
    for ask in (cheap.verify(None, RIGHT), cheap.hash(RIGHT)):
        with pytest.raises(errors.Unavailable):
            await ask
    hasher.gate.set()
    assert await asyncio.gather(*running) == [False] * places
    assert await cheap.verify(None, RIGHT) is False


async def test_networks_take_turns_and_a_flood_of_one_keeps_nobody_out(cheap, hasher):
    hasher.gate.clear()
    places = passwords.THREADS + passwords.MOST_WAITING
    flood = [asyncio.create_task(cheap.verify(None, f"flood {n}", whose="flood")) for n in range(places)]
    await live.until(lambda: hasher.inside == 2)
    with pytest.raises(errors.Unavailable):
        await cheap.verify(None, "one more", whose="flood")
    others = [asyncio.create_task(cheap.verify(None, f"other {n}", whose=f"other {n}")) for n in range(8)]
    others += [asyncio.create_task(cheap.verify(None, f"family {n}", whose="family")) for n in range(8)]
    # For each of them the flood's newest is refused.
    await live.until(lambda: sum(task.done() for task in flood) == len(others))
    assert all(isinstance(task.exception(), errors.Unavailable) for task in flood[-len(others) :])
    hasher.gate.set()
    assert await asyncio.gather(*others) == [False] * 16
    await asyncio.gather(*flood, return_exceptions=True)
    # Two of the flood were inside already, and each round has one of its.
    waited = [str(password, "utf-8") for password in hasher.seen[2:]]
    assert {name.partition(" ")[0] for name in waited[:10]} == {"flood", "other", "family"}
    assert max(waited.index(f"other {n}") for n in range(8)) < 14
    assert [name for name in waited if name.startswith("family")] == [f"family {n}" for n in range(8)]
    assert waited.index("family 7") < 40


async def test_two_hundred_at_once_from_everywhere_are_answered_one_way_or_the_other(cheap, hasher):
    hasher.gate.clear()
    tasks = [asyncio.create_task(cheap.verify(None, RIGHT, whose=str(n))) for n in range(200)]
    places = passwords.THREADS + passwords.MOST_WAITING
    await live.until(lambda: sum(task.done() for task in tasks) == 200 - places)
    hasher.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[:places] == [False] * places
    assert all(isinstance(answer, errors.Unavailable) for answer in answers[places:])
    assert hasher.most_inside == passwords.THREADS


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's own on Linux alone")
async def test_hashing_yields_to_whoever_answers_requests():
    class Asked(argon2.PasswordHasher):
        def hash(self, password, **options):
            self.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            return super().hash(password, **options)

    hasher = Asked(**CHEAP)
    with contextlib.closing(passwords.Passwords(hasher)) as made:
        await made.hash(RIGHT)
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert hasher.niceness == min(19, here + threads.NICENESS)


async def test_whoever_goes_away_while_waiting_leaves_the_place_and_costs_nothing(cheap, hasher):
    hasher.gate.clear()
    places = passwords.THREADS + passwords.MOST_WAITING
    running = [asyncio.create_task(cheap.verify(None, RIGHT)) for _ in range(places)]
    await live.until(lambda: hasher.inside == 2)
    for task in (running[0], running[-1]):  # one is being hashed, one waits
        task.cancel()
    await asyncio.gather(running[0], running[-1], return_exceptions=True)
    again = asyncio.create_task(cheap.verify(None, RIGHT))
    await asyncio.sleep(0)
    # The thread of the first cannot be stopped: its place is not free yet.
    with pytest.raises(errors.Unavailable):
        await cheap.verify(None, RIGHT)
    hasher.gate.set()
    assert await again is False
    await asyncio.gather(*running[1:-1])
    assert len(hasher.seen) == places


async def test_a_no_takes_as_long_for_a_stranger_as_for_a_wrong_password(real):
    stored = await real.hash(RIGHT)
    cases = {
        "wrong": (stored, RIGHT + "!"),
        "unknown": (None, RIGHT + "!"),
        "too long": (stored, "x" * 1_000_000),
        "broken": ("$argon2id$v=19$m=65536,t=3,p=4$broken", RIGHT),
    }
    took = {name: [] for name in cases}
    # What the machine does besides only adds to a time: the least of some tries comes near to the truth, and of
    # more the nearer.
    for _ in range(60):
        for name, (hashed, password) in cases.items():
            began = time.perf_counter()
            assert await real.verify(hashed, password) is False
            took[name].append(time.perf_counter() - began)
        least = {name: min(times) for name, times in took.items()}
        if len(took["wrong"]) >= 5 and all(0.5 < least[name] / least["wrong"] < 2 for name in cases):
            break
    else:
        pytest.fail(f"{least}")


async def test_the_first_stranger_costs_one_hash_and_no_more(cheap, hasher):
    assert await cheap.verify(None, RIGHT) is False
    assert hasher.seen == [RIGHT.encode()]
    # What a stranger is checked against looks like everybody's.
    assert not cheap.needs_rehash(cheap._nobodys)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "x",
        "$argon2id$",
        "$2b$12$abcdefghijklmnopqrstuv",
        "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$",
        "$argon2id$v=19$m=64,t=1,p=1$é$é",
        "\x00",
        "$argon2id$v=19$m=1,t=0,p=0$c2FsdHNhbHQ$c2FsdHNhbHQ",
    ],
)
async def test_a_broken_hash_opens_for_nobody_and_is_told_to_the_operator(cheap, caplog, stored):
    assert await cheap.verify(stored, RIGHT) is False
    [line] = caplog.records
    assert (line.message, line.levelno) == ("password.unreadable", logging.ERROR)
    assert line.reason
    assert RIGHT not in str(vars(line))


async def test_without_memory_one_is_told_to_come_back():
    broken = passwords.Passwords(Broken(**CHEAP))
    with pytest.raises(errors.Unavailable):
        await broken.hash(RIGHT)
    broken.close()


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "8 characters"),
        ("1234567", "8 characters"),
        ("éééé", "8 characters"),
        ("x" * 1025, "1,024 bytes"),
        ("é" * 513, "1,024 bytes"),
        pytest.param("x" * 1_000_000, "1,024 bytes", id="a megabyte"),
        ("long enough \ud800", "not text"),
        ("\udfff" * 2000, "1,024 bytes"),
    ],
)
async def test_what_cannot_be_a_password_is_refused_with_a_reason(cheap, hasher, password, reason):
    assert reason in passwords.check(password)
    with pytest.raises(errors.Invalid) as caught:
        await cheap.hash(password)
    assert reason in caught.value.fields["password"]
    assert hasher.seen == []


@pytest.mark.parametrize("password", ["12345678", "é" * 512, "x" * 1024, "mot de passe\x00suite", "🐎" * 8])
async def test_what_can_be_a_password_works_to_its_last_byte(cheap, password):
    assert passwords.check(password) is None
    stored = await cheap.hash(password)
    assert await cheap.verify(stored, password) is True
    assert await cheap.verify(stored, password[:-1]) is False
    assert await cheap.verify(stored, password.partition("\x00")[0]) is ("\x00" not in password)


@pytest.mark.parametrize(
    "password", ["x" * 1025, "é" * 513, pytest.param("x" * 1_000_000, id="a megabyte"), "long enough \ud800"]
)
async def test_what_nobody_can_have_is_not_hashed_itself(cheap, hasher, password):
    assert await cheap.verify(await cheap.hash(RIGHT), password) is False
    assert hasher.seen[1:] == [b""]


async def test_an_empty_password_does_not_pass_for_one_that_is_too_long(cheap, hasher):
    # Hashes from elsewhere may be of anything: the stand-in must not match one of nothing.
    assert await cheap.verify(hasher.hash(b""), "x" * 2000) is False


async def test_after_the_end_one_is_told_to_come_back(hasher):
    closed = passwords.Passwords(hasher)
    closed.close()
    for _ in range(passwords.THREADS + passwords.MOST_WAITING + 1):
        with pytest.raises(errors.Unavailable, match="ending"):
            await closed.verify(None, RIGHT)
