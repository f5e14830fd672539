"""
What can go wrong, as one tree, split by whose fault it is.

    NanohookError
    ├── ConfigError              the operator's: the process does not start
    ├── Fatal                    the operator's: the process cannot go on, and ends
    ├── Rejected                 the caller's: nothing was changed
    │   ├── Unauthenticated
    │   ├── TooPoor
    │   ├── Forbidden
    │   ├── NotFound
    │   ├── Conflict
    │   ├── Invalid
    │   │   └── ImageRejected
    │   ├── UnknownMediaType
    │   ├── TooLarge
    │   ├── TooMany
    │   ├── TooSlow
    │   └── SignatureInvalid
    ├── UpstreamFailed           somebody else's
    │   ├── Transient            may work later: tried again
    │   └── Permanent            will not work: the job fails
    ├── Unavailable              ours, for the moment: full, draining, or the database is away
    │   └── DiskFull
    ├── LeaseLost                another worker owns this step now; drop what was made
    └── StorageFailed            the disk or bucket refused

A message says what, which id and what to do; never a secret or a payload. HTTP statuses are given in
``web/failures.py`` alone.
"""


class NanohookError(Exception):
    """Root of every error this service raises on purpose."""

    code = "internal"
    """Stable word for programs; a subclass or an instance may narrow it."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ConfigError(NanohookError):
    """Settings or surroundings do not allow a start; the message lists every problem by name."""

    code = "config"


class Fatal(NanohookError):
    """What this process needs is gone: it ends, and the message says what happened and what to do."""

    code = "fatal"


class Rejected(NanohookError):
    """The caller's fault; asking again unchanged gives the same answer."""

    code = "rejected"


class Unauthenticated(Rejected):
    """No valid key, cookie or token came with the request."""

    code = "unauthenticated"


class TooPoor(Rejected):
    """Fewer credits than this costs; nothing was reserved."""

    code = "insufficient_credits"


class Forbidden(Rejected):
    """Known caller, but this is not theirs to do."""

    code = "forbidden"


class NotFound(Rejected):
    """No such thing, or it belongs to somebody else: the two are not told apart."""

    code = "not_found"


class Conflict(Rejected):
    """The thing is in a state that does not allow this; ``code`` says which."""

    code = "conflict"


class Invalid(Rejected):
    """
    Input that cannot be used.

    Args:
        fields: What is wrong with each field, by name; never the value that came in.
        codes: Stable words beside those sentences, by name, where a field has one.
    """

    code = "invalid"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        fields: dict[str, str] | None = None,
        codes: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.fields = fields or {}
        self.codes = codes or {}


class ImageRejected(Invalid):
    """
    Bytes that are not a picture this service can take.

    ``code`` is one of ``not_an_image`` (unknown or broken), ``empty``, ``truncated``, ``too_many_pixels``,
    ``too_many_scans``.
    """

    code = "not_an_image"


class UnknownMediaType(Rejected):
    """The content is none of the types this route takes."""

    code = "unknown_media_type"


class TooLarge(Rejected):
    """More bytes than the route takes."""

    code = "too_large"


class TooMany(Rejected):
    """
    Over a limit of number or rate.

    Args:
        retry_after_s: When to come back, seconds.
    """

    code = "too_many"

    def __init__(self, message: str, *, retry_after_s: int = 1, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class TooSlow(Rejected):
    """The body did not come in time."""

    code = "too_slow"


class SignatureInvalid(Rejected):
    """Not signed by a holder of a secret, or no longer valid; says no more than that."""

    code = "signature_invalid"


class UpstreamFailed(NanohookError):
    """NanoBanana, or a host that serves its results, did not do its part."""

    code = "upstream_failed"


class Transient(UpstreamFailed):
    """
    May work later.

    Args:
        retry_after_s: What the other side asked for, seconds; ``None`` when it did not say.
    """

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class Permanent(UpstreamFailed):
    """Will not work however often it is tried."""


class Unavailable(NanohookError):
    """
    Full, draining, or without its database for the moment; nothing was kept, ask again.

    Args:
        retry_after_s: When to come back, seconds.
    """

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 1, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class DiskFull(Unavailable):
    """Less free space than the reserve: no new pictures, while running jobs still finish."""

    code = "disk_full"


class LeaseLost(NanohookError):
    """Another worker, a cancel or a retry took this step over; the caller's work does not count."""

    code = "lease_lost"


class StorageFailed(NanohookError):
    """The disk or bucket refused to keep or give bytes."""

    code = "storage_failed"
