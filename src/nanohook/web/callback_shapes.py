"""
What callbacks look like that NanoBanana sends, and how they are answered.

For readers of the document: a callback is read by ``rules.callbacks``, which believes no shape.

Source: docs.nanobananaapi.ai, callback pages of ``generate`` and ``generate-2``; CONTRACT section 6.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from nanohook.web import shapes


class Foreign(BaseModel):
    """Open: somebody else's, who may add fields."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)


class Receipt(shapes.Shape):
    """A callback was taken; committed before this was said."""

    status: Literal["accepted", "duplicate"]
    delivery_id: shapes.Id


class CallbackInfo(Foreign):
    """Where the picture is."""

    resultImageUrl: str | None = None  # noqa: N815 - NanoBanana's spelling


class CallbackDataA(Foreign):
    """The task of shape A."""

    taskId: str  # noqa: N815
    info: CallbackInfo | None = None


class CallbackA(Foreign):
    """Callback of `generate` and `generate-pro`: the verdict is `code`."""

    code: int
    msg: str | None = None
    data: CallbackDataA


class CallbackDataB(Foreign):
    """The task of shape B."""

    taskId: str  # noqa: N815
    successFlag: Literal[0, 1, 2, 3]  # noqa: N815
    response: CallbackInfo | None = None
    errorCode: int | str | None = None  # noqa: N815
    errorMessage: str | None = None  # noqa: N815


class CallbackB(Foreign):
    """Callback of `generate-2`: the verdict is `successFlag`."""

    code: int
    msg: str | None = None
    data: CallbackDataB


class CallbackDataC(Foreign):
    """What shape C says about the job."""

    url: str | None = None
    image_url: str | None = None
    images: list[str] = []
    progress: float | None = None
    error: str | None = None


class CallbackC(Foreign):
    """Callback that names our job and a status word."""

    job_id: str
    status: str
    data: CallbackDataC | None = None
