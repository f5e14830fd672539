"""Files that are no JPEG, PNG, WebP or GIF: named in a refusal, or read where they come as results."""

import contextlib
import io
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from nanohook import errors
from nanohook.rules import avif, containers, formats, imaging, tiff

LIMIT = 1_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def boxed(brand, *compatible):
    brands = b"".join((brand, bytes(4), *compatible))
    return struct.pack(">I", len(brands) + 8) + b"ftyp" + brands + bytes(60)


NAMED = {
    "HEIC": [boxed(b"heic"), boxed(b"mif1", b"heic"), boxed(b"heix"), boxed(b"msf1", b"hevc")],
    "AVIF": [boxed(b"avif"), boxed(b"avis"), boxed(b"mif1", b"miaf", b"avif")],
    "JPEG XL": [b"\xff\x0a" + bytes(30), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30)],
    "JPEG 2000": [b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30), b"\xff\x4f\xff\x51" + bytes(30)],
    "TIFF": [b"II*\0" + bytes(30), b"MM\0*" + bytes(30), b"II+\0" + bytes(30)],
    "BMP": [b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(30)],
    "Windows icon": [b"\0\0\1\0\1\0" + bytes(30)],
    "Photoshop": [b"8BPS\0\1" + bytes(30)],
    "PDF": [b"%PDF-1.7\n"],
    "PostScript": [b"%!PS-Adobe-3.0 EPSF-3.0"],
    "MP4 video": [boxed(b"isom", b"mp42"), boxed(b"qt  ")],
    "Canon raw": [boxed(b"crx ", b"isom")],
    "WebM video": [b"\x1aE\xdf\xa3" + bytes(30)],
    "AVI video": [b"RIFF\x10\0\0\0AVI LIST"],
    "ZIP": [b"PK\3\4" + bytes(30)],
    "gzip": [b"\x1f\x8b\x08" + bytes(30)],
    "SVG": [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b'<?xml version="1.0"?>\n<!-- drawn --><svg>',
        b'\xef\xbb\xbf<?xml version="1.0"?><!DOCTYPE svg PUBLIC "x" "y"><svg >',
    ],
    "HTML": [
        b"<!doctype html><title>404</title>",
        b"\n  <HTML>",
        b"<head><meta charset=utf-8>",
        b"<h1>502 Bad Gateway</h1>",
    ],
    "XML": [b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', b"<Error><Code>AccessDenied</Code>"],
    "JSON": [b'{"code":404}', b'  {\n "error": "x"}', b"[1,2]", b"{}"],
}


@pytest.mark.parametrize("name", NAMED)
def test_a_known_format_is_named(name):
    for body in NAMED[name]:
        assert formats.name_of(body) == name


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"AVIF", "TIFF"}))
def test_a_refusal_of_a_known_format_names_it(name):
    for act in (imaging.probe, imaging.probe_result):
        with pytest.raises(errors.UnknownMediaType, match=name):
            act(NAMED[name][0], most_pixels=LIMIT)


@pytest.mark.parametrize("name", ["AVIF", "TIFF"])
def test_what_is_read_of_a_result_is_no_upload(name):
    with pytest.raises(errors.UnknownMediaType, match=name):
        imaging.probe(NAMED[name][0], most_pixels=LIMIT)
    with pytest.raises(errors.UnknownMediaType, match=name):
        imaging.normalise(encoded(drawn(), name), most_pixels=LIMIT)


@pytest.mark.parametrize(
    "body", [b"hello", b"\xff", b"\0" * 40, b"a < b", b"RIFF\x10\0\0\0WAVEfmt ", b"BM and text, long enough"]
)
def test_what_nobody_knows_has_no_name(body):
    assert formats.name_of(body) is None


@given(st.binary(max_size=80))
def test_any_bytes_have_a_name_or_none(body):
    for start in (b"", b"\0\0\0\x20ftyp", b"<", b"II*\0"):
        formats.name_of(start + body)


# --- AVIF and TIFF as results


def drawn(mode="RGB", size=(96, 64)):
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((30, 30, 200), (0, 0, size[0] // 2, size[1] // 2))
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(size))
    return image if mode == image.mode else image.convert(mode)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def finish(body, size=None, *, fit="cover", output_format=None):
    return imaging.finish(body, size=size, fit=fit, output_format=output_format, most_pixels=LIMIT)


def opened(picture):
    image = Image.open(io.BytesIO(picture.body))
    image.load()
    assert image.size == (picture.width_px, picture.height_px)
    assert image.get_format_mimetype() == picture.content_type
    return image


def rejected(body, act=finish):
    with pytest.raises(errors.ImageRejected) as caught:
        act(body)
    return caught.value.code


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
@pytest.mark.parametrize("output", ["jpg", "png", "webp", None])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("size", [None, (48, 48)])
def test_an_avif_or_tiff_is_stored_in_the_asked_format(kind, output, mode, size):
    made = finish(encoded(drawn(mode), kind), size, output_format=output)
    image = opened(made.picture)
    assert image.size == (size or (96, 64))
    assert made.picture.extension == (output or ("png" if mode == "RGBA" else "jpg"))
    assert opened(made.thumbnail).size == image.size
    red, _, blue = image.convert("RGBA").getpixel((4, image.height - 4))[:3]
    assert (red, blue) > (150, 0)


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
@pytest.mark.parametrize(("mode", "band"), [("RGB", (255, 255, 255)), ("RGBA", (0, 0, 0, 0))])
def test_contain_pads_an_avif_or_tiff_with_white_or_with_nothing(kind, mode, band):
    image = opened(finish(encoded(drawn(mode), kind), (64, 64), fit="contain").picture)
    assert all(abs(one - other) < 4 for one, other in zip(image.getpixel((32, 2)), band, strict=True))


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
def test_alpha_that_hides_nothing_makes_no_png(kind):
    image = drawn()
    image.putalpha(255)
    assert finish(encoded(image, kind)).picture.extension == "jpg"


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
def test_no_metadata_reaches_the_stored_file(kind):
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "secret place", "secret artist"
    body = encoded(
        drawn(), kind, exif=exif.tobytes() if kind == "AVIF" else exif, xmp=b"<x>secret</x>", icc_profile=SRGB
    )
    assert b"secret" in body
    for output in ("jpg", "png", "webp", None):
        made = finish(body, output_format=output)
        assert b"secret" not in made.picture.body + made.thumbnail.body
        assert opened(made.picture).info["icc_profile"] == SRGB
        assert not opened(made.picture).getexif()


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_a_turned_avif_or_tiff_becomes_upright(kind, value):
    exif = Image.Exif()
    exif[0x0112] = value
    body = encoded(drawn(), kind, exif=exif)
    turned = value >= 5
    probe = imaging.probe_result(body, most_pixels=LIMIT)
    assert (probe.width_px, probe.height_px) == ((64, 96) if turned else (96, 64))
    image = opened(finish(body).picture)
    assert image.size == ((64, 96) if turned else (96, 64))
    corner = {1: (4, 4), 2: (-4, 4), 3: (-4, -4), 4: (4, -4), 5: (4, 4), 6: (-4, 4), 7: (-4, -4), 8: (4, -4)}[
        value
    ]
    red, _, blue = image.getpixel((corner[0] % image.width, corner[1] % image.height))
    assert blue > red


@pytest.mark.parametrize("kind", ["AVIF", "TIFF", "WEBP"])
def test_of_several_pictures_the_first_is_taken(kind):
    frames = [Image.new("RGB", (32, 16), colour) for colour in ("red", "lime", "blue")]
    body = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, _ = opened(finish(body).picture).convert("RGB").getpixel((8, 8))
    assert red > 200
    assert green < 60


@pytest.mark.parametrize("kind", ["AVIF", "TIFF"])
def test_a_cut_avif_or_tiff_is_refused(kind):
    noise = Image.effect_noise((96, 64), 80).convert("RGB")
    body = encoded(noise, kind)
    for share in (0.02, 0.3, 0.6, 0.95):
        assert rejected(body[: int(len(body) * share)]) in {"truncated", "not_an_image"}


@given(st.sampled_from(["AVIF", "TIFF"]), st.data())
def test_broken_bytes_of_a_result_raise_only_our_errors(kind, data):
    body = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(errors.ImageRejected, errors.UnknownMediaType):
        finish(bytes(body))


ROWS_PER_STRIP, LONG = 278, 4
WHOLE = {kind: encoded(drawn(size=(24, 16)), kind) for kind in ("AVIF", "TIFF")}


def test_of_a_label_that_pillow_does_not_like_nothing_is_said():
    body = bytearray(WHOLE["TIFF"])
    entry = body.index(struct.pack("<HHI", ROWS_PER_STRIP, LONG, 1))
    body[entry + 4 : entry + 8] = struct.pack("<I", 257)
    program = "import sys; from nanohook.rules import pixels; from PIL import Image; Image.open(sys.stdin.buffer)"
    done = subprocess.run([sys.executable, "-c", program], input=body, stderr=subprocess.PIPE, check=True)
    assert done.stderr == b""


# --- TIFF


@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg"]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("strip_bytes", [None, 100])
def test_a_tiff_of_every_common_compression_is_read(compression, mode, strip_bytes):
    options = {} if strip_bytes is None else {"tiffinfo": {278: 8}}
    body = encoded(drawn(mode), "TIFF", compression=compression, **options)
    image = opened(finish(body, output_format="png").picture)
    assert image.size == (96, 64)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_tiff_of_every_common_mode_is_read(mode):
    source = (
        drawn("L").point(lambda value: value).convert("I").point(lambda value: value * 257)
        if mode == "I;16"
        else drawn(mode)
    )
    source = drawn().quantize(8) if mode == "P" else source if source.mode == mode else source.convert(mode)
    made = opened(finish(encoded(source, "TIFF"), output_format="png").picture)
    assert made.mode in {"L", "RGB", "RGBA"}
    wanted = drawn("L") if mode in {"L", "LA", "I;16"} else drawn()
    if mode != "1":
        at = (90, 60)
        assert abs(made.convert("L").getpixel(at) - wanted.convert("L").getpixel(at)) < 12


def test_bilevel_fax_is_read():
    assert (
        opened(finish(encoded(drawn("1"), "TIFF", compression="group4"), output_format="png").picture).mode == "L"
    )


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_a_tiff_whose_white_nobody_knows_is_refused(mode):
    source = Image.new(mode, (8, 8))
    assert rejected(encoded(source, "TIFF")) == "not_an_image"


def directory(order, *entries, behind=b""):
    """A TIFF of one directory, by hand: tag, type, count, value."""
    packed = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(entries)) + packed + bytes(4) + behind


def plain_tiff(*more, width=8, height=8, strips=1, rows=8):
    return directory(
        "<",
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, strips, 300),
        (277, 3, 1, 1),
        (278, 4, 1, rows),
        (279, 4, strips, 64),
        *more,
        behind=bytes(700),
    )


def test_a_tiff_by_hand_is_read():
    assert finish(plain_tiff()).picture.width_px == 8


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (plain_tiff(width=1001, height=1000, rows=2**32 - 1), "too_many_pixels"),
        (plain_tiff(width=65_536, height=1), "too_many_pixels"),
        (plain_tiff(width=2**32 - 1, height=2**32 - 1, rows=2**32 - 1), "too_many_pixels"),
        (plain_tiff(width=0), "not_an_image"),
        (plain_tiff(rows=1), "truncated"),
        (plain_tiff((322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8)), "too_many_pixels"),
        (plain_tiff((322, 4, 1, 0), (323, 4, 1, 0), (324, 4, 1, 8)), "not_an_image"),
        (plain_tiff((322, 4, 1, 1), (323, 4, 1, 1), (324, 4, 1, 8)), "truncated"),
        (plain_tiff((700, 1, 10_000, 8)), "truncated"),
        (plain_tiff((700, 12, 2**31, 8)), "not_an_image"),
        (plain_tiff(*((1000 + n, 3, 1, 0) for n in range(tiff.MAX_ENTRIES))), "not_an_image"),
        (plain_tiff((259, 3, 1, 34_712)), "not_an_image"),
        (plain_tiff((258, 3, 1, 32)), "not_an_image"),
        (plain_tiff((277, 3, 1, 60_000)), "not_an_image"),
        (b"II*\0\xff\xff\xff\xff" + bytes(20), "truncated"),
        (b"II+\0" + bytes(60), "not_an_image"),
    ],
)
def test_what_a_directory_may_claim_is_bounded(body, code):
    assert rejected(body) == code
    assert rejected(body, lambda body: imaging.probe_result(body, most_pixels=LIMIT)) == code


# --- AVIF


def box(name, *inside):
    payload = b"".join(inside)
    return struct.pack(">I", len(payload) + 8) + name + payload


def avif_of(*sizes, behind=b""):
    ispes = [box(b"ispe", bytes(4), struct.pack(">II", *size)) for size in sizes]
    return box(b"ftyp", b"avif", bytes(4)) + box(b"meta", bytes(4), box(b"iprp", box(b"ipco", *ispes))) + behind


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (avif_of((1001, 1000)), "too_many_pixels"),
        (avif_of((8, 8), (65_536, 1)), "too_many_pixels"),
        (avif_of((2**32 - 1, 2**32 - 1)), "too_many_pixels"),
        (avif_of((0, 8)), "not_an_image"),
        (avif_of(), "not_an_image"),
        (avif_of((8, 8)), "not_an_image"),
        (avif_of((8, 8), behind=b"\0\0\1\0mdat"), "truncated"),
        (avif_of((8, 8), behind=b"\0\0\0\4mdat"), "not_an_image"),
        (avif_of((8, 8), behind=box(b"free") * avif.MAX_BOXES), "not_an_image"),
        (
            box(b"ftyp", b"avis", bytes(4))
            + box(b"moov", box(b"trak", box(b"tkhd", bytes(84), b"\xff\xff\0\0" * 2))),
            "too_many_pixels",
        ),
    ],
)
def test_what_boxes_may_claim_is_bounded(body, code):
    assert rejected(body) == code


def test_bytes_behind_the_last_box_are_no_part_of_an_avif():
    assert finish(WHOLE["AVIF"] + b"\n").picture.width_px == 24


def test_the_exif_of_an_avif_is_not_given_to_a_library():
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    body = encoded(drawn(), "AVIF", exif=exif.tobytes())
    bare = avif.read(body).bare
    assert "exif" in Image.open(io.BytesIO(body)).info
    assert "exif" not in Image.open(io.BytesIO(bare)).info
    assert containers.exif_orientation(b"") == 1
