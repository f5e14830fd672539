"""What answers about people look like: accounts, keys, projects, credits. Times are RFC 3339, UTC."""

from typing import Literal

from pydantic import AwareDatetime

from nanohook.rules.credit import Kind
from nanohook.web import shapes


class Balance(shapes.Shape):
    """What a person can spend."""

    available: shapes.Count
    reserved: shapes.Count


class Me(shapes.Shape):
    """The person who asks."""

    id: shapes.Id
    email: str
    is_admin: bool
    is_verified: bool
    created_at: AwareDatetime
    credits: Balance


class CheckYourEmail(shapes.Shape):
    """The same whether or not there is such an account."""

    status: Literal["check_your_email"]


class ApiKey(shapes.Shape):
    """An API key without its secret."""

    id: shapes.Id
    name: str | None
    prefix: str | None
    """How the key begins, to tell it from others; null for one made before this was kept."""
    is_admin: bool
    created_at: AwareDatetime
    last_used_at: AwareDatetime | None


class NewApiKey(ApiKey):
    """An API key that was just made."""

    key: str
    """Shown this once."""


class ApiKeyList(shapes.Shape):
    """A person's API keys."""

    keys: list[ApiKey]


class Session(shapes.Shape):
    """A login that has not ended."""

    id: str
    user_agent: str | None
    """What the browser called itself."""
    address: str | None
    """Where the login came from."""
    is_current: bool
    """It is the one that asks."""
    created_at: AwareDatetime
    last_used_at: AwareDatetime | None
    """Noted once a minute at most."""
    expires_at: AwareDatetime


class SessionList(shapes.Shape):
    """Where a person is logged in, newest first."""

    sessions: list[Session]


class Counts(shapes.Shape):
    """Number of jobs in each status."""

    PENDING: shapes.Count
    INITIALIZING: shapes.Count
    GENERATING: shapes.Count
    COMPLETED: shapes.Count
    FAILED: shapes.Count
    CANCELED: shapes.Count


class Project(shapes.Shape):
    """A folder for jobs."""

    project_id: shapes.Id
    name: str
    description: str | None
    cover: shapes.Stored | None
    counts: Counts
    created_at: AwareDatetime
    updated_at: AwareDatetime


class ProjectList(shapes.Shape):
    """A page of projects."""

    projects: list[Project]
    next_cursor: shapes.PageCursor


class LedgerEntry(shapes.Shape):
    """One change of a balance."""

    id: int
    at: AwareDatetime
    kind: Kind
    credits: int
    """By how much what is available changed."""
    reserved: int
    """By how much what is set aside changed."""
    job_id: shapes.Id | None
    attempt: shapes.Count | None
    index: shapes.Count | None
    note: str | None


class Ledger(shapes.Shape):
    """A person's credits and every change of them."""

    available: shapes.Count
    reserved: shapes.Count
    entries: list[LedgerEntry]
    next_cursor: shapes.NumberedCursor


class Estimate(shapes.Shape):
    """What a generation would cost."""

    credits: shapes.Count
    per_image: shapes.Count
    available: shapes.Count
    enough: bool


class NewStreamToken(shapes.Shape):
    """Opens a stream by its address alone."""

    token: str
    expires_at: AwareDatetime
    url: shapes.Address
