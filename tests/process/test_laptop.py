"""What a person on a laptop types: ``doctor``, ``sign`` and ``dev``, with a tunnel and without."""

import asyncio
import re

import httpx
import orjson
import pytest

from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from tests import live
from tests.process import child
from tests.tunnels import Ngrok

ONE = "https://one.ngrok.invalid"


async def test_doctor_beside_a_running_service_and_after_it(tmp_path):
    async with live.serve(create_sandbox(Options())) as upstream:
        async with child.serving(tmp_path, upstream=upstream) as (service, base, env):
            # It finds the service by what that left in the data dir: the port is none that could be guessed.
            well = await child.ran("doctor", folder=tmp_path / "well", env=env, cwd=tmp_path)
            assert await service.stopped() == 0
        assert well.code == 0, well.printed + well.said
        assert f"ok    service     it answers at {base}" in well.printed
        assert "a signed callback is accepted by the public URL" in well.printed
        assert "FAIL" not in well.printed
        assert well.said == ""
        alone, wrong = await asyncio.gather(
            child.ran("doctor", "--json", folder=tmp_path / "alone", env=env, cwd=tmp_path),
            child.ran(
                "doctor", folder=tmp_path / "wrong", env={**env, "NANOHOOK_MAX_PIXELS": "canary"}, cwd=tmp_path
            ),
        )
    told = orjson.loads(alone.printed)
    assert (alone.code, told["ok"]) == (1, False)
    [failed] = [each for each in told["findings"] if each["level"] == "FAIL"]
    assert failed["check"] == "way back"
    assert "nanohook serve" in failed["cure"]
    assert wrong.code == 1
    assert re.search(r"^FAIL  settings    NANOHOOK_MAX_PIXELS: .*\n +-> .*README", wrong.printed, re.MULTILINE)
    assert "canary" not in wrong.printed + wrong.said


LIVE = ("dev", "--live", "--port", "0")
CLOSED = "http://127.0.0.1:9"
REFUSED = {
    "a worker": (("worker",), {}, ["NANOHOOK_DATABASE_URL", "not supported yet"]),
    "nothing for --live": (LIVE, {"NANOHOOK_NGROK_API": CLOSED}, ["NANOBANANA_API_KEY", "ngrok start nanohook"]),
    "a log of an unknown level": (("dev", "--port", "0"), {"NANOHOOK_LOG_LEVEL": "LOUD"}, ["NANOHOOK_LOG_LEVEL"]),
    "sign without ngrok": (
        ("sign", "x"),
        {"NANOHOOK_PUBLIC_URL": "auto", "NANOHOOK_NGROK_API": CLOSED},
        ["NANOHOOK_PUBLIC_URL: auto", "nobody answers"],
    ),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Every refused command, side by side."""

    async def run(name):
        words, env, _ = REFUSED[name]
        folder = tmp_path_factory.mktemp("refused")
        return await child.ran(*words, folder=folder / "logs", env=env, cwd=folder)

    async def run_all():
        return await asyncio.gather(*map(run, REFUSED))

    return dict(zip(REFUSED, asyncio.run(run_all()), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_missing_is_named(refusals, name):
    _, _, why = REFUSED[name]
    refused = refusals[name]
    assert refused.code == 2, refused.said
    assert [word for word in why if word not in refused.said] == []
    assert "Traceback" not in refused.said


async def test_dev_live_finds_the_tunnel_and_sign_asks_for_it(tmp_path):
    port = live.closed_port()
    env = {"NANOBANANA_API_KEY": "canary", "NANOHOOK_NANOBANANA_URL": CLOSED}
    async with live.serve(Ngrok((ONE, f"http://localhost:{port}")).app) as api:
        env["NANOHOOK_NGROK_API"] = api
        command = (*child.NANOHOOK, "dev", "--live", "--port", str(port))
        with child.started(command, tmp_path / "logs", env=env, cwd=tmp_path) as dev:
            assert await dev.is_up(f"http://127.0.0.1:{port}"), dev.said
            await live.until(lambda: "/login?token=" in dev.printed)
            assert f"NanoBanana reaches it at {ONE}" in dev.printed
            beside = {**env, "NANOHOOK_PUBLIC_URL": "auto", "NANOHOOK_DATA_DIR": "var/dev"}
            signed = await child.ran("sign", "no-such-job", folder=tmp_path / "sign", env=beside, cwd=tmp_path)
            assert await dev.stopped() == 0
    # The tunnel was found: the next thing to be missing is the job.
    assert "there is no job of this id" in signed.said
    assert [line["public_url"] for line in dev.lines if line["message"] == "tunnel.found"] == [ONE]


async def test_devs_sandbox_is_found_again_after_a_restart_and_its_log_is_as_loud_as_asked(tmp_path):
    port = live.closed_port()
    command = (*child.NANOHOOK, "dev", "--port", str(port))
    note = tmp_path / "var" / "dev" / "sandbox-port"
    ports = []
    for start in range(2):
        env = {"NANOHOOK_LOG_LEVEL": "WARNING"} if start else {}
        with child.started(command, tmp_path / "logs", env=env, cwd=tmp_path) as dev:
            assert await dev.is_up(f"http://127.0.0.1:{port}"), dev.said
            ports.append(int(note.read_text()))
            async with httpx.AsyncClient(trust_env=False) as client:
                there = f"http://127.0.0.1:{ports[-1]}/api/v1/common/credit"
                assert (await client.get(there, headers={"Authorization": "Bearer x"})).json()["data"] == 1000
            assert await dev.stopped() == 0
        levels = {line["level"] for line in dev.lines}
        assert ("INFO" in levels) is not bool(start), dev.said
    assert ports[0] == ports[1]
