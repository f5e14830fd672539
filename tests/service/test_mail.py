"""Every mail here is handed in at a real SMTP server on loopback."""

import asyncio
import collections
import contextlib
import dataclasses
import email
import email.policy
import logging
import socket
import ssl
import subprocess
import threading

import pytest
from aiosmtpd import smtp as aiosmtpd

from nanohook import errors
from nanohook.remote import mail
from nanohook.rules import smtp
from tests import live, needs

SENDER = "L’équipe Nanohook, Lyon <robot@nanohook.example>"
USER, PASSWORD = "user@nanohook.example", "hidden-password"
LINK = "https://nanohook.example/verify-email?token=hidden-token"


class Office:
    """A relay that answers as told and keeps what it was given."""

    def __init__(self):
        self.port = 0
        self.mails = []
        self.commands = []
        self.logins = []
        self.connections = 0
        self.answers = collections.defaultdict(list)
        """By recipient, one after the other; then all are taken."""
        self.held = {}
        """Events by recipient: nothing is answered until they are set."""
        self.holding = 0
        self.breaks_at_quit = False

    async def handle_EHLO(self, server, session, envelope, hostname, responses):  # noqa: N802 - the name that the library looks for
        session.host_name = hostname
        self.connections += 1
        self.commands.append(f"EHLO {hostname}")
        return responses

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802 - the name that the library looks for
        self.commands.append("MAIL")
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802 - the name that the library looks for
        if address in self.held:
            self.holding += 1
            await self.held[address].wait()
        answers = self.answers[address]
        said = answers.pop(0) if answers else "250 OK"
        if said.startswith("250"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the name that the library looks for
        tls = server.transport.get_extra_info("ssl_object")
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.content, tls is not None))
        return "250 OK"

    async def handle_QUIT(self, server, session, envelope):  # noqa: N802 - the name that the library looks for
        if self.breaks_at_quit:
            server.transport.abort()
        return "221 Bye"

    def login(self, server, session, envelope, mechanism, data):
        self.commands.append("AUTH")
        self.logins.append((data.login.decode(), data.password.decode()))
        return aiosmtpd.AuthResult(success=self.logins[-1] == (USER, PASSWORD), handled=False)

    @property
    def received(self):
        return [to for _, (to,), _, _ in self.mails]


@contextlib.asynccontextmanager
async def opened(office, *, tls=None, starttls=None, needs_login=False):
    loop, sessions = asyncio.get_running_loop(), []

    def session():
        made = aiosmtpd.SMTP(
            office,
            hostname="relay.example",
            tls_context=starttls,
            authenticator=office.login,
            auth_required=needs_login,
            auth_require_tls=starttls is not None,
            loop=loop,
        )
        sessions.append(made)
        return made

    server = await loop.create_server(session, "127.0.0.1", 0, ssl=tls)
    office.port = server.sockets[0].getsockname()[1]
    try:
        yield office
    finally:
        server.close()
        for made in sessions:
            if made.transport is not None:
                made.transport.abort()
        # Threads that were left behind notice that nobody is there any more.
        await live.until(lambda: not any(thread.name == "mail" for thread in threading.enumerate()))


@pytest.fixture
async def office():
    async with opened(Office()) as office:
        yield office


@pytest.fixture(autouse=True)
def log(caplog):
    """What the service logged, by message; never a secret or somebody's name."""
    caplog.set_level(logging.DEBUG, logger="nanohook")

    def lines(message):
        return [line for line in caplog.records if line.message == message]

    yield lines
    told = [str(vars(line)) for line in caplog.records if line.name.startswith("nanohook")]
    assert not [line for line in told if PASSWORD in line or "zoé" in line.lower() or "zoe" in line.lower()]


def relay(port, *, scheme="smtp", credentials=""):
    return smtp.parse(f"{scheme}://{credentials}127.0.0.1:{port}")


def a_mailer(port, *, made=None, sender=SENDER, **options):
    return mail.Mailer(made or relay(port), sender, **{"first_pause_s": 0.01, "last_chance_s": 0.1, **options})


def post(mailer, to="zoe@example.org", *, subject="Bienvenue !", text="Bonjour"):
    mailer.send(to=to, subject=subject, text=text, link=LINK)


@contextlib.asynccontextmanager
async def running(mailer):
    task = asyncio.create_task(mailer.run())
    try:
        yield mailer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await mailer.close()


# --- what arrives


@pytest.mark.parametrize("more", ["", "é" * 2000 + "\n"], ids=["short lines", "a long line"])
async def test_a_french_mail_arrives_as_it_was_written(office, log, more):
    text = f"Bonjour Zoé,\n\nouvrez ce lien :\n{LINK}\n\n.\n..\nÀ bientôt\n{more}"
    subject = "Vérifiez votre adresse\u202f: c’est à vous " + "é" * 80
    async with running(a_mailer(office.port)) as mailer:
        post(mailer, subject=subject, text=text)
        await live.until(lambda: log("mail.delivered"))
    [(mail_from, to, content, _)] = office.mails
    assert (mail_from, to) == ("robot@nanohook.example", ["zoe@example.org"])
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 78
    assert b"\n" not in content.replace(b"\r\n", b"")
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert message["Subject"] == subject
    assert message["To"] == "zoe@example.org"
    [sender] = message["From"].addresses
    assert (sender.display_name, sender.addr_spec) == ("L’équipe Nanohook, Lyon", "robot@nanohook.example")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime is not None
    assert message["Message-ID"].endswith("@nanohook.example>")
    assert message.get_content_type() == "text/plain"
    assert message.get_content() == text.replace("\n", "\r\n")
    assert office.commands[0] == "EHLO nanohook.example"
    [line] = log("mail.delivered")
    assert (line.levelno, line.domain, line.tries) == (logging.INFO, "example.org", 1)


async def test_a_mail_that_fails_to_say_goodbye_is_sent_once(office, log):
    office.breaks_at_quit = True
    async with running(a_mailer(office.port)) as mailer:
        post(mailer)
        await live.until(lambda: log("mail.delivered"))
    assert office.received == ["zoe@example.org"]
    assert not log("mail.retried")


# --- TLS and credentials


@pytest.fixture
def certificate(tmp_path):
    """Made for this test, signed by nobody else, for 127.0.0.1: the server's context and the file."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [needs.program("openssl"), "req", "-x509", *curve, *name, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context, cert


def strict(port, credentials=""):
    """As it is read for a host on the network, led to loopback for the test."""
    read = smtp.parse(f"smtp://{credentials}relay.example:{port}")
    assert read.security is smtp.Security.STARTTLS
    return dataclasses.replace(read, host="127.0.0.1")


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_credentials_travel_inside_tls(certificate, log, scheme):
    theirs, cert = certificate
    way = {"tls": theirs} if scheme == "smtps" else {"starttls": theirs, "needs_login": True}
    async with opened(Office(), **way) as office:
        credentials = f"{USER}:{PASSWORD}@"
        made = strict(office.port, credentials)
        if scheme == "smtps":
            made = relay(office.port, scheme=scheme, credentials=credentials)
        tls = ssl.create_default_context(cafile=cert)
        async with running(a_mailer(office.port, made=made, tls=tls)) as mailer:
            post(mailer)
            await live.until(lambda: log("mail.delivered"))
        assert office.logins == [(USER, PASSWORD)]
        assert [is_tls for *_, is_tls in office.mails] == [True]


async def test_without_starttls_nothing_is_said_to_a_relay_on_the_network(office, log):
    async with running(a_mailer(office.port, made=strict(office.port, f"{USER}:{PASSWORD}@"))) as mailer:
        post(mailer)
        await live.until(lambda: log("mail.given_up"))
    assert office.commands == ["EHLO nanohook.example"]
    [line] = log("mail.given_up")
    assert "STARTTLS" in line.reason
    assert line.tries == 1


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_a_certificate_that_nobody_signed_gets_neither_mail_nor_password(certificate, log, scheme):
    theirs, _ = certificate
    way = {"tls": theirs} if scheme == "smtps" else {"starttls": theirs}
    async with opened(Office(), **way) as office:
        credentials = f"{USER}:{PASSWORD}@"
        made = strict(office.port, credentials)
        if scheme == "smtps":
            made = relay(office.port, scheme=scheme, credentials=credentials)
        async with running(a_mailer(office.port, made=made)) as mailer:
            post(mailer)
            await live.until(lambda: log("mail.given_up"))
        assert {*office.commands} <= {"EHLO nanohook.example"}
        [line] = log("mail.given_up")
        assert "self-signed" in line.reason or "self signed" in line.reason
        assert line.tries == mail.MOST_TRIES


async def test_the_relay_of_this_machine_may_have_a_certificate_that_nobody_signed(certificate, log):
    async with opened(Office(), starttls=certificate[0], needs_login=True) as office:
        made = relay(office.port, credentials=f"{USER}:{PASSWORD}@")
        async with running(a_mailer(office.port, made=made)) as mailer:
            post(mailer)
            await live.until(lambda: log("mail.delivered"))
        assert [is_tls for *_, is_tls in office.mails] == [True]


async def test_wrong_credentials_are_told_without_being_shown(certificate, log):
    async with opened(Office(), starttls=certificate[0], needs_login=True) as office:
        made = relay(office.port, credentials=f"{USER}:{PASSWORD}-not@")
        async with running(a_mailer(office.port, made=made)) as mailer:
            post(mailer)
            await live.until(lambda: log("mail.given_up"))
    [line] = log("mail.given_up")
    assert line.reason == "the relay refused the login: 535 5.7.8"


async def test_a_relay_that_knows_no_login_is_not_asked_again(log):
    async def serve(reader, writer):
        for said in (b"220 hello", b"250 relay.example"):
            writer.write(said + b"\r\n")
            await reader.readline()
        writer.close()

    async with live.serve_raw(serve) as url:
        made = relay(int(url.rpartition(":")[2]), credentials=f"{USER}:{PASSWORD}@")
        async with running(a_mailer(0, made=made)) as mailer:
            post(mailer)
            await live.until(lambda: log("mail.given_up"))
    assert [line.tries for line in log("mail.given_up")] == [1]


# --- what goes wrong


async def test_a_temporary_refusal_is_tried_again_and_delivered_once(office, log):
    office.answers["zoe@example.org"] = ["451 4.7.1 <zoe@example.org> greylisted"]
    async with running(a_mailer(office.port)) as mailer:
        post(mailer)
        await live.until(lambda: log("mail.delivered"))
    assert office.received == ["zoe@example.org"]
    [retried], [delivered] = log("mail.retried"), log("mail.delivered")
    assert retried.levelno == logging.WARNING
    assert retried.reason == "the relay refused the recipient: 451 4.7.1"
    assert 0 <= retried.pause_s <= 0.01
    assert delivered.tries == 2


async def test_a_final_refusal_is_given_up_at_once_and_the_next_mail_goes(office, log):
    office.answers["zoe@example.org"] = ["550 5.1.1 <zoe@example.org> unknown here"]
    async with running(a_mailer(office.port)) as mailer:
        post(mailer)
        post(mailer, "next@example.net")
        await live.until(lambda: log("mail.delivered") and log("mail.given_up"))
    assert office.received == ["next@example.net"]
    [line] = log("mail.given_up")
    assert (line.levelno, line.domain, line.tries) == (logging.WARNING, "example.org", 1)
    assert line.reason == "the relay refused the recipient: 550 5.1.1"
    assert not log("mail.retried")


async def test_a_mail_that_waits_for_its_next_try_holds_up_nobody(office, log):
    office.answers["zoe@example.org"] = ["451 later"] * 100
    async with running(a_mailer(office.port, first_pause_s=3600)) as mailer:
        post(mailer)
        await live.until(lambda: log("mail.retried"))
        for number in range(20):
            post(mailer, f"n{number}@example.net")
        await live.until(lambda: len(office.mails) == 20)
    assert len(log("mail.retried")) == 1


async def test_where_nobody_listens_five_tries_are_made(log):
    async with running(a_mailer(live.closed_port())) as mailer:
        post(mailer)
        await live.until(lambda: log("mail.given_up"))
    assert [line.tries for line in log("mail.retried")] == [1, 2, 3, 4]
    assert log("mail.given_up")[0].tries == mail.MOST_TRIES == 5
    assert "ConnectionRefusedError" in log("mail.given_up")[0].reason


async def test_a_relay_that_falls_silent_holds_up_only_its_own_mail(office, log):
    for name in ("zoe", "zoe.2"):
        office.held[f"{name}@example.org"] = asyncio.Event()
    async with running(a_mailer(office.port, timeout_s=60)) as mailer:
        post(mailer)
        post(mailer, "zoe.2@example.org")
        await live.until(lambda: office.holding == 2)
        for number in range(10):
            post(mailer, f"n{number}@example.net")
        await live.until(lambda: len(log("mail.delivered")) == 10)
        assert sorted(office.received) == sorted(f"n{number}@example.net" for number in range(10))
    # Neither had its time limit yet: they were cut off by the end.
    assert [line.mails for line in log("mail.lost")] == [2]


async def test_a_relay_that_never_answers_is_left_after_the_time_limit(log):
    with socket.socket() as silent:
        # The kernel takes the connection, and that is all that ever happens.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with running(a_mailer(silent.getsockname()[1], timeout_s=0.05)) as mailer:
            post(mailer)
            await live.until(lambda: log("mail.given_up"))
    assert len(log("mail.retried")) == 4
    assert "did not answer in time" in log("mail.given_up")[0].reason


@pytest.mark.parametrize(
    ("greeting", "tries"), [("421 busy", 5), ("554 5.7.1 zoe, go away", 1), ("hello zoe", 5), ("", 5), ("220-", 5)]
)
async def test_an_odd_greeting_is_told_by_its_number_alone(log, greeting, tries):
    async def greet(_, writer):
        writer.write(greeting.encode() + b"\r\n" * bool(greeting))
        await writer.drain()
        writer.close()

    async with live.serve_raw(greet) as url, running(a_mailer(int(url.rpartition(":")[2]))) as mailer:
        post(mailer)
        await live.until(lambda: log("mail.given_up"))
    assert log("mail.given_up")[0].tries == tries


# --- what is not taken


async def test_a_full_line_says_so_and_keeps_what_it_has(log):
    mailer = a_mailer(live.closed_port())
    for _ in range(mail.MOST_WAITING):
        post(mailer)
    with pytest.raises(errors.Unavailable):
        post(mailer)
    await mailer.close()
    assert [line.mails for line in log("mail.lost")] == [mail.MOST_WAITING]


@pytest.mark.parametrize("has_relay", [True, False])
@pytest.mark.parametrize(
    "to",
    [
        "zoe@example.org\r\nBcc: all@example.org",
        "zoe@example.org\n",
        "zoe@example.org, all@example.org",
        "Zoé <zoe@example.org>",
        "zoe@example.org> SIZE=1",
        "zoe",
        "",
    ],
)
async def test_a_recipient_that_is_more_than_an_address_is_refused(has_relay, to, log):
    mailer = a_mailer(live.closed_port()) if has_relay else mail.Mailer(None, None)
    with pytest.raises(errors.Invalid) as caught:
        post(mailer, to)
    assert "zoe" not in str(caught.value) + str(caught.value.fields)
    await mailer.close()
    assert not log("mail.lost")
    assert not log("mail.not_configured")


@pytest.mark.parametrize(
    "given",
    [{"subject": "a\r\nBcc: all@example.org"}, {"subject": "a\nb"}, {"subject": "\ud800"}, {"text": "\udfff"}],
)
async def test_what_would_break_out_of_its_place_is_refused(given):
    with pytest.raises(errors.Invalid):
        post(a_mailer(live.closed_port()), **given)


def test_a_relay_needs_a_sender():
    with pytest.raises(errors.ConfigError, match="NANOHOOK_MAIL_FROM"):
        a_mailer(25, sender=None)
    with pytest.raises(ValueError, match="address"):
        a_mailer(25, sender="nobody")


async def test_without_a_relay_the_link_is_logged(log):
    async with running(mail.Mailer(None, None)) as mailer:
        mailer.send(to="you@example.org", subject="Vérifiez", text=f"…{LINK}", link=LINK)
    [line] = log("mail.not_configured")
    assert line.levelno == logging.WARNING
    assert (line.to, line.subject, line.link) == ("you@example.org", "Vérifiez", LINK)


# --- the end


async def test_what_waits_at_the_end_gets_a_last_chance(office, log):
    office.answers["zoe@example.org"] = ["451 later"]
    mailer = a_mailer(office.port, first_pause_s=3600, last_chance_s=10)
    async with running(mailer):
        post(mailer)
        await live.until(lambda: log("mail.retried"))
    # One that waited for another try, and others that were never tried.
    assert office.received == ["zoe@example.org"]
    fresh = a_mailer(office.port, last_chance_s=10)
    for number in range(7):
        post(fresh, f"n{number}@example.net")
    await fresh.close()
    assert len(office.mails) == 8
    assert not log("mail.lost")
    with pytest.raises(errors.Unavailable):
        post(fresh)


async def test_what_is_on_its_way_at_the_end_is_waited_for(office, log):
    office.held["zoe@example.org"] = asyncio.Event()
    async with running(a_mailer(office.port, last_chance_s=10)) as mailer:
        post(mailer)
        await live.until(lambda: office.holding)
        asyncio.get_running_loop().call_later(0.05, office.held["zoe@example.org"].set)
    assert office.received == ["zoe@example.org"]
    assert not log("mail.lost")


async def test_what_fails_at_the_end_is_not_tried_again(office, log):
    office.answers["zoe@example.org"] = ["451 later"] * 9
    mailer = a_mailer(office.port, last_chance_s=10)
    post(mailer)
    post(mailer, "next@example.net")
    await mailer.close()
    assert office.received == ["next@example.net"]
    assert [line.mails for line in log("mail.lost")] == [1]
    assert len(office.answers["zoe@example.org"]) == 8


async def test_an_end_that_is_cut_short_still_tells_what_was_lost(office, log):
    office.held["zoe@example.org"] = asyncio.Event()
    mailer = a_mailer(office.port, last_chance_s=60)
    for _ in range(5):
        post(mailer)
    closing = asyncio.create_task(mailer.close())
    await live.until(lambda: office.holding == mail.SENDERS)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert [line.mails for line in log("mail.lost")] == [5]
