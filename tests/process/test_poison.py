"""A result whose decoding ends the process: found out, decoded alone, and given up after three deaths."""

import pathlib
import signal

from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process import child, post_mortem
from tests.process.test_clock import ordered
from tests.process.upstream import Always, Hold, Odd
from tests.process.world import make_ready

PICTURE = rig.picture(256, 256, kind="JPEG")
DONE = "SELECT status, error_code FROM jobs WHERE prompt LIKE ?"


def is_completed(data_dir: pathlib.Path, prompt: str) -> bool:
    return bool(books.rows(data_dir, DONE, prompt)[0]["status"] == "COMPLETED")


async def test_three_deaths_while_it_alone_is_decoded_end_a_task_as_internal(tmp_path: pathlib.Path):
    upstream = Odd(Options(latency_s=0.05, picture_bytes=PICTURE))
    ready = await make_ready(tmp_path / "ready")
    port, data_dir = live.closed_port(), ready.data_dir
    async with live.serve(upstream) as url:
        where = {"port": port, "upstream": url, "die_at": "finish.decoding"}
        async with child.service(data_dir, **where) as dying:
            await ordered(port, ready.key, "poison")
            assert await dying.exited(timeout_s=30) == -signal.SIGKILL
        # The first death makes it a suspect; three more, while it is decoded alone, end it.
        for deaths in (0, 1, 2):
            # It dies before it could be asked whether it is ready.
            with child.started(child.entry(data_dir, **where), data_dir / "logs") as dying:
                assert await dying.exited(timeout_s=30) == -signal.SIGKILL
            [task] = books.rows(data_dir, "SELECT suspect_deaths FROM tasks")
            assert task["suspect_deaths"] == deaths
        async with child.service(data_dir, **where) as last:
            await live.until(lambda: books.rows(data_dir, "SELECT 1 FROM jobs WHERE completed_at IS NOT NULL"))
            assert await last.stopped() == 0
    [job] = books.rows(data_dir, DONE, "poison")
    assert (job["status"], job["error_code"]) == ("FAILED", "internal")
    assert len(upstream.tasks.by_id) == 1
    await post_mortem.audit(data_dir)


async def test_success_clears_a_suspect_and_nobody_else_waits_for_it(tmp_path: pathlib.Path):
    hold = Hold()
    upstream = Odd(Options(latency_s=0.05, picture_bytes=PICTURE), picture={"slow": [hold]})
    ready = await make_ready(tmp_path / "ready")
    port, data_dir = live.closed_port(), ready.data_dir
    async with live.serve(upstream) as url:
        where = {"port": port, "upstream": url}
        async with child.service(data_dir, **where, die_at="finish.decoding") as dying:
            await ordered(port, ready.key, "innocent")
            assert await dying.exited(timeout_s=30) == -signal.SIGKILL
        async with child.service(data_dir, **where) as second:
            await live.until(lambda: is_completed(data_dir, "innocent"), timeout_s=20)
            [task] = books.rows(data_dir, "SELECT suspect_deaths FROM tasks")
            assert task["suspect_deaths"] is None
            # Dying elsewhere makes nobody a suspect.
            await ordered(port, ready.key, "slow")
            await live.until(hold.waiting.is_set)
            second.process.kill()
            assert await second.exited() == -signal.SIGKILL
        hold.gate.set()
        async with child.service(data_dir, **where) as third:
            await live.until(lambda: is_completed(data_dir, "slow"), timeout_s=20)
            assert books.rows(data_dir, "SELECT 1 FROM tasks WHERE suspect_deaths IS NOT NULL") == []
            assert '"work.died_decoding"' not in third.said
            assert await third.stopped() == 0
    await post_mortem.audit(data_dir)


async def test_two_suspects_are_decoded_alone_and_one_after_the_other(tmp_path: pathlib.Path):
    hold = Hold()
    upstream = Odd(Options(latency_s=0.05, picture_bytes=PICTURE))
    ready = await make_ready(tmp_path / "ready")
    port, data_dir = live.closed_port(), ready.data_dir
    async with live.serve(upstream) as url:
        where = {"port": port, "upstream": url}
        async with child.service(data_dir, **where, stick_at="finish.decoding") as first:
            for prompt in ("one", "two"):
                await ordered(port, ready.key, prompt)
            await live.until(lambda: len(decoded_now(data_dir)) == 2, timeout_s=20)
            first.process.kill()
            assert await first.exited() == -signal.SIGKILL
        async with child.service(data_dir, **where, stick_at="finish.decoding") as second:
            await live.until(lambda: decoded_now(data_dir), timeout_s=20)
            # Results of others come meanwhile, and wait with the second suspect.
            for number, prompt in enumerate(("third", "fourth"), start=1):
                await ordered(port, ready.key, prompt)
                await live.until(lambda prompt=prompt: upstream.asked["picture", prompt], timeout_s=20)
                assert deaths_of_claimed(data_dir) == [None] * number + [0]
            [culprit] = decoded_now(data_dir)
            second.process.kill()
            assert await second.exited() == -signal.SIGKILL
        upstream.put_before("picture", Always(hold))
        async with child.service(data_dir, **where) as last:
            await live.until(lambda: len(deaths_of_claimed(data_dir)) == 3, timeout_s=20)
            assert deaths_of_claimed(data_dir)[:2] == [None, None]
            suspects = books.rows(data_dir, "SELECT job_id, suspect_deaths FROM tasks WHERE suspect_deaths >= 0")
            assert sorted(task["suspect_deaths"] for task in suspects) == [0, 1]
            assert next(task["job_id"] for task in suspects if task["suspect_deaths"]) == culprit
            hold.gate.set()
            for prompt in ("one", "two", "third", "fourth"):
                await live.until(lambda prompt=prompt: is_completed(data_dir, prompt), timeout_s=20)
            assert books.rows(data_dir, "SELECT 1 FROM tasks WHERE suspect_deaths IS NOT NULL") == []
            assert await last.stopped() == 0
    assert len(upstream.tasks.by_id) == 4
    await post_mortem.audit(data_dir)


def decoded_now(data_dir: pathlib.Path) -> list[str]:
    """The jobs whose results are being decoded."""
    return [mark.name.partition(".")[0] for mark in (data_dir / "decoding").iterdir()]


def deaths_of_claimed(data_dir: pathlib.Path) -> list[int | None]:
    """For each result that is claimed, how often the process died while it alone was decoded."""
    claimed = "SELECT suspect_deaths FROM tasks WHERE step = 'finish' AND held = 1 ORDER BY suspect_deaths"
    return [task["suspect_deaths"] for task in books.rows(data_dir, claimed)]
