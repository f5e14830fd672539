"""
Draws results: plainly changed inputs, or shapes for a prompt, always in the upstream's own odd sizes.

Everything here takes processor time: call it from a thread.
"""

import hashlib
import io
import math
import random
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from nanohook.sandbox import orders, tasks

# Width and height in pixels at 1K.
SIZES = {
    "1:1": (1024, 1024),
    "4:3": (1184, 864),
    "3:4": (864, 1184),
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "3:2": (1248, 832),
    "2:3": (832, 1248),
    "5:4": (1152, 896),
    "4:5": (896, 1152),
    "21:9": (1536, 672),
    "1:4": (512, 2048),
    "4:1": (2048, 512),
    "1:8": (384, 3072),
    "8:1": (3072, 384),
}
DEFAULT_RATIO = "4:3"
MAX_PIXELS = 40_000_000

# A JPEG is decoded at no more than is needed here.
_DRAFT_SIZE = (2048, 2048)
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_BANANA = (255, 225, 53)
_BORDER = (255, 64, 160)
_TINT = 0.2


class PictureError(Exception):
    """An input is not a picture that can be read; the message says no more than that."""


def paint(order: orders.Order, sources: Sequence[bytes]) -> tasks.Picture:
    """
    Draw the result of *order*.

    Args:
        order: Its prompt's hash chooses the colours, so the same order looks the same.
        sources: Its fetched inputs; the first is changed, the others are only looked at.

    Raises:
        PictureError: One of *sources* is not a picture, or has more than ``MAX_PIXELS``.
    """
    chances = random.Random(_digest(order.prompt))  # noqa: S311 - colours, not secrets
    opened = [_open(source) for source in sources]
    if opened:
        image = _remake(opened[0], order, chances)
    else:
        image = _invent(_digest(order.prompt), _size(order, None), chances)
    _sign(image)
    return _save(image, order.output_format)


def canned(content: bytes) -> tasks.Picture:
    """Wrap ready *content*, named after what it is."""
    if content.startswith(b"\x89PNG"):
        return tasks.Picture(content=content, media_type="image/png", suffix="png")
    if content[8:12] == b"WEBP":
        return tasks.Picture(content=content, media_type="image/webp", suffix="webp")
    return tasks.Picture(content=content, media_type="image/jpeg", suffix="jpg")


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "backslashreplace")).hexdigest()


def _open(source: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(source), formats=_FORMATS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise PictureError("an input is not a picture") from exc
    if image.width * image.height > MAX_PIXELS:
        raise PictureError("an input has too many pixels")
    return image


def _size(order: orders.Order, source: tuple[int, int] | None) -> tuple[int, int]:
    ratio = order.ratio or DEFAULT_RATIO
    if ratio == "auto":
        ratio = _nearest(source) if source else DEFAULT_RATIO
    width, height = SIZES[ratio]
    # 4K is drawn at 2K: the difference is time, and nothing that a receiver does differently.
    scale = 1 if order.resolution == "1K" else 2
    return width * scale, height * scale


def _nearest(source: tuple[int, int]) -> str:
    wanted = math.log(source[0] / source[1])
    logs = {ratio: math.log(SIZES[ratio][0] / SIZES[ratio][1]) for ratio in sorted(orders.RATIOS)}
    return min(logs, key=lambda ratio: abs(logs[ratio] - wanted))


def _remake(image: Image.Image, order: orders.Order, chances: random.Random) -> Image.Image:
    try:
        image.draft("RGB", _DRAFT_SIZE)
        flat = _flatten(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError) as exc:
        raise PictureError("an input is broken") from exc
    fitted = ImageOps.fit(flat, _size(order, flat.size))
    hue, saturation, value = fitted.convert("HSV").split()
    shift = chances.randrange(48, 208)
    moved = Image.merge("HSV", (hue.point([(x + shift) % 256 for x in range(256)]), saturation, value))
    # Grey has no hue to move: a tint changes it too.
    tint = Image.new("RGB", fitted.size, _colour(chances))
    return Image.blend(ImageOps.posterize(moved.convert("RGB"), 4), tint, _TINT)


def _flatten(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    paper.alpha_composite(layer)
    return paper.convert("RGB")


def _invent(digest: str, size: tuple[int, int], chances: random.Random) -> Image.Image:
    slope = Image.linear_gradient("L").resize(size)
    image = ImageOps.colorize(slope, black=_colour(chances), white=_colour(chances))
    pen = ImageDraw.Draw(image)
    for _ in range(7):
        left, top = chances.randrange(size[0]), chances.randrange(size[1])
        box = (left, top, left + chances.randrange(40, 400), top + chances.randrange(40, 400))
        shape = chances.choice((pen.ellipse, pen.rectangle))
        shape(box, fill=_colour(chances))
    words = " ".join(digest[start : start + 8] for start in range(0, 32, 8))
    pen.text((40, 40), words, fill="white", font=ImageFont.load_default(size=28))
    return image


def _colour(chances: random.Random) -> tuple[int, int, int]:
    return chances.randrange(256), chances.randrange(256), chances.randrange(256)


def _sign(image: Image.Image) -> None:
    pen = ImageDraw.Draw(image)
    edge = max(8, min(image.size) // 64)
    pen.rectangle((0, 0, image.width - 1, image.height - 1), outline=_BORDER, width=edge)
    side = min(image.size) // 6
    right, bottom = image.width - 3 * edge, image.height - 3 * edge
    pen.arc((right - side, bottom - side, right, bottom), 15, 165, fill=_BANANA, width=max(6, side // 5))


def _save(image: Image.Image, output_format: str) -> tasks.Picture:
    buffer = io.BytesIO()
    if output_format == "png":
        image.save(buffer, "PNG", compress_level=1)
        return tasks.Picture(content=buffer.getvalue(), media_type="image/png", suffix="png")
    image.save(buffer, "JPEG", quality=90)
    return tasks.Picture(content=buffer.getvalue(), media_type="image/jpeg", suffix="jpg")
