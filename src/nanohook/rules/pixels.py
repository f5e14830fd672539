"""
Decoding, and what is done with decoded pixels: made plain, resized. With ``imaging`` the only modules that know
Pillow. What comes in has been walked and measured by ``containers``, ``avif`` or ``tiff``.
"""

import contextlib
import io
import re
import struct
import warnings
import zlib
from typing import IO, cast

import simplejpeg
from PIL import AvifImagePlugin, Image, ImageChops, ImageCms

from nanohook.rules import containers
from nanohook.rules.fitting import Box

# Measured on 1184×864 → 1024×576 (dB against the source, after scaling back up): Hamming 6.7 ms and 34.3 dB,
# bicubic 10.9 and 35.0, Magic Kernel Sharp 12.3 and 35.3, Lanczos 15.0 and 35.4. Enlarging, and shrinking by
# 2.3, they lie within 0.3 dB and keep that order in time. Bicubic is where the next tenths get dear.
FILTER = Image.Resampling.BICUBIC

PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "avif": "AVIF", "tiff": "TIFF"}
_MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B"}
)
"""What can be brought to L, RGB or RGBA without guessing what white is."""
_KEPT_BY_DECODERS = frozenset({"webp", "avif"})
"""Their decoders hold twice the pixels as long as the opened image lives: a copy lets go of it."""
# What libjpeg says when it makes up the rest: at a marker too early, or where a restart should have followed.
_CUT_OFF = re.compile(r"premature end of data|found marker 0xd9 instead of RST", re.IGNORECASE)
PROFILE_SPACES = {"L": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB ", "CMYK": b"CMYK"}
_OPAQUE = 255
# Pillow's plugins raise whatever their parsing trips over; libavif's faults come as RuntimeError.
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)

# A thread of ours is one thread: memory and cores are budgeted by them.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# Sizes are checked here, against the service's own limit, before Pillow opens a file. Pillow's limit would
# only warn, and would do so for pictures that the operator allowed.
Image.MAX_IMAGE_PIXELS = None

# Of labels that Pillow does not like: what is not pixels never decides, and nobody could do anything about it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode(found: containers.Container, *, least: tuple[int, int] | None = None) -> tuple[Image.Image, float]:
    """
    All pixels, decoded, in whatever mode the file has, and how many stored pixels one of them stands for.

    Args:
        found: What was walked.
        least: A JPEG may come out at a half, a quarter or an eighth, but not below this in either direction.
    """
    if found.kind == "jpg":
        _refuse_cut_off(found)
    try:
        image = opened(found)
        if image.size != (found.width_px, found.height_px):
            raise ValueError("header and decoder do not agree on the size")
        if image.mode not in _MODES:
            raise ValueError("pixels of a kind that is not read")
        drafted = image.draft(None, least) if least else None
        image.load()
        if found.kind in _KEPT_BY_DECODERS:
            image = image.copy()
    except DECODING_ERRORS as exc:
        short = isinstance(exc, EOFError) or "truncated" in str(exc)
        raise (containers.truncated() if short else containers.broken()) from exc
    return image, found.width_px / drafted[1][2] if drafted else 1.0


def opened(found: containers.Container) -> Image.Image:
    """Let Pillow read the header of what was walked; raises one of ``DECODING_ERRORS``."""
    # A mapped file is a file already; bytes are shared with what reads them.
    file = io.BytesIO(found.bare) if isinstance(found.bare, bytes) else cast(IO[bytes], found.bare)
    file.seek(0)
    return Image.open(file, formats=(PILLOW_NAMES[found.kind],))


def _refuse_cut_off(found: containers.Container) -> None:
    """
    Refuse a JPEG whose data ends before its pixels do, wherever it was closed again.

    Decoded to an eighth: every coefficient is read, and little is done with it. libjpeg keeps the first warning
    alone, so where that is another one, it is asked again without the segments that it may have been about.
    """
    for body in (found.bare, containers.without_labels(found.bare)):
        try:
            simplejpeg.decode_jpeg(body, "GRAY", fastdct=True, min_height=1, min_width=1, strict=True)
        except ValueError as exc:
            if _CUT_OFF.search(str(exc)):
                raise containers.truncated() from exc
        else:
            return


def resized(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """
    Resize, one direction after the other in the order that needs less between them.

    Pillow begins with the width. From 600×65,535 to 16,383×2,441 that would be 4 GB for a moment.
    """
    left, top, right, bottom = box
    if size[0] * (bottom - top) > 2 * size[1] * (right - left):
        image = image.resize((image.width, size[1]), FILTER, box=(0, top, image.width, bottom), reducing_gap=2.0)
        top, bottom = 0, size[1]
    return image.resize(size, FILTER, box=(left, top, right, bottom), reducing_gap=2.0)


def plain(image: Image.Image, kind: str) -> Image.Image:
    """The same picture as L, RGB or RGBA, whichever is least for what it shows and *kind* can hold."""
    if image.mode == "CMYK":
        return _rgb_of_cmyk(image)
    if image.mode in ("I;16", "I;16B"):
        # The upper byte of each sample. Pillow's own conversion cuts off at 255 instead.
        upper = slice(0 if image.mode == "I;16B" else 1, None, 2)
        return like(image, Image.frombytes("L", image.size, image.tobytes()[upper]))
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in PROFILE_SPACES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode == "RGBA":
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] == _OPAQUE:
            image = image.convert("RGB")
        elif kind == "jpg":
            canvas = like(image, Image.new("RGB", image.size, "white"))
            canvas.paste(image, mask=alpha)
            image = canvas
    return image


def _rgb_of_cmyk(image: Image.Image) -> Image.Image:
    # Pillow takes every CMYK JPEG for Adobe's, which stores ink inverted. Without Adobe's mark it is not.
    if image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)
    profile = image.info.get("icc_profile") or b""
    result = None
    if profile[16:20] == PROFILE_SPACES["CMYK"]:
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


def like(image: Image.Image, other: Image.Image) -> Image.Image:
    """*other*, which was made from *image*, with its colour profile."""
    other.info["icc_profile"] = image.info.get("icc_profile")
    return other
