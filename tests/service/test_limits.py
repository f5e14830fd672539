"""How often and how much at once: budgets and their headers, uploads, slow bodies, and pages from elsewhere."""

import asyncio
import contextlib
import dataclasses
import logging
import re
import ssl
import time

import argon2
import httpx
import pytest
import pytest_asyncio
from limits.aio.storage import MemoryStorage
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from nanohook import errors
from nanohook.passwords import Passwords
from nanohook.rules.tempo import Tempo
from nanohook.web import failures, rates, routes, slots, uploads, webhook, wire
from nanohook.web.rates import Rate, Rates, _Windows, network_of
from tests import live, raw, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

TLS = ssl.create_default_context()
NOBODY = "0192a4b0-0000-7000-8000-000000000000"
METRICS = "a token for the figures"
RUNNING = "[sandbox:latency=60]"
APP, ELSEWHERE = "https://app.example.org", "https://evil.example"
TEN_SECONDS, MINUTE, DAY = 10, 60, 86_400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    """With the budgets of the contract."""
    budgets = {"rate_status": "60/minute", "rate_write": "30/10 seconds"}
    async with rig.running(
        tmp_path_factory.mktemp("limits"), metrics_token=METRICS, allowed_origins=(APP,), sign_up=False, **budgets
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def free(tmp_path_factory):
    """Without a budget in the way."""
    async with rig.running(tmp_path_factory.mktemp("free"), sign_up=False) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tight(tmp_path_factory):
    """With budgets that are soon spent, and give nothing back while a test runs, however long that takes."""
    budgets = {"rate_status": f"3/{DAY} seconds", "rate_write": f"7/{DAY} seconds"}
    async with rig.running(tmp_path_factory.mktemp("tight"), sign_up=False, **budgets) as running:
        yield running


@contextlib.asynccontextmanager
async def person(service, email):
    """Somebody with budgets of their own."""
    key = await rig.make_account(service, email)
    async with client(service, Authorization=f"Bearer {key}") as opened:
        yield opened


def client(service, **headers):
    return httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, verify=TLS, timeout=20)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def standing(answer, name, quota, window_s):
    """Read how the client stands with a budget: what is left of it, and when there is more."""
    assert answer.headers.get_list("ratelimit-policy") == [f'"{name}";q={quota};w={window_s}']
    [header] = answer.headers.get_list("ratelimit")
    left, reset_s = re.fullmatch(rf'"{name}";r=(\d+);t=(\d+)', header).groups()
    assert 1 <= int(reset_s) <= window_s
    return int(left)


def limited(answer, name, quota, window_s):
    refused(answer, 429, "rate_limited")
    assert standing(answer, name, quota, window_s) == 0
    assert 1 <= int(answer.headers["retry-after"]) <= window_s


async def spend(asks, name, quota, window_s):
    """Ask in turn until it is too much; a window's boundary among them gives some back, with the time."""
    passed, left, started = 0, quota, time.monotonic()
    while (answer := await asks[passed % len(asks)]()).status_code != 429:
        before, left = left, standing(answer, name, quota, window_s)
        assert before - 1 <= left <= quota
        passed += 1
    assert quota <= passed <= quota + 1 + quota * (time.monotonic() - started) / window_s
    limited(answer, name, quota, window_s)


# Budgets.


def looks(ada):
    asked = {"imageId": NOBODY}
    return [
        lambda: ada.get(f"/api/images/{NOBODY}/status"),
        lambda: ada.get(f"/api/images/{NOBODY}/result"),
        lambda: ada.post("/api/check-generation-status", json=asked),
    ]


def writes(ada):
    job = f"/api/images/{NOBODY}"
    return [
        lambda: ada.post(f"{job}/cancel"),
        lambda: ada.post(f"{job}/restore"),
        lambda: ada.delete(job),
        lambda: ada.post("/api/generate-image", json={"prompt": ""}),
        lambda: ada.post("/api/projects", json={}),
        lambda: ada.delete(f"/api/auth/keys/{NOBODY}"),
        lambda: ada.post("/api/events/token", json={"job_id": NOBODY}),
    ]


async def test_status_result_and_check_share_sixty_a_minute(service):
    async with person(service, "status@example.org") as ada:
        await spend(looks(ada), "status", 60, MINUTE)


async def test_every_other_write_shares_thirty_in_ten_seconds(service):
    async with person(service, "write@example.org") as ada:
        await spend(writes(ada), "write", 30, TEN_SECONDS)


async def test_a_budget_is_its_owners_whatever_they_come_in(tight):
    async with person(tight, "status@example.org") as ada, person(tight, "other@example.org") as eve:
        asks = looks(ada)
        await spend(asks, "status", 3, DAY)
        for ask in asks:
            limited(await ask(), "status", 3, DAY)
        # Callers of this route know the refusal by another name as well.
        assert (await asks[2]()).json()["error"] == "Rate limit exceeded"
        # It is theirs by whatever they come in, and nobody else's; and no other budget.
        key = (await ada.post("/api/auth/keys")).json()["key"]
        again = await ada.get(f"/api/images/{NOBODY}/status", headers={"Authorization": f"Bearer {key}"})
        limited(again, "status", 3, DAY)
        refused(await eve.get(f"/api/images/{NOBODY}/status"), 404, "not_found")
        assert (await ada.get("/api/images")).status_code == 200


async def test_what_is_over_the_limit_is_not_listened_to(tight):
    async with person(tight, "write@example.org") as ada:
        await spend(writes(ada), "write", 7, DAY)
        headers = {"Authorization": ada.headers["Authorization"]}
        for path in ("/api/images/delete", "/api/generate-image", "/api/projects"):
            limited(await raw.without_body(tight.base, "POST", path, headers), "write", 7, DAY)
        assert (await ada.get("/api/images")).status_code == 200
        refused(await ada.get(f"/api/images/{NOBODY}/status"), 404, "not_found")


async def test_reading_has_six_hundred_a_minute(service):
    async with person(service, "read@example.org") as ada:
        answer = await ada.get("/api/auth/me")
        assert standing(answer, "read", 600, MINUTE) == 599
        for path in ("/api/images", "/api/projects", "/api/credits", "/api/auth/keys", "/api/credits/estimate"):
            assert standing(await ada.get(path), "read", 600, MINUTE) < 599
        user_id = answer.json()["id"]
        for method, path in (("GET", "/api/images"), ("GET", "/api/auth/me"), ("HEAD", "/api/images")):
            while not (await service.parts.rates.hit(Rate.READ, user_id, route="a test")).is_over:
                pass
            over = await ada.request(method, path)
            assert (over.status_code, standing(over, "read", 600, MINUTE)) == (429, 0)
        assert (await ada.post("/api/auth/keys")).status_code == 201


async def test_who_watches_and_who_calls_back_has_no_budget(service):
    async with person(service, "free@example.org") as ada:
        job_id = (await ada.post("/api/generate-image", json={"prompt": "a kite"})).json()["job_id"]
        async with ada.stream("GET", f"/api/images/{job_id}/events") as stream:
            async for line in stream.aiter_lines():
                if '"COMPLETED"' in line:
                    break
        url = (await ada.get(f"/api/images/{job_id}")).json()["images"][0]["url"]
        token = service.token(job_id)
        asks = {
            "media": lambda: ada.get(url),
            "health": lambda: ada.get("/healthz"),
            "ready": lambda: ada.get("/readyz"),
            "figures": lambda: ada.get("/metrics", headers={"Authorization": f"Bearer {METRICS}"}),
            "stream": lambda: ada.head(f"/api/images/{job_id}/events"),
            "streams": lambda: ada.head("/api/events"),
            "callback": lambda: ada.post(f"/api/webhooks/image-completion/{token}", json={"status": "generating"}),
            "forged": lambda: ada.post("/api/webhooks/image-completion/forged", json={}),
        }
        for name, ask in asks.items():
            answers = [await ask() for _ in range(35)]
            assert {answer.status_code for answer in answers} == {401 if name == "forged" else 200}, name
            assert not {"ratelimit", "ratelimit-policy", "retry-after"} & set(answers[0].headers), name


async def test_a_refusal_of_who_is_nobody_counts_for_nobody(service):
    async with client(service) as guest:
        for _ in range(35):
            answer = await guest.post("/api/generate-image", json={"prompt": "x"})
            refused(answer, 401, "unauthenticated")
            assert "ratelimit" not in answer.headers


async def test_the_window_slides(service):
    """A new window does not give the whole budget anew; and who comes back when told is let in."""
    quota, window_s = 10, 2
    rates = Rates(status=f"{quota}/{window_s} seconds", write="1/second", upload="1/second")

    async def passed():
        return not (await rates.hit(Rate.STATUS, "ada", route="r")).is_over

    # All of it is spent late in one window.
    await live.until(lambda: 0.6 < time.time() / window_s % 1 < 0.9)
    assert [await passed() for _ in range(quota + 2)] == [True] * quota + [False] * 2
    window = time.time() // window_s
    await live.until(lambda: time.time() // window_s > window)
    assert sum([await passed() for _ in range(quota)]) <= quota // 2
    refusal = await rates.hit(Rate.STATUS, "ada", route="r")
    with pytest.raises(errors.TooMany) as caught:
        refusal.check()
    assert caught.value.retry_after_s == refusal.reset_s
    come_back = time.monotonic() + refusal.reset_s
    await live.until(lambda: time.monotonic() >= come_back)
    assert await passed()


async def test_budgets_of_two_people_or_kinds_do_not_meet(service):
    rates = Rates(status="2/minute", write="2/minute", upload="2/minute")
    for rate in (Rate.STATUS, Rate.WRITE):
        for whose in ("ada", "eve"):
            over = [(await rates.hit(rate, whose, route="r")).is_over for _ in range(4)]
            assert over[:2] == [False, False]
            assert over[-1]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unknown", "unknown"),
        ("203.0.113.7:80", "203.0.113.7:80"),
    ],
)
async def test_an_address_of_the_net_belongs_to_a_customer(host, network):
    assert network_of(host) == network


# The limiter away, and the figures.


class Away(MemoryStorage):
    """A storage that is away when told to be."""

    def __init__(self):
        super().__init__()
        self.is_away = False

    async def acquire_sliding_window_entry(self, *args, **more):
        if self.is_away:
            raise ConnectionError("canary: redis://:secret@10.0.0.1 does not answer")
        return await super().acquire_sliding_window_entry(*args, **more)


async def test_without_the_limiter_requests_pass_and_one_line_says_so(tmp_path_factory, caplog):
    storage = Away()
    rates = Rates(status="60/minute", write="3/hour", upload="3/hour", storage=storage)
    hasher = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    async with contextlib.AsyncExitStack() as stack:
        parts = {"rates": rates, "passwords": stack.enter_context(contextlib.closing(Passwords(hasher)))}
        service = await stack.enter_async_context(rig.running(tmp_path_factory.mktemp("away"), parts=parts))

        async def write():
            return await service.client.post("/api/events/token")

        answers = [await write() for _ in range(4)]
        assert [answer.status_code for answer in answers] == [201, 201, 201, 429]
        with caplog.at_level(logging.INFO, logger="nanohook.web.rates"):
            storage.is_away = True
            answers = await asyncio.gather(*(write() for _ in range(8)))
            assert {answer.status_code for answer in answers} == {201}
            assert not {"ratelimit", "ratelimit-policy"} & set(answers[0].headers)
            login = {"email": "nobody@example.org", "password": "x"}
            headers = {"Origin": service.base, "Authorization": ""}
            tries = [await service.client.post("/api/auth/login", json=login, headers=headers) for _ in range(11)]
            assert {answer.status_code for answer in tries} == {401}
            said = [record for record in caplog.records if record.name == "nanohook.web.rates"]
            assert [(record.levelname, record.getMessage()) for record in said] == [("WARNING", "rates.away")]
            storage.is_away = False
            # What was spent before is still spent.
            refused(await write(), 429, "rate_limited")
            refused(await write(), 429, "rate_limited")
            said = [record.getMessage() for record in caplog.records if record.name == "nanohook.web.rates"]
            assert said == ["rates.away", "rates.back"]
        assert "canary" not in caplog.text


async def figures(service):
    headers = {"Authorization": f"Bearer {METRICS}"}
    text = (await service.client.get("/metrics", headers=headers)).raise_for_status().text
    assert "\n# TYPE nanohook_rate_checks_total counter\n" in text
    line = re.compile(r'^nanohook_rate_checks_total\{outcome="(\w+)",route="([^"]+)"\} (\S+)$', re.MULTILINE)
    return {(route, outcome): float(count) for outcome, route, count in line.findall(text)}


async def test_what_was_held_against_a_limit_is_counted_by_route(tmp_path_factory):
    async with rig.running(
        tmp_path_factory.mktemp("figures"), metrics_token=METRICS, rate_write="3/hour"
    ) as service:
        assert await figures(service) == {}
        await service.client.get("/api/images")
        for number in range(5):
            await service.client.post(f"/api/images/{number}/cancel")
        await service.client.post("/api/auth/password/forgot", json={"email": "x@example.org"})
        assert await figures(service) == {
            ("/api/images", "passed"): 1,
            ("/api/images/{job_id}/cancel", "passed"): 3,
            ("/api/images/{job_id}/cancel", "limited"): 2,
            # Against the network, the account, the two together, and whoever is written to.
            ("/api/auth/password/forgot", "passed"): 4,
        }


# Uploads at once.


class Upload:
    """A picture on its way: its head and first part are there, the rest comes when told."""

    def __init__(self, connection):
        self._connection = connection

    @classmethod
    @contextlib.asynccontextmanager
    async def begun(cls, base, key, *, path="/api/images", field="file"):
        body = rig.picture(16, 16)
        parts = [
            b'--x\r\nContent-Disposition: form-data; name="%b"; filename="x.png"\r\n\r\n' % field.encode(),
            body,
            b'\r\n--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nn',
            b"\r\n--x--\r\n",
        ]
        if path == "/api/images":
            del parts[2]
        whole = b"".join(parts)
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "multipart/form-data; boundary=x",
            "Content-Length": str(len(whole)),
        }
        async with raw.opened(base) as connection:
            await connection.begin("POST", path, headers)
            await connection.send(whole[:100])
            made = cls(connection)
            made.rest = whole[100:]
            yield made

    async def refusal(self):
        return await self._connection.answer()

    async def end(self):
        await self._connection.send(self.rest)
        return await self._connection.answer(timeout_s=20)


def under_way(service):
    return service.parts.shares.uploads._of.total()


async def test_four_uploads_of_one_person_go_at_once(free):
    key, other = [await rig.make_account(free, f"{name}@example.org") for name in ("four", "five")]
    async with contextlib.AsyncExitStack() as stack:

        async def begin(key, **more):
            return await stack.enter_async_context(Upload.begun(free.base, key, **more))

        # A project's cover is one of them.
        begun = [await begin(key) for _ in range(3)] + [await begin(key, path="/api/projects", field="cover")]
        await live.until(lambda: under_way(free) == slots.MOST_OF_ONE)
        for more in ({}, {"path": "/api/projects", "field": "cover"}):
            refusal = await (await begin(key, **more)).refusal()
            refused(refusal, 429, "too_many_uploads")
            assert int(refusal.headers["retry-after"]) >= 1
        theirs = await (await begin(other)).end()
        assert theirs.status_code == 201
        assert (await begun[0].end()).status_code == 201
        assert (await (await begin(key)).end()).status_code == 201
        answers = [await one.end() for one in begun[1:]]
        assert [answer.status_code for answer in answers] == [201] * 3
    assert under_way(free) == 0


async def test_four_people_do_not_take_every_place_that_uploads_have(free):
    """While half of all are taken, a person has one: many have to be slow before somebody else is refused."""
    of_four = slots.MOST_UPLOADS // 2
    keys = [await rig.make_account(free, f"many{number}@example.org") for number in range(4 + of_four + 1)]
    async with contextlib.AsyncExitStack() as stack:

        async def begin(key):
            return await stack.enter_async_context(Upload.begun(free.base, key))

        begun = [await begin(key) for key in keys[:4] for _ in range(slots.MOST_OF_ONE)]
        await live.until(lambda: under_way(free) == of_four == len(begun))
        for key in keys[4:-1]:
            begun.append(await begin(key))
            # The first of each comes in, the second has to wait.
            await live.until(lambda: under_way(free) == len(begun))
            refused(await (await begin(key)).refusal(), 503, "unavailable")
        assert under_way(free) == slots.MOST_UPLOADS
        refusal = await (await begin(keys[-1])).refusal()
        refused(refusal, 503, "unavailable")
        assert int(refusal.headers["retry-after"]) >= 1
        # JSON takes no place.
        async with client(free, Authorization=f"Bearer {keys[-1]}") as another:
            assert (await another.post("/api/projects", json={"name": "x"})).status_code == 201
        assert (await begun[-1].end()).status_code == 201
        assert (await (await begin(keys[-1])).end()).status_code == 201
    # The others went away in the middle: their places are free again.
    await live.until(lambda: under_way(free) == 0)


async def test_a_place_is_given_back_whatever_becomes_of_the_upload(free):
    async with person(free, "back@example.org") as ada:
        picture = rig.picture(16, 16)
        for files, data, status in (
            ({"file": ("x.png", b"no picture")}, {}, 422),
            ({"file": ("x.png", b"")}, {}, 422),
            ({"file": ("x.png", b"%PDF-1.7")}, {}, 415),
            ({"other": ("x.png", picture)}, {}, 400),
            ({"file": ("x.png", picture)}, {"project_id": NOBODY}, 404),
            ({"file": ("x.png", picture)}, {"project_id": "é"}, 404),
            ({"file": ("x.png", picture)}, {f"{number}": "x" for number in range(20)}, 400),
        ):
            for _ in range(slots.MOST_OF_ONE + 1):
                answer = await ada.post("/api/images", files=files, data=data)
                assert answer.status_code in {status, 415, 422}, answer.text
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        for body in (b"no form", b"--x\r\nbroken\r\n--x--", b"--x--", b""):
            for _ in range(slots.MOST_OF_ONE + 1):
                answer = await ada.post("/api/images", content=body, headers=headers)
                assert answer.status_code in {400, 422}, answer.text
        assert under_way(free) == 0
        assert (await ada.post("/api/images", files={"file": ("x.png", picture)})).status_code == 201


async def test_whoever_goes_away_within_a_body_is_no_fault_of_ours(free, caplog):
    """It is told in one line, and no alarm: people close their pages."""
    key = await rig.make_account(free, "away@example.org")
    stored = sorted(free.parts.settings.data_dir.rglob("*.png"))
    bodies = {
        "/api/images": "multipart/form-data; boundary=x",
        "/api/projects": "multipart/form-data; boundary=x",
        "/api/generate-image": "application/json",
        "/api/auth/keys": "application/json",
        "/api/auth/login": "application/json",
    }
    with caplog.at_level(logging.INFO):
        for path, kind in bodies.items():
            async with raw.opened(free.base) as connection:
                headers = {"Content-Type": kind, "Content-Length": "5000", "Origin": free.base}
                if path != "/api/auth/login":
                    headers["Authorization"] = f"Bearer {key}"
                await connection.begin("POST", path, headers)
                await connection.send(
                    b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\nP'
                )

            def told(path=path):
                lines = [record for record in caplog.records if record.getMessage() == "http.request"]
                return [record.status for record in lines if record.route == path]

            await live.until(told)
            assert told() == [400]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert under_way(free) == 0
    assert sorted(free.parts.settings.data_dir.rglob("*.png")) == stored


# Slow and long bodies.


@contextlib.asynccontextmanager
async def reading(*, most_bytes=1_000_000, **tempo):
    """A service that reads bodies as ours does, by a shorter clock."""
    seen = []

    async def read(request):
        bounded = wire.bounded(request, most_bytes=most_bytes, tempo=dataclasses.replace(PATIENT, **tempo))
        started = time.monotonic()
        try:
            if uploads.is_form(bounded):
                async with uploads.received(bounded, name="file", most_bytes=most_bytes):
                    pass
            else:
                await bounded.body()
        finally:
            seen.append(time.monotonic() - started)
        return PlainTextResponse("read")

    app = Starlette(
        routes=[Route("/", read, methods=["POST"])],
        exception_handlers={errors.NanohookError: failures.on_ours},
    )
    async with live.serve(app) as base:
        yield base, seen


async def drip(connection, body, *, every_s, wanted):
    """Send *body* byte by byte, until an answer is there."""
    for number in range(len(body)):
        if wanted.done():
            break
        await connection.send(body[number : number + 1])
        await asyncio.wait([wanted], timeout=every_s)
    return await wanted


PATIENT = Tempo(silence_s=20, min_bytes_s=0, window_s=20, total_s=20)
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n' + b"P" * 1_000


@pytest.mark.parametrize(
    ("kind", "body"),
    [("application/json", b'{"prompt":"' + b"x" * 1_000), ("multipart/form-data; boundary=x", FORM)],
    ids=["JSON", "a form"],
)
async def test_a_body_that_comes_drop_by_drop_is_cut_off(kind, body):
    within_s = 0.4
    async with reading(total_s=within_s) as (base, seen), raw.opened(base) as connection:
        await connection.begin("POST", "/", {"Content-Type": kind, "Content-Length": "100000"})
        wanted = asyncio.ensure_future(connection.answer(timeout_s=10))
        # Every drop comes well within the time: it is the whole that counts.
        answer = await drip(connection, body, every_s=0.02, wanted=wanted)
        refused(answer, 408, "too_slow")
        assert within_s * 0.9 <= seen[0] < within_s + 1.5


async def test_a_body_that_never_comes_is_cut_off():
    async with reading(total_s=0.2) as (base, seen):
        for headers in ({"Content-Length": "10"}, {"Transfer-Encoding": "chunked"}):
            async with raw.opened(base) as connection:
                await connection.begin("POST", "/", headers)
                refused(await connection.answer(), 408, "too_slow")
    assert all(0.15 < took < 1.5 for took in seen)


async def test_a_body_in_time_is_read_whole():
    async with reading(total_s=5) as (base, _), raw.opened(base) as connection:
        for _ in range(2):
            await connection.begin("POST", "/", {"Content-Length": "3"})
            wanted = asyncio.ensure_future(connection.answer())
            answer = await drip(connection, b"abc", every_s=0.02, wanted=wanted)
            assert (answer.status_code, answer.content) == (200, b"read")


async def test_a_body_is_bounded_whatever_it_declares():
    async with reading(total_s=5, most_bytes=1_000) as (base, seen):
        for declared in ("1001", "20000000", "9" * 18):
            answer = await raw.without_body(base, "POST", "/", {"Content-Length": declared})
            refused(answer, 413, "too_large")
        assert seen == []
        async with raw.opened(base) as connection:
            await connection.begin("POST", "/", {"Transfer-Encoding": "chunked"})
            for _ in range(3):
                await connection.send(b"190\r\n" + b"x" * 400 + b"\r\n")
            refused(await connection.answer(), 413, "too_large")


async def test_the_times_are_those_that_are_promised():
    assert (slots.MOST_OF_ONE, slots.MOST_UPLOADS) == (4, 32)
    assert Tempo(silence_s=15, min_bytes_s=16_000, window_s=30, total_s=15 * 60) == wire.UPLOAD_TEMPO
    assert Tempo(silence_s=10, min_bytes_s=0, total_s=10) == wire.JSON_TEMPO
    assert webhook.BODY_S == 5


async def test_every_route_that_takes_files_or_batches_has_the_time_of_an_upload(free):
    """And no other: what is small is there in seconds."""
    table = [*routes._people(), *routes._pictures(2**20), *routes._control()]
    lines = [line for line in table if isinstance(line, routes._Theirs)]
    long = {(line.method, line.path) for line in lines if line.tempo == wire.UPLOAD_TEMPO}
    assert long == {
        ("POST", "/api/images"),
        ("POST", "/api/projects"),
        ("PATCH", "/api/projects/{project_id}"),
        ("POST", "/api/batches"),
    }
    assert all(line.tempo == wire.JSON_TEMPO for line in lines if (line.method, line.path) not in long)


@pytest.mark.parametrize(
    ("tempo", "every_s", "size_bytes", "why"),
    [
        ({"silence_s": 0.2}, 5, 1, "no byte for 0.2 s"),
        ({"min_bytes_s": 100_000, "window_s": 0.3}, 0.01, 10, "less than 100,000 bytes a second over 0.3 s"),
        ({"total_s": 0.3}, 0.01, 1_000, "not all of it within 0.3 s"),
    ],
    ids=["silent", "below the pace", "too long"],
)
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_an_upload_is_ended_when_it_is_silent_slow_or_endless(tempo, every_s, size_bytes, why, framing):
    async with reading(most_bytes=2**40, **tempo) as (base, _), raw.opened(base) as connection:
        is_chunked = framing == "chunks"
        length = {"Transfer-Encoding": "chunked"} if is_chunked else {"Content-Length": str(2**40)}
        await connection.begin("POST", "/", {"Content-Type": "multipart/form-data; boundary=x", **length})
        piece = b"P" * size_bytes
        piece = b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece
        first = b"%x\r\n%b\r\n" % (len(FORM), FORM) if is_chunked else FORM
        await connection.send(first)
        wanted = asyncio.ensure_future(connection.answer(timeout_s=15))
        while not wanted.done():
            await asyncio.wait([wanted], timeout=every_s)
            with contextlib.suppress(ConnectionError):  # it was answered in between
                await connection.send(piece)
        answer = await wanted
        refused(answer, 408, "too_slow")
        assert why in answer.json()["detail"]


async def test_an_upload_that_is_slow_but_keeps_the_pace_is_read_to_its_end():
    """Past several windows, each of which brings enough."""
    tempo = {"silence_s": 5, "min_bytes_s": 100, "window_s": 0.1}
    async with reading(**tempo) as (base, seen), raw.opened(base) as connection:
        pieces = [b"x" * 1_000] * 40
        await connection.begin("POST", "/", {"Content-Length": str(40_000)})
        wanted = asyncio.ensure_future(connection.answer(timeout_s=15))
        for piece in pieces:
            await connection.send(piece)
            await asyncio.wait([wanted], timeout=0.01)
        answer = await wanted
        assert (answer.status_code, answer.content) == (200, b"read")
        assert seen[0] > 0.3


async def test_time_that_we_take_ourselves_is_not_the_senders():
    """A disk of ours that is slow ends nobody's upload."""
    pieces = iter([b"a", b"b", b"c"])

    async def receive():
        return {"type": "http.request", "body": next(pieces), "more_body": True}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    strict = Tempo(silence_s=0.05, min_bytes_s=1_000, window_s=0.05, total_s=0.05)
    bounded = wire.bounded(request, most_bytes=10, tempo=strict)
    for wanted in (b"a", b"b", b"c"):
        assert (await bounded.receive())["body"] == wanted
        await asyncio.sleep(0.1)


async def test_who_is_not_known_sends_no_body(free):
    for path in ("/api/images", "/api/projects", "/api/generate-image"):
        for headers in ({}, {"Expect": "100-continue"}):
            refused(await raw.without_body(free.base, "POST", path, headers), 401, "unauthenticated")


# Pages from elsewhere.


async def test_a_page_of_an_allowed_origin_asks_with_a_key_and_never_with_a_cookie(service):
    key = await rig.make_account(service, "cors@example.org")
    async with client(service) as browser:
        with_key = {"Origin": APP, "Authorization": f"Bearer {key}"}
        answers = [
            await browser.get("/api/auth/me", headers=with_key),
            await browser.post("/api/events/token", headers=with_key),
            await browser.get(f"/api/images/{NOBODY}", headers=with_key),
            await browser.get("/api/images", headers={"Origin": APP}),
            await browser.get(f"/api/images/{NOBODY}/events", headers=with_key),
            await browser.get("/nowhere", headers={"Origin": APP}),
        ]
        assert [answer.status_code for answer in answers] == [200, 201, 404, 401, 404, 404]
        for answer in answers:
            assert answer.headers.get_list("access-control-allow-origin") == [APP]
            assert "access-control-allow-credentials" not in answer.headers
            assert "Origin" in answer.headers["vary"]
            exposed = set(answer.headers["access-control-expose-headers"].split(", "))
            assert {"RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-Id"} <= exposed
        async with browser.stream("GET", "/api/events", headers=with_key) as stream:
            assert (stream.status_code, stream.headers["access-control-allow-origin"]) == (200, APP)
        # A browser would send the cookie of who is logged in here only if it were told so; and then it is refused.
        login = {"email": "cors@example.org", "password": "x"}
        refused(await browser.post("/api/auth/login", json=login, headers={"Origin": APP}), 403, "wrong_origin")


@pytest.mark.parametrize(
    "origin", [ELSEWHERE, f"{APP}.evil.example", "null", "http://app.example.org", f"{APP}:8443"]
)
async def test_a_page_from_anywhere_else_reads_nothing(service, origin):
    async with client(service, Origin=origin) as browser:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for answer in (
            await browser.get("/api/images"),
            await browser.get("/healthz"),
            await browser.options("/api/generate-image", headers=asked),
        ):
            assert answer.status_code >= 400 or answer.url.path == "/healthz"
            assert "access-control-allow-origin" not in answer.headers
            assert "access-control-allow-credentials" not in answer.headers
            assert origin not in answer.text


async def test_an_allowed_page_may_ask_what_it_may(service):
    async with client(service, Origin=APP) as browser:
        for method in ("GET", "POST", "PATCH", "DELETE"):
            asked = {
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, last-event-id",
            }
            answer = await browser.options("/api/images/x", headers=asked)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
            assert method in answer.headers["access-control-allow-methods"].split(", ")
            allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
            assert {"authorization", "content-type", "idempotency-key", "last-event-id"} <= allowed
            assert "access-control-allow-credentials" not in answer.headers
        asked = {"Access-Control-Request-Method": "PUT"}
        assert (await browser.options("/api/images/x", headers=asked)).status_code == 400


@pytest.mark.parametrize(
    "names",
    [
        "authorization,traceparent,baggage,cache-control,last-event-id,x-request-id,idempotency-key",
        "authorization,sentry-trace,baggage",
        "authorization,traceparent,tracestate,x-datadog-origin,x-datadog-trace-id",
        "Authorization, Content-Type, X-Requested-With, newrelic, b3",
    ],
)
@pytest.mark.parametrize("path", ["/api/generate-image", "/api/events", "/api/images/x/events", "/media/x.png"])
async def test_what_tracers_and_polyfills_add_stops_no_page(service, path, names):
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": names}
    async with client(service, Origin=APP) as browser:
        answer = await browser.options(path, headers=asked)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    # By name: the wildcard of the specification never covers Authorization.
    assert allowed == {name.strip().lower() for name in names.split(",")}
    assert "access-control-allow-credentials" not in answer.headers


async def test_without_allowed_origins_no_page_elsewhere_may_ask(free):
    async with person(free, "none@example.org") as ada:
        answer = await ada.get("/api/auth/me", headers={"Origin": APP})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]
        asked = {"Origin": APP, "Access-Control-Request-Method": "POST"}
        answer = await ada.options("/api/generate-image", headers=asked)
        assert answer.status_code == 405
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_windows_that_are_over_make_room_for_new_ones_a_few_at_a_time():
    windows = _Windows()
    for number in range(10):
        await windows.incr(f"old{number}", 2)
    await live.until(lambda: max(windows.expirations.values()) < time.time())
    await windows.incr("young", 60)
    assert len(windows.storage) == 10 - 3 + 1
    for number in range(3):
        await windows.incr(f"young{number}", 60)
    assert await windows.incr("young", 60) == 2
    assert set(windows.storage) == set(windows.expirations) == {"young", "young0", "young1", "young2"}
    await windows.incr("again", 0.01)
    await live.until(lambda: windows.expirations["again"] < time.time())
    assert await windows.incr("again", 60) == 1


async def test_of_windows_without_end_the_oldest_are_forgotten(monkeypatch):
    """Whoever has many networks can name as many accounts: what is counted for them has a bound."""
    monkeypatch.setattr(rates, "MOST_WINDOWS", 100)
    counted = Rates(status="10/day", write="1/day", upload="1/day")
    windows = counted._limiter.storage

    async def left(whose):
        return (await counted.hit(Rate.STATUS, whose, route="r")).left

    for number in range(1_000):
        assert await left(f"stranger {number}") == 9
        assert len(windows.storage) == len(windows.expirations) <= 100
    # The youngest of them are all counted on.
    assert [await left(f"stranger {number}") for number in range(950, 1_000)] == [8] * 50
