"""What an endpoint may use, built once by ``app.create_app``."""

import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope

from nanohook.database import Database
from nanohook.decoding import Decoder
from nanohook.flow.terms import Terms
from nanohook.hub import Hub
from nanohook.rules import signing
from nanohook.settings import Settings
from nanohook.storage import Storage
from nanohook.stores.accounts import Person
from nanohook.web.metrics import Metrics
from nanohook.web.readiness import Readiness
from nanohook.web.rejections import Rejections


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The service's parts that the web side stands on."""

    settings: Settings
    terms: Terms
    database: Database
    storage: Storage
    decoder: Decoder
    tokens: signing.Tokens
    hub: Hub
    rejections: Rejections
    metrics: Metrics
    webhook_secrets: tuple[bytes, ...]
    readiness: Readiness
    guests_are_local: bool
    """``dev``: a Host that is not loopback reaches only the webhook and media."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request of somebody who is known and may do this."""

    request: Request
    parts: Parts
    person: Person


def signed_address(tokens: signing.Tokens, key: str) -> str:
    """Build the root-relative address of stored bytes; the same one all day, so that browsers can cache it."""
    token = tokens.sign_media(key=key, expires_at_s=signing.media_expiry(time.time()))
    return f"/media/{key}?token={token}"


def parts_of(scope: Scope) -> Parts:
    """Find the parts of the service that a request came to."""
    parts: Parts = scope["state"]["parts"]
    return parts
