"""Requests as they come in: pydantic at the wire, plain values inside."""

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import from_json
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import Message

from nanohook import errors, passwords
from nanohook.rules import signing, smtp, wishes, words
from nanohook.rules.tempo import Tempo, Watch
from nanohook.rules.wishes import Wish

JSON_BYTES: Final = 256 * 1024
"""A prompt of 20,000 characters fits however it is escaped."""
BODY_S: Final = 10.0
"""How long a body of JSON may take."""
JSON_TEMPO: Final = Tempo(silence_s=BODY_S, min_bytes_s=0, total_s=BODY_S)
UPLOAD_TEMPO: Final = Tempo()
"""Of pictures and batches: some megabytes, by a slow line too."""
MOST_FIELDS: Final = 100
"""Of one object of a body: many more than any has. Each that is not known costs an error."""
MOST_MARKS: Final = 300_000
"""Brackets, colons and commas of a body, those in its texts too: parsing so many takes at most 0.1 s."""
_MARKS: Final = (b"[", b"{", b":", b",")
_MOST_NAME_CHARS: Final = 32
"""Of a field's name: what is longer is no field's, and not looked at."""
_MOST_TOLD_CHARS: Final = 64
_MOST_PROBLEMS: Final = 20

M = TypeVar("M", bound=BaseModel)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])([A-Z])")


def _snake(name: str) -> str:
    return _CAMEL.sub(lambda found: f"_{found[1]}", name).lower()


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("cannot hold a NUL")
    return text


def check_few(names: Mapping[Any, object]) -> None:
    """
    Refuse an object with more than ``MOST_FIELDS``, before anything is done for each of them.

    Raises:
        ValueError: It has more.
    """
    if len(names) > MOST_FIELDS:
        raise ValueError(f"an object has at most {MOST_FIELDS} fields")


class BothCases(BaseModel):
    """Takes camelCase and snake_case; a field given in both, with different values, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _one_case(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        check_few(value)
        taken: dict[str, Any] = {}
        for name, item in value.items():
            snake = _snake(name) if isinstance(name, str) and len(name) <= _MOST_NAME_CHARS else name
            if snake in taken and taken[snake] != item:
                raise ValueError("a field is given twice, with different values")
            taken[snake] = item
        return taken


Text = Annotated[str, Field(min_length=1, max_length=64)]
Model = Literal["nano-banana", "nano-banana-pro", "nano-banana-2"]


class Generate(BothCases):
    """Body of ``POST /api/generate-image``."""

    image_id: str | None = None
    project_id: str | None = None
    prompt: Annotated[str, Field(max_length=wishes.MOST_PROMPT_CHARS), AfterValidator(_no_nul)] | None = None
    transformation_type: Literal["custom", "enhance", "restyle", "background", "remove"] = "custom"
    model: Model = "nano-banana"
    num_images: Annotated[int, Field(strict=True, ge=1, le=wishes.MOST_IMAGES)] = 1
    aspect_ratio: Text | None = None
    resolution: Text | None = None
    output_format: Literal["jpg", "png", "webp"] | None = None
    fit: Literal["cover", "contain", "stretch"] = "cover"
    use: Literal["original", "result"] = "original"
    priority: Literal["low", "normal", "high"] = "normal"

    def wish(self, language: str) -> Wish:
        """Turn the body into what ``flow`` takes; ``wishes.check`` comes with it."""
        prompt = self.prompt.strip() if self.prompt else None
        wish = Wish(
            prompt=prompt or None,
            transformation_type=self.transformation_type,
            model=self.model,
            num_images=self.num_images,
            aspect_ratio=self.aspect_ratio,
            resolution=self.resolution,
            output_format=self.output_format,
            fit=self.fit,
            use=self.use,
            priority=self.priority,
            language=language,
        )
        wishes.check(wish)
        return wish


class _Body(BaseModel):
    """Takes the fields that it has, in snake_case."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _password(text: str) -> str:
    reason = passwords.check(text)
    if reason is not None:
        raise ValueError(reason)
    return text


def _one_line(text: str) -> str:
    if not smtp.is_one_line(text):
        raise ValueError("must be one line of text")
    return text


Email = Annotated[str, AfterValidator(smtp.bare)]
NewPassword = Annotated[str, AfterValidator(_password), Field(json_schema_extra={"format": "password"})]
KeyName = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_one_line)]
Token = Annotated[str, Field(min_length=1, max_length=signing.MAX_TOKEN_CHARS)]


class Register(_Body):
    """Body of ``POST /api/auth/register``."""

    email: Email
    password: NewPassword


class Login(_Body):
    """Body of ``POST /api/auth/login``."""

    email: Email
    password: str


class Forgot(_Body):
    """Body of ``POST /api/auth/password/forgot``."""

    email: Email


class ChangePassword(_Body):
    """Body of ``POST /api/auth/password``."""

    current_password: str | None = None
    new_password: NewPassword


class Reset(_Body):
    """Body of ``POST /api/auth/password/reset``."""

    token: Token
    new_password: NewPassword


class Verify(_Body):
    """Body of ``POST /api/auth/verify-email``."""

    token: Token


class NewKey(_Body):
    """Body of ``POST /api/auth/keys``; may be absent."""

    name: KeyName | None = None
    admin: Annotated[bool, Field(strict=True)] = False


ProjectName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_one_line)
]
Description = Annotated[str, Field(max_length=2_000), AfterValidator(_no_nul)]


class NewProject(_Body):
    """Body of ``POST /api/projects``."""

    name: ProjectName
    description: Description | None = None


class ProjectChange(_Body):
    """Body of ``PATCH /api/projects/{project_id}``: what is not named stays."""

    name: ProjectName = ""
    description: Description | None = None
    cover: None = None

    @property
    def drops_cover(self) -> bool:
        """The cover shall go."""
        return "cover" in self.model_fields_set

    def named(self) -> dict[str, Any]:
        """What shall change, the cover aside."""
        return self.model_dump(include=self.model_fields_set - {"cover"})


class StreamToken(_Body):
    """Body of ``POST /api/events/token``; may be absent."""

    job_id: str | None = None


class Estimate(_Body):
    """Query of ``GET /api/credits/estimate``."""

    model: Model = "nano-banana"
    resolution: Text | None = None
    num_images: Annotated[int, Field(ge=1, le=wishes.MOST_IMAGES)] = 1

    def checked_resolution(self) -> str | None:
        """
        Give the resolution, if the model has it.

        Raises:
            Invalid: It does not.
        """
        wishes.check_resolution(self.model, self.resolution)
        return self.resolution


class Check(BothCases):
    """Body of ``POST /api/check-generation-status``."""

    image_id: str
    task_id: str | None = None


class Retry(BothCases):
    """Body of ``POST …/retry``; may be absent."""

    buy_again: Annotated[bool, Field(strict=True)] = False


def bounded(request: Request, *, most_bytes: int, tempo: Tempo = JSON_TEMPO) -> Request:
    """
    Give *request* with a body that cannot be read further than *most_bytes*, nor slower than *tempo*.

    Raises:
        TooLarge: It declares more; reading raises it for one that does not declare it, ``TooSlow``, and
            ``Rejected`` with ``disconnected`` for one that never ends.
    """
    too_large = errors.TooLarge(f"the body has at most {most_bytes} bytes", code="too_large")
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit() and len(declared) <= 18 and int(declared) <= most_bytes):  # noqa: PLR2004
        raise too_large
    left = most_bytes
    # Its clock runs while we wait for the sender; what we do in between is not theirs to answer for.
    waited_s = 0.0
    watch = Watch(tempo, now_s=waited_s)
    watch.begun(now_s=waited_s)

    async def receive() -> Message:
        nonlocal left, waited_s
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(watch.ends_at_s - waited_s):
                message = await request.receive()
        except TimeoutError:
            raise errors.TooSlow(f"the body comes too slowly: {watch.verdict}") from None
        waited_s += time.monotonic() - began_s
        if message["type"] == "http.disconnect":
            # Theirs to do: left to the framework it would be logged as a crash of ours.
            raise errors.Rejected("the connection ended within the body", code="disconnected")
        size_bytes = len(message.get("body", b""))
        watch.received(size_bytes, now_s=waited_s)
        left -= size_bytes
        if left < 0:
            raise too_large
        return message

    return Request(request.scope, receive)


async def body_of(request: Request, model: type[M]) -> M:
    """
    Read a JSON body as *model*.

    Raises:
        Rejected: Not JSON.
        Invalid: Names the fields that cannot be used, never their values.
    """
    return _valid(_parsed(await request.body() or b"{}"), model)


def _parsed(raw: bytes) -> object:
    """
    Parse a body, if that holds up nobody: 8 MiB of empty lists would for half a second.

    Raises:
        Rejected: Not JSON.
        Invalid: It has more than ``MOST_MARKS``.
    """
    if sum(map(raw.count, _MARKS)) > MOST_MARKS:
        raise _unusable({"body": f"at most {MOST_MARKS:,} brackets, colons and commas"})
    try:
        parsed: object = from_json(raw)
    except ValueError:
        raise errors.Rejected("the body is not JSON", code="not_json") from None
    return parsed


def model_of(fields: Mapping[str, str], model: type[M]) -> M:
    """
    Read the fields of a form as *model*.

    Raises:
        Invalid: Names the fields that cannot be used, never their values.
    """
    return _valid(fields, model)


def values_of(query: QueryParams, model: type[M]) -> M:
    """
    Read a query as *model*.

    Raises:
        Invalid: Names what cannot be used, never its value.
    """
    return model_of(dict(query), model)


def language(request: Request) -> str:
    """Choose the language of the messages of what this request creates."""
    return words.language_of(request.headers.get("accept-language"))


def _valid(given: object, model: type[M]) -> M:
    try:
        if isinstance(given, Mapping):
            check_few(given)
        return model.model_validate(given)
    except ValidationError as exc:
        raise _unusable(fields_of(exc)) from None
    except ValueError as exc:
        raise _unusable({"body": str(exc)}) from None


def _unusable(fields: dict[str, str]) -> errors.Invalid:
    return errors.Invalid("some fields cannot be used", fields=fields)


def fields_of(exc: ValidationError) -> dict[str, str]:
    """Name the fields that cannot be used, at most 20 of them, each with what is wrong; never their values."""
    problems = exc.errors(include_input=False, include_url=False, include_context=False)
    return {
        ".".join(str(part) for part in problem["loc"])[:_MOST_TOLD_CHARS] or "body": _said(problem)
        for problem in problems[:_MOST_PROBLEMS]
    }


def _said(problem: Mapping[str, Any]) -> str:
    return str(problem["msg"]).removeprefix("Value error, ")
