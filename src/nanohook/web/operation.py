"""
What an operation of the API is, for its document.

It says what is its own; what follows from who may ask, from a body, from an address with an id in it, is added
here for all of them.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

Json = dict[str, Any]
Content = type[BaseModel] | tuple[type[BaseModel], ...] | str | tuple[str, ...] | None
"""Of an answer: a model or one of several, a media type or several, or nothing."""

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
_VARIABLE: Final = re.compile(r"\{(\w+)(?::\w+)?\}")


class Plain(GenerateJsonSchema):
    """Without the titles that only repeat a field's name, and the defaults that only say that it may be absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - the interface is pydantic's
        return False

    def default_schema(self, schema: Any) -> Json:
        made: Json = super().default_schema(schema)
        if made.get("default", 0) in (None, "", []):
            del made["default"]
        return made


class Access(enum.Enum):
    """Who may ask: in words, the schemes that open it, and the refusals that come with it."""

    ANYONE = ("", (), (503,))
    ALIVE = ("Asks nothing of the database.", (), ())
    STRANGER = ("Not too often, from one address and for one account.", (), (429, 503))
    KNOWN = ("Also for those whose address is not confirmed.", ("bearer", "session"), (401, 403, 429, 503))
    PERSON = ("", ("bearer", "session"), (401, 403, 429, 503))
    ADMIN = ("For admins.", ("bearer", "session"), (401, 403, 429, 503))
    # Never 429: an event source that is refused by status does not come back.
    READER = ("", ("bearer", "session", "token"), (401, 403, 503))
    HOLDER = ("For whoever holds the address.", ("token",), (401,))
    WATCHER = ("For admins, or with the token of the figures.", ("figures", "bearer", "session"), (401, 403, 503))

    def __init__(self, words: str, schemes: tuple[str, ...], refusals: tuple[int, ...]) -> None:
        self.words = words
        self.schemes = schemes
        self.refusals = refusals


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something beside the body that a request may carry."""

    name: str
    about: str
    schema: Mapping[str, object] = field(default_factory=lambda: {"type": "string"})
    place: Literal["query", "header"] = "query"
    is_needed: bool = False


_LIMIT: Final = Parameter(
    "limit", "Most lines of a page.", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
)
_NEXT: Final = "`next_cursor` of the page before."
PAGED: Final = (Parameter("cursor", _NEXT), _LIMIT)
"""Of a list of things with ids of text."""
NUMBERED: Final = (Parameter("cursor", _NEXT, {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}), _LIMIT)
"""Of a list of lines with numbers."""
SCOPE: Final = Parameter(
    "scope", "`all`: everybody's, for admins.", {"type": "string", "enum": ["all", "mine"], "default": "mine"}
)

IDEMPOTENCY: Final = Parameter(
    "Idempotency-Key",
    "The same key and body again get the first answer again, for 24 hours.",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    place="header",
)
REPLAYED: Final = {"Idempotent-Replayed": "`true`: this answer was given before."}


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What a request carries; JSON, multipart, or whichever of the two the caller likes."""

    json: Content = None
    parts: type[BaseModel] | None = None
    """Names of the parts of a multipart body."""
    is_needed: bool = True
    in_both_cases: bool = False
    """Takes each field in camelCase as well."""
    example: Mapping[str, object] | None = None
    """Of the JSON: what somebody who tries it out begins with."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the document."""

    line: str
    """Method and path, as in the route table: ``GET /api/images/{job_id}``."""
    tag: str
    summary: str
    _: KW_ONLY
    about: str = ""
    who: Access = Access.PERSON
    asks: tuple[Parameter, ...] = ()
    takes: Body | None = None
    gives: Mapping[int, Content]
    """What it answers when it does as asked."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of those answers that stand out, and what they tell."""
    refuses: Mapping[int, str] = field(default_factory=dict)
    """Refusals beside those that follow from the rest, or more words on one: status and ``code``."""
    events: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    """What a stream sends: the model of ``data`` by the name of the event."""
    callbacks: Mapping[str, "Operation"] = field(default_factory=dict)
    """Requests that come back to the service because of this one."""

    @property
    def method(self) -> str:
        """In capitals."""
        return self.line.partition(" ")[0]

    @property
    def path(self) -> str:
        """As the document has it: without a converter."""
        return _VARIABLE.sub(r"{\1}", self.line.partition(" ")[2])

    @property
    def variables(self) -> list[str]:
        """What the path leaves open."""
        return _VARIABLE.findall(self.line)

    @property
    def name(self) -> str:
        """Unique, for generated clients."""
        words = re.sub(r"\W+", "_", self.path.removeprefix("/api/").replace("{", "by_")).strip("_")
        return f"{self.method.lower()}_{words}"

    @property
    def statuses(self) -> set[int]:
        """Every status it can answer with."""
        return {*self.gives, *self.refusals}

    @property
    def refusals(self) -> dict[int, str]:
        """What it can refuse, and more words on that: by who asks, by what it carries, by its own rules."""
        found = set(self.who.refusals)
        if self.variables:
            found.add(404)
        if self.asks:
            found.add(422)
        if self.takes is not None:
            found |= {400, 408, 413, 422}
            found |= {415} if self.takes.parts is not None else set()
        return {**dict.fromkeys(found, ""), **self.refuses}


REFUSALS: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        400: ("BadRequest", "The body cannot be read: `not_json`, `bad_multipart`."),
        401: ("NotSignedIn", "No key, cookie or token that is valid: `unauthenticated`, `signature_invalid`."),
        402: ("NotEnoughCredits", "`insufficient_credits`; nothing was reserved."),
        403: (
            "Forbidden",
            "`email_unverified`, `wrong_origin` (a write by cookie from another site's page), `forbidden`.",
        ),
        404: ("NotFound", "No such thing, or it is somebody else's."),
        408: ("TooSlow", "The body did not come in time."),
        409: ("Conflict", "The state of the thing does not allow this; `code` says why."),
        413: ("TooLarge", "More bytes than are taken here: `too_large`; or than a person may keep: `quota`."),
        415: ("UnknownMediaType", "The content is none of the types taken here."),
        416: ("RangeNotSatisfiable", "The range lies outside the file."),
        422: ("CannotBeUsed", "Fields that cannot be used, named in `errors`."),
        429: ("TooManyRequests", "Over a rate; `Retry-After` says when to come back."),
        503: ("Unavailable", "Full or without its database for the moment; nothing was kept, ask again."),
        507: ("DiskFull", "Less free space than the reserve: nothing new is taken."),
    }
)
"""Component and meaning of every refusal."""


def fields_of(model: type[BaseModel], /, **about: str) -> tuple[Parameter, ...]:
    """Make a parameter of the query of each field of *model*; *about* tells what each is for."""
    fields = model.model_json_schema(schema_generator=Plain)["properties"]
    return tuple(Parameter(name, about[name], schema) for name, schema in fields.items())
