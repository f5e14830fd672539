"""``nanohook.js`` in a real browser: what it sends again, streams of several jobs, pages of other origins."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import orjson
import pytest
from playwright.async_api import Browser, Page

from nanohook.web import pages
from tests import live, relay, rig
from tests.scripted import CUT, MOMENT, NO_CONTENT, RETRY, STATE, Server, http, refused, status, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

_EXPORT = re.compile(r"^export (?:declare )?(?:const|class|function) (?:(\w+)|\{([\w, ]+)\})", re.MULTILINE)
MOST_TRIES = 4
ACCEPTED = http({"job_id": "j1", "status": "PENDING", "progress": 10}, status=202)
PICTURE = {"index": 0, "url": "/media/a.png?token=t", "thumbnail_url": "/media/b.png?token=t"}


class Site(Server):
    """An empty page, the script itself, and below ``/api`` what a test wrote; pages of all origins may ask."""

    def answer_to(self, asked):
        if asked.path.startswith("/api/") and asked.method != "OPTIONS":
            answer = super().answer_to(asked)
        elif asked.path in {"/nanohook.js", "/event-stream.js", "/exchange.js"}:
            answer = http((pages.STATIC / asked.path[1:]).read_bytes(), kind="text/javascript")
        else:
            answer = http(b"<!doctype html><html lang=fr><title>elsewhere</title>", kind="text/html")
        allowed = (
            b"\r\naccess-control-allow-origin: *\r\naccess-control-allow-methods: *\r\n"
            b"access-control-allow-headers: authorization, content-type, idempotency-key\r\n"
            b"access-control-expose-headers: retry-after\r\n"
        )
        return answer.replace(b"\r\n", allowed, 1)

    @property
    def paths(self):
        return [f"{each.method} {each.path}" for each in self.asked]


@contextlib.asynccontextmanager
async def visiting(browser: Browser, base: str) -> AsyncIterator[Page]:
    context = await browser.new_context()
    page = await context.new_page()
    try:
        await page.goto(f"{base}/")
        yield page
    finally:
        await context.close()


@contextlib.asynccontextmanager
async def against(browser, *answers, by_path=None):
    """Open the page of a `Site`."""
    site = Site(*answers, by_path=by_path)
    async with live.serve_raw(site.handle) as site.base, visiting(browser, site.base) as page:
        yield page, site


_TELL_PROBLEMS = """async (given) => {
  const nanohook = await import("/nanohook.js");
  try {
    return await (async () => {SCRIPT})();
  } catch (problem) {
    const { name, status, code, retryAfterS } = problem;
    return { name, status, code, retryAfterS };
  }
}"""


async def run(page, script, given=None):
    """Run *script* with the client as ``nanohook``; a `Problem` it ends with is returned."""
    # Whatever hangs here would hang the whole run: a page's promise knows no limit of its own.
    async with asyncio.timeout(20):
        return await page.evaluate(_TELL_PROBLEMS.replace("SCRIPT", script), given)


# The real service.


async def test_several_jobs_share_a_stream_and_are_counted_until_the_last_has_ended(browser, tmp_path):
    async with rig.running(tmp_path) as service, visiting(browser, service.base) as page:
        # Sign in: by the test's key, which the page itself does not know.
        key = {"Authorization": service.client.headers["authorization"]}
        await page.context.set_extra_http_headers(key)
        await page.goto(f"{service.base}/generate-images")
        async with page.expect_response(lambda answer: answer.status == 204) as over:
            told = await page.evaluate(_FOLLOW_TWO)
        assert "/api/events?heartbeat=event&job=" in (await over.value).url
    assert told["before"] == [2, True]
    assert told["counts"][-1] == 0
    assert told["counts"] == sorted(told["counts"], reverse=True)
    assert told["after"] == [0, False]
    assert told["ended"] == dict.fromkeys(told["ids"], "COMPLETED")
    assert told["standing"] == "COMPLETED"


_FOLLOW_TWO = """async () => {
  const nanohook = await import("/static/nanohook.js");
  const ids = [];
  for (const prompt of ["a kite", "a boat"]) ids.push((await nanohook.generate({ prompt })).job_id);
  const counts = [], ended = {};
  let stream, before;
  await new Promise((resolve) => {
    stream = nanohook.follow(ids, {
      status: (event) => {
        counts.push(stream.pending);
        ended[event.job_id] = event.status;
        if (!stream.busy) resolve();
      },
    });
    before = [stream.pending, stream.busy];
  });
  const { status } = await nanohook.status(ids[0]);
  return { ids, before, counts, ended, after: [stream.pending, stream.busy], standing: status };
}"""


async def test_several_jobs_whose_stream_is_held_back_are_asked_for_together(browser, tmp_path):
    async with (
        rig.running(tmp_path) as service,
        relay.before(service.base) as link,
        visiting(browser, link.base) as page,
    ):
        link.change(lambda line: relay.Way.HOLD_BODY if "/api/events" in line else relay.Way.PASS)
        await page.context.set_extra_http_headers({"Authorization": service.client.headers["authorization"]})
        await page.goto(f"{link.base}/generate-images")
        told = await page.evaluate(_FOLLOW_TWO)
        assert told["ended"] == dict.fromkeys(told["ids"], "COMPLETED")
        assert told["after"] == [0, False]
        assert 1 <= link.asked("/api/images?limit=100&ids=") <= 3
        several = await page.evaluate(
            """async (ids) => {
              const nanohook = await import("/static/nanohook.js");
              const gone = await nanohook.deleteMany([...ids, "x"], { keepalive: true });
              return [gone, await nanohook.restoreMany(ids)];
            }""",
            told["ids"],
        )
    assert several == [
        {"done": told["ids"], "refused": [{"job_id": "x", "code": "not_found"}]},
        {"done": told["ids"], "refused": []},
    ]


# What is sent again, and what never.


async def test_a_busy_service_is_asked_again_under_the_same_key(browser):
    answers = (refused(503, retry_after=1), CUT, refused(409, "in_progress"), ACCEPTED)
    async with against(browser, *answers) as (page, site):
        waited = await run(
            page,
            """const started = performance.now();
               await nanohook.generate({ imageId: "j0", prompt: "a kite" });
               return performance.now() - started;""",
        )
        await run(page, "return nanohook.retry('j1', { buyAgain: true })")
        await run(page, "return nanohook.retry('j1', { idempotencyKey: 'mine' })")
    assert waited >= 1000
    keys = [each.headers["idempotency-key"] for each in site.asked]
    assert len(set(keys[:4])) == 1
    assert len(set(keys)) == 3
    assert keys[5] == "mine"
    assert {each.body for each in site.asked[:4]} == {b'{"imageId":"j0","prompt":"a kite"}'}
    assert orjson.loads(site.asked[4].body) == {"buy_again": True}
    assert site.asked[0].headers["accept-language"] == "fr"


async def test_an_order_to_which_no_answer_came_can_be_sent_again_under_its_key(browser):
    async with against(browser, *[CUT] * MOST_TRIES, ACCEPTED) as (page, site):
        await run(
            page,
            """const wish = { prompt: "a kite" };
               const { idempotencyKey } = await nanohook.generate(wish).catch((problem) => problem);
               await nanohook.generate(wish, { idempotencyKey });""",
        )
    keys = [each.headers["idempotency-key"] for each in site.asked]
    assert len(keys) > MOST_TRIES
    assert len(set(keys)) == 1


async def test_outside_of_secure_contexts_keys_are_made_all_the_same(browser):
    async with against(browser, ACCEPTED) as (page, site):
        await page.evaluate("Object.defineProperty(crypto, 'randomUUID', { value: undefined })")
        await run(
            page, "await nanohook.generate({ prompt: 'a kite' }); await nanohook.generate({ prompt: 'a kite' })"
        )
    first, second = [each.headers["idempotency-key"] for each in site.asked]
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


@pytest.mark.parametrize(
    ("answer", "status", "tries"),
    [
        (refused(503), 503, MOST_TRIES),
        (CUT, 0, MOST_TRIES),
        (refused(429, retry_after=60), 429, 1),
        (refused(500), 500, 1),
        (refused(409), 409, 1),
    ],
)
async def test_nothing_is_tried_for_ever_and_not_everything_twice(browser, answer, status, tries):
    async with against(browser, answer) as (page, site):
        problem = await run(page, "return nanohook.status('j 1')")
    assert (problem["name"], problem["status"]) == ("Problem", status)
    assert problem["retryAfterS"] == (60 if status == 429 else None)
    assert site.paths == ["GET /api/images/j%201/status"] * tries


async def test_an_upload_is_sent_again_only_if_nothing_was_kept(browser):
    upload = "return nanohook.create(new Blob(['pixels']), { projectId: 'p' })"
    async with against(browser, refused(503), refused(429), http(STATE, status=201)) as (page, site):
        assert (await run(page, upload))["job_id"] == "j1"
    assert site.paths == ["POST /api/images"] * 3
    assert all(b"pixels" in each.body for each in site.asked)
    assert b'name="project_id"\r\n\r\np\r\n' in site.asked[2].body
    async with against(browser, CUT) as (page, site):
        assert (await run(page, upload))["code"] == "network"
    assert len(site.asked) == 1


@pytest.mark.parametrize(("method", "tries"), [("GET", MOST_TRIES), ("PATCH", MOST_TRIES), ("POST", 1)])
async def test_any_other_request_is_sent_again_if_that_is_safe(browser, method, tries):
    async with against(browser, CUT) as (page, site):
        problem = await run(page, "return nanohook.request(given, '/api/projects/p')", method)
    assert problem["code"] == "network"
    assert site.paths == [f"{method} /api/projects/p"] * tries


async def test_an_upload_that_was_stopped_in_a_pause_is_not_sent_again(browser):
    async with against(browser, refused(503, retry_after=1)) as (page, site):
        stopped = await run(
            page,
            """const stop = new AbortController();
               const made = nanohook.create(new Blob(["pixels"]), { signal: stop.signal });
               while (!performance.getEntriesByType("resource").some(({ name }) => name.endsWith("/api/images")))
                 await new Promise(requestAnimationFrame);
               stop.abort();
               return made;""",
        )
    assert stopped["name"] == "AbortError"
    assert len(site.asked) == 1


async def test_who_is_offline_is_told_at_once(browser):
    async with against(browser, ACCEPTED) as (page, site):
        await page.evaluate("import('/nanohook.js')")
        await page.context.set_offline(True)
        assert (await run(page, "return nanohook.generate({ prompt: 'a kite' })"))["code"] == "network"
    assert site.asked == []


# Streams.


def of(job_id, number, word="GENERATING", **more):
    return status(number, word, job_id=job_id, **more)


def deleted(job_id, number):
    return f'id: {number}\nevent: deleted\ndata: {{"job_id":"{job_id}"}}\n\n'


FOLLOW = """
  const told = [];
  let stream;
  await new Promise((resolve) => {
    const tell = (...what) => {
      told.push([...what, stream.pending]);
      if (!stream.busy) resolve();
    };
    stream = (given.to ? nanohook.connect(given.to) : nanohook).follow(given.jobs, {
      status: (event) => tell(event.job_id, event.status, event.images[0]?.url ?? null),
      deleted: (jobId) => tell(jobId, "deleted"),
      denied: (problem) => tell("denied", problem.status),
    });
  });
  return told;
"""


async def test_a_deleted_job_leaves_the_stream_of_the_others(browser):
    async with against(
        browser,
        stream(RETRY, of("j1", 1), of("j2", 2), deleted("j1", 3)),
        stream(RETRY, of("j2", 4, "COMPLETED")),
        NO_CONTENT,
    ) as (page, site):
        told = await run(page, FOLLOW, {"jobs": ["j1", "j2", "j1"]})
    assert told == [
        ["j1", "GENERATING", None, 2],
        ["j2", "GENERATING", None, 2],
        ["j1", "deleted", 1],
        ["j2", "COMPLETED", None, 0],
    ]
    assert site.paths[:2] == [
        "GET /api/events?heartbeat=event&job=j1&job=j2",
        "GET /api/images/j2/events?heartbeat=event&last_event_id=3",
    ]


async def test_a_job_that_was_deleted_while_nobody_heard_it_does_not_end_the_others(browser):
    j2 = {**STATE, "job_id": "j2", "status": "GENERATING", "updated_at": MOMENT, "event_id": 2}
    by_path = {
        "/api/events?heartbeat=event&job=j1&job=j2": [stream(RETRY, of("j1", 1), of("j2", 2)), refused(404)],
        "/api/images?limit=100&ids=j1,j2": [http({"images": [j2]})],
        "/api/images/j2/events?heartbeat=event&last_event_id=2": [
            stream(RETRY, of("j2", 3, "FAILED")),
            NO_CONTENT,
        ],
    }
    async with against(browser, by_path=by_path) as (page, _):
        told = await run(page, FOLLOW, {"jobs": ["j1", "j2"]})
    assert [each[:2] for each in told[2:]] == [["j1", "deleted"], ["j2", "FAILED"]]


async def test_nothing_to_follow_is_not_busy_and_a_closed_stream_neither(browser):
    async with against(browser, stream(RETRY, of("j1", 1))) as (page, _):
        states = await run(
            page,
            """const none = nanohook.follow([]);
               const left = nanohook.follow("j1");
               const before = left.pending;
               left.close();
               return [none.pending, none.busy, before, left.pending, left.busy];""",
        )
        assert states == [0, False, 1, 0, False]
        many = await run(page, "return nanohook.follow([...Array(101).keys()].map(String))")
        assert many["name"] == "RangeError"


# Other origins.


async def test_a_page_elsewhere_asks_with_a_key_and_follows_with_tokens(browser):
    def token(text, *, expires_at):
        return http({"token": text, "expires_at": expires_at})

    path = "/api/images/j1/events?heartbeat=event&"
    by_path = {
        "/api/generate-image": [refused(503, retry_after=1), ACCEPTED],
        "/api/events/token": [
            token("one", expires_at="2065-01-01T00:00:00Z"),
            token("two", expires_at="2065-01-01T00:00:00Z"),
        ],
        # The first token has lost its power when the stream breaks.
        f"{path}token=one": [stream(RETRY, of("j1", 1)), refused(401)],
        "/api/images/j1/status": [http({**STATE, "status": "GENERATING", "updated_at": MOMENT, "event_id": 1})],
        f"{path}last_event_id=1&token=two": [
            stream(RETRY, of("j1", 2, "COMPLETED", images=[PICTURE])),
            NO_CONTENT,
        ],
    }
    async with against(browser) as (page, here):
        there = Site(by_path=by_path)
        async with live.serve_raw(there.handle) as there.base:
            to = {"base": f"{there.base}/", "key": "nh_key"}
            asked = await run(page, "return nanohook.connect(given).generate({ prompt: 'a kite' })", to)
            assert asked["job_id"] == "j1"
            told = await run(page, FOLLOW, {"jobs": "j1", "to": to})
    assert told == [
        ["j1", "GENERATING", None, 1],
        ["j1", "COMPLETED", f"{there.base}/media/a.png?token=t", 0],
    ]
    keyed = {each.path: each.headers.get("authorization") for each in there.asked if "/events?" not in each.path}
    assert set(keyed.values()) == {"Bearer nh_key"}
    assert "nh_key" not in str(there.paths)
    tokens = [orjson.loads(each.body) for each in there.asked if each.path == "/api/events/token"]
    assert tokens == [{"job_id": "j1"}] * 2
    assert here.asked == []


async def test_a_token_that_has_expired_is_replaced_before_it_is_used(browser):
    expired = http({"token": "old", "expires_at": MOMENT})
    by_path = {
        "/api/events/token": [expired, http({"token": "new", "expires_at": "2065-01-01T00:00:00Z"})],
        "/api/events?heartbeat=event&token=old&job=j1&job=j2": [
            stream(RETRY, of("j1", 1, "FAILED"), of("j2", 2), deleted("j1", 3))
        ],
        "/api/images/j2/events?heartbeat=event&last_event_id=3&token=new": [
            stream(RETRY, of("j2", 4, "FAILED")),
            NO_CONTENT,
        ],
    }
    async with against(browser, by_path=by_path) as (page, site):
        told = await run(page, FOLLOW, {"jobs": ["j1", "j2"], "to": {"key": "nh_key"}})
    assert told[-1] == ["j2", "FAILED", None, 0]
    bodies = [orjson.loads(each.body) for each in site.asked if each.method == "POST"]
    # One for all of the person's jobs, then one for the job that is left.
    assert bodies == [{}, {"job_id": "j2"}]


async def test_a_page_without_a_key_is_given_tokens_by_its_own_backend(browser):
    by_path = {
        "/api/images/j1/events?heartbeat=event&token=theirs-1": [refused(401)],
        "/api/images/j1/events?heartbeat=event&token=theirs-2": [stream(RETRY, of("j1", 1)), refused(401)],
    }
    async with against(browser, by_path=by_path) as (page, site):
        told = await run(
            page,
            """const told = [];
               let count = 0;
               const streamToken = async (jobId) => {
                 told.push(jobId);
                 if (++count > 2) throw new nanohook.Problem({ status: 403, code: "no_more" });
                 return { token: `theirs-${count}`, expires_at: null };
               };
               return new Promise((resolve) => {
                 const there = nanohook.connect({ streamToken });
                 there.follow("j1", { denied: ({ code }) => resolve([...told, code]) });
               });""",
        )
    assert told == ["j1", "j1", "j1", "no_more"]
    assert all(each.path.startswith("/api/images/j1/events?heartbeat=event&token=theirs-") for each in site.asked)


# Types.


def exported(name):
    found = _EXPORT.findall((pages.STATIC / name).read_text())
    return {word.strip() for one, several in found for word in (one or several).split(",")}


async def test_the_types_name_what_the_script_exports(browser):
    assert exported("nanohook.d.ts") == exported("nanohook.js")
    verbs = re.search(r"interface Verbs \{(.*?)\n\}", (pages.STATIC / "nanohook.d.ts").read_text(), re.DOTALL)
    async with against(browser) as (page, _):
        assert set(await run(page, "return Object.keys(nanohook)")) == exported("nanohook.d.ts")
        assert await run(page, "return Object.keys(nanohook.connect())") == re.findall(
            r"^  (\w+)\(", verbs[1], re.MULTILINE
        )
