"""How one size fits into another: crops, inner sizes, the nearest shape. Numbers alone."""

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


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
