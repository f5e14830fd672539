"""
What a submit may ask for: the vendor's fields, their values and their price.

Source: NanoBanana's API pages (generate, generate-pro, generate-2).
"""

import dataclasses
import urllib.parse
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import orjson

Tier = Literal["generate", "generate-pro", "generate-2"]
TIERS: tuple[Tier, ...] = get_args(Tier)

RATIOS = frozenset({"1:1", "9:16", "16:9", "3:4", "4:3", "3:2", "2:3", "5:4", "4:5", "21:9"})
_TALL_AND_WIDE = frozenset({"1:4", "1:8", "4:1", "8:1"})
_RATIOS_OF: dict[Tier, frozenset[str]] = {
    "generate": RATIOS,
    "generate-pro": RATIOS | {"auto"},
    "generate-2": RATIOS | {"auto"} | _TALL_AND_WIDE,
}
# The vendor gives no maximum for generate; some number has to stop a flood.
_MAX_IMAGES: dict[Tier, int] = {"generate": 14, "generate-pro": 8, "generate-2": 14}
_MAX_NUM_IMAGES = 4
_MAX_PROMPT_CHARS = 20_000
# Misspelt by the vendor.
_FROM_TEXT, _FROM_IMAGE = "TEXTTOIAMGE", "IMAGETOIAMGE"
_PRICES: dict[Tier, dict[str, int]] = {
    "generate": {"1K": 4, "2K": 4, "4K": 4},
    "generate-pro": {"1K": 18, "2K": 18, "4K": 24},
    "generate-2": {"1K": 8, "2K": 12, "4K": 18},
}


class OrderError(Exception):
    """
    The submit is refused.

    Args:
        code: The body code to refuse it with.
        message: What is wrong; never a value that came in.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """One accepted submit."""

    tier: Tier
    params: dict[str, Any] = dataclasses.field(repr=False)
    """The body as it came; told again by record-info's ``paramJson``."""

    prompt: str = dataclasses.field(repr=False)
    image_urls: tuple[str, ...] = dataclasses.field(repr=False)
    callback_url: str | None = dataclasses.field(repr=False)
    ratio: str | None
    """One of the tier's ratios, ``auto``, or ``None``: the default."""

    resolution: str
    """``1K``, ``2K`` or ``4K``."""

    output_format: str
    """``png`` or ``jpg``."""

    @property
    def price(self) -> int:
        """Credits that the account pays for it."""
        return _PRICES[self.tier][self.resolution]


def parse(tier: Tier, body: bytes) -> Order:
    """
    Read the submit *body* sent to *tier*.

    Raises:
        OrderError: 400 for anything but a JSON object, 422 for a field that is missing or wrong.
    """
    try:
        params = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise OrderError(400, "the body is not JSON") from exc
    if not isinstance(params, dict):
        raise OrderError(400, "the body is not a JSON object")
    simple = tier == "generate"
    images = _images(params, limit=_MAX_IMAGES[tier])
    if simple:
        _check_generate(params, images)
    ratio = "image_size" if simple else "aspectRatio"
    return Order(
        tier=tier,
        params=params,
        prompt=_prompt(params),
        image_urls=images,
        callback_url=_callback_url(params, required=simple),
        ratio=_choice(params, ratio, sorted(_RATIOS_OF[tier])),
        resolution=(None if simple else _choice(params, "resolution", ("1K", "2K", "4K"))) or "1K",
        output_format=(_choice(params, "outputFormat", ("png", "jpg")) if tier == "generate-2" else None) or "jpg",
    )


def _check_generate(params: dict[str, Any], images: tuple[str, ...]) -> None:
    kind = params.get("type")
    if kind in (None, ""):
        raise OrderError(422, "type can not be blank")
    if kind not in (_FROM_TEXT, _FROM_IMAGE):
        raise OrderError(422, "Incorrect type")
    if kind == _FROM_IMAGE and not images:
        raise OrderError(422, "imageUrls can not be blank")
    number = params.get("numImages", 1)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _MAX_NUM_IMAGES:
        raise OrderError(422, "numImages must be 1 to 4")


def _prompt(params: dict[str, Any]) -> str:
    prompt = params.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise OrderError(422, "prompt can not be blank")
    if len(prompt) > _MAX_PROMPT_CHARS:
        raise OrderError(422, "prompt is too long")
    return prompt


def _images(params: dict[str, Any], *, limit: int) -> tuple[str, ...]:
    urls = params.get("imageUrls")
    if urls is None:
        return ()
    if not isinstance(urls, list) or not all(_is_address(url) for url in urls):
        raise OrderError(422, "imageUrls must be a list of addresses")
    if len(urls) > limit:
        raise OrderError(422, f"imageUrls takes at most {limit}")
    return tuple(urls)


def _callback_url(params: dict[str, Any], *, required: bool) -> str | None:
    url = params.get("callBackUrl")
    if url in (None, ""):
        if required:
            raise OrderError(422, "callBackUrl can not be blank")
        return None
    if not _is_address(url):
        raise OrderError(422, "callBackUrl must be an address")
    return cast("str", url)


def _choice(params: dict[str, Any], name: str, choices: Sequence[str]) -> str | None:
    value = params.get(name)
    if value in (None, ""):
        return None
    if value not in choices:
        raise OrderError(422, f"{name} must be one of {', '.join(choices)}")
    return cast("str", value)


def _is_address(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urllib.parse.urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
