import asyncio
import contextlib
import decimal
import logging
import socket
import struct
import time

import orjson
import pytest

from nanohook import errors
from nanohook.remote import nanobanana
from nanohook.remote import orders as remote_orders
from nanohook.sandbox import app as sandbox
from nanohook.sandbox import options, orders
from tests import live

PATHS = {"nano-banana": "generate", "nano-banana-pro": "generate-pro", "nano-banana-2": "generate-2"}
KEY = "the-secret-key-0123"
PROMPT = "a very private prompt"
CALLBACK = "http://callback.invalid/secret-token"


def order(model="nano-banana", **more) -> remote_orders.Order:
    return remote_orders.Order(**({"model": model, "prompt": PROMPT, "callback_url": CALLBACK} | more))


def client(base_url, **more) -> nanobanana.Client:
    return nanobanana.Client(**({"base_url": base_url, "api_key": KEY, "paths": PATHS} | more))


def http(body: bytes, *, status=200, headers="", content_type="application/json", length=None) -> bytes:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {size}\r\n"
    head += f"connection: close\r\n{headers}\r\n"
    return head.encode() + body


def envelope(code, data=None, **more) -> bytes:
    return orjson.dumps({"code": code, "msg": "a word", "data": data} | more)


@contextlib.asynccontextmanager
async def upstream(answer=b"", *, ending="close", seen=None):
    """A server that reads one request whole, writes *answer*, then closes, resets or stalls."""
    released = asyncio.Event()

    async def handle(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(sizes[0].split(b":")[1])) if sizes else b""
            if seen is not None:
                seen.append((head, body))
            writer.write(answer)
            await writer.drain()
            if ending == "stall":
                await released.wait()
        if ending == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with live.serve_raw(handle) as url:
        yield url
        released.set()


async def submit(answer, *, ending="close", **more) -> nanobanana.Outcome:
    async with upstream(answer, ending=ending) as url, client(url, **more) as it:
        return await it.submit(order())


@contextlib.asynccontextmanager
async def rig(**settings):
    app = sandbox.create_app(options.Options(**({"latency_s": 0.0, "seed": 1} | settings)))
    async with live.serve(app) as url, client(url) as it:
        yield it, app.state.tasks


# The happy path


@pytest.mark.parametrize("model", sorted(PATHS))
async def test_a_task_is_accepted_and_asked_after(model):
    async with rig() as (it, table):
        outcome = await it.submit(order(model))
        assert isinstance(outcome, nanobanana.Accepted)
        task = table.by_id[outcome.task_id]
        assert task.order.tier == PATHS[model]
        await asyncio.wait_for(task.ended.wait(), 20)
        answer = await it.record_info(outcome.task_id)
        assert answer.http_status == 200
        assert orjson.loads(answer.body)["data"]["successFlag"] == 1
        assert await it.credit() == 1000 - task.order.price


@pytest.mark.parametrize(
    ("model", "more", "expected"),
    [
        ("nano-banana", {}, {"type": "TEXTTOIAMGE", "numImages": 1}),
        (
            "nano-banana",
            {
                "image_urls": ("http://x/y",),
                "aspect_ratio": "16:9",
                "resolution": "2K",
                "output_format": "png",
            },
            {"type": "IMAGETOIAMGE", "numImages": 1, "imageUrls": ["http://x/y"], "image_size": "16:9"},
        ),
        ("nano-banana", {"aspect_ratio": "auto"}, {"type": "TEXTTOIAMGE", "numImages": 1}),
        (
            "nano-banana-pro",
            {
                "image_urls": ("http://x/y",),
                "aspect_ratio": "auto",
                "resolution": "2K",
                "output_format": "png",
            },
            {"imageUrls": ["http://x/y"], "aspectRatio": "auto", "resolution": "2K"},
        ),
        (
            "nano-banana-2",
            {"aspect_ratio": "1:8", "output_format": "png"},
            {"aspectRatio": "1:8", "outputFormat": "png"},
        ),
        ("nano-banana-2", {"output_format": "webp"}, {}),
    ],
)
def test_each_model_has_its_own_body_and_the_vendors_look_alike_takes_it(model, more, expected):
    body = remote_orders.body(order(model, **more))
    assert body == {"prompt": PROMPT, "callBackUrl": CALLBACK} | expected
    orders.parse(PATHS[model], orjson.dumps(body))


async def test_the_request_carries_the_key_and_asks_for_plain_bytes():
    seen = []
    async with upstream(http(envelope(200, {"taskId": "t"})), seen=seen) as url, client(url + "/") as it:
        assert await it.submit(order()) == nanobanana.Accepted("t")
    ((head, body),) = seen
    assert head.startswith(b"POST /api/v1/nanobanana/generate HTTP/1.1\r\n")
    assert f"authorization: bearer {KEY}".encode() in head.lower()
    assert b"accept-encoding: identity" in head.lower()
    assert orjson.loads(body)["prompt"] == PROMPT


# What a submit's answer means, row by row


@pytest.mark.parametrize(
    "body",
    [
        envelope(200, {"taskId": "t-1"}),
        orjson.dumps({"code": 200, "message": "success", "data": {"taskId": "t-1"}}),
        envelope("200", {"taskId": "t-1"}),
        envelope(200, {"task_id": "t-1"}),
        envelope(200, {"taskId": "", "recordId": "t-1"}),
    ],
)
async def test_accepted(body):
    assert await submit(http(body)) == nanobanana.Accepted("t-1")


async def test_a_whole_number_as_task_id_becomes_text():
    assert await submit(http(envelope(200, {"taskId": 12}))) == nanobanana.Accepted("12")


async def test_nobody_listening_is_not_sent():
    async with client(f"http://127.0.0.1:{live.closed_port()}") as it:
        assert await it.submit(order()) == nanobanana.NotSent("ConnectError")


async def test_tls_with_a_plain_server_is_not_sent():
    async def plain(reader, writer):
        await reader.read(1)
        writer.write(http(b"who are you", status=400))
        writer.close()

    async with live.serve_raw(plain) as url, client(url.replace("http:", "https:")) as it:
        assert await it.submit(order()) == nanobanana.NotSent("ConnectError")


async def test_a_tls_handshake_that_stalls_is_not_sent():
    released = asyncio.Event()

    async def stall(reader, writer):
        await released.wait()
        writer.close()

    async with (
        live.serve_raw(stall) as url,
        client(url.replace("http:", "https:"), connect_timeout_s=0.05) as it,
    ):
        assert await it.submit(order()) == nanobanana.NotSent("ConnectTimeout")
        released.set()


async def test_a_tls_handshake_that_is_reset_is_not_sent():
    async def reset(reader, writer):
        await reader.read(1)
        writer.transport.abort()

    async with live.serve_raw(reset) as url, client(url.replace("http:", "https:")) as it:
        assert isinstance(await it.submit(order()), nanobanana.NotSent)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"connect_timeout_s": 0.05}, "PoolTimeout"), ({"total_timeout_s": 0.05}, "TimeoutError")],
    ids=["pool", "total"],
)
async def test_no_free_connection_is_not_sent(limits, reason):
    seen = []
    async with upstream(ending="stall", seen=seen) as url, client(url, connections=1, **limits) as it:
        # Not through the client: its own total limit would free the connection.
        first = asyncio.create_task(it._http.get(url))
        await live.until(lambda: seen)
        assert await it.submit(order()) == nanobanana.NotSent(reason)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(seen) == 1


@pytest.mark.parametrize("code", [429, 455])
async def test_busy_by_the_envelope_or_by_http(code):
    assert await submit(http(envelope(code))) == nanobanana.Busy(code, None)
    bare = http(b"slow down", status=code, headers="retry-after: 7\r\n", content_type="text/plain")
    assert await submit(bare) == nanobanana.Busy(code, 7.0)
    assert await submit(http(envelope(500), status=code)) == nanobanana.Busy(code, None)


@pytest.mark.parametrize("code", [401, 402, 403])
@pytest.mark.parametrize("same", [True, False], ids=["http-too", "http-200"])
async def test_blocked(code, same):
    answer = http(envelope(code), status=code if same else 200)
    assert await submit(answer) == nanobanana.Blocked(code)


@pytest.mark.parametrize("code", [400, 404, 413, 422, 501, 505, 550, 0])
@pytest.mark.parametrize("word", ["msg", "message"])
async def test_refused(code, word):
    body = orjson.dumps({"code": code, word: "no", "data": None})
    assert await submit(http(body)) == nanobanana.Refused(code, "no")


async def test_a_server_fault_told_in_an_envelope_may_be_tried_once_more():
    assert await submit(http(envelope(500), status=500)) == nanobanana.TryOnceMore(500)
    assert await submit(http(envelope(500))) == nanobanana.TryOnceMore(500)


@pytest.mark.parametrize("code", [500, 402, 429, 400, 201])
async def test_an_odd_code_with_a_task_id_is_unknown(code):
    outcome = await submit(http(envelope(code, {"taskId": "t-1"})))
    assert isinstance(outcome, nanobanana.Unknown)
    assert outcome.task_id == "t-1"


async def test_success_in_the_body_of_a_failed_request_is_unknown():
    outcome = await submit(http(envelope(200, {"taskId": "t-1"}), status=502))
    assert isinstance(outcome, nanobanana.Unknown)
    assert outcome.task_id == "t-1"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(http(envelope(200, {"taskId": "t"}), length=400), id="half a body"),
        pytest.param(http(envelope(200, {"taskId": "t"})[:-4]), id="half a document"),
        pytest.param(http(b"<html>ok</html>", content_type="text/html"), id="html 200"),
        pytest.param(http(b"<html>bad</html>", status=502, content_type="text/html"), id="html 502"),
        pytest.param(http(b"", status=503), id="bare 503"),
        pytest.param(http(b"", status=500), id="bare 500"),
        pytest.param(http(b"", status=404), id="bare 404"),
        pytest.param(http(b"", status=302, headers="location: /elsewhere\r\n"), id="redirect"),
        pytest.param(http(envelope(200)), id="200 without data"),
        pytest.param(http(envelope(200, {"taskId": None})), id="200 without a task id"),
        pytest.param(http(envelope(200, {"taskId": True})), id="200 with a truth as task id"),
        pytest.param(http(envelope(200, {"taskId": "x" * 600})), id="200 with an endless task id"),
        pytest.param(http(envelope(200, ["t"])), id="200 with a list"),
        pytest.param(http(envelope(200), status=429), id="200 in a 429"),
        pytest.param(http(envelope(None)), id="no code"),
        pytest.param(http(envelope(True)), id="a truth as code"),
        pytest.param(http(envelope("1e999999999")), id="a huge code"),
        pytest.param(http(b"[" * 100_000), id="deep"),
        pytest.param(http(b"[]"), id="a list"),
        pytest.param(http(b" " * (nanobanana.MAX_ANSWER_BYTES + 1)), id="oversize"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="not http"),
        pytest.param(b"", id="closed without an answer"),
    ],
)
async def test_unknown(answer):
    outcome = await submit(answer)
    assert isinstance(outcome, nanobanana.Unknown)
    assert outcome.task_id is None


@pytest.mark.parametrize("answer", [b"", http(envelope(200, {"taskId": "t"}), length=400)])
async def test_a_reset_after_sending_is_unknown(answer):
    assert isinstance(await submit(answer, ending="reset"), nanobanana.Unknown)


@pytest.mark.parametrize("limits", [{"read_timeout_s": 0.05}, {"total_timeout_s": 1.0}], ids=["read", "total"])
@pytest.mark.parametrize("answer", [b"", http(envelope(200, {"taskId": "t"}), length=400)])
async def test_a_time_out_after_sending_is_unknown(answer, limits):
    assert isinstance(await submit(answer, ending="stall", **limits), nanobanana.Unknown)


async def test_an_answer_lost_by_the_look_alike_is_unknown_and_the_task_is_bought():
    async with rig() as (it, table):
        for accident in ("reset", "html"):
            outcome = await it.submit(order(prompt=f"[sandbox:{accident}]"))
            assert isinstance(outcome, nanobanana.Unknown)
        assert table.submitted == 2


async def test_a_model_without_a_path_is_the_callers_fault():
    async with client("http://127.0.0.1:1") as it:
        with pytest.raises(errors.Invalid):
            await it.submit(order("nano-mango"))


# Questions


async def test_a_task_that_is_not_found_is_an_answer():
    async with rig() as (it, _):
        answer = await it.record_info("a b&c/?#é")
        assert orjson.loads(answer.body)["code"] == 404


@pytest.mark.parametrize("body", [envelope(500), envelope(501, {"taskId": "t"})])
async def test_record_info_gives_every_other_envelope_unread(body):
    async with upstream(http(body, status=500)) as url, client(url) as it:
        assert await it.record_info("t") == nanobanana.Answer(500, body)


@pytest.mark.parametrize(
    ("answer", "code", "retry_after_s"),
    [
        (http(envelope(401)), "bad_key", None),
        (http(b"", status=403), "bad_key", None),
        (http(envelope(402), status=402), "no_credit", None),
        (http(envelope(429), headers="retry-after: 3\r\n"), "upstream_failed", 3.0),
        (http(b"", status=429, headers="retry-after: 3\r\n"), "upstream_failed", 3.0),
        (http(b"<html>", status=502), "upstream_failed", None),
        (http(b"<html>", status=200), "unreadable", None),
        (http(b"<html>", status=404), "unreadable", None),
        (http(b" " * (nanobanana.MAX_ANSWER_BYTES + 1)), "unreadable", None),
        (http(b"{", length=9), "upstream_failed", None),
        (b"", "upstream_failed", None),
    ],
)
async def test_a_question_without_an_answer_is_transient(answer, code, retry_after_s):
    async with upstream(answer) as url, client(url) as it:
        for asking in (it.record_info("t"), it.credit()):
            with pytest.raises(errors.Transient) as caught:
                await asking
            assert (caught.value.code, caught.value.retry_after_s) == (code, retry_after_s)


async def test_a_question_to_nobody_is_transient():
    async with client(f"http://127.0.0.1:{live.closed_port()}") as it:
        with pytest.raises(errors.Transient):
            await it.record_info("t")


@pytest.mark.parametrize(
    ("data", "credit"),
    [(7, "7"), (7.25, "7.25"), ("7.5", "7.5"), ({"credit": 3}, "3"), ({"credits": 0}, "0"), (-1, "-1")],
)
async def test_the_credit_is_a_decimal(data, credit):
    async with upstream(http(envelope(200, data))) as url, client(url) as it:
        assert await it.credit() == decimal.Decimal(credit)


@pytest.mark.parametrize("body", [envelope(200), envelope(200, "NaN"), envelope(200, True), envelope(500, 3)])
async def test_a_credit_that_is_no_number_is_transient(body):
    async with upstream(http(body)) as url, client(url) as it:
        with pytest.raises(errors.Transient):
            await it.credit()


# What must not be seen, and what must not be started


async def test_prompt_key_and_addresses_are_shown_nowhere(caplog):
    caplog.set_level(logging.DEBUG)
    secrets = (PROMPT, KEY, "secret-token", "secret-input")
    it = client("http://127.0.0.1:1")
    asked = order(image_urls=("http://x/secret-input",))
    told = f"bad {PROMPT} {CALLBACK} {KEY} http://x/secret-input " + "x" * 9000
    shown = [repr(asked), repr(it), str(vars(asked).keys())]
    for answer in (http(envelope(422, msg=told)), b"", http(b"<html>" + told.encode())):
        async with upstream(answer) as url, client(url) as it:
            outcome = await it.submit(asked)
            with pytest.raises(errors.Transient) as caught:
                await it.credit()
            shown += [repr(outcome), str(caught.value), repr(caught.value.__cause__)]
    shown += [str(vars(record)) for record in caplog.records]
    assert [(secret, text) for secret in secrets for text in shown if secret in text] == []


async def test_the_answers_repr_hides_its_body():
    assert "prompt" not in repr(nanobanana.Answer(200, b'{"prompt"'))


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.example.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "ftp://127.0.0.1",
        "https://user:word@api.example.com",
        "https://api.example.com/?a=b",
        "https://",
        "api.example.com",
        "http://[::1",
    ],
)
def test_an_address_that_would_leak_the_key_is_refused(base_url):
    with pytest.raises(errors.ConfigError) as caught:
        client(base_url)
    assert "example" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url", ["https://api.example.com", "http://127.0.0.2:9", "http://[::1]:9", "http://localhost:9"]
)
async def test_https_or_loopback_is_taken(base_url):
    async with client(base_url):
        pass


@pytest.mark.parametrize("key", ["", "a\nb", "é", " a"])
def test_a_key_that_no_header_takes_is_refused(key):
    with pytest.raises(errors.ConfigError):
        client("http://127.0.0.1:9", api_key=key)


async def test_a_retry_after_may_be_a_date():
    now = time.time()
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now + 100))
    outcome = await submit(http(envelope(429), headers=f"retry-after: {date}\r\n"))
    assert isinstance(outcome, nanobanana.Busy)
    assert 90 < outcome.retry_after_s <= 100
