"""JPEGs that were cut and closed again are found out, and no other is taken for one."""

import io
import itertools
import struct

import pytest
from PIL import Image

from nanohook import errors
from nanohook.rules import containers, imaging

LIMIT = 1_000_000
CLOSED = b"\xff\xd9"


def noise(size=(96, 80), mode="RGB"):
    bands = [Image.effect_noise(size, 40 + 20 * band) for band in range(len(mode))]
    return bands[0] if mode == "L" else Image.merge(mode, bands)


def jpeg(image=None, **options):
    out = io.BytesIO()
    (image or noise()).save(out, "JPEG", **options)
    return out.getvalue()


def finish(body):
    return imaging.finish(body, size=(48, 40), fit="cover", output_format=None, most_pixels=LIMIT)


def normalise(body):
    return imaging.normalise(body, most_pixels=LIMIT)


def code(body, act=finish):
    with pytest.raises(errors.ImageRejected) as caught:
        act(body)
    return caught.value.code


def entropy(body):
    """Where the data of the first scan begins."""
    at = body.index(b"\xff\xda")
    return at + 2 + struct.unpack_from(">H", body, at + 2)[0]


def shown(body):
    image = Image.open(io.BytesIO(body))
    try:
        image.load()
    except OSError:
        return None
    return image.tobytes()


KINDS = {
    "baseline": jpeg,
    "4:2:0": lambda: jpeg(subsampling="4:2:0"),
    "4:4:4": lambda: jpeg(subsampling="4:4:4"),
    "progressive": lambda: jpeg(progressive=True),
    "progressive 4:4:4": lambda: jpeg(progressive=True, subsampling=0, quality=95),
    "progressive grey": lambda: jpeg(noise(mode="L"), progressive=True),
    "restart markers": lambda: jpeg(restart_marker_blocks=2),
    "restart rows": lambda: jpeg(restart_marker_rows=1, progressive=True),
    "grey": lambda: jpeg(noise(mode="L")),
    "CMYK": lambda: jpeg(noise(mode="CMYK")),
    "progressive CMYK": lambda: jpeg(noise(mode="CMYK"), progressive=True),
    "one scan a component": lambda: separate(jpeg(subsampling=0)),
    "optimised": lambda: jpeg(optimize=True, quality=30),
    "other version": lambda: jpeg().replace(b"JFIF\0\1\1", b"JFIF\0\7\7"),
    "other transform": lambda: with_segment(jpeg(), 0xEE, b"Adobe\0\x64\0\0\0\0\7"),
    "junk before a marker": lambda: jpeg().replace(b"\xff\xdb", b"junk\xff\xdb", 1),
}


def with_segment(body, marker, payload):
    return body[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + body[2:]


def separate(body):
    """
    Make a JPEG of three frames of one component each: three grey pictures under one header.

    Each component has a scan of its own, as some cameras write them.
    """
    parts = [jpeg(band, quality=75) for band in Image.open(io.BytesIO(body)).split()]
    first = parts[0]
    frame = first.index(b"\xff\xc0")
    height, width = struct.unpack_from(">HH", first, frame + 5)
    sof = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3)
    sof += b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    scans = []
    for number, part in enumerate(parts, 1):
        data = part[entropy(part) : -2]
        scans.append(b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, number, 0, 0, 63, 0) + data)
    after = frame + 2 + struct.unpack_from(">H", first, frame + 2)[0]
    return first[:frame] + sof + first[after : first.index(b"\xff\xda")] + b"".join(scans) + CLOSED


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_is_cut_anywhere_and_closed_is_truncated(kind):
    body = KINDS[kind]()
    finish(body)
    normalise(body)
    whole = shown(body)
    places = [
        *range(entropy(body), len(body) - 2, max(1, len(body) // 150)),
        *range(len(body) - 12, len(body) - 2),
    ]
    for at in places:
        cut = body[:at] + CLOSED
        if shown(cut) != whole:  # else only what fills the last byte was cut
            assert code(cut) == code(cut, normalise) == "truncated"


@pytest.mark.parametrize("kind", ["progressive", "progressive CMYK", "one scan a component", "restart rows"])
def test_a_jpeg_that_is_cut_between_two_scans_and_closed_is_truncated(kind):
    body = KINDS[kind]()
    starts = [at for at in range(len(body)) if body[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 2
    for at in starts:
        assert code(body[:at] + CLOSED) == "truncated"
        assert code(body[:at] + CLOSED, lambda body: imaging.probe(body, most_pixels=LIMIT)) == "truncated"


def test_a_jpeg_that_is_cut_at_a_restart_is_truncated():
    body = KINDS["restart markers"]()
    marks = [at for at in range(entropy(body), len(body)) if body[at] == 0xFF and 0xD0 <= body[at + 1] < 0xD8]
    for at in marks:
        assert code(body[:at] + CLOSED) == "truncated"
        assert code(body[: at + 2] + CLOSED) == "truncated"


@pytest.mark.parametrize("kind", ["baseline", "progressive"])
def test_a_jpeg_whose_header_is_cut_and_closed_is_refused(kind):
    body = KINDS[kind]()
    for at in range(2, entropy(body), 7):
        assert code(body[:at] + CLOSED) in {"truncated", "not_an_image"}


def good():
    """Two hundred whole files, as many encoders write them."""
    modes = {"RGB": (None, "4:4:4", "4:2:2", "4:2:0"), "L": (None,), "CMYK": (None,)}
    switches = [
        {},
        {"progressive": True},
        {"optimize": True},
        {"restart_marker_blocks": 3},
        {"restart_marker_rows": 1},
    ]
    for (mode, samplings), switch, quality in itertools.product(modes.items(), switches, (1, 50, 90, 100)):
        for sampling, size in itertools.product(samplings, ((33, 17), (64, 64))):
            options = {} if sampling is None else {"subsampling": sampling}
            yield jpeg(noise(size, mode), quality=quality, **switch, **options)


def test_no_whole_jpeg_is_taken_for_a_cut_one():
    bodies = list(good())
    assert len(bodies) >= 200
    for body in bodies:
        finish(body)
        normalise(body)


@pytest.mark.parametrize(
    "odd",
    [
        lambda body: body + b"behind the end",
        lambda body: body + bytes(5_000),
        lambda body: body + CLOSED,
        lambda body: body.replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
        lambda body: body.replace(b"\xff\xda", b"before a marker\xff\xda", 1),
        lambda body: body[:-2] + b"\0\0\0\0" + CLOSED,
        lambda body: body[:-2] + b"\xff" + CLOSED,
        lambda body: body.replace(b"JFIF\0\1\1", b"JFIF\0\7\7"),
        lambda body: with_segment(body, 0xEE, b"Adobe\0\x64\0\0\0\0\7"),
        lambda body: with_segment(body, 0xFE, b"comment"),
    ],
)
@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey", "restart markers"])
def test_what_is_odd_and_whole_is_taken(odd, kind):
    body = odd(KINDS[kind]())
    finish(body)
    normalise(body)


def test_a_jpeg_of_two_pictures_is_stored_as_its_first():
    out = io.BytesIO()
    first, second = noise(), Image.new("RGB", (96, 80), "red")
    first.save(out, "MPO", save_all=True, append_images=[second])
    body = out.getvalue()
    assert body.count(CLOSED + b"\xff\xd8") == 1
    for behind in (body, jpeg() + b"\0\0" + jpeg(second), jpeg() + b"PK\3\4 a file of another kind"):
        made = imaging.finish(behind, size=None, fit="cover", output_format=None, most_pixels=LIMIT)
        stored = Image.open(io.BytesIO(made.picture.body))
        assert (stored.format, getattr(stored, "n_frames", 1)) == ("JPEG", 1)
        assert made.picture.body.endswith(CLOSED)
        assert made.picture.body.count(b"\xff\xd8\xff") == 1
        assert stored.size == (96, 80)


def test_zeros_behind_a_jpeg_are_kept_with_it():
    body = jpeg() + bytes(10)
    assert not containers.read(body).animated
    assert imaging.finish(body, size=None, fit="cover", output_format=None, most_pixels=LIMIT).picture.body is body
