"""Every answer here comes from a real server on loopback; only names are resolved by the tests."""

import asyncio
import contextlib
import dataclasses
import email.utils
import gzip
import os
import shutil
import ssl
import subprocess
import time
import traceback

import httpcore
import pytest

from nanohook import errors
from nanohook.remote import fetch

PICTURE = bytes(range(256)) * 40
PUBLIC = "93.184.215.14"


def answer(body=PICTURE, status="200 OK", *headers, length=None):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclasses.dataclass
class Site:
    """A server that gives raw answers by path and keeps what it was asked."""

    port: int = 0
    answers: dict = dataclasses.field(default_factory=dict)
    heads: list = dataclasses.field(default_factory=list)
    connections: int = 0

    def url(self, path="/x.jpg", *, scheme="http", host="127.0.0.1"):
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                given = self.answers[head.split(" ")[1].partition("?")[0]]
                if callable(given):
                    await given(writer)
                    break
                writer.write(given)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(site, **options):
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        await site.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@pytest.fixture
async def site():
    async with serving(Site(answers={"/x.jpg": answer()})) as site:
        yield site


@pytest.fixture
def fetcher(site):
    """Builds a fetcher that may go to the site."""

    def build(**options):
        return fetch.Fetcher(**{"download_hosts": frozenset({f"127.0.0.1:{site.port}"}), **options})

    return build


class Names:
    """A name server that gives its answers one after the other, the last for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append((host, port))
        given = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(given, OSError):
            raise given
        return given


class Detour(httpcore.AsyncNetworkBackend):
    """Stands for the internet: public addresses lead to the site on loopback, and are kept."""

    def __init__(self, site, *, unreachable=()):
        self.site = site
        self.unreachable = unreachable
        self.reached = []

    async def connect_tcp(self, host, port, *options):
        self.reached.append((host, port))
        if host in self.unreachable:
            raise httpcore.ConnectError("unreachable")
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.site.port)


async def failure(fetcher, url):
    async with fetcher:
        with pytest.raises(errors.UpstreamFailed) as caught:
            await fetcher.get(url)
    assert "secret" not in str(caught.value)
    return caught.value


def is_permanent(error, code="download_failed"):
    return isinstance(error, errors.Permanent) and error.code == code


def is_transient(error):
    return isinstance(error, errors.Transient) and error.code == "download_failed"


# --- the way in


async def test_a_listed_host_may_be_private_and_plain(site, fetcher):
    async with fetcher() as it:
        assert await it.get(site.url("/x.jpg?sig=secret")) == PICTURE
    head = site.heads[0].lower()
    assert head.startswith("get /x.jpg?sig=secret http/1.1\r\n")
    assert f"host: 127.0.0.1:{site.port}\r\n" in head
    assert "accept-encoding: identity\r\n" in head
    assert "cookie" not in head


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://example.com/x?secret",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://user:secret@example.com/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://example.com\\@127.0.0.1/",
        "",
    ],
)
async def test_an_address_that_is_not_clean_https_is_refused(url):
    assert is_permanent(await failure(fetch.Fetcher(resolve=Names([PUBLIC])), url))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[fec0::1]",
        "[fe80::1]",
        "[ff02::1]",
        "192.0.0.9",
        "100.64.0.1",
        "224.0.0.1",
    ],
)
async def test_a_host_that_is_not_public_is_refused_by_the_systems_resolver(site, host):
    error = await failure(fetch.Fetcher(), site.url("/x.jpg?secret", scheme="https", host=host))
    assert is_permanent(error)
    assert site.connections == 0


async def test_a_listed_port_lists_no_other(site, fetcher):
    async with serving(Site(answers={"/x.jpg": answer()})) as other:
        assert is_permanent(await failure(fetcher(), other.url()))
        assert is_permanent(await failure(fetcher(), other.url(scheme="https")))
        assert other.connections == 0


@pytest.mark.parametrize("found", [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "64:ff9b::7f00:1"]])
async def test_one_private_address_among_public_ones_refuses_the_host(site, found):
    network = Detour(site)
    it = fetch.Fetcher(resolve=Names(found), network=network)
    assert is_permanent(await failure(it, "https://cdn.example/x.jpg?secret"))
    assert network.reached == []


async def test_a_name_is_resolved_once_and_the_judged_address_is_the_one_reached(site):
    names, network = Names([PUBLIC], ["127.0.0.1"]), Detour(site)
    it = fetch.Fetcher(resolve=names, network=network, download_hosts=frozenset({"plain.example"}), timeout_s=5)
    async with it:
        assert await it.get("http://plain.example/x.jpg") == PICTURE
    assert names.asked == [("plain.example", 80)]
    assert network.reached == [(PUBLIC, 80)]
    assert "host: plain.example\r\n" in site.heads[0].lower()


async def test_a_name_that_moves_to_a_private_address_is_refused_when_asked_again(site):
    names, network = Names([PUBLIC], ["127.0.0.1"]), Detour(site, unreachable={PUBLIC})
    async with fetch.Fetcher(resolve=names, network=network) as it:
        with pytest.raises(errors.Transient):
            await it.get("https://rebind.example/x.jpg")
        with pytest.raises(errors.Permanent):
            await it.get("https://rebind.example/x.jpg")
    assert network.reached == [(PUBLIC, 443)]
    assert site.connections == 0


async def test_the_next_address_is_tried_where_one_does_not_answer(site):
    network = Detour(site, unreachable={"2606:4700::1"})
    it = fetch.Fetcher(
        resolve=Names(["2606:4700::1", PUBLIC]), network=network, download_hosts=frozenset({"plain.example"})
    )
    async with it:
        assert await it.get("http://plain.example/x.jpg") == PICTURE
    assert [host for host, _ in network.reached] == ["2606:4700::1", PUBLIC]


async def test_eight_addresses_of_a_host_are_tried(site):
    found = [f"93.184.215.{n}" for n in range(20)]
    network = Detour(site, unreachable=set(found))
    assert is_transient(
        await failure(fetch.Fetcher(resolve=Names(found), network=network), "https://cdn.example/")
    )
    assert [host for host, _ in network.reached] == found[:8]


@pytest.mark.parametrize("found", [[], OSError("no such name")])
async def test_a_name_without_an_address_may_have_one_later(found):
    assert is_transient(await failure(fetch.Fetcher(resolve=Names(found)), "https://cdn.example/?secret"))


@pytest.fixture
def certificate(tmp_path):
    """Made for this test, for the name cdn.example."""
    if shutil.which("openssl") is None:
        if "openssl" in os.environ.get("NANOHOOK_TEST_REQUIRE", ""):
            pytest.fail("openssl is required and missing")
        pytest.skip("openssl is missing")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=x", "-addext", "subjectAltName=DNS:cdn.example"]
    command = ["openssl", "req", "-x509", *curve, *name, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


async def test_tls_is_checked_against_the_name_and_not_the_address(certificate):
    key, cert = certificate
    mine = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mine.load_cert_chain(cert, key)
    names = []
    mine.sni_callback = lambda _, name, __: names.append(name)
    async with serving(Site(answers={"/x.jpg": answer()}), ssl=mine) as site:
        trusting = ssl.create_default_context(cafile=cert)
        it = fetch.Fetcher(resolve=Names([PUBLIC]), network=Detour(site), tls=trusting)
        async with it:
            assert await it.get("https://cdn.example/x.jpg") == PICTURE
            assert names == ["cdn.example"]
            assert "host: cdn.example\r\n" in site.heads[0].lower()
            with pytest.raises(errors.Transient):
                await it.get("https://other.example/x.jpg")
        strict = fetch.Fetcher(resolve=Names([PUBLIC]), network=Detour(site))
        assert is_transient(await failure(strict, "https://cdn.example/x.jpg"))
        assert len(site.heads) == 1


# --- redirects


def moved(to, status="302 Found"):
    return answer(b"", status, f"Location: {to}")


async def test_three_redirects_are_followed_and_a_fourth_is_not(site, fetcher):
    site.answers |= {f"/{n}": moved(f"/{n + 1}?secret", "307 Temporary Redirect") for n in range(4)}
    site.answers["/4"] = answer()
    async with fetcher() as it:
        assert await it.get(site.url("/1")) == PICTURE
    assert len(site.heads) == 4
    assert is_permanent(await failure(fetcher(), site.url("/0")))
    assert len(site.heads) == 8


async def test_a_loop_of_redirects_ends(site, fetcher):
    site.answers["/loop"] = moved("/loop?secret")
    assert is_permanent(await failure(fetcher(), site.url("/loop")))
    assert len(site.heads) == 4


async def test_a_redirect_passes_the_same_door(site, fetcher):
    async with serving(Site(answers={"/x.jpg": answer()})) as private:
        for target in (
            private.url(),
            private.url(scheme="https"),
            f"//localhost:{private.port}/x.jpg",
            f"https://2130706433:{private.port}/x.jpg",
            f"https://[::ffff:127.0.0.1]:{private.port}/x.jpg",
            f"https://user:secret@127.0.0.1:{private.port}/x.jpg",
            "file:///etc/passwd",
        ):
            site.answers["/away"] = moved(target)
            assert is_permanent(await failure(fetcher(), site.url("/away?secret")))
        assert private.connections == 0


async def test_a_redirect_with_odd_characters_is_not_repaired(site, fetcher):
    site.answers["/away"] = moved("/x\t.jpg")
    assert is_permanent(await failure(fetcher(), site.url("/away")))
    assert len(site.heads) == 1


async def test_a_redirect_may_lead_to_another_listed_host(site):
    async with serving(Site(answers={"/y.jpg": answer(b"other")})) as other:
        site.answers["/away"] = moved(other.url("/y.jpg"))
        async with fetch.Fetcher(download_hosts=frozenset({"127.0.0.1"})) as it:
            assert await it.get(site.url("/away")) == b"other"


# --- bodies


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, gzip"])
async def test_an_encoded_body_is_refused(site, fetcher, encoding):
    site.answers["/x.jpg"] = answer(gzip.compress(bytes(10**6)), "200 OK", f"Content-Encoding: {encoding}")
    assert is_permanent(await failure(fetcher(), site.url()))


async def test_a_body_that_says_it_is_not_encoded_is_taken(site, fetcher):
    site.answers["/x.jpg"] = answer(PICTURE, "200 OK", "Content-Encoding: identity")
    async with fetcher() as it:
        assert await it.get(site.url()) == PICTURE


def chunked(*parts):
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def until_closed(body):
    async def send(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        await writer.drain()

    return send


@pytest.mark.parametrize("form", [answer, chunked, until_closed])
async def test_the_limit_is_the_largest_body_taken_whatever_its_form(site, fetcher, form):
    site.answers |= {"/most": form(bytes(1000)), "/more": form(bytes(1001))}
    async with fetcher(limit_bytes=1000) as it:
        assert await it.get(site.url("/most")) == bytes(1000)
    assert is_permanent(await failure(fetcher(limit_bytes=1000), site.url("/more?secret")), "too_large")


async def test_an_announced_length_over_the_limit_is_refused_before_a_byte_of_it(site, fetcher):
    site.answers["/x.jpg"] = answer(b"", length=50 * 1024 * 1024 + 1)
    assert is_permanent(await failure(fetcher(), site.url()), "too_large")


def test_the_limits_are_the_promised_ones():
    assert (fetch.LIMIT_BYTES, fetch.TIMEOUT_S, fetch.MOST_REDIRECTS) == (50 * 1024 * 1024, 60.0, 3)


async def test_a_short_body_may_be_whole_later(site, fetcher):
    async def stop(writer):
        writer.write(answer(PICTURE, length=len(PICTURE) + 1))
        await writer.drain()

    site.answers["/x.jpg"] = stop
    assert is_transient(await failure(fetcher(), site.url("/x.jpg?secret")))


@pytest.mark.parametrize("raw", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_what_is_not_http_may_be_so_later(site, fetcher, raw):
    async def send(writer):
        writer.write(raw)

    site.answers["/x.jpg"] = send
    assert is_transient(await failure(fetcher(), site.url()))


async def test_a_closed_port_may_be_open_later(site):
    async with serving(Site()) as gone:
        pass
    it = fetch.Fetcher(download_hosts=frozenset({"127.0.0.1"}))
    assert is_transient(await failure(it, gone.url()))


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"])
async def test_a_dribbling_host_has_one_time_limit_for_everything(site, fetcher, first):
    async def dribble(writer):
        writer.write(first)
        while True:
            writer.write(b"H" if not first else b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    site.answers["/x.jpg"] = dribble
    started = time.monotonic()
    assert is_transient(await failure(fetcher(timeout_s=0.15), site.url("/x.jpg?secret")))
    assert 0.1 < time.monotonic() - started < 2


async def test_redirects_share_the_time_limit(site, fetcher):
    async def slow(writer):
        await asyncio.sleep(0.1)
        writer.write(moved("/slow"))

    site.answers["/slow"] = slow
    assert is_transient(await failure(fetcher(timeout_s=0.15), site.url("/slow")))


async def test_a_cancelled_download_is_cancelled_and_not_failed(site, fetcher):
    begun = asyncio.Event()

    async def hang(writer):
        begun.set()
        await asyncio.sleep(60)

    site.answers["/x.jpg"] = hang
    async with fetcher() as it:
        task = asyncio.create_task(it.get(site.url()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- statuses


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
async def test_gone_is_final(site, fetcher, status):
    site.answers["/x.jpg"] = answer(b"", status)
    assert is_permanent(await failure(fetcher(), site.url("/x.jpg?secret")))


@pytest.mark.parametrize(
    "status", ["401 No", "403 No", "429 Slow", "500 Oops", "503 Wait", "400 What", "302 Found", "206 Part"]
)
async def test_every_other_status_may_change(site, fetcher, status):
    site.answers["/x.jpg"] = answer(b"", status)
    error = await failure(fetcher(), site.url("/x.jpg?secret"))
    assert is_transient(error)
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("86400", 86_400, 86_400),
        ("86401", 86_401, 86_401),
        ("999999999", 999_999_999, 999_999_999),
    ],
)
async def test_retry_after_is_read(site, fetcher, text, low, high):
    site.answers["/x.jpg"] = answer(b"", "429 Slow", f"Retry-After: {text}")
    assert low <= (await failure(fetcher(), site.url())).retry_after_s <= high


@pytest.mark.parametrize(("in_s", "low", "high"), [(100, 90, 100), (-100, 0, 0), (10**6, 10**6 - 10, 10**6)])
async def test_retry_after_may_be_a_date(site, fetcher, in_s, low, high):
    date = email.utils.formatdate(time.time() + in_s, usegmt=True)
    site.answers["/x.jpg"] = answer(b"", "503 Wait", f"Retry-After: {date}")
    assert low <= (await failure(fetcher(), site.url())).retry_after_s <= high


@pytest.mark.parametrize("text", ["soon", "-5", "1.5", "Mon, 99 Jan 2026 00:00:00 GMT", "٣"])
async def test_a_broken_retry_after_counts_for_nothing(site, fetcher, text):
    site.answers["/x.jpg"] = answer(b"", "503 Wait", f"Retry-After: {text}")
    assert (await failure(fetcher(), site.url())).retry_after_s is None


# --- what stays between downloads


async def test_a_connection_is_kept_and_used_again(site, fetcher):
    async with fetcher() as it:
        for _ in range(3):
            assert await it.get(site.url()) == PICTURE
    assert (site.connections, len(site.heads)) == (1, 3)


async def test_cookies_are_not_kept(site, fetcher):
    site.answers["/x.jpg"] = answer(PICTURE, "200 OK", "Set-Cookie: a=b; Path=/")
    async with fetcher() as it:
        await it.get(site.url())
        await it.get(site.url())
    assert "cookie" not in site.heads[1].lower()


async def test_a_proxy_of_the_environment_is_not_used(site, fetcher, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with fetcher() as it:
        assert await it.get(site.url()) == PICTURE


async def test_downloads_may_run_side_by_side(site, fetcher):
    async with fetcher() as it:
        assert await asyncio.gather(*(it.get(site.url()) for _ in range(20))) == [PICTURE] * 20


async def test_no_query_is_logged_or_told(site, fetcher, caplog):
    caplog.set_level(0)
    site.answers["/x.jpg"] = answer(b"", "500 Oops")
    error = await failure(fetcher(), site.url("/x.jpg?sig=secret"))
    assert "secret" not in "".join(traceback.format_exception_only(error))
    assert not [record for record in caplog.records if record.name.startswith("httpx")]
