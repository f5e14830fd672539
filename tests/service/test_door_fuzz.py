"""
Whatever a stranger sends: an answer of 2xx or 4xx, and a service that goes on working.

Real requests to one running service; the oddest of them are written byte by byte, because no client would.
"""

import asyncio
import json
import re

import orjson
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOOR = "/api/webhooks/image-completion"
RUNNING = "[sandbox:latency=60]"
SECRET = "whsec_c29tZSBzZWNyZXQgb2YgbWFueSBieXRlcyE="
quick = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("fuzz"), webhook_secrets=(SECRET,)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def job_id(service):
    """A job that NanoBanana has accepted, and that does not end by itself."""
    started = await service.generate(RUNNING)
    async with service.client.stream("GET", f"/api/images/{started['job_id']}/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:") and orjson.loads(line[5:])["stage"] == "generating":
                return started["job_id"]
    raise AssertionError("the stream ended")


def is_fine(answer):
    assert 200 <= answer.status_code < 300 or 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"


# Bodies.


NAMES = [
    "status",
    "code",
    "data",
    "taskId",
    "task_id",
    "job_id",
    "jobId",
    "successFlag",
    "state",
    "response",
    "info",
    "resultImageUrl",
    "url",
    "image_url",
    "images",
    "progress",
    "error",
    "message",
    "msg",
    "errorCode",
    "errorMessage",
    "resultJson",
    "resultUrls",
    "originImageUrl",
    "paramJson",
]
WORDS = [
    "completed",
    "failed",
    "generating",
    "pending",
    "canceled",
    "success",
    "fail",
    "error",
    "200",
    "400",
    "501",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "1e400",
    "NaN",
    "null",
    "https://tempfile.aiquickdraw.com/r/x.png",
    "http://127.0.0.1:1/x.png",
    "//x",
    "file:///etc/passwd",
    "\\ud800",
    "\\u0000",
    "{}",
]
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**30, 200, 501])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.sampled_from(WORDS)
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=20,
)
callbacks = st.fixed_dictionaries(
    {},
    optional={
        "status": leaves,
        "code": leaves,
        "taskId": leaves,
        "job_id": leaves,
        "data": trees | st.dictionaries(st.sampled_from(NAMES), trees, max_size=8),
    },
)


def as_json(value):
    """Python's own writer: unlike ours it writes numbers of any size, and what is no text at all."""
    return json.dumps(value).encode()


ODD_JSON = [
    b'{"status":"\\ud800"}',
    b'{"status":"generating","data":{"progress":"\\u0000"}}',
    b'{"status":"failed","data":{"error":"\\u0000\\u001b[2J"}}',
    b'{"code":1' + b"0" * 400 + b"}",
    b'{"code":1e400}',
    b'{"code":-0.0}',
    b'{"code":200,"data":{"taskId":1' + b"0" * 190 + b"}}",
    b'{"status":"generating","data":{"progress":1e308}}',
    b'{"status":"generating","data":{"progress":-99999999999999999999}}',
    b'{"status":"generating","data":{"progress":"NaN"}}',
    b'{"status":"' + b"\\u0041" * 20_000 + b'"}',
    b'{"data":' + b'{"data":' * 900 + b"1" + b"}" * 901,
    b"[" * 900 + b"]" * 900,
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b'{"status":"completed","status":"failed"}',
    b"\xef\xbb\xbf{}",
    b'{"status":"\xff"}',
    b'{"status":"completed","data":{"images":[' + b'{"url":"https://a/b"},' * 5_000 + b"1]}}",
    b'{"status":"completed","data":{"url":"https://[::1"}}',
    b'{"status":"completed","data":{"url":"https://a:99999999999/"}}',
    b'{"status":"completed","data":{"url":"http://\\u2100\\uff0e/"}}',
    b'{"status":"completed","data":{"url":"https://user:pw@tempfile.aiquickdraw.com@evil/"}}',
    b'{"code":200,"data":{"resultJson":"{\\"resultUrls\\":' + b"[" * 5_000 + b'"}}',
]


@given(body=callbacks.map(as_json) | trees.map(as_json) | st.binary(max_size=200) | st.sampled_from(ODD_JSON))
@quick
async def test_any_body_to_a_signed_address_is_answered(service, job_id, body):
    is_fine(await service.call_back(job_id, body))


@pytest.mark.parametrize("body", ODD_JSON, ids=range(len(ODD_JSON)))
async def test_every_odd_body_is_answered(service, job_id, body):
    is_fine(await service.call_back(job_id, body))
    is_fine(await service.client.post("/api/generate-image", content=body))


@given(body=callbacks.map(as_json), attempt=st.integers(0, 10**18 - 1), index=st.integers(0, 10**18 - 1))
@quick
async def test_any_attempt_and_task_of_a_signed_address_is_answered(service, job_id, body, attempt, index):
    is_fine(await service.call_back(job_id, body, attempt=attempt, index=index))


@given(body=callbacks.map(as_json), name=st.text(max_size=100).filter(str.isprintable))
@quick
async def test_any_job_of_a_signed_address_is_answered(service, body, name):
    is_fine(await service.call_back(name, body))


# Tokens.


def mutated(token, place, byte):
    place %= len(token)
    return token[:place] + chr(byte) + token[place + 1 :]


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
@quick
async def test_a_token_with_one_byte_changed_opens_nothing(service, job_id, place, byte):
    good = service.token(job_id)
    bad = mutated(good, place, byte)
    answer = await service.client.post(f"{DOOR}/{escaped(bad.encode())}", json={"status": "canceled"})
    is_fine(answer)
    assert (answer.status_code == 200) is (bad == good)


@given(
    token=st.binary(min_size=1, max_size=60)
    | st.from_regex(r"[A-Za-z0-9_.~-]{1,80}", fullmatch=True).map(str.encode)
)
@quick
async def test_any_token_is_answered(service, token):
    answer = await service.client.post(f"{DOOR}/{escaped(token)}", json={"status": "completed"})
    is_fine(answer)
    assert answer.status_code >= 400


def escaped(raw):
    return "".join(f"%{byte:02x}" for byte in raw)


# Headers.


plain = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=60)


@given(
    name=plain,
    moment=plain | st.integers().map(str),
    signature=plain | plain.map("v1,".__add__),
    body=callbacks.map(as_json),
)
@quick
async def test_any_signature_in_the_headers_is_answered(service, name, moment, signature, body):
    headers = {"webhook-id": name, "webhook-timestamp": moment, "webhook-signature": signature}
    answer = await service.client.post(
        DOOR, content=body, headers={key: value.encode("latin-1") for key, value in headers.items()}
    )
    is_fine(answer)
    assert answer.status_code == 401


ROUTES = [
    "/api/images",
    "/api/images/{}",
    "/api/images/{}/status",
    "/api/images/{}/result",
    "/api/images/{}/cancel",
    "/api/images/{}/retry",
    "/api/images/{}/events",
    "/api/events",
    "/media/{}",
    "/static/{}",
    "/{}",
    "/healthz",
    "/readyz",
    "/metrics",
    "/login",
]


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "PATCH", "TRACE"]),
    route=st.sampled_from(ROUTES),
    name=st.binary(max_size=40),
    query=st.dictionaries(
        st.sampled_from(
            ["limit", "cursor", "status", "task_id", "job", "last_event_id", "token", "q", "project_id"]
        ),
        st.text(max_size=20) | st.integers().map(str),
        max_size=4,
    ),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "last-event-id",
                "x-request-id",
                "origin",
                "accept-language",
                "range",
                "if-none-match",
                "if-range",
                "cookie",
                "host",
            ]
        ),
        plain,
        max_size=3,
    ),
)
@quick
async def test_any_request_of_a_person_is_answered(service, method, route, name, **more):
    query, headers = more["query"], more["headers"]
    request = service.client.stream(
        method,
        route.format(escaped(name)),
        params=query,
        headers={key: value.encode("latin-1") for key, value in headers.items()},
    )
    async with request as answer:
        status = answer.status_code
    assert 200 <= status < 500, (status, method, route)


WISHES = [
    "imageId",
    "image_id",
    "projectId",
    "prompt",
    "transformationType",
    "model",
    "numImages",
    "num_images",
    "aspectRatio",
    "resolution",
    "outputFormat",
    "fit",
    "use",
    "priority",
]
VALUES = [
    "a kite",
    "custom",
    "enhance",
    "nano-banana",
    "nano-banana-2",
    1,
    2,
    "1:1",
    "16:9",
    "2K",
    "png",
    "cover",
    "low",
]


@given(
    body=st.dictionaries(st.sampled_from(WISHES), st.sampled_from(VALUES) | leaves, max_size=6).map(as_json)
    | st.dictionaries(st.sampled_from(WISHES) | st.text(max_size=10), trees, max_size=6).map(as_json)
    | trees.map(as_json)
    | st.binary(max_size=100)
)
@quick
async def test_any_wish_is_answered(service, body):
    is_fine(await service.client.post("/api/generate-image", content=body))


# Byte by byte.


async def raw(service, request, *, wait_s=2.0):
    """Send bytes; return the status of the answer, or ``None`` if the connection was closed without one."""
    host, port = service.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(wait_s):
            line = await reader.readline()
    except ConnectionError:
        return None
    finally:
        writer.close()
    if not line:
        return None
    found = re.fullmatch(rb"HTTP/1\.1 (\d{3})[^\r\n]*\r\n", line)
    assert found, line
    return int(found[1])


def request(path, *lines, body=b'{"status":"generating"}', host=b"localhost", method=b"POST", length=True):
    head = [b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, b"Connection: close", *lines]
    if length:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def refused_or_taken(status):
    assert status is None or 200 <= status < 300 or 400 <= status < 500, status


LENGTHS = [
    b"-1",
    b"+23",
    b"0x17",
    b"2 3",
    b"23, 23",
    b"23,24",
    b"",
    b" ",
    b"9" * 30,
    b"9" * 5_000,
    b"\xb2\xb3",
    b"23.0",
    b"1e1",
]


@pytest.mark.parametrize("length", LENGTHS, ids=range(len(LENGTHS)))
async def test_a_malformed_length_is_no_fault(service, job_id, length):
    path = f"{DOOR}/{service.token(job_id)}".encode()
    for target in (path, b"/api/generate-image", b"/api/images", b"/healthz"):
        line = b"Content-Length: " + length
        refused_or_taken(await raw(service, request(target, line, length=False)))


FRAMINGS = [
    (b"Content-Length: 23", b"Content-Length: 23"),
    (b"Content-Length: 23", b"Content-Length: 5"),
    (b"Content-Length: 23", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked",),
    (b"Transfer-Encoding: chunked, identity",),
    (b"Transfer-Encoding: gzip",),
    (b"Transfer-Encoding: \xff",),
    (b"Content-Length: 23", b"Content-Encoding: gzip"),
    (b"Content-Length: 23", b"Expect: 100-continue"),
    (b"Content-Length: 23", b"Expect: something"),
    (b"Content-Length: 23", b"Upgrade: websocket", b"Connection: Upgrade"),
    (b"Content-Length: 23", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: x"),
]


@pytest.mark.parametrize("framing", FRAMINGS, ids=range(len(FRAMINGS)))
async def test_an_odd_framing_is_no_fault(service, job_id, framing):
    path = f"{DOOR}/{service.token(job_id)}".encode()
    status = await raw(service, request(path, *framing, length=False))
    assert status == 100 or status is None or 200 <= status < 300 or 400 <= status < 500


async def test_a_broken_chunk_is_no_fault(service, job_id):
    path = f"{DOOR}/{service.token(job_id)}".encode()
    bodies = (b"x\r\n", b"-1\r\n", b"fffffffffffffffffff\r\n", b"2\r\nabc\r\n\r\n", b"2 2\r\n{}\r\n0\r\n\r\n")
    for body in (*bodies, b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n"):
        whole = request(path, b"Transfer-Encoding: chunked", body=body, length=False)
        refused_or_taken(await raw(service, whole))


HOSTS = [
    b"",
    b"[",
    b"[::1",
    b"]",
    b"a b",
    b"\xff\xfe",
    b"localhost:99999999",
    b"localhost:x",
    b"@",
    b"/",
    b"?",
    b"#",
    b"%",
    b"a" * 10_000,
]
HOSTS += [
    b"user:pw@evil",
    b"[v1.x]",
    b"[::1]:80",
    b"\xe2\x84\x80",
    b"a,b",
    b"evil/path?q#f",
    b"\\",
    b"1.2.3.4.5",
    b":80",
]


@pytest.mark.parametrize("host", HOSTS, ids=range(len(HOSTS)))
async def test_an_odd_host_is_no_fault(service, job_id, host):
    key = f"Authorization: {service.client.headers['authorization']}".encode()
    for method, path in (
        (b"POST", f"{DOOR}/{service.token(job_id)}".encode()),
        (b"POST", f"{DOOR}/x/".encode()),
        (b"GET", b"/"),
        (b"GET", b"/login"),
        (b"GET", b"/healthz"),
        (b"GET", b"/healthz/"),
        (b"GET", b"/media/x"),
        (b"GET", b"/api/images"),
        (b"HEAD", b"/api/events"),
        (b"GET", b"/static/x"),
        (b"GET", b"/nowhere"),
    ):
        status = await raw(service, request(path, key, host=host, method=method))
        assert status is None or 200 <= status < 500, (status, path)


async def test_an_odd_host_is_no_fault_of_a_write_by_cookie(service):
    token = service.parts.tokens.sign_purpose("session", "somebody", 4_000_000_000).encode()
    for host in HOSTS:
        lines = (b"Cookie: nanohook_session=" + token, b"Origin: http://" + host)
        refused_or_taken(await raw(service, request(b"/api/generate-image", *lines, host=host)))


PATHS = [
    b"*",
    b"/%",
    b"/%zz",
    b"/%00",
    b"/%ff%fe",
    b"/%ed%a0%80",
    b"//",
    b"//evil.example/x",
    b"/../../etc/passwd",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/media/%2e%2e/nanohook.db?token=x",
    b"/media//etc/passwd?token=x",
    b"/static/%2e%2e/app.py",
    b"/static//etc/passwd",
    b"/static/%00",
    b"/static/" + b"a/" * 5_000,
    b"/api/images/%00",
    b"/api/images/%0d%0aX: y",
    b"/api/images?limit=%ff&cursor=%00&status=%ff",
    b"/api/images?" + b"status=COMPLETED&" * 2_000,
    b"/api/images?" + b"a&" * 20_000,
    b"/" + b"a" * 60_000,
    b"http://evil.example/healthz",
    b"https://[/healthz",
    b"http:///",
    b"healthz",
    b"/a b",
    b"/\xff",
    b"/healthz?\xff",
    b"/healthz#x",
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
async def test_an_odd_path_is_no_fault(service, path):
    key = f"Authorization: {service.client.headers['authorization']}".encode()
    for method in (b"GET", b"POST", b"DELETE", b"CONNECT", b"OPTIONS", b"PROPFIND", b"BREW"):
        status = await raw(service, request(path, key, method=method))
        assert status is None or 200 <= status < 500, (status, method)


@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(
                [b"Cookie", b"Authorization", b"Content-Type", b"X-Request-Id", b"Accept", b"webhook-id"]
            )
            | st.binary(min_size=1, max_size=10),
            st.binary(max_size=30),
        ),
        max_size=4,
    )
)
@quick
async def test_any_header_bytes_are_no_fault(service, job_id, lines):
    path = f"{DOOR}/{service.token(job_id)}".encode()
    headers = [name + b": " + value for name, value in lines]
    broken = b"\n" in b"".join(headers)
    try:
        status = await raw(service, request(path, *headers), wait_s=0.3 if broken else 2)
    except TimeoutError:
        # A line break of its own may end the head early: then the server waits for what was promised.
        assert broken
    else:
        refused_or_taken(status)


async def test_a_very_long_head_is_no_fault(service, job_id):
    path = f"{DOOR}/{service.token(job_id)}".encode()
    many = [b"X-%d: %b" % (number, b"y" * 100) for number in range(500)]
    refused_or_taken(await raw(service, request(path, *many)))
    refused_or_taken(await raw(service, request(path, b"X-Long: " + b"y" * 200_000)))


async def test_half_a_request_that_is_hung_up_is_forgotten(service, job_id):
    path = f"{DOOR}/{service.token(job_id)}".encode()
    whole = request(path, body=b'{"status":"generating","data":{"progress":64}}')
    host, port = service.base.removeprefix("http://").split(":")
    for cut in range(1, len(whole), 7):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(whole[:cut])
        writer.close()
        await writer.wait_closed()


async def test_after_all_of_that_the_service_still_completes_a_job(service):
    job = await service.upload()
    await service.generate(imageId=job["job_id"])
    assert (await service.ended(job["job_id"]))["status"] == "COMPLETED"
    for part in ("hub-tail", "work", "rejections", "database-writer"):
        assert [task for task in asyncio.all_tasks() if task.get_name() == part], part
