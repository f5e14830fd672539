"""Pictures are made here by Pillow and by hand; colours are compared with the tolerance of a lossy format."""

import contextlib
import dataclasses
import io
import mmap
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageCms, ImageOps

from nanohook import errors
from nanohook.rules import containers, fitting, imaging, pixels

LIMIT = 1_000_000
RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 180, 30), (30, 30, 200), (255, 255, 255)
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}
FORMATS_OF_UPLOADS = sorted(FORMATS)
OF_RESULTS = {"avif": "AVIF", "tiff": "TIFF"}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def corners(size=(64, 32)):
    """Four colours, one a corner, so that every turn and flip shows."""
    image = Image.new("RGB", size)
    half = size[0] // 2, size[1] // 2
    for colour, at in zip((RED, GREEN, BLUE, WHITE), ((0, 0), (1, 0), (0, 1), (1, 1)), strict=True):
        image.paste(colour, (at[0] * half[0], at[1] * half[1], (at[0] + 1) * half[0], (at[1] + 1) * half[1]))
    return image


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, (FORMATS | OF_RESULTS)[kind], **options)
    return out.getvalue()


def opened(picture):
    image = Image.open(io.BytesIO(picture.body))
    image.load()
    assert image.size == (picture.width_px, picture.height_px)
    assert image.get_format_mimetype() == picture.content_type
    return image


def far(one, other):
    """Largest mean difference of a channel between two pictures."""
    difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return max(sum(n * count for n, count in enumerate(band.histogram())) for band in difference.split()) / (
        one.width * one.height
    )


def with_orientation(image, kind, value):
    exif = Image.Exif()
    exif[0x0112] = value
    exif[0x010E] = "secret place"
    return encoded(image, kind, exif=exif.tobytes(), **({"quality": 95} if kind != "png" else {}))


def finish(body, size=(40, 40), *, fit="cover", output_format=None):
    return imaging.finish(body, size=size, fit=fit, output_format=output_format, most_pixels=LIMIT)


def normalise(body):
    return imaging.normalise(body, most_pixels=LIMIT)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, *, extra=b"", pixels=b"", depth=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + rest


def with_segment(jpeg, marker, payload):
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def with_scans(count):
    """A progressive JPEG whose last scan comes again and again."""
    body = encoded(corners(), "jpg", progressive=True)
    last, end = body.rindex(b"\xff\xda"), body.rindex(b"\xff\xd9")
    return body[:end] + body[last:end] * (count - body.count(b"\xff\xda")) + body[end:]


def rejected(body, act=lambda body: imaging.probe(body, most_pixels=LIMIT)):
    with pytest.raises(errors.ImageRejected) as caught:
        act(body)
    return caught.value.code


# --- what a header tells


@pytest.mark.parametrize("kind", FORMATS)
def test_probe_knows_the_four_types_by_content(kind):
    found = imaging.probe(encoded(corners(), kind), most_pixels=LIMIT)
    assert (found.content_type, found.width_px, found.height_px) == (imaging.CONTENT_TYPES[kind], 64, 32)
    assert found.pixels == 2048


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_probe_measures_after_orientation(kind):
    found = imaging.probe(with_orientation(corners(), kind, 6), most_pixels=LIMIT)
    assert (found.width_px, found.height_px) == (32, 64)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_probe_reads_each_kind_of_webp(lossless, mode):
    body = encoded(corners().convert(mode).resize((301, 77)), "webp", lossless=lossless, icc_profile=SRGB)
    found = imaging.probe(body, most_pixels=LIMIT)
    assert (found.width_px, found.height_px) == (301, 77)


@pytest.mark.parametrize(
    "body",
    [
        b"BM" + bytes(60),
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"hello",
        b"RIFF\x10\x00\x00\x00WAVEfmt ",
        b"\xff",
    ],
)
def test_any_other_type_is_unknown(body):
    for act in (
        lambda: imaging.probe(body, most_pixels=LIMIT),
        lambda: normalise(body),
        lambda: finish(body),
    ):
        with pytest.raises(errors.UnknownMediaType):
            act()


def test_no_bytes_are_empty():
    assert {rejected(b""), rejected(b"", normalise), rejected(b"", finish)} == {"empty"}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_limit_of_pixels_is_itself_allowed(kind):
    body = encoded(corners(), kind)
    assert imaging.probe(body, most_pixels=2048).pixels == 2048
    assert rejected(body, lambda body: imaging.probe(body, most_pixels=2047)) == "too_many_pixels"


def test_a_bomb_is_refused_before_it_is_decoded():
    vp8x = b"VP8X\x0a\x00\x00\x00" + bytes(4) + b"\xff\xff\xff" * 2
    bombs = [
        png(50_000, 50_000, pixels=bytes(100_000)),
        b"RIFF" + struct.pack("<I", 4 + len(vp8x)) + b"WEBP" + vp8x,
        encoded(corners(), "gif").replace(struct.pack("<HH", 64, 32), b"\xff\xff\xff\xff", 1),
        encoded(corners(), "jpg").replace(struct.pack(">HH", 32, 64), b"\xff\xff\xff\xff", 1),
    ]
    for body in bombs:
        assert {rejected(body), rejected(body, normalise), rejected(body, finish)} == {"too_many_pixels"}


@pytest.mark.parametrize("side", [b"\xff\xff\x20\x00", b"\x40\x00\xff\xff"])
def test_a_gif_frame_larger_than_its_screen_counts(side):
    frame = b"," + bytes(4)
    body = encoded(corners(), "gif").replace(frame + struct.pack("<HH", 64, 32), frame + side)
    assert rejected(body) == "too_many_pixels"


def test_64_scans_are_taken_and_65_are_not():
    assert imaging.probe(with_scans(64), most_pixels=LIMIT).pixels == 2048
    for count in (65, 1000):
        body = with_scans(count)
        assert {rejected(body), rejected(body, normalise), rejected(body, finish)} == {"too_many_scans"}


def test_scans_of_an_embedded_preview_do_not_count():
    body = with_segment(encoded(corners(), "jpg"), 0xE1, b"Exif\0\0" + b"\xff\xda\x00\x02" * 1000)
    assert imaging.probe(body, most_pixels=LIMIT).pixels == 2048
    assert opened(normalise(body).picture).size == (64, 32)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("act", [normalise, finish])
def test_a_truncated_picture_is_refused(kind, act):
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 80)] * 3)
    body = encoded(noise, kind)
    for share in (0.5, 0.9):
        assert rejected(body[: int(len(body) * share)], act) == "truncated"


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_probe_sees_that_the_end_is_missing(kind):
    assert rejected(encoded(corners(), kind)[:-3]) == "truncated"


def test_a_progressive_jpeg_cut_between_its_scans_is_refused():
    body = encoded(Image.merge("RGB", [Image.effect_noise((64, 64), 80)] * 3), "jpg", progressive=True)
    assert rejected(body[: body.rindex(b"\xff\xda")], finish) == "truncated"


@pytest.mark.parametrize(
    "body",
    [
        png(0, 5),
        b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", bytes(20)) + chunk(b"IEND", b""),
        b"\xff\xd8\xff\xe0\x00\x01" + bytes(20),
        with_segment(encoded(corners(), "jpg"), 0xC0, b"\x08\x00\x01\x00\x01\x01\x01\x11\x00"),
        b"RIFF\x16\x00\x00\x00WEBPVP8 \x0a\x00\x00\x00" + bytes(10),
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00\x99" + bytes(20),
    ],
)
def test_a_broken_header_is_not_an_image(body):
    assert rejected(body) == "not_an_image"


def test_pixels_that_cannot_be_decoded_are_not_an_image():
    body = png(4, 4, pixels=b"\x09" * 52)  # nine is no PNG filter
    assert rejected(body, normalise) == rejected(body, finish) == "not_an_image"


def test_endless_small_blocks_are_refused():
    many = containers.MOST_BLOCKS + 1
    jpeg = encoded(corners(), "jpg")
    gif = encoded(corners(), "gif")
    frame = gif.index(b"," + struct.pack("<HHHH", 0, 0, 64, 32))
    webp = encoded(corners(), "webp")
    junk = b"JUNK\x00\x00\x00\x00" * many
    assert rejected(png(1, 1, extra=chunk(b"tEXt", b"") * many)) == "not_an_image"
    assert rejected(jpeg[:2] + b"\xff\xfe\x00\x02" * many + jpeg[2:]) == "not_an_image"
    assert rejected(webp[:4] + struct.pack("<I", len(webp) - 8 + len(junk)) + webp[8:] + junk) == "not_an_image"
    comment = b"!\xfe" + b"\x01x" * (containers.MOST_GIF_BLOCKS + 1) + b"\0"
    assert rejected(gif[:frame] + comment + gif[frame:]) == "not_an_image"


def test_an_inflating_profile_or_text_is_not_inflated():
    bomb = zlib.compress(bytes(3_000_000))
    good = b"\x00" * 13
    profiles = png(4, 1, extra=chunk(b"iCCP", b"x\0\0" + bomb) * 200, pixels=good)
    assert rejected(profiles, normalise) == "not_an_image"
    texts = png(4, 1, extra=chunk(b"zTXt", b"x\0\0" + bomb) * 200, pixels=good)
    assert len(normalise(texts).picture.body) < 100


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.integers(0, 2**32))
def test_broken_bytes_raise_only_our_errors(kind, seed):
    dice = random.Random(seed)
    body = bytearray(encoded(corners((8, 6)), kind))
    for _ in range(dice.randint(1, 6)):
        body[dice.randrange(len(body))] = dice.randrange(256)
    body = bytes(body[: dice.randint(1, 2 * len(body))])
    for act in (normalise, finish):
        with contextlib.suppress(errors.ImageRejected, errors.UnknownMediaType):
            act(body)


# --- uploads


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_clean_upload_keeps_its_very_bytes(kind):
    body = encoded(corners(), kind)
    assert normalise(body).picture.body is body


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("value", range(1, 9))
def test_an_upload_is_turned_upright_and_loses_its_exif(kind, value):
    body = with_orientation(corners(), kind, value)
    made = normalise(body)
    image = opened(made.picture)
    assert far(image, ImageOps.exif_transpose(Image.open(io.BytesIO(body)))) < 4
    assert far(opened(made.thumbnail), image) < 6
    assert not image.getexif()
    assert b"secret place" not in made.picture.body + made.thumbnail.body


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_metadata_is_cut_out_without_touching_a_pixel(kind):
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    clean = encoded(corners(), kind, icc_profile=SRGB)
    options = {"xmp": b"<x>secret xmp</x>"} if kind != "png" else {}
    body = encoded(corners(), kind, icc_profile=SRGB, exif=exif.tobytes(), **options)
    if kind == "jpg":
        body = with_segment(body, 0xFE, b"secret comment") + b"secret trailer"
        body = with_segment(body, 0xED, b"secret IPTC")
    if kind == "png":
        body = body.replace(clean[8:33], clean[8:33] + chunk(b"tEXt", b"k\0secret text"), 1)
    picture = normalise(body).picture
    assert b"secret" in body
    assert b"secret" not in picture.body
    image = opened(picture)
    assert image.tobytes() == Image.open(io.BytesIO(body)).tobytes()
    assert image.info["icc_profile"] == SRGB
    if kind != "webp":  # Pillow writes the same file but for the flags of its header
        assert picture.body == clean


def test_a_webp_without_metadata_does_not_promise_any():
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    body = encoded(corners(), "webp", exif=exif.tobytes(), xmp=b"<x/>", icc_profile=SRGB)
    flags = [picture[picture.index(b"VP8X") + 8] for picture in (body, normalise(body).picture.body)]
    assert [flag & 0x0C for flag in flags] == [0x0C, 0]
    assert flags[0] & 0x20 == flags[1] & 0x20 == 0x20


def test_the_exif_of_a_webp_may_begin_as_in_a_jpeg():
    clean = encoded(corners(), "webp")
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
    payload += b"\0" * (len(payload) % 2)
    extra = b"EXIF" + struct.pack("<I", len(payload)) + payload
    body = b"RIFF" + struct.pack("<I", len(clean) - 8 + len(extra)) + clean[8:] + extra
    assert opened(normalise(body).picture).size == (32, 64)


def test_a_preview_in_the_first_segment_of_a_jpeg_goes():
    clean = encoded(corners(), "jpg")
    assert clean[2:11] == b"\xff\xe0\x00\x10JFIF\x00"
    preview = b"JFIF\0\1\1\0\0\1\0\1\x02\x02" + b"secret 12 by"
    body = clean[:2] + b"\xff\xe0" + struct.pack(">H", len(preview) + 2) + preview + clean[20:]
    picture = normalise(body).picture
    assert b"secret" not in picture.body
    assert opened(picture).tobytes() == Image.open(io.BytesIO(clean)).tobytes()


def test_a_block_that_may_come_once_is_kept_once():
    body = png(4, 1, extra=chunk(b"sRGB", b"\0") * 3, pixels=b"\x00" * 13)
    assert normalise(body).picture.body == png(4, 1, extra=chunk(b"sRGB", b"\0"), pixels=b"\x00" * 13)


def test_a_decoder_that_finds_another_size_is_not_trusted():
    found = containers.read(encoded(corners(), "png"))
    with pytest.raises(errors.ImageRejected):
        pixels.decode(dataclasses.replace(found, width_px=63))


def test_an_exif_that_lies_about_its_size_is_upright():
    for tiff in (
        b"",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0",
    ):
        body = with_segment(encoded(corners(), "jpg"), 0xE1, b"Exif\0\0" + tiff)
        assert opened(normalise(body).picture).size == (64, 32)


def test_the_orientation_is_looked_for_in_512_entries():
    def body(before):
        entry = struct.pack("<HHII", 0x010F, 4, 1, 0)
        turn = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
        tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", before + 1) + entry * before + turn
        return with_segment(encoded(corners(), "jpg"), 0xE1, b"Exif\0\0" + tiff)

    assert normalise(body(511)).picture.width_px == 32
    assert normalise(body(512)).picture.width_px == 64


def test_cmyk_becomes_rgb_whichever_way_its_ink_is_stored():
    adobe = encoded(corners().convert("CMYK"), "jpg", quality=95)
    at = adobe.index(b"\xff\xee")
    unmarked = adobe[:at] + adobe[at + 2 + struct.unpack(">H", adobe[at + 2 : at + 4])[0] :]
    image = opened(normalise(adobe).picture)
    assert image.mode == "RGB"
    assert far(image, corners()) < 6
    assert (
        far(
            opened(normalise(unmarked).picture),
            ImageChops.invert(Image.open(io.BytesIO(adobe))).convert("RGB"),
        )
        < 6
    )


def test_the_profile_of_a_cmyk_picture_does_not_outlive_its_inks():
    profile = SRGB[:16] + b"CMYK" + SRGB[20:]
    body = encoded(corners().convert("CMYK"), "jpg", quality=95, icc_profile=profile)
    for picture in (normalise(body).picture, finish(body).picture):
        image = opened(picture)
        assert image.mode == "RGB"
        assert "icc_profile" not in image.info


def transparent_palette():
    image = corners().quantize(8)
    return encoded(image, "png", transparency=image.getpixel((0, 0)))


def test_a_palette_with_transparency_becomes_rgba():
    image = opened(normalise(transparent_palette()).picture)
    assert (image.mode, image.getpixel((2, 2))[3], image.getpixel((60, 2))) == ("RGBA", 0, (*GREEN, 255))


def test_a_palette_without_transparency_becomes_rgb():
    image = opened(normalise(encoded(corners().quantize(8), "png")).picture)
    assert image.mode == "RGB"
    assert far(image, corners()) < 1


def test_a_transparent_colour_of_rgb_becomes_alpha():
    image = opened(normalise(encoded(corners(), "png", transparency=RED)).picture)
    assert (image.mode, image.getpixel((2, 2))[3], image.getpixel((60, 2))[3]) == ("RGBA", 0, 255)


def test_16_bit_grey_keeps_its_upper_byte():
    samples = [0, 255, 256, 0x1234, 0x8000, 0xFEFF, 0xFFFF, 0x00FF]
    body = png(8, 1, depth=16, colour=0, pixels=b"\0" + struct.pack(">8H", *samples))
    image = opened(normalise(body).picture)
    assert (image.mode, list(image.tobytes())) == ("L", [value >> 8 for value in samples])


def test_16_bit_colour_becomes_8_bit():
    body = png(1, 1, depth=16, pixels=b"\0" + struct.pack(">3H", 0xFFFF, 0x8000, 0x0100))
    picture = normalise(body).picture
    assert opened(picture).getpixel((0, 0)) == (255, 128, 1)
    assert picture.body[24] == 8


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [("L", "jpg", "L"), ("1", "png", "L"), ("L", "png", "L"), ("LA", "png", "RGB"), ("P", "gif", "RGB")],
)
def test_other_modes_become_the_least_that_shows_the_same(mode, kind, expected):
    source = corners().convert(mode)
    image = opened(normalise(encoded(source, kind)).picture)
    assert image.mode == expected
    assert far(image, source) < 4


def test_grey_with_alpha_keeps_its_alpha():
    source = Image.merge("LA", (Image.new("L", (8, 8), 90), Image.linear_gradient("L").resize((8, 8))))
    image = opened(normalise(encoded(source, "png")).picture)
    assert image.mode == "RGBA"
    assert image.getchannel("A").tobytes() == source.getchannel("A").tobytes()


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (32, 16), colour) for colour in (RED, GREEN, BLUE)]
    body = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert Image.open(io.BytesIO(body)).is_animated
    for picture in (normalise(body).picture, finish(body, (32, 16)).picture):
        image = opened(picture)
        assert not getattr(image, "is_animated", False)
        assert picture.extension == ("png" if kind == "gif" else kind)
        assert far(image, frames[0]) < 4


def test_a_gif_keeps_its_transparency():
    image = corners().quantize(8)
    body = encoded(image, "gif", transparency=image.getpixel((0, 0)))
    made = opened(normalise(body).picture)
    assert (made.mode, made.getpixel((2, 2))[3], made.getpixel((60, 2))[3]) == ("RGBA", 0, 255)


def test_a_gif_loses_its_comments():
    body = encoded(corners(), "gif", comment=b"secret")
    assert b"secret" in body
    assert b"secret" not in normalise(body).picture.body


# --- results


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("output", ["jpg", "png", "webp", None])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif"])
def test_a_result_has_exactly_the_size_and_format_asked_for(kind, output, fit):
    body = encoded(corners((118, 86)), kind)
    for size in ((102, 57), (57, 102), (1, 1)):
        picture = finish(body, size, fit=fit, output_format=output).picture
        assert opened(picture).size == size
        assert picture.extension == (output or kind.replace("gif", "png"))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_result_that_is_right_already_keeps_its_very_bytes(kind):
    body = with_orientation(corners(), kind, 1)
    assert finish(body, (64, 32)).picture.body is body
    assert finish(body, None).picture.body is body
    assert finish(body, (64, 32), output_format=kind).picture.body is body
    assert finish(body, (32, 64)).picture.body is not body


@pytest.mark.parametrize("kind", [*FORMATS, *OF_RESULTS])
@pytest.mark.parametrize("turned", [False, True])
def test_a_result_may_be_a_mapped_file(kind, turned, tmp_path):
    body = (
        with_orientation(corners(), kind, 6)
        if turned and kind not in ("gif", "tiff")
        else encoded(corners(), kind)
    )
    path = tmp_path / "spooled"
    path.write_bytes(body)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert imaging.probe_result(mapped, most_pixels=LIMIT) == imaging.probe_result(body, most_pixels=LIMIT)
    for size in ((40, 40), None):
        made, expected = finish(mapped, size), finish(body, size)
        assert made.picture.body[:] == expected.picture.body[:]
        assert made.thumbnail == expected.thumbnail
    if kind in ("jpg", "png", "webp") and not turned:
        assert finish(mapped, None).picture.body is mapped
    assert rejected(mapped[: len(body) // 3], finish) in {"truncated", "not_an_image"}


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
def test_a_turned_result_is_finished_as_its_upright_self(value, fit):
    body = with_orientation(corners((96, 64)), "jpg", value)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    expected = opened(finish(encoded(upright, "jpg", quality=95), (48, 48), fit=fit).picture)
    assert far(opened(finish(body, (48, 48), fit=fit).picture), expected) < 3


def test_without_a_size_a_turned_result_is_only_turned():
    picture = finish(with_orientation(corners(), "png", 8), None).picture
    assert opened(picture).size == (32, 64)


def test_cover_keeps_the_centre():
    image = Image.new("RGB", (300, 100), RED)
    image.paste(GREEN, (100, 0, 200, 100))
    made = opened(finish(encoded(image, "png"), (50, 50)).picture)
    assert far(made, Image.new("RGB", (50, 50), GREEN)) < 2


@pytest.mark.parametrize(("output", "band"), [("png", (0, 0, 0, 0)), ("webp", (0, 0, 0, 0)), ("jpg", WHITE)])
def test_contain_pads_with_nothing_or_white(output, band):
    picture = finish(encoded(corners(), "png"), (64, 64), fit="contain", output_format=output).picture
    image = opened(picture)
    assert image.getpixel((32, 2)) == image.getpixel((32, 61)) == band
    assert far(image.convert("RGB").crop((4, 20, 28, 28)), Image.new("RGB", (24, 8), RED)) < 8


def test_a_stretch_to_the_other_shape_is_the_same_in_either_order():
    image = Image.linear_gradient("L").resize((20, 400)).convert("RGB")
    made = pixels.resized(image, (400, 20), (0, 0, 20, 400))
    assert far(made, image.resize((400, 20), Image.Resampling.BICUBIC)) < 2


def test_a_large_transparent_webp_becomes_png(monkeypatch):
    monkeypatch.setattr(imaging, "MAX_ALPHA_WEBP_PIXELS", 64 * 32)
    image = corners()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    body = encoded(image, "png")
    assert finish(body, (64, 32), output_format="webp").picture.extension == "webp"
    assert finish(body, (65, 32), output_format="webp").picture.extension == "png"
    assert finish(encoded(corners(), "png"), (65, 32), output_format="webp").picture.extension == "webp"


def test_contain_leaves_no_band_of_one_pixel():
    picture = finish(encoded(corners((1000, 667)), "png"), (500, 333), fit="contain").picture
    assert opened(picture).mode == "RGB"


def test_transparency_becomes_white_in_a_jpeg():
    body = encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "png")
    assert opened(finish(body, None, output_format="jpg").picture).getpixel((5, 5)) == WHITE


def test_half_transparent_edges_do_not_darken():
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (16, 16, 48, 48))
    made = opened(finish(encoded(image, "png"), (23, 23)).picture)
    assert all(made.getpixel((x, 11))[0] > 250 for x in range(23) if made.getpixel((x, 11))[3] > 8)


def test_a_colour_profile_is_kept_and_exif_is_not():
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    body = encoded(corners(), "jpg", icc_profile=SRGB, exif=exif.tobytes())
    for output in ("jpg", "png", "webp"):
        image = opened(finish(body, (20, 20), output_format=output).picture)
        assert image.info["icc_profile"] == SRGB
        assert not image.getexif()


def test_a_profile_for_other_channels_is_dropped():
    body = encoded(corners().convert("L"), "jpg", icc_profile=SRGB)
    assert "icc_profile" not in opened(finish(body, (20, 20)).picture).info


@pytest.mark.parametrize("output", ["jpg", "png", "webp"])
def test_a_target_has_at_most_16_383_pixels_a_side(output):
    body = encoded(Image.new("L", (4, 4)), output)
    assert opened(finish(body, (16_383, 1)).picture).size == (16_383, 1)
    assert opened(finish(body, (32_766, 10)).picture).size == (16_383, 5)


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "tiff"])
def test_a_result_without_an_original_is_brought_to_16_383_pixels_a_side(kind):
    """65,535 is as much as JPEG, GIF and the contract have; one more only PNG and TIFF can say."""
    longest = 65_500 if kind == "jpg" else 65_535
    body = encoded(Image.new("L", (longest, 8), 99), kind)
    for image in (opened(finish(body, None).picture), opened(finish(body, (40, 40), fit="contain").picture)):
        assert max(image.size) in (16_383, 40)
    if kind in ("png", "tiff"):
        for act in (finish, lambda body: imaging.probe_result(body, most_pixels=LIMIT)):
            assert rejected(encoded(Image.new("L", (longest + 1, 1)), kind), act) == "too_many_pixels"
            assert rejected(encoded(Image.new("L", (1, longest + 1)), kind), act) == "too_many_pixels"


@pytest.mark.parametrize("kind", FORMATS_OF_UPLOADS)
@pytest.mark.parametrize("size", [(16_383, 1), (1, 16_383)])
def test_an_upload_has_at_most_16_383_pixels_a_side(kind, size):
    assert opened(normalise(encoded(Image.new("L", size), kind)).picture).size == size
    if kind != "webp":
        longer = tuple(side + (side > 1) for side in size)
        body = encoded(Image.new("L", longer), kind)
        with pytest.raises(errors.ImageRejected) as caught:
            normalise(body)
        assert caught.value.code == rejected(body) == "too_many_pixels"
        assert ("wide" if size[0] > 1 else "high") in str(caught.value)
        assert "16,384" in str(caught.value)
        assert "16,383" in str(caught.value)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_a_size_without_pixels_is_a_mistake_of_the_caller(size):
    with pytest.raises(ValueError, match="cannot be"):
        finish(encoded(corners(), "png"), size)


def test_a_jpeg_is_decoded_smaller_only_down_to_the_target():
    found = containers.read(encoded(corners((800, 600)), "jpg"))
    for least, expected in (((100, 75), 8), ((101, 75), 4), ((100, 76), 4), ((400, 300), 2), ((401, 1), 1)):
        image, scale = pixels.decode(found, least=least)
        assert scale == expected
        assert image.width >= least[0]
        assert image.height >= least[1]


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize(("size", "small"), [((1030, 10), (512, 5)), ((10, 1030), (5, 512)), ((64, 32), (64, 32))])
def test_a_thumbnail_has_at_most_512_pixels_a_side(kind, size, small):
    body = encoded(corners(size), kind)
    for thumbnail in (normalise(body).thumbnail, finish(body, None).thumbnail):
        assert opened(thumbnail).size == small
        assert thumbnail.extension == "jpg"


def test_a_thumbnail_shows_transparency():
    thumbnail = finish(encoded(Image.new("RGBA", (900, 9), (9, 9, 9, 90)), "png"), None).thumbnail
    assert (thumbnail.extension, opened(thumbnail).getpixel((5, 2))[3]) == ("webp", 90)


def test_results_are_frozen():
    picture = finish(encoded(corners(), "png")).picture
    with pytest.raises(dataclasses.FrozenInstanceError):
        picture.body = b""


# --- geometry

SIDES = st.integers(1, 20_000)


@settings(max_examples=50)
@given(SIDES, SIDES, SIDES, SIDES)
def test_a_crop_box_lies_within_the_picture_and_has_the_targets_shape(width, height, to_width, to_height):
    left, top, right, bottom = fitting.crop_box((width, height), (to_width, to_height))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    scale = min(width / to_width, height / to_height)
    assert abs((right - left) - to_width * scale) < 1e-6
    assert abs((bottom - top) - to_height * scale) < 1e-6
    assert abs(left - (width - right)) < 1e-6
    assert abs(top - (height - bottom)) < 1e-6
    assert left < 1e-6 or top < 1e-6


@settings(max_examples=50)
@given(SIDES, SIDES, SIDES, SIDES)
def test_an_inner_size_fits_and_touches_two_sides(width, height, to_width, to_height):
    inner = fitting.inner_size((width, height), (to_width, to_height))
    assert 1 <= inner[0] <= to_width
    assert 1 <= inner[1] <= to_height
    assert inner[0] == to_width or inner[1] == to_height
    scale = min(to_width / width, to_height / height)
    assert abs(inner[0] - width * scale) <= 1
    assert abs(inner[1] - height * scale) <= 1


def test_known_crop_boxes():
    assert fitting.crop_box((1184, 864), (1024, 576)) == (0, 99, 1184, 765)
    assert fitting.crop_box((100, 100), (10, 10)) == (0, 0, 100, 100)
    assert fitting.crop_box((3, 2), (1, 1)) == (0.5, 0, 2.5, 2)


RATIOS = ("1:1", "9:16", "16:9", "3:4", "4:3", "3:2", "2:3", "5:4", "4:5", "21:9", "auto")


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ((1024, 576), "16:9"),
        ((576, 1024), "9:16"),
        ((1000, 1001), "1:1"),
        ((5000, 10), "21:9"),
        ((10, 5000), "9:16"),
        ((1184, 864), "4:3"),
        ((6000, 4000), "3:2"),
    ],
)
def test_the_nearest_ratio_is_found(size, ratio):
    assert fitting.nearest_ratio(*size, RATIOS) == ratio


def test_distance_is_alike_above_and_below_one():
    assert fitting.nearest_ratio(1, 1, ("1:2", "2:1")) == "1:2"
    assert fitting.nearest_ratio(1, 1, ("2:1", "1:2")) == "2:1"
