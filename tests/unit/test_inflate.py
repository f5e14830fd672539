import gzip
import random
import time
import tracemalloc
import zlib

import pytest

from nanohook.rules import inflate

TEXT = b'{"code":200,"msg":"success"}' * 50
RAW = zlib.compressobj(wbits=-15)
BARE_DEFLATE = RAW.compress(TEXT) + RAW.flush()


def fed(body, *, size, max_bytes=10**6):
    inflater = inflate.Inflater(max_bytes=max_bytes)
    pieces = [piece for at in range(0, len(body), size) for piece in inflater.feed(body[at : at + size])]
    pieces += inflater.finish()
    assert all(0 < len(piece) <= inflate.MAX_PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


BODIES = {
    "plain": (TEXT, TEXT),
    "empty": (b"", b""),
    "two bytes": (b"{}", b"{}"),
    "gzip": (gzip.compress(TEXT), TEXT),
    "zlib": (zlib.compress(TEXT), TEXT),
    "zlib, fast": (zlib.compress(TEXT, 1), TEXT),
    "gzip twice": (gzip.compress(gzip.compress(TEXT)), TEXT),
    "zlib within gzip": (gzip.compress(zlib.compress(TEXT)), TEXT),
    "two members": (gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]), TEXT),
    "rubbish behind": (gzip.compress(TEXT) + b"\0\0\r\n", TEXT),
    "nothing compressed": (gzip.compress(b""), b""),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100_000])
@pytest.mark.parametrize("name", BODIES)
def test_the_bytes_decide_whatever_the_pieces(name, size):
    body, expected = BODIES[name]
    assert fed(body, size=size) == expected
    assert inflate.inflated(body, max_bytes=10**6) == expected


def test_a_picture_and_json_are_not_taken_for_compressed():
    for start in (
        b"\xff\xd8\xff\xe0",
        b"\x89PNG",
        b"RIFF",
        b"GIF8",
        b"{",
        b"[",
        b" {",
        b"\xef\xbb\xbf{",
        b'"',
        b"x=1",
    ):
        assert not inflate.is_compressed(start + b"   "), start


def test_a_plain_body_is_returned_as_the_same_object():
    assert inflate.inflated(TEXT, max_bytes=10**6) is TEXT


def test_deflate_may_lack_the_header_that_shows_it():
    assert inflate.bare(BARE_DEFLATE, max_bytes=10**6) == TEXT
    for body in (TEXT, BARE_DEFLATE[:-1], b"", gzip.compress(TEXT)):
        assert inflate.bare(body, max_bytes=10**6) is None
    assert inflate.bare(BARE_DEFLATE, max_bytes=len(TEXT) - 1) is None
    assert inflate.inflated(BARE_DEFLATE, max_bytes=10**6) == BARE_DEFLATE


@pytest.mark.parametrize("cut", [1, 5, 8, 20])
def test_a_body_that_is_cut_off_is_damaged(cut):
    for body in (gzip.compress(TEXT), zlib.compress(TEXT)):
        with pytest.raises(inflate.Damaged):
            inflate.inflated(body[:-cut], max_bytes=10**6)


def test_a_body_with_a_flipped_bit_is_damaged():
    body = bytearray(gzip.compress(random.Random(1).randbytes(1000)))
    body[500] ^= 4
    with pytest.raises(inflate.Damaged):
        inflate.inflated(bytes(body), max_bytes=10**6)


def nothing(layers, size=200_000_000):
    """A great deal of nothing, compressed again and again."""
    packed = bytes(size)
    for _ in range(layers):
        packed = gzip.compress(packed)
    return packed


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_bomb_is_refused_in_flat_memory(layers):
    bomb = nothing(layers)
    tracemalloc.start()
    with pytest.raises(inflate.TooMuch):
        inflate.inflated(bomb, max_bytes=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_more_layers_than_anybody_means_are_left_as_they_are():
    body = TEXT
    for _ in range(inflate.MAX_LAYERS + 1):
        body = gzip.compress(body)
    assert inflate.inflated(body, max_bytes=10**6) == gzip.compress(TEXT)


def test_the_limit_is_of_the_output():
    assert inflate.inflated(gzip.compress(b"x" * 1000), max_bytes=1000) == b"x" * 1000
    with pytest.raises(inflate.TooMuch):
        inflate.inflated(gzip.compress(b"x" * 1001), max_bytes=1000)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_one_call_gives_any_amount_in_flat_memory(layers):
    bomb = nothing(layers, size=50_000_000)
    inflater, total = inflate.Inflater(max_bytes=10**9), 0
    tracemalloc.start()
    for piece in inflater.feed(bomb):
        assert len(piece) <= inflate.MAX_PIECE_BYTES
        total += len(piece)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert total == 50_000_000
    assert list(inflater.finish()) == []


EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"


@pytest.mark.parametrize("packed", [False, True])
def test_blocks_without_a_byte_do_not_go_on_for_ever(packed):
    """Nor within a layer that makes many of them of few bytes."""
    head, blocks = gzip.compress(b"")[:10], EMPTY_BLOCK * 20_000
    pieces = [head, *[blocks] * 100]
    if packed:
        packer = zlib.compressobj()
        pieces = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    inflater = inflate.Inflater(max_bytes=10**6)
    for piece in pieces[:10]:
        assert list(inflater.feed(piece)) == []
    with pytest.raises(inflate.TooMuch):
        list(inflater.feed(pieces[10]))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_members_without_end_are_damaged_in_no_time(layers):
    body = gzip.compress(b"") * (2**20 // 20)
    for _ in range(layers - 1):
        body = gzip.compress(body)
    started = time.process_time()
    with pytest.raises(inflate.Damaged):
        inflate.inflated(body, max_bytes=2**20)
    assert time.process_time() - started < 0.2


def test_a_few_members_are_taken():
    body = b"".join(gzip.compress(TEXT[at : at + 1]) for at in range(inflate.MAX_MEMBERS))
    assert inflate.inflated(body, max_bytes=2**20) == TEXT[: inflate.MAX_MEMBERS]
