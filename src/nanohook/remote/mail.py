"""
Mail out of the house: a bounded line, a few senders, and tries that do not hold up one another.

A mail holds a link that opens an account, and an address names a person. The log therefore gets the domain
and a reason of our own words; what a relay says is left out, since it likes to repeat the address.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import email.headerregistry
import email.message
import email.policy
import email.utils
import heapq
import itertools
import logging
import math
import random
import re
import smtplib
import ssl
import threading
from collections.abc import Callable
from typing import Final

from nanohook import bell, errors
from nanohook.faults import reach
from nanohook.rules import backoff, smtp
from nanohook.values import frozen

MOST_WAITING: Final = 1_000
"""Mails in the line, those being sent and those waiting for another try included."""

MOST_TRIES: Final = 5
SENDERS: Final = 3
"""Connections at once: one that hangs leaves the others free."""

TIMEOUT_S: Final = 10.0
"""For the connection, and for each answer of the relay."""

FIRST_PAUSE_S: Final = 15.0
MOST_PAUSE_S: Final = 600.0
LAST_CHANCE_S: Final = 5.0
"""For what still waits when the service ends, beside the submits that are given 6 s then."""

_UNTIL_RUNG_S: Final = 3600.0
_PERMANENT: Final = range(500, 600)
_ENHANCED_CODE: Final = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}\b")

_logger = logging.getLogger(__name__)


@frozen
class _Mail:
    """One mail, ready to be handed in."""

    to: smtp.Mailbox
    content: bytes
    """Headers and body as they travel. Written once: a second try has the same Message-ID."""
    tries: int
    """Made so far."""


class Mailer:
    """
    Sends mails through one relay. ``run`` does the work; ``close`` it when that has ended.

    Args:
        relay: ``None``: nothing is sent, and links are logged for the operator to hand on.
        sender: ``a@b.example`` or ``Name <a@b.example>``; needed with a relay.
        tls: In place of a context that trusts the system's authorities.
        timeout_s: For the connection, and for each answer of the relay.
        first_pause_s: Before the second try at most; doubles from there.
        last_chance_s: For ``close``.

    Raises:
        ConfigError: A relay without a sender.
        ValueError: *sender* is not an address.
    """

    def __init__(
        self,
        relay: smtp.Relay | None,
        sender: str | None,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
        first_pause_s: float = FIRST_PAUSE_S,
        last_chance_s: float = LAST_CHANCE_S,
    ) -> None:
        self._door: _Door | None = None
        if relay is not None:
            if sender is None:
                raise errors.ConfigError("NANOHOOK_SMTP_URL needs NANOHOOK_MAIL_FROM")
            self._door = _Door(relay, smtp.mailbox(sender), tls=tls, timeout_s=timeout_s)
        self._first_pause_s = first_pause_s
        self._last_chance_s = last_chance_s
        # By due time; the number keeps the order of those that are due at the same one.
        self._line: list[tuple[float, int, _Mail]] = []
        self._numbers = itertools.count()
        self._sending: set[asyncio.Task[None]] = set()
        self._bell = bell.Bell()
        self._is_closing = False
        self._lost = 0

    def send(self, *, to: str, subject: str, text: str, link: str | None = None, is_dropped: bool = False) -> None:
        """
        Put a mail in the line; it goes out in the background.

        Args:
            to: A bare address.
            subject: One line.
            text: The body, without HTML.
            link: The one in *text*, to be logged where there is no relay.
            is_dropped: All is done but the sending: so that nobody can tell by the time whether a mail was sent.

        Raises:
            Invalid: *to* is no address, or *subject* or *text* cannot be written.
            Unavailable: The line is full, or the service is ending.
        """
        address = _recipient(to)
        if not smtp.is_one_line(subject):
            raise errors.Invalid("a mail's subject must be one line of text")
        if self._door is None:
            if not is_dropped:
                extra = {"to": address.address, "subject": subject, "link": link}
                _logger.warning("mail.not_configured", extra=extra)
            return
        if self._is_closing or len(self._line) + len(self._sending) >= MOST_WAITING:
            raise errors.Unavailable("no more mails are taken for the moment", retry_after_s=10)
        content = _written(self._door.sender, address, subject=subject, text=text)
        if not is_dropped:
            self._put(_Mail(to=address, content=content, tries=0), pause_s=0.0)

    async def run(self) -> None:
        """Send what is in the line when it is due, until canceled; what is on its way then is ``close``'s."""
        loop = asyncio.get_running_loop()
        while True:
            reach("mail.look")
            self._start(due=loop.time())
            # With all senders busy it is the next to be free that rings.
            is_free = bool(self._line) and len(self._sending) < SENDERS
            await self._bell.wait(max(0.0, self._line[0][0] - loop.time()) if is_free else _UNTIL_RUNG_S)

    async def close(self) -> None:
        """Give what waits one last try, for a few seconds all together; log how many mails were lost."""
        self._is_closing = True
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._last_chance_s):
                    while self._line or self._sending:
                        self._start(due=math.inf)
                        await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # One that is cut off here may still arrive: better told of as lost than forgotten.
            cut_off = [task for task in self._sending if not task.done()]
            lost = self._lost + len(self._line) + len(cut_off)
            self._line.clear()
            if lost:
                _logger.warning("mail.lost", extra={"mails": lost})
            self._lost = 0
            for task in cut_off:
                task.cancel()
            await asyncio.gather(*cut_off, return_exceptions=True)

    def _put(self, mail: _Mail, *, pause_s: float) -> None:
        due = asyncio.get_running_loop().time() + pause_s
        heapq.heappush(self._line, (due, next(self._numbers), mail))
        self._bell.ring()

    def _start(self, *, due: float) -> None:
        while self._line and len(self._sending) < SENDERS and self._line[0][0] <= due:
            *_, mail = heapq.heappop(self._line)
            task = asyncio.create_task(self._deliver(mail))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._bell.ring()

    async def _deliver(self, mail: _Mail) -> None:
        if self._door is None:
            return
        door, tries = self._door, mail.tries + 1
        extra: dict[str, object] = {"domain": mail.to.domain, "tries": tries}
        try:
            await _in_thread(lambda: door.hand_in(mail))
        except Exception as exc:  # noqa: BLE001 - a mail is tried again, whatever went wrong
            # In our own words alone: an error of a library may quote the address.
            extra["reason"] = str(exc) if isinstance(exc, errors.UpstreamFailed) else type(exc).__name__
            if not isinstance(exc, errors.Permanent) and not self._is_closing and tries < MOST_TRIES:
                chance = random.random()  # noqa: S311 - spreads load
                pause_s = backoff.delay_s(tries, first_s=self._first_pause_s, most_s=MOST_PAUSE_S, chance=chance)
                _logger.warning("mail.retried", extra={**extra, "pause_s": round(pause_s, 3)})
                self._put(_Mail(to=mail.to, content=mail.content, tries=tries), pause_s=pause_s)
                return
            self._lost += self._is_closing
            _logger.warning("mail.given_up", extra=extra)
        else:
            _logger.info("mail.delivered", extra=extra)


class _Door:
    """
    Hands mails in at the relay, in the calling thread.

    Args:
        relay: Where.
        sender: Of every mail; its domain is also how we greet the relay, which saves a look-up of our own name.
        tls: In place of a context that trusts the system's authorities.
        timeout_s: For the connection, and for each answer.
    """

    def __init__(
        self, relay: smtp.Relay, sender: smtp.Mailbox, *, tls: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        self.sender: Final = sender
        self._relay: Final = relay
        self._timeout_s: Final = timeout_s
        if relay.security is smtp.Security.STARTTLS_IF_OFFERED:
            # This machine's own relay, which may also be spoken to in the clear. It offers TLS with a
            # certificate that nobody signed, more often than not, and to insist would gain nothing.
            tls = ssl.create_default_context()
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        self._tls: Final = tls or ssl.create_default_context()

    def hand_in(self, mail: _Mail) -> None:
        """
        Give *mail* to the relay.

        Raises:
            Transient: It may be taken later.
            Permanent: It never will.
        """
        try:
            client = self._connected()
            try:
                self._secure(client)
                if self._relay.user is not None and self._relay.password is not None:
                    client.login(self._relay.user, self._relay.password)
                client.sendmail(self.sender.address, [mail.to.address], mail.content)
                # The mail is theirs: whatever goes wrong from here on must not send it again.
                with contextlib.suppress(OSError):
                    client.quit()
            finally:
                client.close()
        except (OSError, ValueError) as exc:  # smtplib's own are OSErrors
            # Not chained: the library's exceptions quote what was sent, addresses and all.
            raise _failure(exc) from None

    def _connected(self) -> smtplib.SMTP:
        host, port, name = self._relay.host, self._relay.port, self.sender.domain
        if self._relay.security is smtp.Security.TLS:
            return smtplib.SMTP_SSL(host, port, name, timeout=self._timeout_s, context=self._tls)
        return smtplib.SMTP(host, port, name, timeout=self._timeout_s)

    def _secure(self, client: smtplib.SMTP) -> None:
        client.ehlo_or_helo_if_needed()
        required = self._relay.security is smtp.Security.STARTTLS
        if required or (self._relay.security is not smtp.Security.TLS and client.has_extn("starttls")):
            client.starttls(context=self._tls)


def _recipient(text: str) -> smtp.Mailbox:
    try:
        found = smtp.mailbox(text)
    except ValueError as exc:
        raise errors.Invalid("no mail can be sent to this address", fields={"to": str(exc)}) from None
    # A name would be a stranger's words under our sender's.
    if found.name:
        raise errors.Invalid("no mail can be sent to this address", fields={"to": "must be a bare address"})
    return found


def _written(sender: smtp.Mailbox, to: smtp.Mailbox, *, subject: str, text: str) -> bytes:
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"] = email.headerregistry.Address(sender.name, sender.local, sender.domain)
    message["To"] = email.headerregistry.Address("", to.local, to.domain)
    message["Subject"] = subject
    message["Date"] = email.utils.formatdate()
    # With the domain given, this machine's own name stays out of it.
    message["Message-ID"] = email.utils.make_msgid(domain=sender.domain)
    # No answers from holiday programs. RFC 3834, section 5.
    message["Auto-Submitted"] = "auto-generated"
    try:
        # Not 8bit, which the library would choose: a relay need not carry it, and is not asked.
        message.set_content(text, cte="quoted-printable")
        return message.as_bytes()
    except UnicodeError:
        raise errors.Invalid("a mail must be text") from None


def _failure(exc: OSError | ValueError) -> errors.UpstreamFailed:
    """Say what went wrong in words that hold neither an address nor a secret."""
    kind = type(exc).__name__
    if isinstance(exc, smtplib.SMTPRecipientsRefused):
        return _refusal("recipient", *next(iter(exc.recipients.values())))
    if isinstance(exc, smtplib.SMTPResponseException):
        steps = {"SMTPSenderRefused": "sender", "SMTPDataError": "content", "SMTPAuthenticationError": "login"}
        return _refusal(steps.get(kind, "connection"), exc.smtp_code, exc.smtp_error)
    if isinstance(exc, smtplib.SMTPServerDisconnected):
        return errors.Transient("the relay went away, or did not answer in time")
    if isinstance(exc, smtplib.SMTPNotSupportedError):
        return errors.Permanent("the relay does not offer what is needed: STARTTLS, or a login with a password")
    if isinstance(exc, OSError) and not isinstance(exc, smtplib.SMTPException):
        detail = exc.verify_message if isinstance(exc, ssl.SSLCertVerificationError) else exc.strerror
        return errors.Transient(f"the relay was not reached: {kind}{f', {detail}' if detail else ''}")
    return errors.Permanent(f"the mail could not be handed in: {kind}")


def _refusal(step: str, code: int, said: bytes | str) -> errors.UpstreamFailed:
    found = _ENHANCED_CODE.match(said if isinstance(said, bytes) else said.encode(errors="replace"))
    detail = f" {found[0].decode()}" if found else ""
    kind = errors.Permanent if code in _PERMANENT else errors.Transient
    return kind(f"the relay refused the {step}: {code}{detail}")


async def _in_thread(work: Callable[[], None]) -> None:
    """Call *work* in a thread of its own, which unlike a pool's does not hold up the end of the process."""
    outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

    def call() -> None:
        if outcome.set_running_or_notify_cancel():
            try:
                work()
            except BaseException as exc:  # noqa: BLE001 - as a pool's thread: all of it is the caller's
                outcome.set_exception(exc)
            else:
                outcome.set_result(None)

    context = contextvars.copy_context()
    try:
        threading.Thread(target=context.run, args=(call,), name="mail", daemon=True).start()
    except RuntimeError as exc:
        raise errors.Transient("the system has no thread left for it") from exc
    await asyncio.wrap_future(outcome)
