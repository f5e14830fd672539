"""
What may be asked of a model: prompts, ratios, resolutions, formats.

Source: docs.nanobananaapi.ai, pages of ``generate``, ``generate-pro`` and ``generate-2``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from nanohook import errors
from nanohook.rules import fitting

MOST_PROMPT_CHARS: Final = 20_000
MOST_IMAGES: Final = 4
MODELS: Final = ("nano-banana", "nano-banana-pro", "nano-banana-2")
"""In the order in which ``NANOHOOK_NANOBANANA_PATHS`` names their submit paths."""

_COMMON_RATIOS: Final = ("1:1", "9:16", "16:9", "3:4", "4:3", "3:2", "2:3", "5:4", "4:5", "21:9")
_RATIOS: Final = {
    "nano-banana": _COMMON_RATIOS,
    "nano-banana-pro": (*_COMMON_RATIOS, "auto"),
    "nano-banana-2": (*_COMMON_RATIOS, "1:4", "1:8", "4:1", "8:1", "auto"),
}
_RESOLUTIONS: Final = {
    "nano-banana": (),
    "nano-banana-pro": ("1K", "2K", "4K"),
    "nano-banana-2": ("1K", "2K", "4K"),
}
TEMPLATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "custom": "",
        "enhance": "Improve light, sharpness and colours of this picture; keep everything that is in it.",
        "restyle": "Draw this picture again in another artistic style; keep its composition.",
        "background": "Replace the background of this picture; leave its subject as it is.",
        "remove": "Remove what does not belong in this picture and fill the place naturally.",
    }
)
"""Prompt by transformation type; what the person adds comes after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a person asks for, checked by ``check``."""

    prompt: str | None = field(repr=False)
    transformation_type: str
    model: str
    num_images: int
    aspect_ratio: str | None
    resolution: str | None
    output_format: str | None
    """``jpg png webp``, of the stored picture; ``None``: what the upstream delivers."""
    fit: str
    use: str
    """``original`` or ``result``: which picture of the job named is the input."""
    priority: str
    language: str

    def options(self, *, upstream_ratio: str | None) -> dict[str, object]:
        """Everything beside the prompt, as the job keeps it; *upstream_ratio* is what NanoBanana is asked."""
        return {
            "num_images": self.num_images,
            "aspect_ratio": self.aspect_ratio,
            "upstream_ratio": upstream_ratio,
            "resolution": self.resolution,
            "output_format": self.output_format,
            "fit": self.fit,
            "use": self.use,
        }


def full_prompt(transformation_type: str, prompt: str | None) -> str:
    """Join the template of the transformation and the person's words."""
    return " ".join(part for part in (TEMPLATES[transformation_type], prompt) if part)


def check(wish: Wish) -> None:
    """
    Check what one field alone cannot tell.

    Raises:
        Invalid: Names every field that cannot be used, without its value.
    """
    wrong: dict[str, str] = {}
    if wish.model not in _RATIOS:
        raise errors.Invalid("unknown model", fields={"model": f"must be one of {', '.join(_RATIOS)}"})
    if not wish.prompt and wish.transformation_type == "custom":
        wrong["prompt"] = "is needed unless transformation_type says what to do"
    if wish.aspect_ratio is not None and wish.aspect_ratio not in _RATIOS[wish.model]:
        wrong["aspect_ratio"] = f"{wish.model} takes {', '.join(_RATIOS[wish.model])}"
    wrong |= _wrong_resolution(wish.model, wish.resolution)
    if wrong:
        raise errors.Invalid("some fields cannot be used", fields=wrong)


def check_resolution(model: str, resolution: str | None) -> None:
    """
    Check that *model* can make a picture of *resolution*.

    Raises:
        Invalid: It cannot.
    """
    wrong = _wrong_resolution(model, resolution)
    if wrong:
        raise errors.Invalid("some fields cannot be used", fields=wrong)


def _wrong_resolution(model: str, resolution: str | None) -> dict[str, str]:
    if resolution is None or resolution in _RESOLUTIONS[model]:
        return {}
    return {"resolution": f"{model} takes {', '.join(_RESOLUTIONS[model]) or 'no resolution'}"}


def upstream_ratio(wish: Wish, size: tuple[int, int] | None) -> str | None:
    """Choose the ratio NanoBanana is asked for: the one wished, else the nearest to *size* (width, height)."""
    if wish.aspect_ratio is not None or size is None:
        return wish.aspect_ratio
    offered = [ratio for ratio in _RATIOS[wish.model] if ratio != "auto"]
    return fitting.nearest_ratio(size[0], size[1], offered)
