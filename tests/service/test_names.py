"""Looking up strangers' hosts: a name server that never answers is felt by nobody else."""

import asyncio
import sys
import threading

import pytest

from nanohook.remote import names, pinned
from tests import live
from tests.process import child


class NameServer:
    """Knows every name, except that it is silent about those below some domains until told."""

    def __init__(self, *silent: str) -> None:
        self._silent = silent
        self.speaks = threading.Event()
        self.asked: list[str] = []
        self.waiting: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host.endswith(self._silent):
            self.waiting.append(host)
            self.speaks.wait()
            self.waiting.remove(host)
        if host.endswith("unknown.example"):
            raise OSError("no such name")
        return ["203.0.113.7"]


@pytest.fixture
def server():
    made = NameServer("dead.example", "dead.test")
    yield made
    made.speaks.set()


async def ask_many(resolver: names.Resolver, hosts: list[str]) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(resolver.resolve(host, 443)) for host in hosts]
    await asyncio.sleep(0)
    return tasks


async def ended(tasks: list[asyncio.Task]) -> list[object]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_names_whose_server_is_silent_hold_up_no_other_name(server):
    resolver = names.Resolver(server, timeout_s=60)
    dead = await ask_many(resolver, [f"{number}.dead.example" for number in range(200)])
    await live.until(lambda: len(server.waiting) == names.MAX_PER_DOMAIN)
    for number in range(100):
        assert await resolver.resolve(f"{number}.alive.example.org", 443) == ["203.0.113.7"]
    assert len(server.waiting) == names.MAX_PER_DOMAIN
    assert not any(task.done() for task in dead)
    server.speaks.set()
    assert await ended(dead) == [["203.0.113.7"]] * 200


async def test_lookups_have_a_bound_and_the_next_one_comes_when_a_place_is_free(server):
    domains = 2 * names.MAX_LOOKUPS // names.MAX_PER_DOMAIN
    server = NameServer("dead")
    resolver = names.Resolver(server, timeout_s=60)
    hosts = [f"{number}.{domain}.dead" for domain in range(domains) for number in range(names.MAX_PER_DOMAIN)]
    dead = await ask_many(resolver, hosts)
    await live.until(lambda: len(server.waiting) == names.MAX_LOOKUPS)
    other = asyncio.create_task(resolver.resolve("alive.example", 443))
    server.speaks.set()
    assert await other == ["203.0.113.7"]
    assert await ended(dead) == [["203.0.113.7"]] * len(hosts)
    assert len(server.asked) == len(hosts) + 1


async def test_a_lookup_that_is_given_up_keeps_its_place_until_it_ends(server):
    resolver = names.Resolver(server, timeout_s=0.05)
    for _ in range(3):
        hosts = [f"{number}.dead.example" for number in range(50)]
        assert {type(each) for each in await ended(await ask_many(resolver, hosts))} == {TimeoutError}
        # Asking again starts no more.
        assert len(server.asked) == names.MAX_PER_DOMAIN
    server.speaks.set()
    await live.until(lambda: not server.waiting)
    # However slow this machine is.
    found: object = None
    while found != ["203.0.113.7"]:
        [found] = await ended(await ask_many(resolver, ["9.dead.example"]))


async def test_a_name_that_was_silent_is_known_once_its_server_speaks(server):
    resolver = names.Resolver(server, timeout_s=60)
    first = await ask_many(resolver, ["a.dead.example"])
    await live.until(lambda: server.waiting)
    first[0].cancel()
    server.speaks.set()
    await ended(first)
    assert await resolver.resolve("a.dead.example", 443) == ["203.0.113.7"]


async def test_who_asks_for_one_name_meanwhile_shares_one_lookup(server):
    resolver = names.Resolver(server, timeout_s=60)
    tasks = await ask_many(resolver, ["a.dead.example"] * 256)
    await live.until(lambda: server.waiting)
    server.speaks.set()
    assert await ended(tasks) == [["203.0.113.7"]] * 256
    assert len(server.asked) == 1
    # Nothing is kept: the next one asks anew.
    await resolver.resolve("a.dead.example", 443)
    assert len(server.asked) == 2


async def test_an_unknown_name_is_unknown_to_all_who_asked(server):
    resolver = names.Resolver(server)
    found = await ended(await ask_many(resolver, ["unknown.example"] * 3))
    assert [str(each) for each in found] == ["no such name"] * 3


async def test_a_name_that_is_none_is_an_error_and_no_crash():
    with pytest.raises((OSError, UnicodeError)):
        await names.Resolver().resolve(f"{'a' * 300}.example", 443)


async def test_an_address_is_found_by_the_systems_resolver():
    assert await names.Resolver().resolve("127.0.0.1", 443) == ["127.0.0.1"]


async def test_a_silent_name_server_is_told_apart_from_a_name_it_does_not_know(server):
    resolver = names.Resolver(server, timeout_s=0.05)
    door = pinned.Door(download_hosts=frozenset(), resolve=resolver.resolve, network=None)
    with pytest.raises(pinned.httpcore.ConnectError, match=r"does not answer for a\.dead\.example"):
        await door.connect_tcp("a.dead.example", 443)
    with pytest.raises(pinned.httpcore.ConnectError, match="is not known to the name server"):
        await door.connect_tcp("unknown.example", 443)


async def test_a_process_ends_while_lookups_hang(tmp_path):
    script = """
import asyncio, threading, uvloop
from nanohook.remote import names
async def main():
    resolver = names.Resolver(lambda host: threading.Event().wait(), timeout_s=0.1)
    asking = (resolver.resolve(f"{n}.dead.example", 1) for n in range(6))
    found = await asyncio.gather(*asking, return_exceptions=True)
    print({type(each).__name__ for each in found}, threading.active_count() - 1)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
    env = {"PYTHONPATH": ":".join(sys.path)}
    with child.started((sys.executable, "-c", script), tmp_path, env=env) as process:
        assert await process.exited() == 0
    assert process.printed.split("\n")[0] == f"{{'TimeoutError'}} {names.MAX_PER_DOMAIN}"
