"""What is asked of NanoBanana, and how its endpoints want it said."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What one task shall make, always one image; checked against the model where orders are made."""

    model: str
    """``nano-banana``, ``nano-banana-pro`` or ``nano-banana-2``."""

    prompt: str = dataclasses.field(repr=False)
    image_urls: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    """Absolute addresses of the inputs; with none, the picture is made from text alone."""

    aspect_ratio: str | None = None
    resolution: str | None = None
    """``1K``, ``2K`` or ``4K``; not sent to ``nano-banana``."""

    output_format: str | None = None
    """``png`` or ``jpg``, sent to ``nano-banana-2`` only; anything else is our own business."""

    callback_url: str = dataclasses.field(repr=False)


def body(order: Order) -> dict[str, Any]:
    """
    Write *order* in the words of its model's endpoint; what is not set is not sent.

    Source: NanoBanana's API pages (generate, generate-pro, generate-2).
    """
    images = list(order.image_urls)
    if order.model == "nano-banana":
        said: dict[str, Any] = {
            "prompt": order.prompt,
            # Misspelt by the vendor.
            "type": "IMAGETOIAMGE" if images else "TEXTTOIAMGE",
            "numImages": 1,
            "imageUrls": images or None,
            "image_size": order.aspect_ratio if order.aspect_ratio != "auto" else None,
        }
    else:
        takes_format = order.model == "nano-banana-2" and order.output_format in ("png", "jpg")
        said = {
            "prompt": order.prompt,
            "imageUrls": images or None,
            "resolution": order.resolution,
            "aspectRatio": order.aspect_ratio,
            "outputFormat": order.output_format if takes_format else None,
        }
    said["callBackUrl"] = order.callback_url
    return {name: value for name, value in said.items() if value is not None}
