"""
Pictures: verified, made upright and clean, brought to an exact size. The only module that imports Pillow.

Bytes in, bytes out: no threads, no files, no clock. A call holds one CPU and about four bytes a pixel of
memory (twice that while a transparent one is resized) and releases the GIL throughout, so callers run it in a
thread and budget what is in flight by ``probe(...).pixels``.

The order of defence: ``containers.read`` walks the file and takes out what is not pixels; the size it claims
is checked; only then does Pillow see the bare file, and it must find the same size. Whatever decoding raises
leaves here as ``ImageRejected``.
"""

import contextlib
import dataclasses
import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Literal

from PIL import Image, ImageChops, ImageCms

from nanohook import errors
from nanohook.rules import containers

Format = Literal["jpg", "png", "webp"]
Fit = Literal["cover", "contain", "stretch"]
Box = tuple[float, float, float, float]

THUMBNAIL_PX = 512
"""Long side of a thumbnail at most; a smaller picture is not enlarged."""

UPLOAD_QUALITY = 95
"""JPEG and WebP, where an upload has to be encoded again: the upstream starts from it."""

RESULT_QUALITY = 90
"""JPEG and WebP of a finished picture: 1024×576 is 180 KB, at 95 it is 280 KB."""

THUMBNAIL_QUALITY = 80

CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}

# Measured on 1184×864 → 1024×576 (dB against the source, after scaling back up): Hamming 6.7 ms and 34.3 dB,
# bicubic 10.9 and 35.0, Magic Kernel Sharp 12.3 and 35.3, Lanczos 15.0 and 35.4. Enlarging, and shrinking by
# 2.3, they lie within 0.3 dB and keep that order in time. Bicubic is where the next tenths get dear.
_FILTER = Image.Resampling.BICUBIC

# From 1024 to 512 a box average of 2×2 alone takes 0.5 ms, bicubic 5.9 ms: nobody can tell in a thumbnail.
_THUMBNAIL_GAP = 1.0

_SAVE: dict[str, dict[str, int]] = {
    "jpg": {},
    "png": {"compress_level": 4},  # half of level 6's time for 5 % more bytes
    "webp": {"method": 2},  # 31 ms for 1024×576; method 4, Pillow's own choice, takes 61 for as many bytes
}
_PILLOW = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}
_MOST_SIDE_PX = {"jpg": 65_500, "webp": 16_383, "png": 2**31 - 1}  # what the encoders can write
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = frozenset({5, 6, 7, 8})
_PROFILE_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK"}
_OPAQUE = 255

# Pillow's plugins raise whatever their parsing trips over.
_DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)

# Sizes are checked here, against the service's own limit, before Pillow opens a file. Pillow's limit would
# only warn, and would do so for pictures that the operator allowed.
Image.MAX_IMAGE_PIXELS = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An encoded picture that was decoded once without an error, or made here."""

    body: bytes
    content_type: str
    """``image/jpeg``, ``image/png`` or ``image/webp``."""
    width_px: int
    height_px: int

    @property
    def extension(self) -> str:
        """``jpg``, ``png`` or ``webp``."""
        return self.content_type.removeprefix("image/").replace("jpeg", "jpg")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a file's header claims; nothing was decoded."""

    content_type: str
    """The four types of ``CONTENT_TYPES``, GIF included."""
    width_px: int
    """After EXIF orientation."""
    height_px: int
    """After EXIF orientation."""
    pixels: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Normalised:
    """An upload as it is kept and shown to the upstream."""

    picture: Picture
    """Upright, 8 bit, one frame, no metadata but the ICC profile."""
    thumbnail: Picture


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A result as it is stored."""

    picture: Picture
    thumbnail: Picture


def probe(body: bytes, *, most_pixels: int) -> Probe:
    """
    Read the header of *body*: cheap, to be done before a decoder is let near.

    Raises:
        ImageRejected: ``empty``, ``not_an_image``, ``truncated``, ``too_many_pixels``, ``too_many_scans``.
        UnknownMediaType: Not JPEG, PNG, WebP or GIF by content.
    """
    found = _read(body, most_pixels=most_pixels)
    width_px, height_px = _upright_size(found)
    content_type, pixels = CONTENT_TYPES[found.kind], width_px * height_px
    return Probe(content_type=content_type, width_px=width_px, height_px=height_px, pixels=pixels)


def normalise(body: bytes, *, most_pixels: int) -> Normalised:
    """
    Verify an upload and make the copy that is kept: upright, plain colours, first frame, without metadata.

    Pixels that need no change are not encoded again: metadata is cut out of the file around them, and a file
    that had none is kept as the very bytes that came. GIF becomes PNG; the other types stay.

    Raises:
        ImageRejected: As ``probe``, and ``truncated`` or ``not_an_image`` for pixels that cannot be decoded.
        UnknownMediaType: Not JPEG, PNG, WebP or GIF by content.
    """
    found = _read(body, most_pixels=most_pixels)
    size = _upright_size(found)
    if found.plain and found.orientation == 1:
        # The scaled decode still reads every coefficient, so a broken file is still found out.
        image, _ = _decode(found, least=_thumbnail_size(size))
        picture = _picture(found.bare, kind=found.kind, size=size)
        return Normalised(picture=picture, thumbnail=_thumbnail(image, of=size))
    kind = _output_kind(found.kind, size)
    image = _turned(_plain(_decode(found)[0], kind), found)
    picture = _encoded(image, kind, quality=UPLOAD_QUALITY)
    return Normalised(picture=picture, thumbnail=_thumbnail(image, of=size))


def finish(
    body: bytes,
    *,
    size: tuple[int, int] | None,
    fit: Fit,
    output_format: Format | None,
    most_pixels: int,
) -> Finished:
    """
    Verify a result and bring it to exactly *size*.

    A picture that is already what was asked for is returned as its verified bytes, the same object.

    Args:
        body: As downloaded, within the byte limit.
        size: Width and height in pixels, after orientation; ``None`` keeps the picture's own.
        fit: ``cover`` crops around the centre, ``contain`` pads (transparent in PNG and WebP, white in JPEG),
            ``stretch`` does neither.
        output_format: ``None`` keeps the picture's own; GIF becomes PNG. A side that the format cannot hold
            (WebP 16,383, JPEG 65,500) also makes it PNG, whatever was asked.
        most_pixels: For *body*; *size* is the caller's to bound.

    Raises:
        ImageRejected: As ``normalise``.
        UnknownMediaType: Not JPEG, PNG, WebP or GIF by content.
        ValueError: *size* is not positive.
    """
    if size is not None and min(size) < 1:
        raise ValueError(f"a picture cannot be {size[0]}x{size[1]}")
    found = _read(body, most_pixels=most_pixels)
    own = _upright_size(found)
    target = size or own
    kind = _output_kind(output_format or found.kind, target)
    if found.plain and found.orientation == 1 and (target, kind) == (own, found.kind):
        image, _ = _decode(found, least=_thumbnail_size(own))
        picture = _picture(found.bare if found.animated else body, kind=kind, size=own)
    else:
        image = _sized(found, target, fit, kind)
        picture = _encoded(image, kind, quality=RESULT_QUALITY)
    return Finished(picture=picture, thumbnail=_thumbnail(image, of=target))


def crop_box(source: tuple[int, int], target: tuple[int, int]) -> Box:
    """
    The largest box around the centre of *source* that has *target*'s shape, in fractions of a pixel.

    Returns:
        Left, top, right and bottom, within the picture.
    """
    scale = min(source[0] / target[0], source[1] / target[1])
    width, height = min(target[0] * scale, source[0]), min(target[1] * scale, source[1])
    left, top = (source[0] - width) / 2, (source[1] - height) / 2
    return left, top, min(left + width, source[0]), min(top + height, source[1])


def inner_size(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """
    The largest whole size of *source*'s shape that fits into *target*; at least one pixel a side.

    A side that lacks a single pixel to *target* is given it: a padded line would be seen, the stretch not.
    """
    scale = min(target[0] / source[0], target[1] / source[1])
    width, height = (
        wanted if wanted - side * scale <= 1 else max(1, round(side * scale))
        for side, wanted in zip(source, target, strict=True)
    )
    return width, height


def nearest_ratio(width_px: int, height_px: int, ratios: Sequence[str]) -> str:
    """
    The ratio of *ratios* whose shape is nearest; the first of equals.

    Distance is between logarithms, so that 2:1 is as far from 1:1 as 1:2 is.

    Args:
        width_px: Of the picture.
        height_px: Of the picture.
        ratios: Texts such as ``16:9``, at least one; words such as ``auto`` are passed over.
    """
    wanted = math.log(width_px / height_px)

    def distance(ratio: str) -> float:
        width, height = map(int, ratio.split(":"))
        return abs(math.log(width / height) - wanted)

    return min((ratio for ratio in ratios if ":" in ratio), key=distance)


def _read(body: bytes, *, most_pixels: int) -> containers.Container:
    found = containers.read(body)
    if found.width_px * found.height_px > most_pixels:
        raise errors.ImageRejected(
            f"the picture has {found.width_px}x{found.height_px} pixels, at most {most_pixels:,} are taken",
            code="too_many_pixels",
        )
    return found


def _upright_size(found: containers.Container) -> tuple[int, int]:
    size = found.width_px, found.height_px
    return size[::-1] if found.orientation in _QUARTER_TURNS else size


def _decode(found: containers.Container, *, least: tuple[int, int] | None = None) -> tuple[Image.Image, float]:
    """
    All pixels, decoded, in whatever mode the file has, and how many stored pixels one of them stands for.

    Args:
        found: What was walked.
        least: A JPEG may come out at a half, a quarter or an eighth, but not below this in either direction.
    """
    try:
        image = Image.open(io.BytesIO(found.bare), formats=(_PILLOW[found.kind],))
        if image.size != (found.width_px, found.height_px):
            raise ValueError("header and decoder do not agree on the size")
        drafted = image.draft(None, least) if least else None
        image.load()
    except _DECODING_ERRORS as exc:
        short = isinstance(exc, EOFError) or "truncated" in str(exc)
        raise (containers.truncated() if short else containers.broken()) from exc
    return image, found.width_px / drafted[1][2] if drafted else 1.0


def _turned(image: Image.Image, found: containers.Container) -> Image.Image:
    method = _TRANSPOSE.get(found.orientation)
    return image if method is None else image.transpose(method)


def _sized(found: containers.Container, target: tuple[int, int], fit: Fit, kind: Format) -> Image.Image:
    """The picture at *target*: one decode, one resize, then turned, because fewer pixels are left to turn."""
    source = found.width_px, found.height_px
    stored = target[::-1] if found.orientation in _QUARTER_TURNS else target
    inner = inner_size(source, stored) if fit == "contain" else stored
    box: Box = crop_box(source, stored) if fit == "cover" else (0, 0, *source)
    whole = (
        math.ceil(source[0] * inner[0] / (box[2] - box[0])),
        math.ceil(source[1] * inner[1] / (box[3] - box[1])),
    )
    image, scale = _decode(found, least=whole)
    left, top, right, bottom = (edge / scale for edge in box)
    image = _plain(image, kind).resize(inner, _FILTER, box=(left, top, right, bottom), reducing_gap=2.0)
    if inner != stored:
        mode, colour = ("RGB", "white") if kind == "jpg" else ("RGBA", (0, 0, 0, 0))
        canvas = _like(image, Image.new(mode, stored, colour))
        canvas.paste(image.convert(mode), ((stored[0] - inner[0]) // 2, (stored[1] - inner[1]) // 2))
        image = canvas
    return _turned(image, found)


def _plain(image: Image.Image, kind: str) -> Image.Image:
    """The same picture as L, RGB or RGBA, whichever is least for what it shows and *kind* can hold."""
    if image.mode == "CMYK":
        return _rgb_of_cmyk(image)
    if image.mode == "I;16":
        # The upper byte of each little-endian sample. Pillow's own conversion cuts off at 255 instead.
        return _like(image, Image.frombytes("L", image.size, image.tobytes()[1::2]))
    if image.mode in ("P", "LA") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in _PROFILE_SPACES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode == "RGBA":
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] == _OPAQUE:
            image = image.convert("RGB")
        elif kind == "jpg":
            image.paste(Image.new("RGBA", image.size, "white"), mask=ImageChops.invert(alpha))
            image = image.convert("RGB")
    return image


def _rgb_of_cmyk(image: Image.Image) -> Image.Image:
    # Pillow takes every CMYK JPEG for Adobe's, which stores ink inverted. Without Adobe's mark it is not.
    if "adobe" not in image.info:
        image = ImageChops.invert(image)
    profile = image.info.get("icc_profile") or b""
    result = None
    if profile[16:20] == _PROFILE_SPACES["CMYK"]:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            result = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
    result = result or image.convert("RGB")
    result.info.pop("icc_profile", None)
    return result


def _like(image: Image.Image, other: Image.Image) -> Image.Image:
    """*other*, which was made from *image*, with its colour profile."""
    other.info["icc_profile"] = image.info.get("icc_profile")
    return other


def _output_kind(wanted: str, size: tuple[int, int]) -> Format:
    kind: Format = "jpg" if wanted == "jpg" else "webp" if wanted == "webp" else "png"
    return kind if max(size) <= _MOST_SIDE_PX[kind] else "png"


# Real ones have a few KB; a larger one would make every thumbnail as heavy as itself.
_MOST_PROFILE_BYTES = 1 << 20


def _encoded(image: Image.Image, kind: str, *, quality: int) -> Picture:
    """
    Save *image*, which is L, RGB or RGBA, with its profile if that speaks of the same kind of colours.

    A profile for other channels (of a CMYK file's RGB conversion, say) makes browsers show nonsense.
    """
    profile = image.info.get("icc_profile") or b""
    is_odd = profile[16:20] != _PROFILE_SPACES[image.mode] or (image.mode == "L" and kind == "webp")
    if is_odd or len(profile) > _MOST_PROFILE_BYTES:
        profile = None
    out = io.BytesIO()
    image.save(out, _PILLOW[kind], icc_profile=profile, quality=quality, **_SAVE[kind])
    return _picture(out.getvalue(), kind=kind, size=image.size)


def _picture(body: bytes, *, kind: str, size: tuple[int, int]) -> Picture:
    return Picture(body=body, content_type=CONTENT_TYPES[kind], width_px=size[0], height_px=size[1])


def _thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, THUMBNAIL_PX / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _thumbnail(image: Image.Image, *, of: tuple[int, int]) -> Picture:
    """JPEG, or WebP where something shows through. *image* may be a scaled decode of what *of* measures."""
    small = image.resize(_thumbnail_size(of), _FILTER, reducing_gap=_THUMBNAIL_GAP)
    small = _plain(small, "png")
    return _encoded(small, "webp" if small.mode == "RGBA" else "jpg", quality=THUMBNAIL_QUALITY)
