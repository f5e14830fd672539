"""
Pictures: verified, made upright and clean, brought to an exact size. With ``pixels`` the only module that knows
Pillow.

Bytes in, bytes out: no threads, no files, no clock. A call holds one CPU and as much memory as
``Probe.memory_bytes`` says, and releases the GIL throughout, so callers run it in a thread and budget what is in
flight by that.

The order of defence: ``containers.read`` walks the file and takes out what is not pixels; the size it claims
is checked; only then does Pillow see the bare file, and it must find the same size. Whatever decoding raises
leaves here as ``ImageRejected``. libjpeg makes up what is missing of a JPEG and Pillow does not tell, so a strict
second decoder looks for that.
"""

import dataclasses
import io
import math
from typing import Final, Literal

from PIL import Image

from nanohook import errors
from nanohook.rules import avif, containers, fitting, formats, pixels, tiff
from nanohook.rules.formats import Body

Format = Literal["jpg", "png", "webp"]
Fit = Literal["cover", "contain", "stretch"]

THUMBNAIL_PX = 512
"""Long side of a thumbnail at most; a smaller picture is not enlarged."""

UPLOAD_QUALITY = 95
"""JPEG and WebP, where an upload has to be encoded again: the upstream starts from it."""

RESULT_QUALITY = 90
"""JPEG and WebP of a finished picture: 1024×576 is 180 KB, at 95 it is 280 KB."""

THUMBNAIL_QUALITY = 80

MAX_SIDE_PX: Final = 16_383
"""Of an upload, and of what a result is brought to: as much as WebP holds."""

MAX_BUFFER_BYTES: Final = 256 * 1024 * 1024
"""Of one strip or tile of a TIFF once it is inflated: its decoder holds it whole."""

MAX_RESULT_SIDE_PX: Final = 65_535
"""Of what the upstream sends."""

CONTENT_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "tiff": "image/tiff",
}

# From 1024 to 512 a box average of 2×2 alone takes 0.5 ms, bicubic 5.9 ms: nobody can tell in a thumbnail.
_THUMBNAIL_GAP = 1.0

_SAVE: dict[str, dict[str, int]] = {
    "jpg": {},
    "png": {"compress_level": 4},  # half of level 6's time for 5 % more bytes
    "webp": {"method": 2},  # 31 ms for 1024×576; method 4, Pillow's own choice, takes 61 for as many bytes
}
MAX_ALPHA_WEBP_PIXELS: Final = 20_000_000
"""A transparent WebP costs its encoder 30 bytes a pixel: a larger one becomes PNG, whatever was asked."""

_DECODING_BYTES = {"image/webp": 17, "image/avif": 17}
"""A pixel; of the others at most 13 (a progressive CMYK JPEG)."""
_ROW_BYTES = 256
_RESULT_READERS = {"AVIF": avif.read, "TIFF": tiff.read}
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An encoded picture that was decoded once without an error, or made here."""

    body: Body
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
    """One of ``CONTENT_TYPES``."""
    width_px: int
    """After EXIF orientation."""
    height_px: int
    """After EXIF orientation."""
    pixels: int
    size_bytes: int
    """Of the file."""
    buffer_bytes: int
    """What its decoder holds beside the pixels."""

    def memory_bytes(self, target: tuple[int, int] | None = None) -> int:
        """
        Estimate what ``normalise`` or ``finish`` needs at its peak, in bytes, rather too much than too little.

        Args:
            target: Width and height of the result; ``None``: the picture's own.

        Source: measured at 40 million pixels of each kind, and at the longest sides.
        """
        width_px, height_px = _bounded(target or (self.width_px, self.height_px))
        made = width_px * height_px
        decoding = self.pixels * _DECODING_BYTES.get(self.content_type, 13)
        resizing = 8 * self.pixels + 8 * max(self.pixels, made)
        encoding = max(15 * made, 34 * min(made, MAX_ALPHA_WEBP_PIXELS))
        rows = _ROW_BYTES * max(self.height_px, self.width_px, width_px, height_px)
        return max(decoding, resizing, encoding) + 2 * self.size_bytes + self.buffer_bytes + rows


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


def probe(body: Body, *, most_pixels: int) -> Probe:
    """
    Read the header of an upload: cheap, to be done before a decoder is let near.

    Raises:
        ImageRejected: ``empty``, ``not_an_image``, ``truncated``, ``too_many_pixels``, ``too_many_scans``.
        UnknownMediaType: Not JPEG, PNG, WebP or GIF by content; the message names what it is.
    """
    return _probe(_read(body, most_pixels=most_pixels))


def probe_result(body: Body, *, most_pixels: int) -> Probe:
    """
    Read the header of a result, which may be larger, and AVIF or TIFF too.

    Raises:
        ImageRejected: As ``probe``.
        UnknownMediaType: None of the six types by content; the message names what it is.
    """
    return _probe(_read_result(body, most_pixels=most_pixels))


def normalise(body: Body, *, most_pixels: int) -> Normalised:
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
        image, _ = pixels.decode(found, least=_thumbnail_size(size))
        picture = _picture(found.bare, kind=found.kind, size=size)
        return Normalised(picture=picture, thumbnail=_thumbnail(image, of=size))
    kind: Format = found.kind if found.kind in ("jpg", "webp") else "png"
    image = _turned(pixels.plain(pixels.decode(found)[0], kind), found)
    picture = _encoded(image, kind, quality=UPLOAD_QUALITY)
    return Normalised(picture=picture, thumbnail=_thumbnail(image, of=size))


def finish(
    body: Body,
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
        output_format: ``None`` keeps the picture's own; GIF becomes PNG, AVIF and TIFF become JPEG, or PNG where
            something shows through.
        most_pixels: For *body*; *size* is the caller's to bound, but for its sides: a target with a longer one
            than ``MAX_SIDE_PX`` is made smaller as a whole.

    Raises:
        ImageRejected: As ``normalise``.
        UnknownMediaType: None of the six types by content.
        ValueError: *size* is not positive.
    """
    if size is not None and min(size) < 1:
        raise ValueError(f"a picture cannot be {size[0]}x{size[1]}")
    found = _read_result(body, most_pixels=most_pixels)
    own = _upright_size(found)
    target = _bounded(size or own)
    kind = _output_kind(output_format or found.kind)
    if found.plain and found.orientation == 1 and (target, kind) == (own, found.kind):
        image, _ = pixels.decode(found, least=_thumbnail_size(own))
        picture = _picture(found.bare if found.animated else body, kind=found.kind, size=own)
    else:
        image = _sized(found, target, fit, kind)
        kind = kind or ("png" if image.mode == "RGBA" else "jpg")
        picture = _encoded(image, kind, quality=RESULT_QUALITY)
    return Finished(picture=picture, thumbnail=_thumbnail(image, of=target))


def _read(body: Body, *, most_pixels: int) -> containers.Container:
    return _checked(containers.read(body), most_pixels=most_pixels, max_side_px=MAX_SIDE_PX)


def _read_result(body: Body, *, most_pixels: int) -> containers.Container:
    read = _RESULT_READERS.get(formats.name_of(body) or "", containers.read)
    found = _checked(read(body), most_pixels=most_pixels, max_side_px=MAX_RESULT_SIDE_PX)
    if found.kind != "avif":
        return found
    # The boxes tell the largest size of all that is in the file; the decoder reads which of it is the picture.
    try:
        image = pixels.opened(found)
    except pixels.DECODING_ERRORS as exc:
        raise containers.broken() from exc
    if image.width > found.width_px or image.height > found.height_px:
        raise containers.broken()
    orientation = containers.exif_orientation(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
    return dataclasses.replace(found, width_px=image.width, height_px=image.height, orientation=orientation)


def _checked(found: containers.Container, *, most_pixels: int, max_side_px: int) -> containers.Container:
    for side_px, side in ((found.width_px, "wide"), (found.height_px, "high")):
        if side_px > max_side_px:
            message = f"the picture is {side_px:,} pixels {side}, at most {max_side_px:,} are taken"
            raise errors.ImageRejected(message, code="too_many_pixels")
    if found.width_px * found.height_px > most_pixels:
        raise errors.ImageRejected(
            f"the picture has {found.width_px}x{found.height_px} pixels, at most {most_pixels:,} are taken",
            code="too_many_pixels",
        )
    if found.buffer_bytes > MAX_BUFFER_BYTES:
        raise errors.ImageRejected("the strips or tiles of the TIFF are too large", code="too_many_pixels")
    return found


def _probe(found: containers.Container) -> Probe:
    width_px, height_px = _upright_size(found)
    return Probe(
        content_type=CONTENT_TYPES[found.kind],
        width_px=width_px,
        height_px=height_px,
        pixels=width_px * height_px,
        size_bytes=len(found.bare),
        buffer_bytes=found.buffer_bytes,
    )


def _bounded(size: tuple[int, int]) -> tuple[int, int]:
    return size if max(size) <= MAX_SIDE_PX else fitting.inner_size(size, (MAX_SIDE_PX, MAX_SIDE_PX))


def _upright_size(found: containers.Container) -> tuple[int, int]:
    size = found.width_px, found.height_px
    return size[::-1] if found.orientation in _QUARTER_TURNS else size


def _turned(image: Image.Image, found: containers.Container) -> Image.Image:
    method = _TRANSPOSE.get(found.orientation)
    return image if method is None else image.transpose(method)


def _sized(found: containers.Container, target: tuple[int, int], fit: Fit, kind: Format | None) -> Image.Image:
    """The picture at *target*: one decode, one resize, then turned, because fewer pixels are left to turn."""
    source = found.width_px, found.height_px
    stored = target[::-1] if found.orientation in _QUARTER_TURNS else target
    inner = fitting.inner_size(source, stored) if fit == "contain" else stored
    box: fitting.Box = fitting.crop_box(source, stored) if fit == "cover" else (0, 0, *source)
    whole = (
        math.ceil(source[0] * inner[0] / (box[2] - box[0])),
        math.ceil(source[1] * inner[1] / (box[3] - box[1])),
    )
    image, scale = pixels.decode(found, least=whole)
    left, top, right, bottom = (edge / scale for edge in box)
    image = pixels.resized(pixels.plain(image, kind or "png"), inner, (left, top, right, bottom))
    if inner != stored:
        is_white = kind == "jpg" or (kind is None and image.mode != "RGBA")
        mode, colour = ("RGB", "white") if is_white else ("RGBA", (0, 0, 0, 0))
        canvas = pixels.like(image, Image.new(mode, stored, colour))
        canvas.paste(image.convert(mode), ((stored[0] - inner[0]) // 2, (stored[1] - inner[1]) // 2))
        image = canvas
    return _turned(image, found)


def _output_kind(wanted: str) -> Format | None:
    """``None``: JPEG, or PNG where something shows through."""
    if wanted in ("avif", "tiff"):
        return None
    return "jpg" if wanted == "jpg" else "webp" if wanted == "webp" else "png"


# Real ones have a few KB; a larger one would make every thumbnail as heavy as itself.
_MOST_PROFILE_BYTES = 1 << 20


def _encoded(image: Image.Image, kind: str, *, quality: int) -> Picture:
    """
    Save *image*, which is L, RGB or RGBA, with its profile if that speaks of the same kind of colours.

    A profile for other channels (of a CMYK file's RGB conversion, say) makes browsers show nonsense.
    """
    if kind == "webp" and image.mode == "RGBA" and image.width * image.height > MAX_ALPHA_WEBP_PIXELS:
        kind = "png"
    own = image.info.get("icc_profile")
    profile = own or b""
    is_odd = profile[16:20] != pixels.PROFILE_SPACES[image.mode] or (image.mode == "L" and kind == "webp")
    if is_odd or len(profile) > _MOST_PROFILE_BYTES:
        profile = None
    out = io.BytesIO()
    # Encoders write what else the file had to say, if it is there.
    image.info = {} if own is None else {"icc_profile": own}
    image.save(out, pixels.PILLOW_NAMES[kind], icc_profile=profile, quality=quality, **_SAVE[kind])
    return _picture(out.getvalue(), kind=kind, size=image.size)


def _picture(body: Body, *, kind: str, size: tuple[int, int]) -> Picture:
    return Picture(body=body, content_type=CONTENT_TYPES[kind], width_px=size[0], height_px=size[1])


def _thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, THUMBNAIL_PX / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _thumbnail(image: Image.Image, *, of: tuple[int, int]) -> Picture:
    """JPEG, or WebP where something shows through. *image* may be a scaled decode of what *of* measures."""
    small = image.resize(_thumbnail_size(of), pixels.FILTER, reducing_gap=_THUMBNAIL_GAP)
    small = pixels.plain(small, "png")
    return _encoded(small, "webp" if small.mode == "RGBA" else "jpg", quality=THUMBNAIL_QUALITY)
