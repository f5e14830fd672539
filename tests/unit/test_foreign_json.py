import contextlib
import gc
import gzip
import random
import time
import tracemalloc
import zlib

import orjson
import pytest

from nanohook.rules import foreign_json
from nanohook.rules.foreign_json import NotJson, TooLarge

VALUE = {"code": 200, "msg": "déjà vu ✓", "data": {"taskId": "5f1c", "n": [1, 2.5, None, True]}}
TEXT = '{"code": 200, "msg": "déjà vu ✓", "data": {"taskId": "5f1c", "n": [1, 2.5, null, true]}}'
BODY = TEXT.encode()
RAW = zlib.compressobj(wbits=-15)

MENDED = {
    "one mark": (b"\xef\xbb\xbf" + BODY, ("byte order mark",)),
    "two marks": (b"\xef\xbb\xbf" * 2 + BODY, ("byte order mark",)),
    "UTF-16 with its mark": (TEXT.encode("utf-16"), ("byte order mark", "UTF-16-LE")),
    "UTF-16, big end first": (b"\xfe\xff" + TEXT.encode("utf-16-be"), ("byte order mark", "UTF-16-BE")),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), ("UTF-16-LE",)),
    "UTF-32": (TEXT.encode("utf-32"), ("byte order mark", "UTF-32-LE")),
    "gzip": (gzip.compress(BODY), ("compressed",)),
    "gzip twice": (gzip.compress(gzip.compress(BODY)), ("compressed",)),
    "zlib": (zlib.compress(BODY), ("compressed",)),
    "bare deflate": (RAW.compress(BODY) + RAW.flush(), ("compressed",)),
    "gzip with a mark inside": (gzip.compress(b"\xef\xbb\xbf" + BODY), ("compressed", "byte order mark")),
    "NUL behind it": (BODY + b"\0\0", ("not strictly JSON",)),
    "encoded twice": (orjson.dumps(TEXT), ("encoded twice",)),
    "encoded twice, with a mark": (b"\xef\xbb\xbf" + orjson.dumps(TEXT), ("byte order mark", "encoded twice")),
}


@pytest.mark.parametrize("name", MENDED)
def test_a_body_is_read_whatever_it_was_wrapped_in(name):
    body, repairs = MENDED[name]
    assert foreign_json.parse(body) == foreign_json.Parsed(value=VALUE, repairs=repairs)


def test_what_is_strictly_json_is_not_mended():
    for body in (BODY, b" " + BODY + b"\r\n", b"[]", b"1", b"null"):
        assert foreign_json.parse(body).repairs == ()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"msg":"caf\xe9"}', {"msg": "caf\ufffd"}),
        (b'{"msg":"\xff\xfe"}', {"msg": "\ufffd\ufffd"}),
        (b'{"msg":"\\ud83d"}', {"msg": "\ufffd"}),
        (b'{"msg":"\\ud83d","ok":"\\ud83d\\ude00"}', {"msg": "\ufffd", "ok": "😀"}),
        (b'{"\\udc00":{"a":["\\udc00"]}}', {"\ufffd": {"a": ["\ufffd"]}}),
        (b'{"msg":"a\nb\tc"}', {"msg": "a\nb\tc"}),
        (b'{"msg":"a\0b"}', {"msg": "a\ufffdb"}),
        (b'{"msg":"\xed\xa0\x80"}', {"msg": "\ufffd\ufffd\ufffd"}),
        (b'{"msg":"\\\\ud83d \\ud83d \\u0000 \\u0041"}', {"msg": "\\ud83d \ufffd \ufffd A"}),
        (b'{"msg":"\\udc00\\ud83d\\ude00\\ud83d"}', {"msg": "\ufffd😀\ufffd"}),
    ],
)
def test_a_broken_text_shows_the_mark_of_replacement(body, value):
    parsed = foreign_json.parse(body)
    assert parsed.value == value
    assert parsed.repairs


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 401])
def test_a_number_that_is_none_in_json_costs_nothing_else(number):
    parsed = foreign_json.parse(b'{"progress":%b,"code":200}' % number.encode())
    assert parsed.value["code"] == 200
    assert isinstance(parsed.value["progress"], float)


@pytest.mark.parametrize("encoding", ["gb18030", "cp932", "big5"])
def test_letters_that_end_in_the_byte_of_a_backslash_lose_nothing(encoding):
    # Each has one: 0x5C would hide the quotation mark behind it.
    text = {"gb18030": "誠信淺", "cp932": "表示ソ", "big5": "成功許"}[encoding]
    body = f'{{"code":200,"msg":"{text}"}}'.encode(encoding)
    assert b"\\" in body
    parsed = foreign_json.parse(body)
    assert parsed.value["code"] == 200
    assert parsed.repairs


NOT_JSON = {
    "nothing": b"",
    "blanks": b" \r\n",
    "a mark alone": b"\xef\xbb\xbf",
    "html": b"<!DOCTYPE html><html></html>",
    "half": BODY[:-3],
    "two": BODY + BODY,
    "form": b"code=200&msg=success",
    "one byte": b"\xff",
    "gzip cut off": gzip.compress(BODY)[:-9],
    "only claims gzip": b"\x1f\x8b\x08" + BODY,
    "gzip of nothing": gzip.compress(b""),
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep and whole": b"[" * 2_000 + b"]" * 2_000,
    "deep, strict no longer": b"\xef\xbb\xbf" + b"[" * 995 + b"]" * 995 + b",",
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_no_patience_makes_json_is_refused_without_a_trace_of_it(name):
    with pytest.raises(NotJson) as caught:
        foreign_json.parse(NOT_JSON[name])
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) < 100


def test_a_text_that_is_no_json_inside_is_a_text():
    assert foreign_json.parse(b'"hello"') == foreign_json.Parsed(value="hello")


def test_random_bytes_raise_nothing_else():
    dice = random.Random(9)
    for _ in range(3_000):
        start = dice.choice(
            [b"", b"\x1f\x8b\x08\0", b"\x78\x9c", b"\xff\xfe", b"\0\0\xfe\xff", b"{", b'"', b"[" * 990]
        )
        with contextlib.suppress(NotJson):
            foreign_json.parse(start + dice.randbytes(dice.randrange(60)))


def test_a_bomb_is_too_large_in_flat_memory():
    bomb = gzip.compress(b"[" + b" " * 200_000_000 + b"]")
    tracemalloc.start()
    with pytest.raises(TooLarge):
        foreign_json.parse(bomb)
    with pytest.raises(TooLarge):
        foreign_json.inflated(bomb)
    assert foreign_json.readable(bomb).startswith("[  ")
    assert tracemalloc.get_traced_memory()[1] < 12_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("piece", [b"[],", b'{"a":1},', b'"\xff",', b"9" * 399 + b","])
def test_the_patient_reading_of_a_megabyte_holds_nobody_up_for_long(piece):
    def took_s(megabytes):
        body = b"\xef\xbb\xbf[" + piece * (int(megabytes * 1_000_000) // len(piece)) + b"0]"
        started = time.process_time()
        foreign_json.parse(body)
        return time.process_time() - started

    # Ten times as much takes about ten times as long, on any machine: nothing in it is tried again and again. What
    # the tests before have left is no garbage of this one's.
    gc.freeze()
    try:
        assert any(took_s(1) < 30 * took_s(0.1) for _ in range(5))
        assert took_s(1) < 5.0
    finally:
        gc.unfreeze()


def test_the_log_shows_what_was_compressed():
    assert foreign_json.readable(gzip.compress(BODY)) == TEXT
    assert foreign_json.readable(gzip.compress(BODY)[:-6]) == TEXT
    assert foreign_json.readable(b"\xef\xbb\xbf" + BODY) == TEXT
    assert foreign_json.readable(TEXT.encode("utf-16")) == TEXT
    assert foreign_json.readable(b"caf\xe9") == "caf\ufffd"
    assert foreign_json.readable(b"\x1f\x8b\x08 only claims") == "\ufffd"
    assert TEXT.startswith(foreign_json.readable(gzip.compress(BODY)[:60])[:-1])
