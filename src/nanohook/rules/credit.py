"""
Credits: what a picture costs, and the kinds of change that a ledger knows.

Source: the prices are those that integrators list for NanoBanana, in its own credits.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from nanohook.rules import wishes

MOST_CREDITS: Final = 1_000_000_000
"""A price, a grant and a balance stay below this."""
_DEFAULT_RESOLUTION: Final = "1K"
_PLAIN: Final = ""
"""Stands for the resolution of a model that has no choice of it."""

_DEFAULTS: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "nano-banana": {_PLAIN: 4},
        "nano-banana-2": {"1K": 8, "2K": 12, "4K": 18},
        "nano-banana-pro": {"1K": 18, "2K": 18, "4K": 24},
    }
)


class Kind(enum.StrEnum):
    """Why a balance changed."""

    GRANT = "grant"
    """Given or taken by an admin, or free at the start."""
    RESERVE = "reserve"
    """Set aside for a task of an attempt."""
    CHARGE = "charge"
    """What was set aside is spent: a picture is stored, or the task was canceled too late."""
    RETURN = "return"
    """What was set aside is free again."""


class Prices:
    """
    What one picture costs, in credits.

    Args:
        chosen: Prices by model and resolution that win over the defaults; see ``parse``.
    """

    def __init__(self, chosen: Mapping[str, Mapping[str, int]] = MappingProxyType({})) -> None:
        self._by_model: Final = {model: {**prices, **chosen.get(model, {})} for model, prices in _DEFAULTS.items()}

    def of(self, model: str, resolution: object) -> int:
        """Tell what one picture of *model* costs; without a *resolution* it is made in the smallest."""
        prices = self._by_model[model]
        return prices[_PLAIN] if _PLAIN in prices else prices[str(resolution or _DEFAULT_RESOLUTION)]


def parse(text: str) -> Prices:
    """
    Read prices such as ``{"nano-banana": 4, "nano-banana-pro": {"1K": 18, "4K": 24}}``.

    One number for a model holds for all its resolutions; what is not named keeps its default.

    Raises:
        ValueError: Not such a text; names the model or resolution that is wrong.
    """
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError("must be JSON such as " + '{"nano-banana": 4}') from None
    if not isinstance(given, dict):
        raise ValueError("must be a JSON object with a price for each model")  # noqa: TRY004 - settings expect it
    return Prices({model: _by_resolution(model, price) for model, price in given.items()})


def _by_resolution(model: str, price: Any) -> dict[str, int]:
    if model not in _DEFAULTS:
        raise ValueError(f"knows the models {', '.join(wishes.MODELS)} only")
    offered = _DEFAULTS[model]
    named: dict[str, Any] = price if isinstance(price, dict) else dict.fromkeys(offered, price)
    for resolution, number in named.items():
        if resolution not in offered:
            raise ValueError(f"{model} has the resolutions {', '.join(offered) or 'none'} only")
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MOST_CREDITS:
            raise ValueError(f"the price of {model} must be a whole number of credits from 0 on")
    return named
