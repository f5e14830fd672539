"""Each credential of a request is looked at by itself, and ends when its key, session or person does."""

import asyncio
import contextlib
import itertools
import re

import httpx
import orjson
import pytest
import pytest_asyncio

from nanohook import clock
from nanohook.cli import people
from nanohook.database import Lane
from nanohook.flow import accounts as flow
from nanohook.rules import words
from nanohook.web import credentials, pages
from nanohook.web.dashboard import PROJECTS
from tests import rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a password of somebody"
FOREIGN = {
    "a proxy's Basic": "Basic YWRhOnB3",
    "Kerberos": "Negotiate YIIJvwYGKwYBBQUCoIIJszCCCa+gMDAuBgkqhkiC9xIBAgIGCSqGSIb3EgECAgYKKwYBBAGCNwICHgYKKwYBBA",
    "a gateway's JWT": "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJncmFjZSJ9.c2lnbmF0dXJl",
    "a digest": 'Digest username="ada", realm="a, b", uri="/api"',
    "a signature of AWS": "AWS4-HMAC-SHA256 Credential=AKIA/eu/s3/aws4_request, SignedHeaders=host, Signature=0",
    "no scheme": "0123456789abcdef",
    "nothing": "",
    "no key": "Bearer",
    "another's key": "Bearer sk-proj-0123456789",
    "odd bytes": "Bearer \xfc\xff",
}
NUMBERS = itertools.count()
CURES = ["NANOHOOK_TRUSTED_PROXIES", "NANOHOOK_PUBLIC_URL"]
"""The settings that say which pages are our own."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("credentials"), sign_up=False) as running:
        yield running


@contextlib.asynccontextmanager
async def guest(service, **headers):
    async with httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20) as client:
        yield client


@contextlib.asynccontextmanager
async def browser(service, **more):
    """Somebody of their own, logged in."""
    email = f"p{next(NUMBERS)}@example.org"
    key = await rig.make_account(service, email, password=PASSWORD, **more)
    async with guest(service, Origin=service.base) as client:
        answer = await client.post("/api/auth/login", json={"email": email, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        client.email, client.key = email, key
        yield client


def bearer(key):
    return f"Bearer {key}"


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return answer.json()["detail"]


async def me(client, headers=()):
    return await client.get("/api/auth/me", headers=httpx.Headers(headers))


async def who(client, headers=()):
    answer = await me(client, headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["email"]


# Headers of others, and ours.


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_header_of_somebody_elses_hides_no_cookie(service, name):
    headers = [("Authorization", FOREIGN[name].encode("latin-1"))]
    async with browser(service) as client, guest(service) as anybody:
        assert await who(client, headers) == client.email
        assert (await client.post("/api/auth/keys", json={}, headers=headers)).status_code == 201
        # The cookie is a cookie still: another site's page writes nothing with it.
        evil = [*headers, ("Origin", "https://evil.example")]
        refused(await client.post("/api/auth/keys", json={}, headers=evil), 403, "wrong_origin")
        assert (await client.get("/generate-images", headers=headers)).status_code == 200
        detail = refused(await me(anybody, headers), 401, "unauthenticated")
        assert "Authorization: Bearer nh_" in detail


async def test_ours_is_found_among_several_headers(service):
    async with browser(service) as client, browser(service) as other, guest(service) as anybody:
        ours = ("Authorization", bearer(client.key))
        foreign = ("Authorization", FOREIGN["a proxy's Basic"])
        for headers in (
            [ours],
            [foreign, ours],
            [ours, foreign],
            [ours, ours],
            [("Authorization", f"{foreign[1]}, {ours[1]}")],
            [("Authorization", f"bEaReR \t {client.key}")],
            [foreign, ("Cookie", f"{service.cookie}=x"), ours],
        ):
            assert await who(anybody, headers) == client.email
            # A key wins over a cookie: it was put there by hand.
            assert await who(other, [*headers]) == client.email
        two = refused(await me(anybody, [ours, ("Authorization", bearer(other.key))]), 401, "unauthenticated")
        assert "two different" in two


async def test_a_key_of_our_form_is_never_replaced_by_a_cookie(service):
    async with browser(service) as client:
        made = (await client.post("/api/auth/keys", json={})).json()
        assert await who(client, {"Authorization": bearer(made["key"])}) == client.email
        assert (await client.delete(f"/api/auth/keys/{made['id']}")).status_code == 204
        for name, key in {
            "revoked": made["key"],
            "of nobody": "nh_" + "x" * 43,
            "cut": client.key[:12],
            "too long": client.key * 3,
            "with odd characters": client.key[:-1] + "%",
        }.items():
            detail = refused(await me(client, {"Authorization": bearer(key)}), 401, "unauthenticated")
            assert ("whole" in detail) is (name not in {"revoked", "of nobody"}), name
            answer = await me(client, [("Authorization", FOREIGN["no key"]), ("Authorization", bearer(key))])
            refused(answer, 401, "unauthenticated")
        assert await who(client) == client.email


async def test_a_key_that_cannot_be_ours_costs_no_query(service):
    reads = []
    database = service.parts.database
    read = database.read
    database.read = lambda unit, **how: (reads.append(how.get("lane")), read(unit, **how))[1]
    try:
        async with guest(service) as anybody:
            cut = (bearer("nh_cut"), bearer("nh_" + "x" * 65), bearer("nh_" + "é" * 43))
            for value in (*cut, *FOREIGN.values()):
                headers = [("Authorization", value.encode("latin-1"))]
                refused(await me(anybody, headers), 401, "unauthenticated")
            for cookie in ("x", "a.b.c", '"' * 9, "é"):
                headers = [("Cookie", f"{service.cookie}={cookie}; {credentials.FORMER_COOKIE}={cookie}".encode())]
                refused(await me(anybody, headers), 401, "unauthenticated")
    finally:
        del database.read
    assert Lane.SIGN_IN not in reads


async def test_the_figures_token_and_an_admins_cookie_do_not_meet(service):
    async with browser(service, is_admin=True) as client:
        answer = await client.get("/metrics", headers={"Authorization": FOREIGN["a proxy's Basic"]})
        assert answer.status_code == 200


# Cookies.


async def test_ours_is_found_among_cookies_of_the_same_name(service):
    async with browser(service) as client, browser(service) as gone, guest(service) as anybody:
        good = client.cookies[service.cookie]
        ended = gone.cookies[service.cookie]
        assert (await gone.post("/api/auth/logout")).status_code == 204
        name = service.cookie
        for cookie in (
            f"{name}={good}",
            f'{name}="{good}"',
            f"{name}=garbage; {name}={good}",
            f"{name}={good}; {name}=garbage",
            f"{name}={ended}; {name}={good}",
            f"{name}={good}; {name}={ended}",
            f"{name}=; a; =b; ;;{name}={good}",
            f"{name}= {good} ;theme=dark",
            *(f"{name}={ended[:-number]}; {name}={good}" for number in (1, 5)),
        ):
            assert await who(anybody, {"Cookie": cookie}) == client.email, cookie
        headers = [("Cookie", f"{name}={ended}"), ("Cookie", "theme=dark"), ("Cookie", f"{name}={good}")]
        assert await who(anybody, headers) == client.email
        refused(await me(anybody, {"Cookie": f"{name}={ended}; {name}=x"}), 401, "unauthenticated")
        many = "; ".join([f"{name}=garbage.{number}" for number in range(500)])
        assert await who(anybody, {"Cookie": f"{many}; {name}={good}"}) == client.email


async def test_who_logs_out_is_out_whatever_cookies_came_with_it(service):
    async with browser(service) as client, guest(service, Origin=service.base) as twice:
        one = client.cookies[service.cookie]
        asked = {"email": client.email, "password": PASSWORD}
        answer = await twice.post("/api/auth/login", json=asked)
        other = answer.cookies[service.cookie]
        twice.cookies.clear()
        both = {"Cookie": f"{service.cookie}={one}; {service.cookie}={other}"}
        assert (await twice.post("/api/auth/logout", headers=both)).status_code == 204
        refused(await me(twice, both), 401, "unauthenticated")


async def test_two_instances_on_one_host_do_not_log_each_other_out(service, tmp_path):
    """A browser keeps cookies by host, whatever the port."""
    async with rig.running(tmp_path, sign_up=False) as neighbour, browser(service) as client:
        assert neighbour.cookie != service.cookie
        await rig.make_account(neighbour, "ada@example.org", password=PASSWORD)
        asked = {"email": "ada@example.org", "password": PASSWORD}
        theirs = {"Origin": neighbour.base}
        assert (
            await client.post(f"{neighbour.base}/api/auth/login", json=asked, headers=theirs)
        ).status_code == 200
        assert set(client.cookies) == {service.cookie, neighbour.cookie}
        assert await who(client) == client.email
        assert (await client.post(f"{neighbour.base}/api/auth/logout", headers=theirs)).status_code == 204
        assert set(client.cookies) == {service.cookie}
        assert await who(client) == client.email
        # Nor do they choose each other's language.
        for base, language in ((service.base, "fr"), (neighbour.base, "en")):
            await client.get(f"{base}/login", params={"lang": language})
        for base, language in ((service.base, "fr"), (neighbour.base, "en")):
            page = await client.get(f"{base}/generate-images")
            assert f'<html lang="{language}"' in page.text


async def test_the_cookies_name_survives_a_restart_and_new_keys(tmp_path):
    old, new = "an old key of the service", "a new key of the service"
    async with rig.running(tmp_path, sign_up=False, secret_keys=(old,)) as service:
        name = service.cookie
        async with browser(service) as client:
            cookie = {"Cookie": f"{name}={client.cookies[name]}"}
    async with rig.running(tmp_path, sign_up=False, secret_keys=(new, old)) as service, guest(service) as again:
        assert service.cookie == name
        assert await who(again, cookie) == client.email


def _rename(client, name):
    """Let the browser have its session by the former name, as before an upgrade."""
    value = client.cookies[name]
    client.cookies.clear()
    client.cookies.set(credentials.FORMER_COOKIE, value, domain="127.0.0.1")


async def test_the_former_name_is_read_once_and_replaced(service):
    former = credentials.FORMER_COOKIE
    for path in ("/api/auth/me", "/generate-images"):
        async with browser(service) as client:
            _rename(client, service.cookie)
            answer = await client.get(path)
            assert answer.status_code == 200
            assert "httponly" in answer.headers["set-cookie"].lower()
            assert set(client.cookies) == {service.cookie}
            answer = await client.get(path)
            assert (answer.status_code, "set-cookie" in answer.headers) == (200, False)
    # Another instance's, of an older release, is left where it is.
    async with browser(service) as client:
        client.cookies.set(former, "somebody.else.s", domain="127.0.0.1")
        assert "set-cookie" not in (await me(client)).headers
        assert (await client.post("/api/auth/logout")).status_code == 204
        assert set(client.cookies) == {former}
    # Nobody is logged in again by the answer that logs them out.
    async with browser(service) as client:
        _rename(client, service.cookie)
        assert (await client.post("/api/auth/logout")).status_code == 204
        assert set(client.cookies) == set()
    async with guest(service, Cookie=f"{pages.LANGUAGE}=fr") as reader:
        assert '<html lang="fr"' in (await reader.get("/login")).text


# The origin of a write.


async def test_our_own_origin_is_known_however_it_is_written(service):
    async with browser(service) as client:
        for host, origin in (
            ("Example.ORG", "http://example.org"),
            ("example.org:80", "http://example.org"),
            ("example.org:8080", "http://example.org:8080"),
            ("[::1]:80", "http://[::1]"),
        ):
            headers = {"Host": host, "Origin": origin}
            assert (await client.post("/api/auth/keys", json={}, headers=headers)).status_code == 201, host
        for host, origin in (
            ("example.org", "http://example.org.evil"),
            ("example.org", "http://example.org:81"),
            ("example.org", "https://example.org"),
            ("example.org", "null"),
            ("", "http://"),
        ):
            answer = await client.post("/api/auth/keys", json={}, headers={"Host": host, "Origin": origin})
            assert answer.status_code in {400, 403}, (host, origin)
        two = [("Origin", service.base), ("Origin", "https://evil.example")]
        del client.headers["Origin"]
        refused(await client.post("/api/auth/keys", json={}, headers=two), 403, "wrong_origin")


async def test_a_refused_write_names_the_settings_that_cure_it(service):
    async with guest(service) as client:
        for headers in ({}, {"Origin": "https://pictures.example"}):
            answer = await client.post("/api/auth/login", json={}, headers=headers)
            detail = refused(answer, 403, "wrong_origin")
            assert set(CURES) <= set(re.findall(r"NANOHOOK_\w+", detail))


@pytest.mark.parametrize("language", words.LANGUAGES)
async def test_so_does_every_page_that_writes(service, language):
    async with guest(service) as nobody, browser(service) as somebody:
        project = (await somebody.post("/api/projects", json={"name": "Kites"})).json()
        writing = [pages.STUDIO, PROJECTS, f"{PROJECTS}/{project['project_id']}"]
        doors = ["/login", "/verify-email?token=x"]
        for client, paths in ((nobody, doors), (somebody, writing)):
            for path in paths:
                answer = await client.get(path, headers={"Accept-Language": language})
                assert answer.status_code == 200, path
                texts = orjson.loads(re.search("data-texts='([^']*)'", answer.text)[1])
                assert re.findall(r"NANOHOOK_\w+", texts["wrong_origin"]) == CURES, path


@pytest.mark.parametrize(
    "then", ["//evil", "/\\evil", "/a\x00", "/a\r\nb", "/\tx", "/a\x7f", "https://evil", "a", ""]
)
async def test_a_login_leads_to_pages_of_our_own_alone(service, then):
    async with browser(service) as client:
        answer = await client.get("/login", params={"next": then})
        assert (answer.status_code, answer.headers["location"]) == (303, pages.STUDIO)
        answer = await client.get("/login", params={"next": "/dashboard/projects?a=b"})
        assert answer.headers["location"] == "/dashboard/projects?a=b"


# Sessions.


async def test_one_sees_where_one_is_logged_in_and_ends_it(service):
    async with browser(service) as laptop, guest(service, Origin=service.base) as phone:
        asked, agent = {"email": laptop.email, "password": PASSWORD}, {"User-Agent": "A phone/1.0 " + "x" * 500}
        await phone.post("/api/auth/login", json=asked, headers=agent)
        listed = (await laptop.get("/api/auth/sessions")).json()["sessions"]
        assert [session["is_current"] for session in listed] == [False, True]
        assert listed[0]["user_agent"] == agent["User-Agent"][:300]
        assert {session["address"] for session in listed} == {"127.0.0.1"}
        assert not set(laptop.cookies.values()) & {session["id"] for session in listed}
        assert (await laptop.delete(f"/api/auth/sessions/{listed[0]['id']}")).status_code == 204
        refused(await me(phone), 401, "unauthenticated")
        assert await who(laptop) == laptop.email
        # Seen and ended by key as well; one's own is a logout.
        key = {"Authorization": bearer(laptop.key)}
        assert len((await phone.get("/api/auth/sessions", headers=key)).json()["sessions"]) == 1
        assert (await laptop.delete(f"/api/auth/sessions/{listed[1]['id']}")).status_code == 204
        assert service.cookie not in laptop.cookies
        refused(await me(laptop), 401, "unauthenticated")
        gone = await phone.delete(f"/api/auth/sessions/{listed[1]['id']}", headers=key)
        refused(gone, 404, "not_found")


async def test_nobody_sees_or_ends_anothers_session(service):
    async with browser(service) as ada, browser(service) as eve:
        [session] = (await ada.get("/api/auth/sessions")).json()["sessions"]
        assert session["id"] not in (await eve.get("/api/auth/sessions")).text
        refused(await eve.delete(f"/api/auth/sessions/{session['id']}"), 404, "not_found")
        evil = {"Origin": "https://evil.example"}
        refused(await ada.delete(f"/api/auth/sessions/{session['id']}", headers=evil), 403, "wrong_origin")
        assert await who(ada) == ada.email


async def test_a_key_without_admin_rights_ends_no_admins_session(service):
    async with browser(service, is_admin=True) as admin, guest(service) as client:
        weak = {"Authorization": bearer((await admin.post("/api/auth/keys", json={})).json()["key"])}
        [session] = (await client.get("/api/auth/sessions", headers=weak)).json()["sessions"]
        answer = await client.delete(f"/api/auth/sessions/{session['id']}", headers=weak)
        refused(answer, 403, "forbidden")
        assert await who(admin) == admin.email


async def test_a_hundred_sessions_are_enough(service):
    async with browser(service) as client:
        person = await service.parts.database.read(
            lambda tx: tx.one("SELECT id FROM users WHERE email = ?", (client.email,))
        )
        first = clock.now_us() + 1
        for number in range(flow.MAX_SESSIONS):
            await service.parts.database.write(
                lambda tx: flow.sign_in(tx, person["id"], browser=flow.Browser(), now_us=first + number)  # noqa: B023
            )
        key = {"Authorization": bearer(client.key)}
        listed = (await client.get("/api/auth/sessions", headers=key)).json()["sessions"]
        assert len(listed) == flow.MAX_SESSIONS
        refused(await me(client), 401, "unauthenticated")  # the oldest


async def test_the_last_use_of_a_session_is_noted(service):
    async with browser(service) as client:
        async with asyncio.timeout(10):
            while (await client.get("/api/auth/sessions")).json()["sessions"][0]["last_used_at"] is None:
                pass


# What a stream's token hangs on.


async def _token(client, **headers):
    answer = await client.post("/api/events/token", json={}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()["url"]


async def test_a_streams_token_ends_with_the_key_or_session_that_made_it(service):
    async with browser(service) as client, guest(service) as anybody:
        made = (await client.post("/api/auth/keys", json={})).json()
        by_key = await _token(client, Authorization=bearer(made["key"]))
        by_session = await _token(client)
        for url in (by_key, by_session):
            assert (await anybody.head(url)).status_code == 200
        await client.delete(f"/api/auth/keys/{made['id']}")
        refused(await anybody.get(by_key), 401, "unauthenticated")
        assert (await anybody.head(by_session)).status_code == 200
        asked = {"current_password": PASSWORD, "new_password": "another " + PASSWORD}
        assert (await client.post("/api/auth/password", json=asked)).status_code == 204
        refused(await anybody.get(by_session), 401, "unauthenticated")
        again = await _token(client)
        assert (await anybody.head(again)).status_code == 200
        await client.post("/api/auth/logout")
        refused(await anybody.get(again), 401, "unauthenticated")


async def test_a_bad_token_of_ours_is_not_replaced_by_a_cookie_and_a_foreign_one_hides_none(service):
    async with browser(service) as client:
        url = await _token(client)
        path, _, good = url.partition("?token=")
        expired = service.parts.tokens.sign_purpose("stream", "somebody * something", 1)
        refused(await client.get(path, params={"token": expired}), 401, "unauthenticated")
        for foreign in ("", "abc", "eyJ.eyJ.sig", "0123456789abcdef"):
            assert (await client.head(path, params={"token": foreign})).status_code == 200
        basic = {"Authorization": FOREIGN["a proxy's Basic"]}
        revoked = {"Authorization": bearer("nh_" + "x" * 43)}
        async with guest(service) as anybody:
            assert (await anybody.head(url, headers=basic)).status_code == 200
            refused(await anybody.get(url, headers=revoked), 401, "unauthenticated")
            assert (await anybody.head(f"{path}?token={good}", headers={"Cookie": "a=b"})).status_code == 200


# What the command line does.


async def test_a_callback_address_that_was_signed_by_hand_stands_in_the_audit(service):
    async with browser(service) as client:
        answer = await client.post("/api/generate-image", json={"prompt": "a kite"})
        job_id = answer.json()["job_id"]
        await people.callback_token(service.parts.settings, job_id=job_id, index=0, expires_at_s=4_000_000_000)
        rows = await service.parts.database.read(
            lambda tx: tx.all("SELECT actor, action FROM audit WHERE subject = ?", (job_id,))
        )
        assert [tuple(row) for row in rows] == [("command line", "callback.sign")]
