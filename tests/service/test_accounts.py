"""Accounts over HTTP: from a registration to a login, links, passwords, keys, and what a stranger learns."""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import re
import ssl
import threading
import time

import argon2
import httpx
import pytest
import pytest_asyncio

from nanohook import clock, ids
from nanohook.flow import accounts as flow
from nanohook.passwords import Passwords
from nanohook.stores import accounts
from nanohook.web import auth, credentials, pages
from tests import live, raw, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

FREE = 25
RIGHT = "s3cret-correct-horse"
OTHER = "s3cret-battery-staple"
CHEAP = {"time_cost": 1, "memory_cost": 8, "parallelism": 1}
DAY_S, HOUR_S = 24 * 3600, 3600
TLS = ssl.create_default_context()
NUMBERS = itertools.count(1)


class Hasher(argon2.PasswordHasher):
    """Costs next to nothing, counts what it is asked, and waits where a gate is shut."""

    def __init__(self, **cost):
        super().__init__(**cost or CHEAP)
        self.gates = {"hash": threading.Event(), "verify": threading.Event()}
        for gate in self.gates.values():
            gate.set()
        self.asked = {"hash": 0, "verify": 0}

    def hash(self, password, **options):
        self._enter("hash")
        return super().hash(password, **options)

    def verify(self, hash, password):  # noqa: A002 - the library's name
        self._enter("verify")
        return super().verify(hash, password)

    def _enter(self, name):
        self.asked[name] += 1
        assert self.gates[name].wait(10)

    @contextlib.asynccontextmanager
    async def held(self, name):
        """Hold the next one who asks; what the block does happens while they are inside."""
        before = self.asked[name]
        self.gates[name].clear()

        async def inside():
            await live.until(lambda: self.asked[name] > before)

        try:
            yield inside
        finally:
            self.gates[name].set()


class Told(logging.Handler):
    """Everything that is logged, all its fields included."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def mails(self, to):
        """Subject and link of every mail to an address, oldest first."""
        found = [record for record in self.records if record.getMessage() == "mail.not_configured"]
        return [(record.subject, record.link) for record in found if record.to == to]

    def link(self, to):
        """The token in the newest mail to an address."""
        return self.mails(to)[-1][1].partition("=")[2]


SECRETS = set()
"""Every password, cookie and key of these tests: none of them may ever be logged."""
LINKS = set()
"""Every token of a mailed link: these are logged by one line alone."""


@pytest.fixture(scope="module")
def told():
    handler, ours = Told(), logging.getLogger("nanohook")
    level = ours.level
    logging.getLogger().addHandler(handler)
    ours.setLevel(logging.DEBUG)
    yield handler
    ours.setLevel(level)
    logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="module")
def hasher():
    return Hasher()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory, told, hasher):
    settings = {"registration": "open", "free_credits": FREE, "trusted_proxies": ("127.0.0.1",)}
    with contextlib.closing(Passwords(hasher)) as passwords:
        async with rig.running(
            tmp_path_factory.mktemp("accounts"), sign_up=False, parts={"passwords": passwords}, **settings
        ) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tmp_path_factory, told):
    """A service as it comes: closed, no proxy, real hashes."""
    async with rig.running(tmp_path_factory.mktemp("plain"), sign_up=False) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def visit(service):
    """Opens browsers, each on a network of its own, so that no test eats another's budget."""
    async with contextlib.AsyncExitStack() as stack:

        async def browser(**headers):
            number = next(NUMBERS)
            headers = {
                "X-Forwarded-For": f"10.9.{number // 250}.{number % 250}",
                "Origin": service.base,
                **headers,
            }
            client = httpx.AsyncClient(
                base_url=service.base, headers=headers, verify=TLS, trust_env=False, timeout=20
            )
            return await stack.enter_async_context(client)

        yield browser


def new_address():
    return f"person{next(NUMBERS)}@example.org"


async def register(browser, email, password=RIGHT, **headers):
    SECRETS.add(password)
    return await browser.post("/api/auth/register", json={"email": email, "password": password}, headers=headers)


async def login(browser, email, password=RIGHT, **headers):
    SECRETS.add(password)
    answer = await browser.post("/api/auth/login", json={"email": email, "password": password}, headers=headers)
    SECRETS.update(answer.cookies.values())
    return answer


async def reset(browser, token, password=OTHER):
    SECRETS.add(password)
    return await browser.post("/api/auth/password/reset", json={"token": token, "new_password": password})


async def verify(browser, token):
    return await browser.post("/api/auth/verify-email", json={"token": token})


def link(told, email):
    LINKS.add(told.link(email))
    return told.link(email)


async def forgotten(browser, told, email):
    """Ask for a new password; the token of the link that came."""
    before = len(told.mails(email))
    assert (await browser.post("/api/auth/password/forgot", json={"email": email})).status_code == 202
    assert len(told.mails(email)) == before + 1
    return link(told, email)


async def member(browser, told, email, password=RIGHT, *, is_verified=True):
    """Register, confirm and sign in."""
    assert (await register(browser, email, password)).status_code == 202
    if is_verified:
        assert (await verify(browser, link(told, email))).status_code == 204
    assert (await login(browser, email, password)).status_code == 200


async def new_key(client, **asked):
    answer = await client.post("/api/auth/keys", json=asked)
    assert answer.status_code == 201, answer.text
    SECRETS.add(answer.json()["key"])
    return answer.json()


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


async def me(client, **headers):
    return await client.get("/api/auth/me", headers=headers)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def void(answer):
    said = refused(answer, 422, "token_invalid")
    assert [line["field"] for line in said["errors"]] == ["token"]


async def account(service, email):
    return await service.parts.database.read(lambda tx: accounts.account(tx, email))


async def rows(service):
    """All that an account consists of."""

    async def read(tx):
        tables = ("users", "sessions", "api_keys", "balances", "ledger", "audit")
        return {table: [tuple(row) for row in await tx.all(f"SELECT * FROM {table}")] for table in tables}

    return await service.parts.database.read(read)


async def run(service, sql, *values):
    await service.parts.database.write(lambda tx: tx.run(sql, values))


# From a registration to the end of a session.


async def test_from_a_registration_to_a_login_and_out_again(service, visit, told):
    browser, email = await visit(), new_address()
    answer = await register(browser, email)
    assert (answer.status_code, answer.json()) == (202, {"status": "check_your_email"})
    [(subject, address)] = told.mails(email)
    assert "Confirm" in subject
    assert address.startswith(f"{service.base}/verify-email?token=")
    assert "set-cookie" not in answer.headers
    assert (await verify(browser, link(told, email))).status_code == 204
    signed_in = await login(browser, email)
    said = (await me(browser)).raise_for_status().json()
    assert signed_in.json() == said
    assert (said["email"], said["is_verified"], said["is_admin"]) == (email, True, False)
    assert said["credits"] == {"available": FREE, "reserved": 0}
    assert not {"password", "hash"} & set(" ".join(said).split("_"))
    cookie = browser.cookies[service.cookie]
    assert (await browser.post("/api/auth/logout")).status_code == 204
    assert service.cookie not in browser.cookies
    # Not only the browser forgets it.
    refused(await me(await visit(Cookie=f"{service.cookie}={cookie}")), 401, "unauthenticated")


async def test_a_login_sets_a_cookie_that_no_script_and_no_other_site_can_use(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    answer = await login(browser, email)
    [cookie] = answer.headers.get_list("set-cookie")
    value, *attributes = cookie.split("; ")
    assert {name.lower() for name in attributes} == {
        "httponly",
        "samesite=lax",
        "path=/",
        f"max-age={30 * DAY_S}",
    }
    token = value.partition("=")[2]
    expires_at_s = int(token.split(".")[-2])
    assert abs(expires_at_s - time.time() - 30 * DAY_S) < 10
    row = await service.parts.database.read(
        lambda tx: tx.one("SELECT expires_at, created_at FROM sessions WHERE id = ?", (token.partition(".")[0],))
    )
    assert row["expires_at"] - row["created_at"] == 30 * DAY_S * 1_000_000


async def test_a_login_ends_the_session_that_the_browser_had(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    former = browser.cookies[service.cookie]
    await login(browser, email)
    assert browser.cookies[service.cookie] != former
    assert (await me(browser)).status_code == 200
    refused(await me(await visit(Cookie=f"{service.cookie}={former}")), 401, "unauthenticated")
    # A wrong password signs nobody out.
    refused(await login(browser, email, OTHER), 401, "bad_credentials")
    assert (await me(browser)).status_code == 200


async def test_a_cookie_is_for_https_alone_where_the_proxy_says_https(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    origin = service.base.replace("http:", "https:")
    secure = await login(browser, email, **{"X-Forwarded-Proto": "https", "Origin": origin})
    assert "secure" in secure.headers["set-cookie"].lower().split("; ")
    for said in (["https, http"], ["https,https"], ["HTTPS"], ["https", "http"], ["wss"], ['"https"']):
        headers = [("X-Forwarded-Proto", each) for each in said]
        asked = {"email": email, "password": RIGHT}
        answer = await (await visit(Origin=origin)).post("/api/auth/login", json=asked, headers=headers)
        assert (said, answer.status_code) == (said, 200)
        assert "secure" in answer.headers["set-cookie"].lower().split("; ")
    # The page that asked is no longer its own.
    refused(
        await login(browser, email, **{"X-Forwarded-Proto": "https", "Origin": "http://elsewhere"}),
        403,
        "wrong_origin",
    )


async def test_the_host_that_a_proxy_was_asked_for_is_our_own(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    way = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "pictures.example, inner"}
    answer = await login(browser, email, Origin="https://pictures.example", **way)
    assert answer.status_code == 200
    assert "secure" in answer.headers["set-cookie"].lower().split("; ")
    refused(await login(browser, email, Origin="https://inner", **way), 403, "wrong_origin")


async def test_under_dev_no_proxy_makes_another_host_loopback(tmp_path):
    parts, way = {"guests_are_local": True}, {"X-Forwarded-Host": "localhost"}
    async with rig.running(tmp_path, sign_up=False, parts=parts, trusted_proxies=("127.0.0.1",)) as service:
        assert (await service.client.get("/login", headers=way)).status_code == 200
        answer = await service.client.get("/login", headers={**way, "Host": "tunnel.example"})
        refused(answer, 404, "not_found")


async def test_what_a_stranger_says_of_his_way_is_not_believed(plain):
    await rig.make_account(plain, "ada@example.org", password=RIGHT)
    forwarded = {"X-Forwarded-Proto": "https", "Origin": plain.base}
    async with httpx.AsyncClient(base_url=plain.base, trust_env=False, verify=TLS, timeout=60) as browser:
        answer = await login(browser, "ada@example.org", **forwarded)
        assert answer.status_code == 200
        assert "secure" not in answer.headers["set-cookie"].lower()
        answer = await login(
            browser, "ada@example.org", **forwarded | {"Origin": plain.base.replace("http:", "https:")}
        )
        refused(answer, 403, "wrong_origin")
        # Nor has he as many budgets as he can think of addresses. At once: one after the other they might take a
        # slow machine longer than a minute.
        tries = await asyncio.gather(
            *(
                login(browser, "nobody@example.org", Origin=plain.base, **{"X-Forwarded-For": f"10.0.0.{number}"})
                for number in range(12)
            )
        )
    tried(tries)


async def test_a_session_ends_when_its_time_is_up(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    person = (await account(service, email)).person
    await run(service, "UPDATE sessions SET expires_at = ? WHERE owner_id = ?", clock.now_us(), person.id)
    refused(await me(browser), 401, "unauthenticated")


async def test_registration_is_closed_unless_it_is_opened(plain):
    unread = await raw.without_body(plain.base, "POST", "/api/auth/register", {}, size_bytes=100)
    refused(unread, 403, "registration_closed")
    answer = await plain.client.post("/api/auth/register", json={"email": "new@example.org", "password": RIGHT})
    refused(answer, 403, "registration_closed")
    assert await account(plain, "new@example.org") is None


# An address that has an account.


def same(first, second):
    """Two answers that a stranger cannot tell apart."""
    assert (first.status_code, first.content) == (second.status_code, second.content)
    different = {"x-request-id", "date"}
    headers = [
        {name: value for name, value in one.headers.items() if name not in different} for one in (first, second)
    ]
    assert headers[0] == headers[1]


async def test_an_address_that_has_an_account_is_answered_like_any_other(service, visit, told, hasher):
    email = new_address()
    await member(await visit(), told, email)
    before, mails = await account(service, email), len(told.mails(email))
    asked = dict(hasher.asked)
    new = await register(await visit(), new_address(), OTHER)
    for_new = hasher.asked["hash"] - asked["hash"]
    known = await register(await visit(), email, OTHER)
    same(new, known)
    assert (for_new, hasher.asked["hash"] - asked["hash"]) == (1, 2)
    # Its owner is told, and gets no link that does anything.
    [(subject, address)] = told.mails(email)[mails:]
    assert ("already have an account" in subject, address) == (True, None)
    assert await account(service, email) == before
    same(known, await (await visit()).post("/api/auth/password/forgot", json={"email": new_address()}))
    same(known, await (await visit()).post("/api/auth/password/forgot", json={"email": email}))


async def test_who_registers_anothers_address_first_gains_nothing(service, visit, told):
    """Neither password counts: who reads the mail chooses one, and what was made before is dead."""
    thief, email = await visit(), new_address()
    await member(thief, told, email, OTHER, is_verified=False)
    first = link(told, email)
    mine = (await account(service, email)).person
    key = ids.new_key()
    SECRETS.add(key)
    await service.parts.database.write(
        lambda tx: flow.add_key(tx, mine, key, name=None, is_admin=False, now_us=clock.now_us())
    )
    assert (await me(thief)).status_code == 200
    assert (await me(await visit(), **bearer(key))).status_code == 200

    owner = await visit()
    same(await register(owner, email, RIGHT), await register(await visit(), new_address()))
    refused(await me(thief), 401, "unauthenticated")
    refused(await me(await visit(), **bearer(key)), 401, "unauthenticated")
    refused(await login(thief, email, OTHER), 401, "bad_credentials")
    refused(await login(owner, email, RIGHT), 401, "bad_credentials")
    void(await verify(owner, first))
    second = link(told, email)
    void(await verify(owner, second))
    assert (await reset(owner, second, RIGHT)).status_code == 204
    assert (await login(owner, email, RIGHT)).status_code == 200
    assert (await me(owner)).json()["id"] == mine.id


async def test_an_address_is_the_same_however_it_is_spelt(service, visit, told):
    number = next(NUMBERS)
    email, spelt = f"ada{number}@xn--bcher-kva.example", f"Ada{number}@BÜCHER.Example"
    browser = await visit()
    await register(browser, spelt)
    assert (await verify(browser, link(told, email))).status_code == 204
    assert (await login(browser, spelt)).json()["email"] == email
    for other in (email, spelt, email.upper(), f"ADA{number}@bücher.example"):
        assert (await login(await visit(), other)).status_code == 200
        assert (await register(await visit(), other)).status_code == 202
    found = await service.parts.database.read(
        lambda tx: tx.all("SELECT id FROM users WHERE email LIKE ?", (f"ada{number}@%",))
    )
    assert len(found) == 1


async def test_a_refused_login_does_not_say_why(service, visit, told, hasher):
    known, disabled, keyed = new_address(), new_address(), new_address()
    await member(await visit(), told, known)
    await member(await visit(), told, disabled)
    await disable(service, disabled)
    await rig.make_account(service, keyed)
    tries = {(known, OTHER), (disabled, RIGHT), (disabled, OTHER), (keyed, RIGHT), (new_address(), RIGHT)}
    tries |= {(known, ""), (known, "x" * 5_000), (known, RIGHT.upper())}
    answers = []
    for email, password in sorted(tries):
        asked = dict(hasher.asked)
        answers.append(await login(await visit(), email, password))
        # The same work, whoever it is: one check and nothing else.
        assert hasher.asked == {**asked, "verify": asked["verify"] + 1}
        assert "set-cookie" not in answers[-1].headers
    for answer in answers:
        refused(answer, 401, "bad_credentials")
        same(answers[0], answer)


async def disable(service, email, *, is_disabled=True):
    person = (await account(service, email)).person
    await service.parts.database.write(
        lambda tx: flow.disable(tx, user_id=person.id, is_disabled=is_disabled, actor="a test", now_us=0)
    )


async def test_who_is_disabled_comes_in_by_no_way_at_all(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    key = (await new_key(browser))["key"]
    token = await forgotten(browser, told, email)
    await disable(service, email)
    mails = len(told.mails(email))
    refused(await me(browser), 401, "unauthenticated")
    refused(await me(await visit(), **bearer(key)), 401, "unauthenticated")
    refused(await login(browser, email), 401, "bad_credentials")
    void(await reset(browser, token))
    same(
        await (await visit()).post("/api/auth/password/forgot", json={"email": email}),
        await (await visit()).post("/api/auth/password/forgot", json={"email": new_address()}),
    )
    assert (await register(await visit(), email)).status_code == 202
    assert len(told.mails(email)) == mails
    await disable(service, email, is_disabled=False)
    # The sessions are over, the keys live again.
    refused(await me(browser), 401, "unauthenticated")
    assert (await me(await visit(), **bearer(key))).status_code == 200
    assert (await login(browser, email)).status_code == 200


async def test_who_registers_anothers_address_after_them_gains_nothing(visit, told):
    owner, thief, email = await visit(), await visit(), new_address()
    await register(owner, email, RIGHT)
    first = link(told, email)
    await register(thief, email, OTHER)
    void(await verify(owner, first))
    for password in (RIGHT, OTHER):
        refused(await login(thief, email, password), 401, "bad_credentials")
    assert (await reset(owner, link(told, email), RIGHT)).status_code == 204
    refused(await login(thief, email, OTHER), 401, "bad_credentials")
    assert (await login(owner, email, RIGHT)).json()["is_verified"]


async def test_mails_are_in_the_language_of_who_asked(visit, told):
    email = new_address()
    await register(await visit(), email, **{"Accept-Language": "fr"})
    await register(await visit(), email, **{"Accept-Language": "en"})
    assert [subject for subject, _ in told.mails(email)] == [
        "Confirmez votre adresse e-mail",
        "Choose a new password",
    ]


# Links.


async def test_a_link_is_good_once(service, visit, told):
    browser, email = await visit(), new_address()
    await register(browser, email)
    token = link(told, email)
    twins = await asyncio.gather(verify(browser, token), verify(browser, token))
    assert sorted(answer.status_code for answer in twins) == [204, 422]
    void(await verify(browser, token))
    token = await forgotten(browser, told, email)
    twins = await asyncio.gather(reset(browser, token, OTHER), reset(browser, token, OTHER))
    assert sorted(answer.status_code for answer in twins) == [204, 422]
    void(await reset(browser, token, RIGHT))
    assert (await login(browser, email, OTHER)).status_code == 200


async def test_a_link_ends_when_its_time_is_up(service, visit, told):
    browser, email = await visit(), new_address()
    await register(browser, email)
    tokens = {auth.VERIFY: link(told, email), auth.RESET: await forgotten(browser, told, email)}
    for purpose, life_s in ((auth.VERIFY, DAY_S), (auth.RESET, HOUR_S)):
        *_, expires, _ = tokens[purpose].split(".")
        assert abs(int(expires) - time.time() - life_s) < 10
    found = await account(service, email)
    subject = f"{found.person.id} {flow.state_of(found)}"
    late = {name: service.parts.tokens.sign_purpose(name, subject, int(time.time())) for name in tokens}
    before = await rows(service)
    void(await verify(browser, late[auth.VERIFY]))
    void(await reset(browser, late[auth.RESET]))
    assert await rows(service) == before


async def test_a_token_is_good_for_its_own_purpose_alone(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    found = await account(service, email)
    subject, until = f"{found.person.id} {flow.state_of(found)}", int(time.time()) + 60
    purposes = (auth.VERIFY, auth.RESET, credentials.SESSION, pages.LOGIN, "stream")
    tokens = {name: service.parts.tokens.sign_purpose(name, subject, until) for name in purposes}
    tokens["media"] = service.parts.tokens.sign_media(key=subject, expires_at_s=until)
    tokens["callback"] = service.parts.tokens.sign_callback(job_id=subject, attempt=1, index=0, expires_at_s=until)
    tokens["cookie"] = browser.cookies[service.cookie]
    tokens |= {"empty state": service.parts.tokens.sign_purpose(auth.RESET, found.person.id, until)}
    tokens |= {"nobody": service.parts.tokens.sign_purpose(auth.RESET, f"nobody {flow.state_of(found)}", until)}
    tokens |= {"forged": f"{tokens[auth.RESET][:-1]}{'x' if tokens[auth.RESET][-1] != 'x' else 'y'}"}
    before = await rows(service)
    for name, token in tokens.items():
        helper = await visit()
        if name != auth.VERIFY:
            void(await verify(helper, token))
        if name != auth.RESET:
            void(await reset(helper, token))
        if name != "cookie":
            refused(await me(helper, Cookie=f"{service.cookie}={token}"), 401, "unauthenticated")
        refused(await me(helper, **bearer(token)), 401, "unauthenticated")
        if name != pages.LOGIN:
            assert "set-cookie" not in (await helper.get("/login", params={"token": token})).headers
    assert await rows(service) == before
    assert (await reset(browser, tokens[auth.RESET])).status_code == 204


async def test_a_link_is_void_after_a_newer_password(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    first, second = await forgotten(browser, told, email), await forgotten(browser, told, email)
    assert (await change(browser, RIGHT, OTHER)).status_code == 204
    for token in (first, second):
        void(await reset(browser, token, RIGHT))
    assert (await login(browser, email, OTHER)).status_code == 200


async def test_free_credits_come_once_with_the_confirmed_address(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email, is_verified=False)
    assert (await me(browser)).json()["credits"] == {"available": 0, "reserved": 0}
    assert (await browser.post("/api/auth/verify-email/resend")).status_code == 202
    assert (await verify(browser, link(told, email))).status_code == 204
    # By whichever link it is confirmed, and however often.
    assert (await reset(browser, await forgotten(browser, told, email))).status_code == 204
    await login(browser, email, OTHER)
    assert (await me(browser)).json()["credits"]["available"] == FREE
    entries = await service.parts.database.read(
        lambda tx: tx.all(
            "SELECT kind, available FROM ledger JOIN users ON owner_id = users.id WHERE email = ?", (email,)
        )
    )
    assert [tuple(entry) for entry in entries] == [("grant", FREE)]

    second = new_address()
    await register(browser, second)
    assert (await reset(browser, await forgotten(browser, told, second))).status_code == 204
    await login(browser, second, OTHER)
    said = (await me(browser)).json()
    assert (said["is_verified"], said["credits"]["available"]) == (True, FREE)


async def test_the_link_is_sent_again_to_who_is_not_confirmed_and_to_nobody_else(visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email, is_verified=False)
    first = link(told, email)
    answer = await browser.post("/api/auth/verify-email/resend")
    assert (answer.status_code, len(told.mails(email))) == (202, 2)
    assert (await verify(browser, first)).status_code == 204
    again = await browser.post("/api/auth/verify-email/resend")
    assert (again.status_code, again.content, len(told.mails(email))) == (202, answer.content, 2)


# Passwords.


async def change(client, current, new, **headers):
    SECRETS.update({current, new})
    asked = {"current_password": current, "new_password": new}
    return await client.post("/api/auth/password", json=asked, headers=headers)


async def test_a_new_password_ends_every_other_session(service, visit, told):
    browser, elsewhere, email = await visit(), await visit(), new_address()
    await member(browser, told, email)
    await login(elsewhere, email)
    key = (await new_key(browser))["key"]
    before = await rows(service)
    refused(await change(browser, OTHER, "another-one"), 403, "bad_credentials")
    answer = await browser.post("/api/auth/password", json={"new_password": OTHER})
    refused(answer, 403, "bad_credentials")
    assert await rows(service) == before

    former = browser.cookies[service.cookie]
    answer = await change(browser, RIGHT, OTHER)
    assert answer.status_code == 204
    assert {"httponly", "samesite=lax"} <= set(answer.headers["set-cookie"].lower().split("; "))
    assert browser.cookies[service.cookie] != former
    SECRETS.add(browser.cookies[service.cookie])
    assert (await me(browser)).status_code == 200
    refused(await me(elsewhere), 401, "unauthenticated")
    refused(await me(await visit(Cookie=f"{service.cookie}={former}")), 401, "unauthenticated")
    assert (await me(await visit(), **bearer(key))).status_code == 200
    refused(await login(elsewhere, email, RIGHT), 401, "bad_credentials")
    assert (await login(elsewhere, email, OTHER)).status_code == 200


async def test_a_new_password_by_key_begins_no_session(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    key = (await new_key(browser))["key"]
    by_key = await visit(**bearer(key))
    answer = await change(by_key, RIGHT, OTHER)
    assert (answer.status_code, "set-cookie" in answer.headers) == (204, False)
    refused(await me(browser), 401, "unauthenticated")


async def test_who_has_no_password_yet_sets_the_first_by_key(service, visit):
    email = new_address()
    key = await rig.make_account(service, email)
    SECRETS.add(key)
    by_key = await visit(**bearer(key))
    assert (await by_key.post("/api/auth/password", json={"new_password": RIGHT})).status_code == 204
    refused(await by_key.post("/api/auth/password", json={"new_password": OTHER}), 403, "bad_credentials")
    assert (await login(await visit(), email, RIGHT)).status_code == 200


async def test_a_reset_ends_every_session_and_key(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    key = (await new_key(browser))["key"]
    token = await forgotten(await visit(), told, email)
    assert (await me(browser)).status_code == 200
    answer = await reset(await visit(), token)
    assert (answer.status_code, "set-cookie" in answer.headers) == (204, False)
    refused(await me(browser), 401, "unauthenticated")
    refused(await me(await visit(), **bearer(key)), 401, "unauthenticated")
    refused(await login(browser, email, RIGHT), 401, "bad_credentials")


async def test_a_link_that_is_void_costs_no_hash(service, visit, told, hasher):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    token = await forgotten(browser, told, email)
    assert (await reset(browser, token)).status_code == 204
    asked = dict(hasher.asked)
    for wrong in (token, "forged", browser.cookies[service.cookie]):
        void(await reset(browser, wrong))
    assert hasher.asked == asked


async def test_an_old_password_does_not_come_in_while_it_is_changed(service, visit, told, hasher):
    """Checking takes a while: what was right when it began may be wrong when it ends."""
    thief, email = await visit(), new_address()
    await member(await visit(), told, email)
    newer = await service.parts.passwords.hash(OTHER)
    person = (await account(service, email)).person
    async with hasher.held("verify") as inside:
        trying = asyncio.create_task(login(thief, email, RIGHT))
        await inside()
        await service.parts.database.write(lambda tx: accounts.set_password(tx, person.id, newer))
    refused(await trying, 401, "bad_credentials")
    assert service.cookie not in thief.cookies
    assert (await account(service, email)).password_hash == newer


async def test_an_old_password_does_not_replace_a_newer_one(service, visit, told, hasher):
    thief, email = await visit(), new_address()
    await member(thief, told, email)
    newer = await service.parts.passwords.hash(OTHER)
    person = (await account(service, email)).person
    async with hasher.held("verify") as inside:
        trying = asyncio.create_task(change(thief, RIGHT, "the thief's own"))
        await inside()
        await service.parts.database.write(lambda tx: accounts.set_password(tx, person.id, newer))
        await service.parts.database.write(lambda tx: accounts.end_sessions(tx, person.id))
    refused(await trying, 403, "bad_credentials")
    assert (await account(service, email)).password_hash == newer
    refused(await me(thief), 401, "unauthenticated")


async def test_a_hash_of_former_parameters_is_made_anew_at_login(service, visit, told, hasher):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    person = (await account(service, email)).person
    former = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    old, newer = former.hash(RIGHT), former.hash(OTHER)
    await service.parts.database.write(lambda tx: accounts.set_password(tx, person.id, old))
    refused(await login(browser, email, OTHER), 401, "bad_credentials")
    assert (await account(service, email)).password_hash == old
    async with hasher.held("hash") as inside:
        trying = asyncio.create_task(login(await visit(), email, RIGHT))
        await inside()
        await service.parts.database.write(lambda tx: accounts.set_password(tx, person.id, newer))
    # The old password is not brought back by it.
    refused(await trying, 401, "bad_credentials")
    assert (await account(service, email)).password_hash == newer
    assert (await login(browser, email, OTHER)).status_code == 200
    made = (await account(service, email)).password_hash
    assert made != newer
    assert not service.parts.passwords.needs_rehash(made)
    assert (await login(browser, email, OTHER)).status_code == 200


async def test_all_of_a_password_counts(service, visit, told):
    """Blanks, zero bytes and everything after them; two ways to type é are the same."""
    for number, (password, wrong) in enumerate(
        [
            ("  blanks around it ", "blanks around it"),
            ("zero\x00bytes\x00in it", "zero\x00bytes\x00in IT"),
            ("x" * 1023 + "y", "x" * 1023 + "z"),
            ("🍌🍌🍌🍌🍌🍌🍌🍌", "🍌🍌🍌🍌🍌🍌🍌🍎"),
        ]
    ):
        browser, email = await visit(), new_address()
        await member(browser, told, email, password)
        refused(await login(browser, email, wrong), 401, "bad_credentials")
        assert (number, (await login(browser, email, password)).status_code) == (number, 200)
    browser, email = await visit(), new_address()
    await member(browser, told, email, "caf\u00e9 au lait")
    assert (await login(browser, email, "cafe\u0301 au lait")).status_code == 200


# Limits.


def tried(answers, most=10):
    """As many are answered as may; one more if the minute's boundary fell among them."""
    passed = [answer for answer in answers if answer.status_code != 429]
    assert len(passed) in {most, most + 1}
    for answer in answers:
        if answer.status_code != 429:
            continue
        refused(answer, 429, "rate_limited")
        assert "set-cookie" not in answer.headers
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    return passed


SAME = {
    "register": lambda email: {"email": email, "password": RIGHT},
    "login": lambda email: {"email": email, "password": OTHER},
    "password/forgot": lambda email: {"email": email},
    "password/reset": lambda _: {"token": "forged", "new_password": RIGHT},
    "verify-email": lambda _: {"token": "forged"},
}
"""What is sent again and again; who sends a token names no account."""


@pytest.mark.parametrize("route", SAME)
async def test_one_account_is_tried_ten_times_a_minute_from_one_network(service, visit, hasher, route):
    browser, path, email = await visit(), f"/api/auth/{route}", new_address()
    # At once: one after the other they might take a slow machine longer than a minute.
    tries = (browser.post(path, json=SAME[route](email.upper() if n % 2 else email)) for n in range(12))
    passed = tried(await asyncio.gather(*tries))
    assert len({answer.status_code for answer in passed}) == 1
    before, asked = await rows(service), dict(hasher.asked)
    refused(await browser.post(path, json=SAME[route](email)), 429, "rate_limited")
    assert (await rows(service), hasher.asked) == (before, asked)
    # Neither another network at the same account is held up by it, nor this one at another.
    for other, account_of in ((await visit(), email), (browser, new_address())):
        if "email" in SAME[route](email) or other is not browser:
            assert (await other.post(path, json=SAME[route](account_of))).status_code != 429


async def test_a_stranger_does_not_lock_a_person_out(visit, told):
    email = new_address()
    await member(await visit(), told, email)
    for _ in range(3):
        stranger = await visit()
        tried(await asyncio.gather(*(login(stranger, email, OTHER) for _ in range(12))))
    assert (await login(await visit(), email)).status_code == 200


async def test_one_account_is_tried_a_hundred_times_a_minute_from_everywhere(visit, told, hasher):
    email = new_address()
    await member(await visit(), told, email)

    async def ten():
        stranger = await visit()
        return await asyncio.gather(*(login(stranger, email, OTHER) for _ in range(10)))

    # Signing in counted once already.
    tried([answer for _ in range(11) for answer in await ten()], most=99)
    asked = dict(hasher.asked)
    refused(await login(await visit(), email), 429, "rate_limited")
    assert hasher.asked == asked
    assert (await login(await visit(), new_address())).status_code == 401


async def test_one_network_tries_a_hundred_times_a_minute_whatever_it_names(service, visit, hasher):
    browser = await visit()
    routes = ["login", "password/forgot", "password/forgot"]
    tries = (
        browser.post(f"/api/auth/{route}", json=SAME[route](f"a{number}@b.org"))
        for number, route in zip(range(104), itertools.cycle(routes), strict=False)
    )
    tried(await asyncio.gather(*tries), most=100)
    before, asked = await rows(service), dict(hasher.asked)
    headers = {name: browser.headers[name] for name in ("X-Forwarded-For", "Origin")}
    # Neither is anything hashed, nor even read, of what comes after that.
    unread = await raw.without_body(service.base, "POST", "/api/auth/login", headers, size_bytes=100)
    refused(unread, 429, "rate_limited")
    assert (await rows(service), hasher.asked) == (before, asked)
    assert (await login(await visit(), new_address())).status_code == 401


async def test_one_customers_addresses_are_one(service, visit):
    browser, email = await visit(), new_address()

    async def attempt(address):
        return await login(browser, email, **{"X-Forwarded-For": address})

    tried(await asyncio.gather(*(attempt(f"2001:db8:5:6:{number:x}::1") for number in range(12))))
    tried(await asyncio.gather(*(attempt(f"{'::ffff:' * (number % 2)}10.7.7.7") for number in range(12))))
    for other in ("2001:db8:5:7::1", "10.7.7.8"):
        refused(await attempt(other), 401, "bad_credentials")


async def test_nobody_is_written_to_more_than_ten_times_a_minute(visit, told):
    """Many networks together may ask for more: the answer is the same, and the newest mail a moment old."""
    email = new_address()
    await member(await visit(), told, email)
    answers = [await (await visit()).post("/api/auth/password/forgot", json={"email": email}) for _ in range(14)]
    assert {answer.status_code for answer in answers} == {202}
    # The one that confirmed the address counted already.
    assert len(told.mails(email)) in {10, 11}


async def test_who_has_mails_sent_to_an_address_does_not_lock_its_owner_out(visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    stranger = await visit()
    while (await stranger.post("/api/auth/password/forgot", json={"email": email})).status_code != 429:
        pass
    assert (await login(stranger, email, RIGHT)).status_code == 200
    assert (await change(browser, RIGHT, OTHER)).status_code == 204


async def test_resets_and_changes_of_one_account_have_a_budget(service, visit, told, hasher):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    token = await forgotten(browser, told, email)
    while (await change(browser, OTHER, OTHER)).status_code != 429:
        pass
    assert (await reset(await visit(), token, "short")).status_code == 422
    asked, before = dict(hasher.asked), await account(service, email)
    refused(await change(browser, RIGHT, OTHER), 429, "rate_limited")
    assert hasher.asked == asked
    assert await account(service, email) == before
    assert (await me(browser)).status_code == 200


async def test_a_key_without_admin_rights_does_not_take_over_its_admins_account(service, visit):
    email = new_address()
    strong = await rig.make_account(service, email, is_admin=True)
    owner = await visit()
    weak = (await owner.post("/api/auth/keys", json={}, headers=bearer(strong))).json()["key"]
    listed = (await owner.get("/api/auth/keys", headers=bearer(strong))).json()["keys"]
    [first] = [one["id"] for one in listed if one["is_admin"]]
    asked = {"new_password": RIGHT}
    answer = await owner.post("/api/auth/password", json=asked, headers=bearer(weak))
    refused(answer, 403, "forbidden")
    refused(await owner.delete(f"/api/auth/keys/{first}", headers=bearer(weak)), 403, "forbidden")
    refused(await login(owner, email, RIGHT), 401, "bad_credentials")
    answer = await owner.post("/api/auth/password", json=asked, headers=bearer(strong))
    assert answer.status_code == 204


# Keys.


def files(service):
    """Everything that the database has on the disk."""
    folder = service.parts.settings.data_dir
    return b"".join(path.read_bytes() for path in sorted(folder.glob("nanohook.db*")))


async def test_a_key_is_told_once_and_kept_as_a_hash_alone(service, visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    made = await new_key(browser, name="my laptop")
    key = made.pop("key")
    assert re.fullmatch(r"nh_[\w-]{43}", key)
    assert made == {
        "id": made["id"],
        "name": "my laptop",
        "prefix": key[:8],
        "is_admin": False,
        "created_at": made["created_at"],
        "last_used_at": None,
    }
    assert (await browser.get("/api/auth/keys")).json() == {"keys": [made]}
    assert (await me(await visit(), **bearer(key))).json()["email"] == email
    written = files(service)
    assert hashlib.sha256(key.encode()).digest() in written
    # Two thirds of it would be too much as well.
    for secret in (key, key[:30], key[-30:], RIGHT, browser.cookies[service.cookie]):
        assert secret.encode() not in written


async def test_a_revoked_key_opens_nothing_from_then_on(visit, told):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    first, second = await new_key(browser), await new_key(browser)
    by_key = await visit(**bearer(first["key"]))
    assert (await me(by_key)).status_code == 200
    path = f"/api/auth/keys/{first['id']}"
    assert (await browser.delete(path)).status_code == 204
    refused(await me(by_key), 401, "unauthenticated")
    refused(await browser.delete(path), 404, "not_found")
    assert [key["id"] for key in (await browser.get("/api/auth/keys")).json()["keys"]] == [second["id"]]
    # Another's is unknown, and lives.
    stranger = await visit()
    await member(stranger, told, new_address())
    refused(await stranger.delete(f"/api/auth/keys/{second['id']}"), 404, "not_found")
    assert (await me(await visit(), **bearer(second["key"]))).status_code == 200


async def test_a_keys_last_use_is_noted_once_a_minute(service, visit, told):
    browser = await visit()
    await member(browser, told, new_address())
    made = await new_key(browser)
    by_key = await visit(**bearer(made["key"]))

    async def last_used():
        row = await service.parts.database.read(
            lambda tx: tx.one("SELECT last_used_at FROM api_keys WHERE id = ?", (made["id"],))
        )
        return row["last_used_at"]

    async def used():
        """The note is written behind the answer; every write before this one is done when this one is."""
        assert (await me(by_key)).status_code == 200
        await run(service, "DELETE FROM audit WHERE 0")
        return await last_used()

    first = await used()
    assert abs(first - clock.now_us()) < 5_000_000
    assert [await used() for _ in range(3)] == [first] * 3
    earlier = first - 61_000_000
    await run(service, "UPDATE api_keys SET last_used_at = ? WHERE id = ?", earlier, made["id"])
    assert await used() >= first
    [shown] = (await browser.get("/api/auth/keys")).json()["keys"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown["last_used_at"])


async def test_fifty_keys_are_enough(visit, told):
    browser = await visit()
    await member(browser, told, new_address())
    made = [await new_key(browser) for _ in range(flow.MOST_KEYS)]
    refused(await browser.post("/api/auth/keys", json={}), 409, "too_many_keys")
    listed = (await browser.get("/api/auth/keys")).json()["keys"]
    assert [key["id"] for key in listed] == [key["id"] for key in reversed(made)]
    await browser.delete(f"/api/auth/keys/{made[0]['id']}")
    assert (await browser.post("/api/auth/keys")).status_code == 201


async def test_admin_rights_are_those_of_account_and_key_together(service, visit, told):
    email = new_address()
    first = await rig.make_account(service, email, is_admin=True, password=RIGHT)
    SECRETS.add(first)
    admin = await visit(**bearer(first))
    plain = await new_key(admin)
    full = await new_key(admin, admin=True)
    browser = await visit()
    # Its hash has the real cost: a while, and made anew at once.
    await login(browser, email)
    is_admin = {"first": first, "plain": plain["key"], "full": full["key"]}
    clients = {name: await visit(**bearer(key)) for name, key in is_admin.items()} | {"browser": browser}
    rights = {name: (await me(client)).json()["is_admin"] for name, client in clients.items()}
    assert rights == {"first": True, "plain": False, "full": True, "browser": True}
    for name, client in clients.items():
        everything = await client.get("/api/images", params={"scope": "all"})
        figures = await client.get("/metrics")
        asked = await client.post("/api/auth/keys", json={"admin": True})
        if name == "plain":
            for answer in (everything, figures, asked):
                refused(answer, 403, "forbidden")
        else:
            assert (everything.status_code, figures.status_code, asked.status_code) == (200, 200, 201)
            assert asked.json()["is_admin"] is True
            SECRETS.add(asked.json()["key"])

    # Rights end with the account's, whatever the keys say.
    await run(service, "UPDATE users SET is_admin = 0 WHERE email = ?", email)
    for client in clients.values():
        assert (await me(client)).json()["is_admin"] is False
        refused(await client.get("/api/images", params={"scope": "all"}), 403, "forbidden")
        refused(await client.post("/api/auth/keys", json={"admin": True}), 403, "forbidden")
        assert (await client.get("/api/images")).status_code == 200


async def test_nobody_makes_himself_an_admin(service, visit, told):
    browser = await visit()
    await member(browser, told, new_address())
    refused(await browser.post("/api/auth/keys", json={"admin": True}), 403, "forbidden")
    for extra in ({"is_admin": True}, {"is_verified": True}, {"credits": 5}, {"id": "x"}):
        answer = await browser.post(
            "/api/auth/register", json={"email": new_address(), "password": RIGHT, **extra}
        )
        said = refused(answer, 422, "invalid")
        assert [line["field"] for line in said["errors"]] == list(extra)


# What cannot be used.

MARK = "M4RKER"
ROUTES = {
    "register": {"email": None, "password": RIGHT},
    "login": {"email": None, "password": RIGHT},
    "password": {"current_password": RIGHT, "new_password": OTHER},
    "password/forgot": {"email": None},
    "password/reset": {"token": "x", "new_password": OTHER},
    "verify-email": {"token": "x"},
    "keys": {"name": "x", "admin": False},
}
WRONG_TYPE = [7, 7.5, True, [MARK], {MARK: MARK}]
LONG = MARK * 400
SHORT_PASSWORDS = ["", "short", "x" * 7]
BAD_ADDRESSES = [
    "",
    MARK,
    f"{MARK}@",
    f"@{MARK}.org",
    f"{MARK}@example.org\n",
    f"{MARK}@example.org\r\nBcc: eve@example.org",
    f"{MARK}\x00@example.org",
    f"Ada <{MARK}@example.org>",
    f"{MARK} x@example.org",
    f"{MARK}@example..org",
    f"{MARK}@[127.0.0.1]",
    f"{MARK}é@example.org",
    f'"{MARK}"@example.org',
    f"{MARK}@example.org,eve@example.org",
    f"{'x' * 65}@example.org",
    f"{MARK}@{'x' * 64}.org",
    f"{MARK}@{'x.' * 200}org",
    LONG,
]
BAD = {
    "email": [None, *BAD_ADDRESSES],
    "password": [None, *SHORT_PASSWORDS, "x" * 1025, LONG],
    "new_password": [None, *SHORT_PASSWORDS, "x" * 1025, LONG],
    "current_password": [],
    "token": [None, "", LONG, f"{MARK}\x00", f"{MARK}.1.{'x' * 43}", "é" * 9, "🍌"],
    "name": ["", LONG, f"{MARK}\x00", f"{MARK}\n{MARK}", "\x1b[31m"],
    "admin": [None, "true", 1, 0, "yes"],
}
CASES = [
    (route, field, value)
    for route, asked in ROUTES.items()
    for field in asked
    for value in (
        *(wrong for wrong in WRONG_TYPE if not (field == "admin" and wrong is True)),
        *(BAD[field] if (route, field) != ("login", "password") else [None]),
    )
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def somebody(service):
    """A signed-in person whose address no test counts against."""
    key = await rig.make_account(service, "somebody@example.org")
    SECRETS.add(key)
    return bearer(key)


def of(route, headers):
    return headers if route in {"password", "keys"} else {}


@pytest.mark.parametrize("route", ROUTES)
async def test_what_cannot_be_used_is_named_and_changes_nothing(service, visit, hasher, somebody, route):
    before, asked = await rows(service), dict(hasher.asked)
    for _, field, value in (case for case in CASES if case[0] == route):
        good = {name: new_address() if name == "email" else given for name, given in ROUTES[route].items()}
        answer = await (await visit()).post(
            f"/api/auth/{route}", json={**good, field: value}, headers=of(route, somebody)
        )
        code = (
            "token_invalid"
            if field == "token" and isinstance(value, str) and 0 < len(value) <= 1024
            else "invalid"
        )
        said = refused(answer, 422, code)
        assert {line["field"].split(".")[0] for line in said["errors"]} == {field}, (field, value)
        assert MARK not in answer.text
        assert len(answer.content) < 1_000
    missing = {} if route == "keys" else ROUTES[route]
    for field in missing.keys() - {"current_password"}:
        good = {name: new_address() if name == "email" else given for name, given in missing.items()}
        del good[field]
        answer = await (await visit()).post(f"/api/auth/{route}", json=good, headers=of(route, somebody))
        assert {line["field"] for line in refused(answer, 422, "invalid")["errors"]} == {field}
    after = await rows(service)
    # That a key was used is noted, and is no consequence of what was sent.
    assert {name: after[name] for name in after if name != "api_keys"} == {
        name: before[name] for name in before if name != "api_keys"
    }
    assert len(after["api_keys"]) == len(before["api_keys"])
    assert hasher.asked == asked


DEEP = 5_000
BODIES = {
    "no JSON": (f"{{{MARK}".encode(), 400),
    "a form": (f"email={MARK}&password={MARK}".encode(), 400),
    "not text": (b"\xff\xfe" + MARK.encode(), 400),
    "an array": (f'["{MARK}"]'.encode(), 422),
    "a string": (f'"{MARK}"'.encode(), 422),
    "a number": (b"7", 422),
    "null": (b"null", 422),
    "two objects": (b"{}{}", 400),
    "deep arrays": (b"[" * DEEP + b"]" * DEEP, 400),
    "deep objects": (b'{"email":' * 1_000 + b"7" + b"}" * 1_000, 400),
    "not a number": (b'{"email": NaN}', 422),
    "too long": (b'{"email":"' + b"x" * 20_000 + b'"}', 413),
}


@pytest.mark.parametrize("route", ROUTES)
async def test_a_body_of_another_kind_is_refused(service, visit, somebody, route):
    before = {name: len(table) for name, table in (await rows(service)).items()}
    sent = dict(BODIES)
    for field in ROUTES[route]:
        # Half a character: nothing that could be stored, compared or hashed.
        sent[f"half a character in {field}"] = (f'{{"{field}": "\\ud800"}}'.encode(), 400)
        sent[f"half a character for {field}"] = (f'{{"{field}\\udc00": 1}}'.encode(), 400)
    sent["an unknown field"] = (f'{{"{MARK}":1}}'.encode(), 422)
    for name, (body, status) in sent.items():
        answer = await (await visit()).post(f"/api/auth/{route}", content=body, headers=of(route, somebody))
        assert (name, answer.status_code) == (name, status)
        assert answer.headers["content-type"] == "application/problem+json"
        assert MARK not in answer.text or name == "an unknown field"
    assert {name: len(table) for name, table in (await rows(service)).items()} == before


# From which page.


async def test_only_our_own_page_signs_in_and_out(service, visit, told, hasher):
    browser, email = await visit(), new_address()
    await member(browser, told, email)
    asked = dict(hasher.asked)
    foreign = [
        "https://evil.example",
        "null",
        f"{service.base}.evil.example",
        service.base.replace("http", "https"),
        "",
    ]
    for origin in foreign:
        refused(await login(await visit(), email, Origin=origin), 403, "wrong_origin")
        for path in ("logout", "password", "keys", "verify-email/resend"):
            refused(await browser.post(f"/api/auth/{path}", headers={"Origin": origin}), 403, "wrong_origin")
        refused(await browser.delete("/api/auth/keys/x", headers={"Origin": origin}), 403, "wrong_origin")
    assert hasher.asked == asked
    for headers in ({}, *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site", "none"))):
        unread = await raw.without_body(service.base, "POST", "/api/auth/login", headers, size_bytes=100)
        refused(unread, 403, "wrong_origin")
    assert (await me(browser)).status_code == 200
    own = await visit()
    del own.headers["Origin"]
    assert (await login(own, email, **{"Sec-Fetch-Site": "same-origin"})).status_code == 200
    assert (await own.post("/api/auth/logout", headers={"Sec-Fetch-Site": "same-origin"})).status_code == 204


@pytest.mark.parametrize(
    ("public_url", "origin"),
    [
        ("https://pictures.example", "https://pictures.example"),
        ("https://Pictures.example:443/studio/", "https://pictures.example"),
        ("https://pictures.example:8443/studio", "https://pictures.example:8443"),
    ],
)
async def test_the_public_address_is_our_own_page_too(tmp_path_factory, told, public_url, origin):
    """Behind a proxy that ends TLS and is not known here, the request's own origin is another."""
    with contextlib.closing(Passwords(Hasher())) as passwords:
        async with (
            rig.running(
                tmp_path_factory.mktemp("public"),
                sign_up=False,
                registration="open",
                public_url=public_url,
                parts={"passwords": passwords},
            ) as service,
            httpx.AsyncClient(base_url=service.base, trust_env=False, verify=TLS) as browser,
        ):
            email = new_address()
            await member_at(browser, told, email, origin=origin)
            assert told.mails(email)[0][1].startswith(f"{public_url.rstrip('/')}/verify-email?token=")
            refused(await login(browser, email, Origin=f"{origin}.evil.example"), 403, "wrong_origin")
            refused(await login(browser, email, Origin=f"{origin}/"), 403, "wrong_origin")


async def member_at(browser, told, email, *, origin):
    await register(browser, email)
    assert (await verify(browser, link(told, email))).status_code == 204
    answer = await login(browser, email, Origin=origin, Host="internal:8000")
    assert answer.status_code == 200, answer.text


async def test_a_link_never_leads_where_the_request_says(service, visit, told):
    email = new_address()
    await register(await visit(), email, Host="evil.example", **{"X-Forwarded-Host": "evil.example"})
    [(_, address)] = told.mails(email)
    assert address.startswith(f"{service.base}/")


# The log: these come last, and speak of all the tests above.


@pytest.fixture
def of_all(told):
    if len(told.records) < 500:
        pytest.skip("only with the tests above it: it speaks of them")
    return told.records


async def test_no_secret_was_ever_logged(told, of_all):
    assert len(SECRETS) > 100
    lines = [repr(vars(record)) + str(record.exc_text) for record in told.records]
    text = "\n".join(lines)
    assert [secret for secret in SECRETS if len(secret) > 10 and secret in text] == []
    assert "Bearer nh_" not in text


async def test_links_are_logged_by_their_own_line_alone(told, of_all):
    assert len(LINKS) > 30
    others = "\n".join(
        repr(vars(record)) for record in told.records if record.getMessage() != "mail.not_configured"
    )
    assert [token for token in LINKS if token in others or token.rpartition(".")[2] in others] == []
    # Nor does any other line say who it was.
    assert "@example.org" not in others
    assert {record.levelname for record in told.records} <= {"DEBUG", "INFO", "WARNING"}


async def test_the_cookie_is_for_tls_alone_where_our_public_name_is(tmp_path):
    async with rig.running(tmp_path, public_url="https://hook.example.org") as service:
        await rig.make_account(service, "tls@example.org", password=RIGHT)
        asked = {"email": "tls@example.org", "password": RIGHT}
        async with httpx.AsyncClient(base_url=service.base, trust_env=False, timeout=20) as client:
            for host, origin, is_secure in (
                ("hook.example.org", "https://hook.example.org", True),
                (service.base.removeprefix("http://"), service.base, False),
            ):
                answer = await client.post("/api/auth/login", json=asked, headers={"Host": host, "Origin": origin})
                assert answer.status_code == 200
                assert ("; Secure" in answer.headers["set-cookie"]) is is_secure
