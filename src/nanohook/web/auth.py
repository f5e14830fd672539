"""
Accounts over HTTP: register, confirm, sign in and out, passwords, API keys.

To a stranger every address is the same: the answers, the work behind them and their time do not tell whether it
has an account. Passwords are hashed only after the limits, and links go out by mail alone.
"""

import logging
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from nanohook import clock, errors, ids
from nanohook.clock import rfc3339
from nanohook.database import Transaction
from nanohook.flow import accounts as flow
from nanohook.flow.accounts import Registered
from nanohook.rules import letters
from nanohook.stores import accounts, ledger
from nanohook.stores.accounts import Account, Person
from nanohook.web import credentials, guard, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, Parts
from nanohook.web.rates import Rate, network_of

logger = logging.getLogger(__name__)

VERIFY: Final = "verify"
RESET: Final = "reset"
_LIVES_S: Final = {VERIFY: 24 * 3600, RESET: 3600}
_PAGES: Final = {VERIFY: "/verify-email?token=", RESET: "/login?reset="}
_SENT: Final = {"status": "check_your_email"}
_LETTERS: Final = {
    Registered.NEW: VERIFY,
    # Whose password is it, after two who registered? That of who can read the mail, and chooses one.
    Registered.AGAIN: RESET,
    Registered.KNOWN: "known",
}


async def register(request: Request, parts: Parts) -> Response:
    """Take a registration; whoever owns the address is written to."""
    if parts.settings.registration == "closed":
        raise errors.Forbidden("registration is closed here", code="registration_closed")
    asked = await _body(request, parts, wire.Register)
    hashed = await parts.passwords.hash(asked.password, whose=_network(request))
    became, account = await parts.database.write(
        lambda tx: flow.register(tx, email=asked.email, password_hash=hashed, now_us=clock.now_us())
    )
    logger.info("account.registered", extra={"outcome": became.value})
    return await _write_to(request, parts, account, _LETTERS[became], to=asked.email)


async def login(request: Request, parts: Parts) -> Response:
    """Sign in with a password; the answer is the person, and a cookie."""
    guard.check_origin(request, parts)
    asked = await _body(request, parts, wire.Login)
    found = await parts.database.read(lambda tx: accounts.account(tx, asked.email))
    # Work is done for an address without an account too: the time does not tell.
    stored = None if found is None else found.password_hash
    is_right = await parts.passwords.verify(stored, asked.password, whose=_network(request))
    session_id = None
    if found is not None and is_right:
        session_id = await _log_in(request, parts, found, asked.password)
    if found is None or session_id is None:
        logger.info("login.refused", extra={"peer": _peer(request)})
        raise errors.Unauthenticated("address and password do not fit", code="bad_credentials")
    answer = json_answer(await _me(parts, found.person))
    guard.set_cookie(request, parts, answer, session_id)
    return answer


async def logout(call: Call) -> Response:
    """End this session, and any other that the browser's cookies still name: none of them shall take its place."""
    session_id = call.person.session_id

    async def end(tx: Transaction) -> None:
        for session in credentials.sessions(call.request, call.parts):
            await accounts.end_session(tx, session.id)

    answer = Response(status_code=204)
    if session_id is not None:
        await call.write(end)
        guard.drop_cookies(call.request, call.parts, answer)
    return answer


async def me(call: Call) -> Response:
    """Tell who is asking, and what they have."""
    return json_answer(await _me(call.parts, call.person))


async def change_password(call: Call) -> Response:
    """Set a new password by the present one; every other session ends."""
    asked = await wire.body_of(call.request, wire.ChangePassword)
    parts, person = call.parts, call.person
    await _count(call.request, parts, person.email)
    found = await parts.database.read(lambda tx: accounts.account_of(tx, person.id))
    if found is not None and found.person.is_admin and not person.is_admin:
        # A key was made without admin rights: it must not be worth more by setting a password.
        raise errors.Forbidden("this key carries no admin rights, its account does")
    present = None if found is None else found.password_hash
    # An account that the command line made has none yet: its key is all there is to show.
    network = _network(call.request)
    if present is not None and not await parts.passwords.verify(
        present, asked.current_password or "", whose=network
    ):
        raise errors.Forbidden("the present password is another", code="bad_credentials")
    hashed = await parts.passwords.hash(asked.new_password, whose=network)
    session_id = await call.write(
        lambda tx: flow.change_password(
            tx,
            person,
            hashed,
            present=present,
            browser=guard.browser_of(call.request, parts),
            now_us=clock.now_us(),
        )
    )
    answer = Response(status_code=204)
    if session_id is not None:
        guard.set_cookie(call.request, parts, answer, session_id)
    return answer


async def forgot(request: Request, parts: Parts) -> Response:
    """Write to the owner of an address, with a link to a new password."""
    asked = await _body(request, parts, wire.Forgot)
    found = await parts.database.read(lambda tx: accounts.account(tx, asked.email))
    meant = None if found is None or found.is_disabled else found
    return await _write_to(request, parts, meant, RESET, to=asked.email)


async def reset(request: Request, parts: Parts) -> Response:
    """Set a new password by a mailed link; every session ends."""
    asked = await _body(request, parts, wire.Reset)
    subject = _subject(parts, RESET, asked.token)
    found = await parts.database.read(lambda tx: flow.linked(tx, subject))
    await _count(request, parts, found.person.email)
    hashed = await parts.passwords.hash(asked.new_password, whose=_network(request))
    await parts.database.write(
        lambda tx: flow.reset_password(
            tx,
            subject,
            hashed,
            free_credits=parts.settings.free_credits,
            now_us=clock.now_us(),
        )
    )
    return Response(status_code=204)


async def verify(request: Request, parts: Parts) -> Response:
    """Confirm an address by the link that was mailed to it."""
    asked = await _body(request, parts, wire.Verify)
    subject = _subject(parts, VERIFY, asked.token)
    await parts.database.write(
        lambda tx: flow.verify(tx, subject, free_credits=parts.settings.free_credits, now_us=clock.now_us())
    )
    return Response(status_code=204)


async def resend(call: Call) -> Response:
    """Write again to a person who has not confirmed the address."""
    person = call.person
    await _count(call.request, call.parts, person.email)
    found = await call.parts.database.read(lambda tx: accounts.account_of(tx, person.id))
    meant = None if found is None or person.is_verified else found
    return await _write_to(call.request, call.parts, meant, VERIFY, to=person.email)


async def keys(call: Call) -> Response:
    """List this person's API keys; what they are is never told again."""
    found = await call.parts.database.read(lambda tx: accounts.keys(tx, owner_id=call.person.id))
    return json_answer({"keys": [_shown(key) for key in found]})


async def new_key(call: Call) -> Response:
    """Make an API key; this answer alone tells it."""
    asked = await wire.body_of(call.request, wire.NewKey)
    key = ids.new_key()

    made = await call.write(
        lambda tx: flow.add_key(tx, call.person, key, name=asked.name, is_admin=asked.admin, now_us=clock.now_us())
    )
    return json_answer({**_shown(made), "key": key}, status=201)


async def revoke(call: Call) -> Response:
    """Make an API key worthless."""
    key_id = str(call.request.path_params["key_id"])
    await call.write(lambda tx: flow.revoke_key(tx, call.person, key_id, now_us=clock.now_us()))
    return Response(status_code=204)


async def sessions(call: Call) -> Response:
    """List where this person is logged in, newest first."""
    found = await call.parts.database.read(
        lambda tx: accounts.sessions(tx, owner_id=call.person.id, now_us=clock.now_us())
    )
    shown = [_shown_session(session, is_current=session.id == call.person.session_id) for session in found]
    return json_answer({"sessions": shown})


async def end_session(call: Call) -> Response:
    """Log this person out in one place; felt by the next request from there."""
    session_id = str(call.request.path_params["session_id"])
    await call.write(lambda tx: flow.end_session(tx, call.person, session_id))
    answer = Response(status_code=204)
    if session_id == call.person.session_id:
        guard.drop_cookies(call.request, call.parts, answer)
    return answer


async def _body(request: Request, parts: Parts, model: type[wire.M]) -> wire.M:
    """Read what a stranger sends; counted against where they are, and against the account they name from there."""
    # Before the body: of who is over this, nothing is read.
    await parts.rates.sign_in(Rate.SIGN_IN_NETWORK, _network(request), route=_route(request))
    asked = await wire.body_of(request, model)
    await _count(request, parts, getattr(asked, "email", ""))
    return asked


async def _count(request: Request, parts: Parts, email: str) -> None:
    """
    Count a request against an account: as tried from one network, and as tried from everywhere.

    The first is used up by who tries, and not by the owner elsewhere. Each route has a budget of its own: whoever
    has mails sent to an address does not lock its owner out.
    """
    route = _route(request)
    await parts.rates.sign_in(Rate.SIGN_IN, f"{_network(request)} {email} {route}", route=route)
    if email:
        await parts.rates.sign_in(Rate.SIGN_IN_ACCOUNT, f"{email} {route}", route=route)


async def _log_in(request: Request, parts: Parts, found: Account, password: str) -> str | None:
    """Begin a session of who has shown the right password; ``None`` if it is so no longer."""
    stronger = None
    if found.password_hash is not None and parts.passwords.needs_rehash(found.password_hash):
        stronger = await parts.passwords.hash(password, whose=_network(request))
    browser = guard.browser_of(request, parts)
    return await parts.database.write(
        lambda tx: flow.log_in(tx, found, stronger=stronger, browser=browser, now_us=clock.now_us())
    )


def _route(request: Request) -> str:
    return str(request.scope["route"].path)


def _peer(request: Request) -> str:
    return "" if request.client is None else request.client.host


def _network(request: Request) -> str:
    return network_of(_peer(request))


def _subject(parts: Parts, purpose: str, token: str) -> str:
    try:
        return parts.tokens.read_purpose(purpose, token, time.time())
    except errors.SignatureInvalid:
        raise errors.Invalid(
            "this link is none of ours, or too old", code="token_invalid", fields={"token": "ask for a new one"}
        ) from None


async def _write_to(
    request: Request, parts: Parts, account: Account | None, kind: str, *, to: str | None = None
) -> Response:
    """
    Write to the owner of *account*, and answer that a mail is on its way.

    Args:
        account: ``None``: nobody is written to. The same mail is made all the same, for *to*, and dropped: neither
            the answer nor its time tells.
        kind: Chooses the words, and the link that goes with them.
    """
    link = None
    if kind in _PAGES:
        whose = "nobody" if account is None else f"{account.person.id} {flow.state_of(account)}"
        token = parts.tokens.sign_purpose(kind, whose, int(time.time()) + _LIVES_S[kind])
        # From the public address alone, never from the Host that a stranger sent.
        link = f"{parts.terms.public_url or ''}{_PAGES[kind]}{token}"
    subject, text = letters.letter(kind, wire.language(request), link=link or parts.terms.public_url or "/login")
    recipient = account.person.email if account is not None else to or ""
    # Many networks together ask more often than anybody wants to be written to; the newest mail is a moment old.
    standing = await parts.rates.hit(Rate.MAIL, recipient, route=_route(request))
    is_dropped = account is None or (standing is not None and standing.is_over)
    parts.mailer.send(to=recipient, subject=subject, text=text, link=link, is_dropped=is_dropped)
    return json_answer(_SENT, status=202)


async def _me(parts: Parts, person: Person) -> dict[str, object]:
    balance = await parts.database.read(lambda tx: ledger.balance(tx, person.id))
    return {
        "id": person.id,
        "email": person.email,
        "is_admin": person.is_admin,
        "is_verified": person.is_verified,
        "created_at": rfc3339(person.created_at),
        "credits": {"available": balance.available, "reserved": balance.reserved},
    }


def _shown_session(session: accounts.Session, *, is_current: bool) -> dict[str, object]:
    return {
        "id": session.id,
        "user_agent": session.user_agent,
        "address": session.address,
        "is_current": is_current,
        "created_at": rfc3339(session.created_at),
        "last_used_at": None if session.last_used_at is None else rfc3339(session.last_used_at),
        "expires_at": rfc3339(session.expires_at),
    }


def _shown(key: accounts.Key) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "is_admin": key.is_admin,
        "created_at": rfc3339(key.created_at),
        "last_used_at": None if key.last_used_at is None else rfc3339(key.last_used_at),
    }
