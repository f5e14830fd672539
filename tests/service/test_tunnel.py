"""``NANOHOOK_PUBLIC_URL=auto``: our public address is that of ngrok's tunnel, whatever becomes of it."""

import contextlib
import socket

import pytest

from nanohook import address, app, errors, server, settings
from nanohook.remote import ngrok
from nanohook.remote.ngrok import Trouble
from nanohook.sandbox.options import Options
from nanohook.work import tunnel
from tests import books, live, rig, scripted
from tests.tunnels import Ngrok

ONE, TWO = "https://one.ngrok.invalid", "https://two.ngrok.invalid"
# Nothing asks after a task by itself for as long as a test runs.
NEVER = {"reconcile_after_s": 600, "reconcile_every_s": 600}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(tunnel, "LOOK_EVERY_S", 0.05)


@contextlib.asynccontextmanager
async def tunneled(folder, agent, **chosen):
    async with (
        live.serve(agent.app) as api,
        rig.running(folder, public_url="auto", ngrok_api=api, **chosen) as service,
    ):
        yield service


def leads_here(service, url):
    return (url, service.base)


async def test_running_tasks_are_asked_after_when_the_tunnel_has_another_address(tmp_path, caplog):
    caplog.set_level("INFO")
    agent = Ngrok()
    quick = Options(latency_s=0.05, callback_pause_s=600)
    async with tunneled(tmp_path, agent, sandbox=quick, **NEVER) as service:
        agent.tunnels = [leads_here(service, ONE)]
        await live.until(lambda: service.parts.terms.public_url == ONE)
        job = await service.generate()
        await live.until(lambda: service.upstream.by_id)
        [task] = service.upstream.by_id.values()
        assert task.order.callback_url.startswith(f"{ONE}/api/webhooks/image-completion/")
        await live.until(lambda: books.rows(tmp_path, "SELECT 1 FROM tasks WHERE step = 'ask'"))

        agent.tunnels = [leads_here(service, TWO)]
        ended = await service.ended(job["job_id"])
        assert ended["status"] == "COMPLETED"
        assert service.parts.terms.public_url == TWO
    said = [record.message for record in caplog.records if record.message.startswith("tunnel.")]
    assert [said.count(f"tunnel.{word}") for word in ("missing", "found", "changed", "lost")] == [1, 1, 1, 0]


async def test_without_a_tunnel_text_goes_on_by_record_info_and_pictures_wait_for_one(tmp_path, caplog):
    agent = Ngrok()
    async with tunneled(tmp_path, agent, reconcile_after_s=600, reconcile_every_s=0.1) as service:
        original = await service.upload()
        agent.tunnels = [leads_here(service, ONE)]
        await live.until(lambda: service.parts.terms.public_url == ONE)
        agent.tunnels = []
        await live.until(lambda: service.parts.terms.public_url is None)
        asked = {"prompt": "a kite", "image_id": original["job_id"]}
        refused = await service.client.post("/api/generate-image", json=asked)
        assert (refused.status_code, refused.json()["code"]) == (409, "no_public_url")
        job = await service.generate()
        assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"
        looked = agent.asked
        await live.until(lambda: agent.asked > looked + 3)
    # A tunnel that stays away is told of once.
    assert [record.message for record in caplog.records if record.message == "tunnel.lost"] == ["tunnel.lost"]


async def test_the_tunnel_is_known_from_the_first_request_on(tmp_path):
    listener = server.listen("127.0.0.1", 0)
    agent = Ngrok((ONE, server.address(listener)))
    async with live.serve(agent.app) as api:
        service = app.create_app(
            settings.fixed(public_url="auto", ngrok_api=api, data_dir=tmp_path, reconcile_after_s="off")
        )
        async with server.serving(service, listener):
            assert service.state.parts.terms.public_url == ONE
            assert service.state.parts.terms.ask_after_us is None
            assert address.last_told(tmp_path) == server.address(listener)
    assert address.last_told(tmp_path) is None


async def test_with_another_server_auto_is_refused_because_nobody_knows_our_port(tmp_path):
    service = app.create_app(settings.fixed(public_url="auto", data_dir=tmp_path))
    with pytest.raises(RuntimeError, match="did not start"):
        async with live.serve(service):
            pass
    assert isinstance(service.state.refusal, errors.ConfigError)
    assert "NANOHOOK_PUBLIC_URL" in str(service.state.refusal)


async def look(api):
    async with ngrok.Agent(api, port=8000) as agent:
        found = await agent.look()
    assert isinstance(found, ngrok.Missing)
    assert api in found.detail
    return found.trouble


async def test_what_is_in_the_place_of_the_agent_is_told():
    assert await look(f"http://127.0.0.1:{live.closed_port()}") is Trouble.NOT_RUNNING
    for answer in (
        scripted.http(b"<html>", status=404, kind="text/html"),
        scripted.http(b"x" * (ngrok.MAX_ANSWER_BYTES + 1)),
        scripted.CUT,
        b"\x00" * 100,
    ):
        async with live.serve_raw(scripted.Server(answer).handle) as api:
            assert await look(api) is Trouble.NOT_NGROK


async def test_an_agent_that_does_not_answer_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(ngrok, "TOTAL_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await look(f"http://127.0.0.1:{silent.getsockname()[1]}") is Trouble.NOT_NGROK


def test_where_a_service_listens_is_told_for_this_machine(tmp_path):
    for host, here in (("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")):
        with server.listen(host, 0) as listener:
            port = listener.getsockname()[1]
            assert server.local_url(listener) == f"http://{here}:{port}"
            assert address.port_of(server.local_url(listener)) == port
    (tmp_path / "address").write_bytes(b"\xff")
    assert address.last_told(tmp_path) is None
