"""
Who may say something: signed addresses of our own, and Standard Webhooks headers.

Everything that is wrong with what came in is ``SignatureInvalid``, and nothing tells which part it was: a
stranger learns nothing, and no input makes the door fall over.

Source: Standard Webhooks 1.0.0, "Signature scheme" and "Verifying webhook authenticity".
"""

import base64
import functools
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final

import itsdangerous

from nanohook import errors
from nanohook.values import frozen

MAX_TOKEN_CHARS: Final = 1024
"""Longest token that is made or looked at."""

TOLERANCE_S: Final = 300
"""How far a header's time may be off, both ways; the reference libraries use the same."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - it marks a secret and is none
MIN_SECRET_BYTES: Final = 16
MEDIA_KEPT: Final = 16_384
"""Tokens of media that are kept, some 300 bytes each: eight times what the longest page of a list has."""

_DAY_S: Final = 86_400
_UPSTREAM: Final = 1
"""Before the expiry, in a media token that is for NanoBanana."""
# Attempt, index and expiry.
_CALLBACK_NUMBERS: Final = 3
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
# Subject, 1 to 3 numbers, and the 43 characters that 32 bytes make.
_TOKEN: Final = re.compile(r"((?:(~?[A-Za-z0-9_-]*)\.)?([0-9]{1,18}(?:\.[0-9]{1,18}){0,2}))\.([A-Za-z0-9_-]{43})")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,18}")
# No full stop: it separates the signed parts, so one inside an id could move into the body.
_WEBHOOK_ID: Final = re.compile(r"[!-\-/-~]{1,255}")


# One for each key, the one that signs first.
_Signers = tuple[itsdangerous.Signer, ...]


@frozen
class CallbackToken:
    """Whose callback an address is for."""

    job_id: str
    """The job, as it was signed."""

    attempt: int
    """The job's attempt, counted from 1."""

    index: int
    """The task within the attempt, counted from 0."""

    expires_at_s: int
    """Seconds since the epoch, UTC; no longer valid from then on."""


class Tokens:
    """
    Makes and checks the signed texts that travel in addresses and cookies.

    Built once: the keys of each purpose are derived on first use and kept, since deriving costs about as
    much as checking.

    Args:
        keys: The first signs, all verify.

    Raises:
        ValueError: No key, or an empty one.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or not all(keys):
            raise ValueError("signing needs at least one key, and none of them empty")
        self._keys: Final = tuple(keys)
        self._callback: Final = self._signers("callback")
        self._media: Final = self._signers("media")
        # The same all day, and signed again with every list: most of what a page of pictures would cost.
        self._sealed_media: Final = functools.lru_cache(MEDIA_KEPT)(self._seal_media)
        self._purposes: Final[dict[str, _Signers]] = {}

    def sign_callback(self, *, job_id: str, attempt: int, index: int, expires_at_s: int) -> str:
        """
        Make the token of one task's callback address; safe in a path whatever *job_id* is.

        Raises:
            ValueError: Too long for a token, or a number that is negative or over 18 digits.
        """
        return _sealed(self._callback, [attempt, index, expires_at_s], subject=job_id)

    def read_callback(self, token: str, *, now_s: float) -> CallbackToken:
        """
        Check a callback address.

        Raises:
            SignatureInvalid: Whatever is wrong with the token. No other error leaves this function.
        """
        job_id, numbers = _opened(self._callback, token, now_s=now_s)
        if job_id is None or len(numbers) != _CALLBACK_NUMBERS:
            raise _refusal()
        attempt, index, expires_at_s = numbers
        return CallbackToken(job_id=job_id, attempt=attempt, index=index, expires_at_s=expires_at_s)

    def sign_media(self, *, key: str, expires_at_s: int, for_upstream: bool = False) -> str:
        """
        Make the token that opens the file stored as *key*; the token does not contain the key.

        Args:
            key: As it is stored.
            expires_at_s: Seconds since the epoch, UTC.
            for_upstream: It opens the file whatever became of the job: see ``is_for_upstream``.
        """
        if for_upstream:
            return _sealed(self._media, [_UPSTREAM, expires_at_s], hidden=key)
        return self._sealed_media(key, expires_at_s)

    def _seal_media(self, key: str, expires_at_s: int) -> str:
        return _sealed(self._media, [expires_at_s], hidden=key)

    def read_media(self, token: str, *, key: str, now_s: float) -> int:
        """
        Check that *token* opens the file stored as *key*; return when it expires, seconds since the epoch.

        Raises:
            SignatureInvalid: Whatever is wrong with the token or the key.
        """
        _, numbers = _opened(self._media, token, now_s=now_s, hidden=key)
        return numbers[-1]

    def sign_purpose(self, purpose: str, subject: str, expires_at_s: int) -> str:
        """
        Make a token that says *subject* and is good for *purpose* alone.

        Args:
            purpose: One of the few words this service uses, such as ``session``; its maker names it.
            subject: Any text; it can be read by whoever holds the token.
            expires_at_s: Seconds since the epoch, UTC.

        Raises:
            ValueError: Too long for a token, or an expiry that is negative or over 18 digits.
        """
        return _sealed(self._purpose(purpose), [expires_at_s], subject=subject)

    def read_purpose(self, purpose: str, token: str, now_s: float) -> str:
        """
        Check a token made for *purpose* and return its subject.

        Raises:
            SignatureInvalid: Whatever is wrong with the token, one made for another purpose included.
        """
        subject, _ = _opened(self._purpose(purpose), token, now_s=now_s)
        if subject is None:
            raise _refusal()
        return subject

    def _purpose(self, purpose: str) -> _Signers:
        signers = self._purposes.get(purpose)
        if signers is None:
            # The prefix keeps a purpose that happens to be named "media" away from the media tokens.
            signers = self._purposes[purpose] = self._signers(f"purpose.{purpose}")
        return signers

    def _signers(self, salt: str) -> _Signers:
        return tuple(_signer(key, salt=f"nanohook.{salt}") for key in self._keys)


def fingerprint(key: str) -> str:
    """Name a signing key without giving it away: 16 hexadecimal digits, for the database to remember."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def is_token(text: str) -> bool:
    """Tell whether *text* has the form of a token, whoever signed it and whatever it is good for."""
    return len(text) <= MAX_TOKEN_CHARS and _TOKEN.fullmatch(text) is not None


def is_for_upstream(token: str) -> bool:
    """
    Tell whether a media token that ``read_media`` took was made for NanoBanana.

    What was ordered is paid and may be restored, so its input can be fetched even if its owner deletes the job.
    """
    numbers = token.split(".")[:-1]
    return len(numbers) > 1


def media_expiry(now_s: float) -> int:
    """
    Choose when a media token made now ends: on the UTC day boundary 24 to 48 hours ahead.

    The whole day gets one expiry, hence one address, which browsers may keep.
    """
    return (int(now_s // _DAY_S) + 2) * _DAY_S


def parse_secret(text: str) -> bytes:
    """
    Decode a ``whsec_…`` secret.

    Raises:
        ValueError: No prefix, not base64, or shorter than ``MIN_SECRET_BYTES``; the secret is not quoted.
    """
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook secret must start with {SECRET_PREFIX}")
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        # Not chained: a traceback would show the call, and with it the secret.
        raise ValueError(f"what follows {SECRET_PREFIX} in a webhook secret must be base64") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"a webhook secret must have at least {MIN_SECRET_BYTES} bytes")
    return secret


def sign_headers(*, webhook_id: str, body: bytes, secret: bytes, timestamp_s: int) -> dict[str, str]:
    """
    Sign *body* as a sender would; for the sandbox and for tests by hand.

    Args:
        webhook_id: Names the delivery: printable ASCII without a full stop, at most 255 characters.
        body: Raw request bytes.
        secret: As ``parse_secret`` returns it.
        timestamp_s: Seconds since the epoch, UTC.

    Raises:
        ValueError: An id or a time that no receiver would accept.
    """
    timestamp = str(timestamp_s)
    if _WEBHOOK_ID.fullmatch(webhook_id) is None or _TIMESTAMP.fullmatch(timestamp) is None:
        raise ValueError("no receiver would accept this webhook id or time")
    signature = _header_signature(secret, webhook_id=webhook_id, timestamp=timestamp, body=body)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature.decode()}",
    }


def verify_headers(headers: Mapping[str, str], body: bytes, *, secrets: Sequence[bytes], now_s: float) -> str:
    """
    Check that *body* was signed by a holder of one of *secrets*.

    Args:
        headers: Lower-case names; needs the three ``webhook-*`` headers.
        body: Raw request bytes, exactly as received.
        secrets: As ``parse_secret`` returns them; none, or an empty one among them, refuses everything.
        now_s: Seconds since the epoch, UTC; passed in so that tests own the clock.

    Returns:
        The ``webhook-id``.

    Raises:
        SignatureInvalid: Whatever is wrong with the input. No other error leaves this function.

    Source: Standard Webhooks 1.0.0, "Signature scheme".
    """
    webhook_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not secrets or not all(secrets) or not signatures.isascii():
        raise _refusal()
    if _WEBHOOK_ID.fullmatch(webhook_id) is None or _TIMESTAMP.fullmatch(timestamp) is None:
        raise _refusal()
    if not abs(now_s - int(timestamp)) <= TOLERANCE_S:
        raise _refusal()
    given = [part[3:].encode() for part in signatures.split(" ") if part.startswith("v1,")]
    for secret in secrets:
        expected = _header_signature(secret, webhook_id=webhook_id, timestamp=timestamp, body=body)
        if any(hmac.compare_digest(expected, signature) for signature in given):
            return webhook_id
    raise _refusal()


def _header_signature(secret: bytes, *, webhook_id: str, timestamp: str, body: bytes) -> bytes:
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(secret, content, hashlib.sha256))


def _refusal() -> errors.SignatureInvalid:
    return errors.SignatureInvalid("not signed by a holder of a key, or no longer valid")


def _signer(key: str, *, salt: str) -> itsdangerous.Signer:
    derived = itsdangerous.Signer(key, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256)
    return itsdangerous.Signer(derived.derive_key(), key_derivation="none", digest_method=hashlib.sha256)


def _sealed(signers: _Signers, numbers: Sequence[int], *, subject: str | None = None, hidden: str = "") -> str:
    # The expiry is always the last number. What is hidden is signed too, but not written into the token.
    parts = [str(number) for number in numbers]
    if subject is not None:
        parts.insert(0, _packed(subject))
    visible = ".".join(parts)
    token = f"{visible}.{_signature(signers[0], f'{visible}.{hidden}').decode()}"
    if len(token) > MAX_TOKEN_CHARS or _TOKEN.fullmatch(token) is None:
        raise ValueError("too long for a token, or a number that is negative or over 18 digits")
    return token


def _opened(
    signers: _Signers, token: str, *, now_s: float, hidden: str = ""
) -> tuple[str | None, tuple[int, ...]]:
    # Length and alphabet first: what passes is short ASCII, so nothing below can be surprised by it.
    match = _TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN_CHARS else None
    if match is None:
        raise _refusal()
    visible, subject, numbers, signature = match.groups()
    if not _is_signed(signers, f"{visible}.{hidden}", signature):
        raise _refusal()
    values = tuple(map(int, numbers.split(".")))
    if not now_s < values[-1]:
        raise _refusal()
    return None if subject is None else _unpacked(subject), values


def _is_signed(signers: _Signers, text: str, signature: str) -> bool:
    # Compared as text: decoding would take several spellings of one signature, and time.
    given = signature.encode()
    return any(hmac.compare_digest(_signature(signer, text), given) for signer in signers)


def _signature(signer: itsdangerous.Signer, text: str) -> bytes:
    # What the signer's ``get_signature`` does, in one call of C: a list has hundreds of addresses.
    digest = hmac.digest(signer.secret_key, text.encode(errors="surrogatepass"), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=")


def _packed(text: str) -> str:
    # Our ids are plain already and stay readable; any other text is marked, encoded, and safe in a path.
    if _PLAIN.fullmatch(text):
        return text
    return "~" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _unpacked(text: str) -> str:
    if not text.startswith("~"):
        return text
    try:
        return base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4)).decode()
    except ValueError as exc:
        raise _refusal() from exc
