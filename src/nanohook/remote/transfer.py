"""One download on its way: how far it is, and how it is taken up again when it breaks off."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nanohook.remote.spool import Body
from nanohook.rules import addresses
from nanohook.rules.downloads import DownloadFailed, Outcome

_PARTIAL: Final = 206
_CONTENT_RANGE = re.compile(r"\s*bytes\s+([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)\s*", re.IGNORECASE)


@dataclass(kw_only=True, slots=True)
class Transfer:
    """A body that may come in several pieces from several answers."""

    place: addresses.Place
    """Where it is asked for, after the redirects so far."""
    body: Body
    is_done: bool = False
    may_resume: bool = False
    """The host has said that it sends parts."""
    total_bytes: int | None = None
    """Of the whole body, as the host counts it."""
    _etag: str | None = None
    _modified: str | None = None

    @property
    def resuming(self) -> dict[str, str]:
        """
        Headers that ask for what is still missing; none at the beginning.

        Source: RFC 9110, sections 13.1.5 and 14.2.
        """
        at = self.body.received_bytes
        validator = self._etag or self._modified
        if not at:
            return {}
        return {"Range": f"bytes={at}-"} | ({"If-Range": validator} if validator else {})

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """
        Take the head of an answer that has a body: the whole one, or what was missing.

        Raises:
            DownloadFailed: ``BROKEN``: it is a part that does not fit.
        """
        etag = headers.get("etag", "")
        etag = "" if etag.startswith("W/") else etag
        span = _CONTENT_RANGE.fullmatch(headers.get("content-range", "")) if status == _PARTIAL else None
        if span is not None or (status == _PARTIAL and self.body.received_bytes):
            self._continue(span, etag)
        else:
            # Whole, whether it was asked for or another picture is there now.
            self.body.restart()
            self.total_bytes = _length(headers)
        self.may_resume = span is not None or "bytes" in headers.get("accept-ranges", "").lower()
        self._etag, self._modified = etag or None, headers.get("last-modified")

    def end(self) -> bool:
        """Say that an answer's body has ended; tell whether all of it is there."""
        self.is_done = self.total_bytes is None or self.body.received_bytes >= self.total_bytes
        return self.is_done

    def _continue(self, span: re.Match[str] | None, etag: str) -> None:
        total = None if span is None or span[2] == "*" else int(span[2])
        fits = (
            span is not None
            and int(span[1]) == self.body.received_bytes
            and (total is None or self.total_bytes in (None, total))
            and (not self._etag or not etag or etag == self._etag)
        )
        if not fits:
            message = f"{self.place.shown} sent another part of its body than the one that is missing"
            raise DownloadFailed(message, outcome=Outcome.BROKEN)
        self.total_bytes = total or self.total_bytes


def _length(headers: Mapping[str, str]) -> int | None:
    # With chunks a length beside them counts for nothing; without, h11 has made sure that it is a number.
    if "transfer-encoding" in headers or "content-length" not in headers:
        return None
    return int(headers["content-length"])
