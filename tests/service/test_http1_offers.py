"""
Clients that offer to go on in another protocol, at the routes that take a body: what ``curl --http2 -d`` sends.

The offer is ignored (RFC 9110, 7.8): what follows the head is its body however it comes, and no other request.
"""

import asyncio
import base64
import datetime as dt
import time
from dataclasses import dataclass

import orjson
import pytest
import pytest_asyncio
import standardwebhooks

from tests import books, raw, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOOR = "/api/webhooks/image-completion"
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes !!!").decode()
JSON = {"Content-Type": "application/json"}
PATIENCE_S = 20

NOTHING: dict[str, str] = {}
H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
WEBSOCKET = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
TLS = {"Upgrade": "TLS/1.3, h2c", "Connection": "upgrade"}


@dataclass(frozen=True)
class Post:
    """A request for something that nobody has asked for yet, and for which job it is, if one is there."""

    path: str
    headers: dict[str, str]
    body: bytes
    job_id: str | None = None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("offers"), webhook_secrets=(SECRET,)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(service):
    """The address of a picture, on a host that is believed."""
    job = await service.ended((await service.generate())["job_id"])
    return service.upstream.by_id[job["tasks"][0]["task_id"]].result_url


async def by_token(service, url):
    job_id = (await service.generate("[sandbox:latency=60]"))["job_id"]
    body = orjson.dumps({"job_id": job_id, "status": "completed", "data": {"image_url": url}})
    return Post(f"{DOOR}/{service.token(job_id)}", JSON, body, job_id)


async def by_signature(service, url):
    told = await by_token(service, url)
    webhook_id, moment = f"msg_{time.monotonic_ns()}", dt.datetime.now(dt.UTC)
    signed = {
        "Webhook-Id": webhook_id,
        "Webhook-Timestamp": str(int(moment.timestamp())),
        "Webhook-Signature": standardwebhooks.Webhook(SECRET).sign(webhook_id, moment, told.body.decode()),
    }
    return Post(DOOR, {**JSON, **signed}, told.body, told.job_id)


async def wish(service, _url):
    key = {"Authorization": service.client.headers["Authorization"]}
    return Post("/api/generate-image", {**JSON, **key}, orjson.dumps({"prompt": "a kite"}))


async def upload(service, _url):
    made = service.client.build_request("POST", "/api/images", files={"file": ("x.png", rig.picture())})
    headers = {name: made.headers[name] for name in ("authorization", "content-type")}
    return Post("/api/images", headers, await made.aread())


async def at_once(connection, head, body):
    await connection.send(head + body)


async def apart(connection, head, body):
    await connection.send(head)
    await asyncio.sleep(0.01)
    await connection.send(body)


async def when_told_to_go_on(connection, head, body):
    """As curl sends what is longer than a megabyte."""
    await connection.send(head)
    assert await connection.went_on(timeout_s=PATIENCE_S) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(body)


async def in_chunks(connection, head, body):
    """As curl sends what it reads from a pipe."""
    await connection.send(head + b"%x\r\n" % len(body))
    await connection.send(body + b"\r\n0\r\n\r\n")


def framing(way, body):
    if way is in_chunks:
        return {"Transfer-Encoding": "chunked"}
    expects = {"Expect": "100-continue"} if way is when_told_to_go_on else {}
    return {"Content-Length": str(len(body)), **expects}


async def answered(service, post, way, offer):
    """Send *post* in that *way*, and another request behind it; return its answer."""
    fields = {"Host": "example.test", **post.headers, **offer, **framing(way, post.body)}
    lines = [f"POST {post.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    async with raw.opened(service.base) as connection:
        await way(connection, "\r\n".join(lines).encode(), post.body)
        answer = await connection.answer(timeout_s=PATIENCE_S)
        await connection.send(b"GET /healthz HTTP/1.1\r\nHost: example.test\r\nConnection: close\r\n\r\n")
        behind = await connection.answer(timeout_s=PATIENCE_S)
        assert behind.status_code == 200, behind.text
        assert await connection.rest(timeout_s=PATIENCE_S) == b""
    return answer


async def well(service, post, answer):
    """Check what came of it; return what every answer to such a request has in common."""
    told = answer.json()
    if post.path == "/api/images":
        assert answer.status_code == 201, answer.text
        sent = post.body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
        assert (await service.client.get(told["original"]["url"])).content == sent
    elif post.path == "/api/generate-image":
        assert answer.status_code == 202, answer.text
        assert (await service.ended(told["job_id"]))["status"] == "COMPLETED"
    else:
        assert (answer.status_code, told["status"]) == (200, "accepted"), answer.text
        data_dir = service.parts.settings.data_dir
        [kept] = books.rows(data_dir, "SELECT body, effect FROM deliveries WHERE id = ?", told["delivery_id"])
        assert (kept["body"], kept["effect"]) == (post.body, "applied")
        assert (await service.ended(post.job_id))["status"] == "COMPLETED"
    return answer.status_code, list(answer.headers), sorted(told)


@pytest.mark.parametrize("way", [at_once, apart, when_told_to_go_on, in_chunks], ids=lambda way: way.__name__)
@pytest.mark.parametrize("route", [by_token, by_signature, wish, upload], ids=lambda route: route.__name__)
async def test_a_request_that_offers_an_upgrade_is_answered_as_without_the_offer(service, url, route, way):
    common = []
    for offer in (NOTHING, H2C, WEBSOCKET, TLS):
        post = await route(service, url)
        common.append(await well(service, post, await answered(service, post, way, offer)))
    assert [each == common[0] for each in common] == [True] * len(common), common
