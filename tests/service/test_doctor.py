"""``nanohook doctor`` on set-ups that are broken in one way each: the fault is named, and its cure."""

import contextlib
import email.utils
import sqlite3
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from nanohook import migrations, settings
from nanohook.cli import doctor, reach, surroundings
from nanohook.cli.findings import Level
from tests import books, live, rig, scripted
from tests.process import post_mortem
from tests.tunnels import Ngrok

NOBODY = "http://127.0.0.1:9"
WARNING = "<html><title>ngrok</title>You are about to visit one.ngrok-free.app (ERR_NGROK_6024)</html>"


async def examined(chosen, local_url=NOBODY):
    return [finding async for finding in doctor.examine(chosen, local_url=local_url)]


def of(found, check):
    return [(each.level, each.text, each.cure or "") for each in found if each.check == check]


def only(found, check):
    [(level, text, cure)] = of(found, check)
    assert level is Level.OK or cure, text
    return level, text, cure


def made(folder, **chosen):
    return settings.fixed(data_dir=folder, disk_reserve_bytes=0, **chosen)


def changed_schema(folder, statement):
    migrations.upgrade(folder / "nanohook.db")
    with contextlib.closing(sqlite3.connect(folder / "nanohook.db")) as connection, connection:
        connection.execute(statement)
    return made(folder)


async def test_all_is_well_beside_a_running_service_and_no_probe_is_left(tmp_path):
    async with rig.running(tmp_path) as service:
        before = post_mortem.files(tmp_path)
        found = await examined(service.parts.settings, service.base)
        assert [each.text for each in found if each.level is Level.FAIL] == []
        # The public address of a test is this machine's own.
        assert {each.check for each in found if each.level is Level.WARN} == {"public URL"}
        assert [text for _, text, _ in of(found, "way back")] == [
            "a signed picture comes back by the public URL",
            "a signed callback is accepted by the public URL",
        ]
        assert only(found, "NanoBanana")[1] == "the key is good, the credit is 1000"
        assert post_mortem.files(tmp_path) == before
        [delivery] = books.rows(tmp_path, "SELECT effect, reason FROM deliveries")
        assert (delivery["effect"], delivery["reason"]) == ("no_effect", "a test callback")


async def test_a_fresh_machine_is_no_fault_but_for_what_is_missing(tmp_path):
    found = await examined(settings.fixed(data_dir=tmp_path / "var", disk_reserve_bytes=0))
    assert [each.check for each in found if each.level is Level.FAIL] == []
    assert "is not there yet" in only(found, "data dir")[1]
    level, _, cure = only(found, "database")
    assert (level, "nanohook migrate" in cure) == (Level.WARN, True)
    level, text, cure = only(found, "NanoBanana")
    assert (level, "no_api_key" in text, "NANOBANANA_API_KEY" in cure) == (Level.WARN, True, True)
    level, text, cure = only(found, "public URL")
    assert (level, "no_public_url" in text, "NANOHOOK_PUBLIC_URL" in cure) == (Level.WARN, True, True)
    assert not (tmp_path / "var").exists()


async def test_a_database_that_nothing_was_signed_for_misses_no_key(tmp_path):
    migrations.upgrade(tmp_path / "nanohook.db")
    level, text, cure = only(await examined(settings.fixed(data_dir=tmp_path)), "keys")
    assert (level, text, "nanohook serve" in cure) == (Level.WARN, "none yet", True)


async def test_a_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the folder's place")
    level, text, cure = only(await examined(made(tmp_path / "file" / "var")), "data dir")
    assert level is Level.FAIL
    assert "cannot be written" in text
    assert "NANOHOOK_DATA_DIR" in cure


async def test_a_media_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "media").write_text("in the folder's place")
    level, _, cure = only(await examined(made(tmp_path)), "storage")
    assert (level, "`media`" in cure) == (Level.FAIL, True)


async def test_a_schema_of_a_newer_nanohook_and_one_of_an_older(tmp_path):
    chosen = changed_schema(tmp_path / "a", "UPDATE alembic_version SET version_num = '9999'")
    level, text, cure = only(await examined(chosen), "database")
    assert (level, "9999" in text, "newer nanohook" in cure) == (Level.FAIL, True, True)
    chosen = changed_schema(tmp_path / "b", "UPDATE alembic_version SET version_num = '0001'")
    level, text, cure = only(await examined(chosen), "database")
    assert (level, "0001" in text, "nanohook migrate" in cure) == (Level.WARN, True, True)
    assert books.rows(tmp_path / "b", "SELECT version_num AS n FROM alembic_version") == [{"n": "0001"}]


async def test_a_damaged_database(tmp_path):
    path = tmp_path / "nanohook.db"
    migrations.upgrade(path)
    path.with_suffix(".db-wal").unlink(missing_ok=True)
    whole = path.read_bytes()
    for damaged in (b"no database at all" * 100, whole[:4096] + b"\xee" * 8192 + whole[12288:]):
        path.write_bytes(damaged)
        level, text, cure = only(await examined(made(tmp_path)), "database")
        assert (level, "backup" in cure) == (Level.FAIL, True), text


async def test_a_disk_that_is_fuller_than_its_reserve(tmp_path):
    chosen = settings.fixed(data_dir=tmp_path, disk_reserve_bytes=10**18)
    level, _, cure = only(await examined(chosen), "disk")
    assert (level, "NANOHOOK_DISK_RESERVE_BYTES" in cure) == (Level.FAIL, True)


async def test_keys_that_are_gone_or_not_the_databases(tmp_path):
    async with rig.running(tmp_path, sign_up=False):
        pass
    level, text, cure = only(await examined(made(tmp_path, secret_keys=("x" * 20,))), "keys")
    assert (level, "void" in text, "NANOHOOK_SECRET_KEYS" in cure) == (Level.FAIL, True, True)
    (tmp_path / "secret").unlink()
    level, text, cure = only(await examined(made(tmp_path)), "keys")
    assert (level, "gone" in text, "backup" in cure) == (Level.FAIL, True, True)
    assert not (tmp_path / "secret").exists()


def envelope(code):
    return scripted.http({"code": code, "msg": "no", "data": None}, status=200)


@pytest.mark.parametrize(
    ("answer", "says", "cure"),
    [
        (envelope(401), "(code 401)", "NANOBANANA_API_KEY"),
        (envelope(403), "(code 403)", "NANOBANANA_API_KEY"),
        (envelope(402), "(code 402)", "buy credit"),
        (scripted.http({"code": 200, "msg": "ok", "data": 0}), "the credit is 0", "buy credit"),
        (scripted.http(b"<html>", status=502, kind="text/html"), "HTTP 502", "NANOHOOK_NANOBANANA_URL"),
        (scripted.CUT, "was not reached", "NANOHOOK_NANOBANANA_URL"),
    ],
    ids=["wrong key", "forbidden", "payment required", "no credit", "gateway", "cut"],
)
async def test_nanobanana_says_no(tmp_path, answer, says, cure):
    async with live.serve_raw(scripted.Server(answer).handle) as upstream:
        found = await reach.look_at_nanobanana(made(tmp_path, nanobanana_url=upstream, nanobanana_api_key="k"))
    level, text, advice = only(found, "NanoBanana")
    assert level is Level.FAIL
    assert says in text
    assert cure in advice


async def test_nanobanana_is_not_reached_or_the_key_is_no_key(tmp_path):
    away = made(tmp_path, nanobanana_url=NOBODY, nanobanana_api_key="k")
    level, text, cure = only(await reach.look_at_nanobanana(away), "NanoBanana")
    assert (level, "ConnectError" in text, NOBODY in cure) == (Level.FAIL, True, True)
    odd = made(tmp_path, nanobanana_api_key="canary key ")
    level, text, _ = only(await reach.look_at_nanobanana(odd), "NanoBanana")
    assert (level, "NANOBANANA_API_KEY" in text, "canary" in text) == (Level.FAIL, True, False)


@pytest.mark.parametrize(("off_s", "level"), [(0, Level.OK), (-3600, Level.WARN), (300, Level.WARN)])
async def test_a_clock_that_is_wrong(tmp_path, off_s, level):
    date = f"date: {email.utils.formatdate(time.time() - off_s, usegmt=True)}\r\n"
    answer = scripted.http({"code": 200, "msg": "ok", "data": 7}, headers=date)
    async with live.serve_raw(scripted.Server(answer).handle) as upstream:
        found = await reach.look_at_nanobanana(made(tmp_path, nanobanana_url=upstream, nanobanana_api_key="k"))
    said, text, _ = only(found, "clock")
    assert said is level
    assert level is Level.OK or ("ahead" in text) is (off_s > 0)


@pytest.mark.parametrize(
    ("tunnels", "says", "cure"),
    [
        (None, "nobody answers", "ngrok start nanohook"),
        ([], "no tunnel leads to port 9", "upstream.url"),
        (
            [("https://one.ngrok.invalid", "http://localhost:3000")],
            "others lead to http://localhost:3000",
            "the port",
        ),
        ([("http://one.ngrok.invalid", NOBODY)], "no https address", "https address"),
        ([("https://one.ngrok.invalid", "9"), ("https://two.ngrok.invalid", "9")], "2 https tunnels", "stop all"),
    ],
    ids=["not running", "none", "another port", "http only", "several"],
)
async def test_ngrok_has_no_tunnel_to_us(tmp_path, tunnels, says, cure):
    async with live.serve(Ngrok(*(tunnels or ())).app) as api:
        chosen = made(tmp_path, public_url="auto", ngrok_api=NOBODY if tunnels is None else api)
        way, finding = await reach.look_at_public_url(chosen, NOBODY)
    assert (way, finding.level) == (None, Level.FAIL)
    assert says in finding.text
    assert cure in finding.cure


async def test_ngroks_tunnel_is_our_public_url(tmp_path):
    async with live.serve(Ngrok(("https://one.ngrok.invalid", NOBODY)).app) as api:
        chosen = made(tmp_path, public_url="auto", ngrok_api=api)
        way, finding = await reach.look_at_public_url(chosen, NOBODY)
    assert (way.public_url, finding.level) == ("https://one.ngrok.invalid", Level.OK)


class Front:
    """What stands before a service: it passes plain clients through, and shows browsers a warning."""

    def __init__(self, base):
        self.base = base
        self.app = Starlette(routes=[Route("/{path:path}", self.pass_on, methods=["GET", "POST"])])

    async def pass_on(self, request):
        if "Mozilla" in request.headers["user-agent"]:
            return HTMLResponse(WARNING, headers={"ngrok-error-code": "ERR_NGROK_6024"})
        async with httpx.AsyncClient(trust_env=False) as client:
            there = f"{self.base}{request.url.path}?{request.url.query}"
            answer = await client.request(request.method, there, content=await request.body())
            return Response(answer.content, answer.status_code, headers=answer.headers)


def page(text, status=200, headers=""):
    return scripted.http(text.encode(), status=status, kind="text/html", headers=headers)


STRANGERS = {
    "a warning page": (page(WARNING), "warning page in our place", "paid plan"),
    "a tunnel that is down": (
        page("gone", 404, "ngrok-error-code: ERR_NGROK_3200\r\n"),
        "ERR_NGROK_3200",
        "ngrok.com/docs/errors",
    ),
    "an escape": (
        scripted.http(
            {"code": f"\x1bc\x9b31m{'x' * 3_000}"},
            kind="application/problem+json",
            headers="x-request-id: 1\r\n",
        ),
        "was answered HTTP 200 c31mxxx",
        "the service's log",
    ),
    "an escape in a header": (
        page("gone", 404, "ngrok-error-code: \x1b[31mERR_NGROK_1\r\n"),
        "in our place: [31mERR_NGROK_1",
        "ngrok.com/docs/errors",
    ),
    "another service": (page("<h1>It works!</h1>"), "another service (HTTP 200, text/html)", "lead to http"),
    "a login": (page("who are you", 401), "lets nobody through", "/api/webhooks/"),
    "no answer": (scripted.CUT, "is not reached", "tunnel"),
}


async def test_the_public_url_leads_elsewhere(tmp_path):
    async with rig.running(tmp_path / "ours", sign_up=False, nanobanana_api_key=None) as service:

        async def way_back(public_url):
            chosen = service.parts.settings.model_copy(update={"public_url": public_url})
            return of(await examined(chosen, service.base), "way back")

        for name, (answer, says, cure) in STRANGERS.items():
            async with live.serve_raw(scripted.Server(answer).handle) as stranger:
                [(level, text, advice)] = await way_back(stranger)
            assert (level, says in text, cure in advice) == (Level.FAIL, True, True), (name, text, advice)
            assert (text.isprintable(), len(text) < 200) == (True, True), name

        [(level, text, _)] = await way_back(NOBODY)
        assert (level, "no connection" in text) == (Level.FAIL, True)

        async with live.serve(Front(service.base).app) as front:
            [(_, fetched, _), (level, text, cure), (_, called, _)] = await way_back(front)
        assert "comes back" in fetched
        assert "is accepted" in called
        assert (level, "warning page" in text, "paid plan" in cure) == (Level.WARN, True, True)

        secret = (tmp_path / "ours" / "secret").read_text()
        for keys, says in (((), "other keys"), ((secret,), "the same keys and another data dir")):
            folder = tmp_path / f"another{len(keys)}"
            async with rig.running(folder, sign_up=False, secret_keys=keys) as another:
                [(level, text, cure)] = await way_back(another.base)
            assert (level, says in text) == (Level.FAIL, True)
            assert "NANOHOOK_DATA_DIR" in cure
        assert post_mortem.files(tmp_path / "ours") == set()


async def test_a_service_that_is_not_running_is_why_nothing_leads_back(tmp_path):
    chosen = made(tmp_path, public_url="https://hook.example.invalid")
    found = await examined(chosen)
    level, text, cure = only(found, "way back")
    assert (level, "not running" in text, "nanohook serve" in cure) == (Level.FAIL, True, True)
    assert only(found, "service")[0] is Level.WARN
    async with live.serve_raw(scripted.Server(page("hello")).handle) as stranger:
        assert "is not nanohook" in only(await examined(chosen, stranger), "service")[1]


def test_settings_that_cannot_be_used_are_named_each(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(
        "NANOHOOK_MAX_PIXELS=canary\nNANOHOOK_REDIS_URL=redis://canary\nNANOHOOK_PUBLIC_ULR=canary\n"
        "NANOHOOK_QQQ=1\nUPSTASH_REDIS_REST_URL=x\n"
    )
    for name in ("NANOHOOK_DATA_DIR", "NANOHOOK_PUBLIC_URL", "NANOBANANA_API_KEY", "NANOHOOK_TEST_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    chosen, found = surroundings.read_settings(tmp_path / ".env")
    assert chosen is None
    said = {each.text.partition(":")[0]: each for each in found}
    assert said["NANOHOOK_MAX_PIXELS"].level is Level.FAIL
    assert "not supported yet" in said["NANOHOOK_REDIS_URL"].text
    assert said["NANOHOOK_PUBLIC_ULR"].cure == "perhaps NANOHOOK_PUBLIC_URL is meant"
    assert said["NANOHOOK_QQQ"].level is Level.WARN
    assert "NANOHOOK_REDIS_URL" in said["UPSTASH_REDIS_REST_URL"].cure
    assert "canary" not in "".join(each.lines() for each in found)

    (tmp_path / ".env").write_text("NANOHOOK_RECONCILE_EVERY_S=1\n")
    chosen, [finding] = surroundings.read_settings(tmp_path / ".env")
    assert (chosen.reconcile_every_s, finding.level) == (1, Level.WARN)


async def test_a_proxy_that_ends_tls_and_was_not_believed_is_found(tmp_path):
    async with rig.running(tmp_path, public_url=None) as service:
        chosen = service.parts.settings
        assert of(await examined(chosen, service.base), "proxy") == []
        login = {"email": "ada@example.org", "password": "a wrong one"}
        by_proxy = {
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "hook.example",
            "Origin": "https://hook.example",
        }
        writes = []
        offer = service.parts.database.offer
        service.parts.database.offer = lambda unit, **how: (writes.append(unit), offer(unit, **how))[1]
        try:
            for headers in ({"Origin": "https://evil.example"}, by_proxy, by_proxy, by_proxy):
                answer = await service.client.post("/api/auth/login", json=login, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (403, "wrong_origin")
        finally:
            del service.parts.database.offer
        noted = [unit for unit in writes if "_note_proxy" in unit.__qualname__]
        assert len(noted) == 1, "anybody may send these: it is noted once in a while"
        level, text, cure = only(await examined(chosen, service.base), "proxy")
        assert (level, "127.0.0.1" in text) == (Level.WARN, True)
        assert "NANOHOOK_TRUSTED_PROXIES=127.0.0.1" in cure
        for trusted in ("127.0.0.1", "127.0.0.0/8"):
            cured = settings.fixed(**{**chosen.model_dump(), "trusted_proxies": (trusted,)})
            assert of(await examined(cured, service.base), "proxy") == []
