"""What is shown of bytes from outside opens nothing."""

import time

import orjson
import pytest

from nanohook.rules import masking, signing

JOB = "0192a4b0-0000-7000-8000-000000000000"
TOKENS = signing.Tokens(["a key for tests"])
CALLBACK = TOKENS.sign_callback(job_id=JOB, attempt=1, index=0, expires_at_s=4_000_000_000)
ADDRESS = f"https://hook.example.org/api/webhooks/image-completion/{CALLBACK}"
ODD = TOKENS.sign_callback(job_id="é", attempt=1, index=0, expires_at_s=4_000_000_000)
MEDIA = TOKENS.sign_media(key="a.png", expires_at_s=4_000_000_000)
SESSION = TOKENS.sign_purpose("session", "somebody", 4_000_000_000)
KEY = "nh_" + "k" * 43
WHSEC = "whsec_" + "c2VjcmV0" * 4


def as_text(value):
    return orjson.dumps(value).decode()


@pytest.mark.parametrize(
    "text",
    [
        ADDRESS,
        as_text({"callBackUrl": ADDRESS}),
        as_text({"paramJson": as_text({"callBackUrl": ADDRESS, "prompt": "x"})}),
        as_text({"paramJson": as_text({"callBackUrl": ADDRESS})}).replace("/", "\\/"),
        ADDRESS.replace("/", "%2F"),
        f"see {ADDRESS}, or {CALLBACK}.",
        f"<a href='{ADDRESS}'>",
        ODD,
        MEDIA,
        f"/media/a.png?token={MEDIA}&x=1",
        SESSION,
        CALLBACK[:-4],
        ADDRESS[:-30],
        f"Bearer {KEY}",
        f"secret={WHSEC}",
    ],
    ids=lambda text: text[:40],
)
def test_what_opens_something_is_masked(text):
    shown = masking.masked(text)
    assert masking.MASK in shown
    for token in (CALLBACK, ODD, MEDIA, SESSION, KEY, WHSEC):
        # Nothing of a signature is left that would help to guess the rest.
        assert token[-43:][:8] not in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red kite over dunes 16:9 v1.0.2",
        "https://tempfile.aiquickdraw.com/r/5f1c0e_1772359200.jpg",
        "0192a4b0-0000-7000-8000-000000000000",
        '{"code":200,"data":{"taskId":"31ce8a9f0c3f4b0bb6a8dd8f7a3e1a11","progress":61.5}}',
        "user-agent: axios/1.7.2\ncontent-length: 1.024",
        "/api/webhooks/image-completion",
    ],
)
def test_what_opens_nothing_stays(text):
    assert masking.masked(text) == text


def test_the_rest_around_it_stays():
    assert masking.masked(f"see {ADDRESS}?a=1 now") == (
        f"see https://hook.example.org/api/webhooks/image-completion/{masking.MASK}?a=1 now"
    )
    assert masking.masked(CALLBACK) == f"{JOB}.1.0.4000000000.{masking.MASK}"


def test_bytes_that_are_no_text_are_marked():
    assert masking.shown(b"\xff{" + CALLBACK.encode()) == f"\ufffd{{{JOB}.1.0.4000000000.{masking.MASK}"


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "1",
        "1.",
        "1.a",
        "1" * 18 + ".",
        "1.1." + "a" * 44,
        "nh_",
        "image-completion",
        "\\",
        "image-completion\\",
    ],
)
def test_a_megabyte_takes_no_longer_than_it_is_long(text):
    whole = text * (1_000_000 // len(text))
    started = time.process_time()
    masking.masked(whole)
    assert time.process_time() - started < 0.2
