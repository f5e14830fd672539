"""Every answer here comes from a real server on loopback; only names are resolved by the tests."""

import asyncio
import contextlib
import dataclasses
import email.utils
import errno
import functools
import gzip
import io
import mmap
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import time
import traceback
import tracemalloc
import zlib

import httpcore
import pytest
from PIL import Image

from nanohook.remote import fetch, pinned, spool
from nanohook.rules.downloads import DownloadFailed, Outcome
from nanohook.rules.tempo import Tempo
from tests import lag, live

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
def made(tmp_path):
    """Builds a fetcher with a folder of its own."""
    return functools.partial(fetch.Fetcher, spool_dir=tmp_path / "spool")


@pytest.fixture
def fetcher(site, made):
    """Builds a fetcher that may go to the site."""

    def build(**options):
        return made(**{"download_hosts": frozenset({f"127.0.0.1:{site.port}"}), **options})

    return build


async def got(fetcher, url):
    """All bytes of what is behind *url*."""
    async with fetcher.get(url) as download:
        return bytes(download.body)


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

    def __init__(self, site, *, unreachable=(), silent=()):
        self.site = site
        self.unreachable, self.silent = unreachable, silent
        self.reached, self.given_up = [], []

    async def connect_tcp(self, host, port, *options):
        self.reached.append((host, port))
        if host in self.unreachable:
            raise httpcore.ConnectError("unreachable")
        if host in self.silent:
            try:
                await asyncio.sleep(options[0])
            finally:
                self.given_up.append(host)
            raise httpcore.ConnectTimeout("silent")
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.site.port)


async def failure(fetcher, url):
    full = fetcher._spool.left_bytes
    async with fetcher:
        with pytest.raises(DownloadFailed) as caught:
            await got(fetcher, url)
    assert "secret" not in str(caught.value)
    assert fetcher._spool.left_bytes == full
    return caught.value


async def outcome(fetcher, url):
    return (await failure(fetcher, url)).outcome


# --- the way in


async def test_a_listed_host_may_be_private_and_plain(site, fetcher):
    async with fetcher() as it:
        assert await got(it, site.url("/x.jpg?sig=secret")) == PICTURE
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
async def test_an_address_that_is_not_clean_https_is_refused(url, made):
    assert await outcome(made(resolve=Names([PUBLIC])), url) is Outcome.REFUSED


async def test_plain_http_names_the_setting_that_allows_it(made):
    error = await failure(made(resolve=Names([PUBLIC])), "http://cdn.example/x.jpg?secret")
    assert error.outcome is Outcome.REFUSED
    assert "is not https: list the host in NANOHOOK_DOWNLOAD_HOSTS" in str(error)


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
async def test_a_host_that_is_not_public_is_refused_by_the_systems_resolver(site, host, made):
    assert await outcome(made(), site.url("/x.jpg?secret", scheme="https", host=host)) is Outcome.REFUSED
    assert site.connections == 0


async def test_a_listed_port_lists_no_other(site, fetcher):
    async with serving(Site(answers={"/x.jpg": answer()})) as other:
        assert await outcome(fetcher(), other.url()) is Outcome.REFUSED
        assert await outcome(fetcher(), other.url(scheme="https")) is Outcome.REFUSED
        assert other.connections == 0


@pytest.mark.parametrize("found", [[PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "64:ff9b::7f00:1"]])
async def test_one_private_address_among_public_ones_shuts_the_host_out(site, found, made):
    network = Detour(site)
    it = made(resolve=Names(found), network=network)
    assert await outcome(it, "https://cdn.example/x.jpg?secret") is Outcome.NOT_PUBLIC
    assert network.reached == []


@pytest.mark.parametrize(
    "lie", ["10.0.0.1", "0.0.0.0", "127.0.0.1", "169.254.169.254", "198.18.0.5", "::", "::1", "64:ff9b::101:101"]
)
async def test_a_name_server_that_lies_may_tell_the_truth_later(certificate, made, lie):
    """A captive portal, a filter, a proxy with addresses of its own, or a network of IPv6 alone."""
    key, cert = certificate
    mine = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mine.load_cert_chain(cert, key)
    async with serving(Site(answers={"/x.jpg": answer()}), ssl=mine) as site:
        network = Detour(site)
        trusting = ssl.create_default_context(cafile=cert)
        async with made(resolve=Names([lie], [PUBLIC]), network=network, tls=trusting) as it:
            with pytest.raises(DownloadFailed) as caught:
                await got(it, "https://cdn.example/x.jpg")
            assert caught.value.outcome is Outcome.NOT_PUBLIC
            assert f"cdn.example is {lie}, which is not a public address" in str(caught.value)
            assert "NANOHOOK_DOWNLOAD_HOSTS" in str(caught.value)
            assert (network.reached, site.connections) == ([], 0)
            assert await got(it, "https://cdn.example/x.jpg") == PICTURE


async def test_an_address_in_the_url_is_judged_whatever_the_resolver_makes_of_it(site, made):
    network = Detour(site)
    it = made(resolve=Names([PUBLIC]), network=network)
    for host in ("127.0.0.1", "[64:ff9b::101:101]", "localhost", "cdn.localhost"):
        assert await outcome(it, f"https://{host}/x.jpg?secret") is Outcome.REFUSED
    assert network.reached == []


async def test_a_name_is_resolved_once_and_the_judged_address_is_the_one_reached(site, made):
    names, network = Names([PUBLIC], ["127.0.0.1"]), Detour(site)
    it = made(resolve=names, network=network, download_hosts=frozenset({"plain.example"}))
    async with it:
        assert await got(it, "http://plain.example/x.jpg") == PICTURE
    assert names.asked == [("plain.example", 80)]
    assert network.reached == [(PUBLIC, 80)]
    assert "host: plain.example\r\n" in site.heads[0].lower()


async def test_a_name_that_moves_to_a_private_address_is_not_followed_when_asked_again(site, made):
    names, network = Names([PUBLIC], ["127.0.0.1"]), Detour(site, unreachable={PUBLIC})
    async with made(resolve=names, network=network) as it:
        for expected in (Outcome.AWAY, Outcome.NOT_PUBLIC):
            with pytest.raises(DownloadFailed) as caught:
                await got(it, "https://rebind.example/x.jpg")
            assert caught.value.outcome is expected
    assert network.reached == [(PUBLIC, 443)]
    assert site.connections == 0


async def test_the_next_address_is_tried_where_one_does_not_answer(site, made):
    network = Detour(site, unreachable={"2606:4700::1"})
    it = made(
        resolve=Names(["2606:4700::1", PUBLIC]), network=network, download_hosts=frozenset({"plain.example"})
    )
    async with it:
        assert await got(it, "http://plain.example/x.jpg") == PICTURE
    assert [host for host, _ in network.reached] == ["2606:4700::1", PUBLIC]


BLACK_HOLE = [f"2606:4700::{n}" for n in range(8)]


@pytest.mark.parametrize("how", ["silent", "unreachable"])
async def test_addresses_of_a_family_that_leads_nowhere_hide_no_other(site, made, how):
    network = Detour(site, **{how: BLACK_HOLE})
    it = made(resolve=Names([*BLACK_HOLE, PUBLIC]), network=network, download_hosts=frozenset({"plain.example"}))
    async with it:
        assert await got(it, "http://plain.example/x.jpg") == PICTURE
    assert [host for host, _ in network.reached] == [BLACK_HOLE[0], PUBLIC]
    assert network.given_up == (BLACK_HOLE[:1] if how == "silent" else [])


async def test_addresses_that_are_silent_share_their_time(site, made):
    network = Detour(site, silent=BLACK_HOLE)
    started = time.monotonic()
    error = await failure(made(resolve=Names(BLACK_HOLE), network=network), "https://cdn.example/x.jpg?secret")
    assert error.outcome is Outcome.AWAY
    assert time.monotonic() - started < 20  # one after the other they would take forty
    assert sorted(network.given_up) == BLACK_HOLE


async def test_of_two_connections_that_stand_the_second_is_closed(site):
    began = asyncio.Event()

    async def stand():
        stream = await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", site.port)
        streams.append(stream)
        if len(streams) == 2:
            began.set()
        await began.wait()
        return stream

    streams = []
    won = await pinned._first_connected([stand, stand])
    [lost] = [stream for stream in streams if stream is not won]
    assert lost.get_extra_info("socket").fileno() == -1
    await won.aclose()


async def test_eight_addresses_of_a_host_are_tried(site, made):
    found = [f"93.184.215.{n}" for n in range(20)]
    network = Detour(site, unreachable=set(found))
    assert await outcome(made(resolve=Names(found), network=network), "https://cdn.example/") is Outcome.AWAY
    assert [host for host, _ in network.reached] == found[:8]


@pytest.mark.parametrize("found", [[], OSError("no such name")])
async def test_a_name_without_an_address_may_have_one_later(found, made):
    assert await outcome(made(resolve=Names(found)), "https://cdn.example/?secret") is Outcome.AWAY


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


async def test_tls_is_checked_against_the_name_and_not_the_address(certificate, made):
    key, cert = certificate
    mine = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    mine.load_cert_chain(cert, key)
    names = []
    mine.sni_callback = lambda _, name, __: names.append(name)
    async with serving(Site(answers={"/x.jpg": answer()}), ssl=mine) as site:
        trusting = ssl.create_default_context(cafile=cert)
        it = made(resolve=Names([PUBLIC]), network=Detour(site), tls=trusting)
        async with it:
            assert await got(it, "https://cdn.example/x.jpg") == PICTURE
            assert names == ["cdn.example"]
            assert "host: cdn.example\r\n" in site.heads[0].lower()
            with pytest.raises(DownloadFailed) as caught:
                await got(it, "https://other.example/x.jpg")
            assert caught.value.outcome is Outcome.AWAY
            assert "certificate is not accepted: Hostname mismatch" in str(caught.value)
        strict = made(resolve=Names([PUBLIC]), network=Detour(site))
        error = await failure(strict, "https://cdn.example/x.jpg")
        assert error.outcome is Outcome.AWAY
        assert "certificate is not accepted: self-signed certificate" in str(error)
        assert len(site.heads) == 1


# --- redirects


def moved(to, status="302 Found"):
    return answer(b"", status, f"Location: {to}")


async def test_three_redirects_are_followed_and_a_fourth_is_not(site, fetcher):
    site.answers |= {f"/{n}": moved(f"/{n + 1}?secret", "307 Temporary Redirect") for n in range(4)}
    site.answers["/4"] = answer()
    async with fetcher() as it:
        assert await got(it, site.url("/1")) == PICTURE
    assert len(site.heads) == 4
    assert await outcome(fetcher(), site.url("/0")) is Outcome.MISSING
    assert len(site.heads) == 8


async def test_a_loop_of_redirects_ends(site, fetcher):
    site.answers["/loop"] = moved("/loop?secret")
    assert await outcome(fetcher(), site.url("/loop")) is Outcome.MISSING
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
            assert await outcome(fetcher(), site.url("/away?secret")) is Outcome.REFUSED
        assert private.connections == 0


async def test_a_redirect_with_odd_characters_is_not_repaired(site, fetcher):
    site.answers["/away"] = moved("/x\t.jpg")
    assert await outcome(fetcher(), site.url("/away")) is Outcome.REFUSED
    assert len(site.heads) == 1


async def test_a_redirect_may_lead_to_another_listed_host(site, made):
    async with serving(Site(answers={"/y.jpg": answer(b"other")})) as other:
        site.answers["/away"] = moved(other.url("/y.jpg"))
        async with made(download_hosts=frozenset({"127.0.0.1"})) as it:
            assert await got(it, site.url("/away")) == b"other"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize("header", [(), ("Location:",), ("Location: //[",)])
async def test_a_redirect_without_an_address_may_have_one_later(site, fetcher, status, header):
    site.answers["/x.jpg"] = answer(PICTURE, status, *header)
    assert await outcome(fetcher(), site.url()) is Outcome.MISSING


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        (b"/my picture.png", "/my%20picture.png"),
        ("/été 图.png?q=ü".encode(), "/%C3%A9t%C3%A9%20%E5%9B%BE.png"),
        ("/é.png".encode("latin-1"), "/%E9.png"),
        (b"/a%20b%C3%A9.png", "/a%20b%C3%A9.png"),
    ],
)
async def test_blanks_and_letters_of_a_redirect_are_escaped(site, fetcher, location, asked):
    site.answers |= {
        "/away": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n",
        asked: answer(),
    }
    async with fetcher() as it:
        assert await got(it, site.url("/away")) == PICTURE


async def test_blanks_and_letters_of_an_address_are_escaped(site, fetcher):
    site.answers["/r%C3%A9sultat%20final%201.png"] = answer()
    async with fetcher() as it:
        assert await got(it, "  " + site.url("/résultat final%201.png?name=a b&c=é") + " ") == PICTURE
    assert site.heads[0].startswith("GET /r%C3%A9sultat%20final%201.png?name=a%20b&c=%C3%A9 HTTP/1.1\r\n")


@pytest.mark.parametrize("is_redirected", [False, True])
async def test_a_signed_target_arrives_as_a_browser_would_send_it(site, fetcher, is_redirected):
    """Byte for byte: a host that signs it answers 403 to any other."""
    target = "/a//b%2Fc%2fd/%7e;x=1|y?sig=a|b^`{}[]'+==%zz&&e=&f?"
    site.answers |= {"/away": moved(site.url(target)), target.partition("?")[0]: answer()}
    async with fetcher() as it:
        assert await got(it, site.url("/away" if is_redirected else target)) == PICTURE
    assert site.heads[-1].startswith(f"GET {target} HTTP/1.1\r\n")


# --- bodies


LABELS = [
    "aws-chunked",
    "utf-8",
    "binary",
    "identity, identity",
    "gzip",
    "GZIP",
    "x-gzip",
    "br",
    "deflate",
    "none",
    "",
]


@pytest.mark.parametrize("label", [*LABELS, "aws-chunked,gzip", "é"])
async def test_whatever_label_a_plain_body_has_its_bytes_are_taken(site, fetcher, label):
    site.answers["/x.jpg"] = answer(PICTURE, "200 OK", f"Content-Encoding: {label}", "Content-Type: text/html")
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE


@pytest.mark.parametrize("label", [*LABELS, "aws-chunked,gzip", "identity"])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda body: gzip.compress(gzip.compress(body))])
async def test_a_compressed_body_is_inflated_whatever_its_label(site, fetcher, label, pack):
    site.answers["/x.jpg"] = answer(pack(PICTURE), "200 OK", f"Content-Encoding: {label}")
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE


async def test_a_compressed_body_that_comes_byte_by_byte_is_inflated(site, fetcher):
    site.answers["/x.jpg"] = chunked(*(bytes([byte]) for byte in gzip.compress(PICTURE)))
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE


def bomb(layers):
    """A great deal of nothing, compressed again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
    for _ in range(layers - 1):
        packed = gzip.compress(packed, 9)
    return packed


@pytest.mark.parametrize("layers", [1, 2, 3])
async def test_a_bomb_is_too_large_in_flat_memory_and_blocks_nobody(site, fetcher, layers):
    site.answers["/x.jpg"] = answer(bomb(layers), "200 OK", "Content-Encoding: gzip")
    async with lag.seen() as seen:
        tracemalloc.start()
        try:
            error = await failure(fetcher(memory_bytes=10_000_000), site.url())
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert error.outcome is Outcome.TOO_LARGE
    assert seen.worst_s < 0.25
    assert peak_bytes < 20_000_000


async def test_a_compressed_body_that_never_makes_a_byte_is_too_large(site, fetcher):
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    endless = packer.compress(b"") + b"".join(packer.flush(zlib.Z_FULL_FLUSH) or b"" for _ in range(3))
    head = gzip.compress(b"")[:10]
    site.answers["/x.jpg"] = answer(head + b"\x00\x00\x00\xff\xff" * 1_000 + endless)
    assert await outcome(fetcher(limit_bytes=4_000), site.url()) is Outcome.TOO_LARGE


@pytest.mark.parametrize("damage", [lambda body: body[:-20], lambda body: body[:200] + b"xx" + body[202:]])
async def test_a_compressed_body_that_is_damaged_may_be_whole_later(site, fetcher, damage):
    noise = Image.effect_noise((64, 64), 90).tobytes()
    site.answers["/x.jpg"] = answer(damage(gzip.compress(noise)))
    assert await outcome(fetcher(), site.url()) is Outcome.BROKEN


async def test_pictures_alone_are_asked_for_and_never_just_any(site, fetcher):
    async with fetcher() as it:
        await got(it, site.url())
    accept = re.search(r"accept: (.*)\r\n", site.heads[0].lower())[1]
    assert accept.startswith("image/jpeg, image/png, image/webp, image/gif, ")
    assert "*" not in accept
    assert not re.search(r"heic|heif|jxl|svg", accept)


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
        assert await got(it, site.url("/most")) == bytes(1000)
    assert await outcome(fetcher(limit_bytes=1000), site.url("/more?secret")) is Outcome.TOO_LARGE


async def test_an_announced_length_over_the_limit_is_refused_before_a_byte_of_it(site, fetcher):
    site.answers["/x.jpg"] = answer(b"", length=50 * 1024 * 1024 + 1)
    assert await outcome(fetcher(), site.url()) is Outcome.TOO_LARGE


def test_the_limits_are_the_promised_ones():
    assert (fetch.LIMIT_BYTES, fetch.MOST_REDIRECTS) == (50 * 1024 * 1024, 3)
    assert Tempo() == Tempo(silence_s=15, min_bytes_s=16_000, window_s=30, total_s=900)
    assert spool.MEMORY_BYTES == 64 * 1024 * 1024


def cut(raw, *, hard=False):
    """Send *raw*, then end the connection."""

    async def send(writer):
        writer.write(raw)
        await writer.drain()
        if hard:
            writer.transport.abort()

    return send


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(
    "raw",
    [answer(PICTURE, length=len(PICTURE) + 1), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"],
)
async def test_a_body_that_is_cut_may_be_whole_later(site, fetcher, raw, hard):
    site.answers["/x.jpg"] = cut(raw, hard=hard)
    assert await outcome(fetcher(), site.url("/x.jpg?secret")) in {Outcome.BROKEN, Outcome.AWAY}
    assert len(site.heads) == 1


def drawn(kind):
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
async def test_a_length_or_a_chunk_that_promised_too_much_does_not_end_a_whole_picture(site, fetcher, kind):
    body = drawn(kind)
    for raw in (answer(body, length=len(body) + 100), chunked(body).removesuffix(b"0\r\n\r\n")):
        site.answers["/x.jpg"] = cut(raw)
        async with fetcher() as it:
            assert await got(it, site.url()) == body
        site.answers["/x.jpg"] = cut(raw.replace(body, body[:-20]))
        assert await outcome(fetcher(), site.url()) is Outcome.BROKEN


NO_REST = {
    "416": answer(b"", "416 No", "Content-Range: bytes */763"),
    "404": answer(b"", "404 No"),
    "503": answer(b"", "503 Wait"),
    "another part": answer(b"x", "206 Part", "Content-Range: bytes 5-5/7"),
    "nothing": b"",
}


@pytest.mark.parametrize("rest", NO_REST)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_nor_does_it_where_the_rest_is_asked_for_and_there_is_none(site, fetcher, rest, pack):
    body, offer = drawn("PNG"), b"\r\nAccept-Ranges: bytes"
    packed = pack(body)
    endless = chunked(packed).removesuffix(b"0\r\n\r\n").replace(b" OK", b" OK" + offer, 1)
    for first in (answer(packed, "200 OK", "Accept-Ranges: bytes", length=len(packed) + 100), endless):
        site.heads.clear()

        async def send(writer, first=first):
            await cut(first if len(site.heads) == 1 else NO_REST[rest])(writer)

        site.answers["/x.jpg"] = send
        async with fetcher() as it:
            assert await got(it, site.url()) == body
        assert len(site.heads) > 1


async def test_nor_does_it_where_the_host_waits_with_the_connection_open(site, fetcher):
    body = drawn("PNG")

    async def send(writer):
        writer.write(answer(body, length=len(body) + 1))
        await writer.drain()
        await asyncio.sleep(60)

    site.answers["/x.jpg"] = send
    async with fetcher(tempo=dataclasses.replace(PATIENT, silence_s=0.2)) as it:
        assert await got(it, site.url()) == body


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_half_a_picture_whose_rest_cannot_be_had_now_may_be_had_later(site, fetcher, pack):
    packed = pack(Image.effect_noise((64, 64), 90).tobytes())

    async def send(writer):
        first = answer(packed[:2_000], "200 OK", "Accept-Ranges: bytes", length=len(packed))
        await cut(first if len(site.heads) == 1 else NO_REST["503"])(writer)

    site.answers["/x.jpg"] = send
    assert await outcome(fetcher(), site.url()) is Outcome.AWAY


@pytest.mark.parametrize(
    "status", ["200 OK", "201 Created", "202 Accepted", "203 Other", "204 No Content", "205 Reset", "206 Part"]
)
async def test_a_body_without_a_byte_may_have_some_later(site, fetcher, status):
    site.answers["/x.jpg"] = answer(b"", status)
    assert await outcome(fetcher(), site.url()) is Outcome.BROKEN


@pytest.mark.parametrize(
    "status", ["200 OK", "200", "201 Created", "202 Accepted", "203 Other", "206 Part", "226 IM Used", "299 X"]
)
async def test_a_body_of_any_success_is_taken(site, fetcher, status):
    site.answers["/x.jpg"] = answer(PICTURE, status, "Content-Type: text/html")
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE


ODD = {
    "trailers": chunked(PICTURE).removesuffix(b"\r\n") + b"X-Checksum: 1\r\nLocation: /evil\r\n\r\n",
    "chunk extensions": chunked(PICTURE).replace(b"2800\r\n", b"2800;name=value\r\n"),
    "a length beside chunks": chunked(PICTURE).replace(b"\r\n\r\n", b"\r\nContent-Length: 99999999999\r\n\r\n", 1),
    "the same length twice": answer(PICTURE, "200 OK", f"Content-Length: {len(PICTURE)}"),
    "an early hint": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(),
    "a whole range": answer(PICTURE, "206 Part", f"Content-Range: bytes 0-{len(PICTURE) - 1}/{len(PICTURE)}"),
    "a whole range of unknown length": answer(PICTURE, "206 Part", f"Content-Range: bytes 0-{len(PICTURE) - 1}/*"),
    "a range in words": answer(PICTURE, "206 Part", "Content-Range: all of it"),
    "HTTP/1.0": answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "folded header": answer(PICTURE, "200 OK", "X: a\r\n b"),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_answer_with_a_whole_body_is_taken(site, fetcher, name):
    site.answers["/x.jpg"] = ODD[name]
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE


# --- broken off and taken up again


class Pieces:
    """A host that sends at most *size* bytes and then breaks off, and offers the rest by range."""

    def __init__(
        self, site, *, size, body=PICTURE, headers=("Accept-Ranges: bytes", 'ETag: "one"'), hard=False, **odd
    ):
        self.site, self.size, self.body, self.headers, self.hard = site, size, body, headers, hard
        self.odd = odd

    async def __call__(self, writer):
        asked = re.search(r"range: bytes=(\d+)-\r\n", self.site.heads[-1].lower())
        at = int(asked[1]) if asked else 0
        body, headers = self.body, self.headers
        part = body[at : at + self.size]
        if asked:
            start, total = at + self.odd.get("shift", 0), len(body) + self.odd.get("grow", 0)
            headers = (*self.odd.get("later", headers), f"Content-Range: bytes {start}-{len(body) - 1}/{total}")
        head = answer(b"", "206 Part" if asked else "200 OK", *headers, length=len(body) - at)
        writer.write(head + part)
        await writer.drain()
        if self.hard and at + self.size < len(body):
            await asyncio.sleep(0.05)
            writer.transport.abort()


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("pack", [bytes, lambda body: gzip.compress(body, 0)])
async def test_a_download_that_breaks_off_is_taken_up_three_times(site, fetcher, hard, pack):
    site.answers["/x.jpg"] = Pieces(site, size=3_000, body=pack(PICTURE), hard=hard)
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE
    assert len(site.heads) == 4
    assert "range: bytes=3000-\r\n" in site.heads[1].lower()
    assert 'if-range: "one"\r\n' in site.heads[1].lower()
    assert "range" not in site.heads[0].lower()


async def test_a_download_that_breaks_off_a_fourth_time_is_broken(site, fetcher):
    site.answers["/x.jpg"] = Pieces(site, size=2_000)
    assert await outcome(fetcher(), site.url()) is Outcome.BROKEN
    assert len(site.heads) == 4


async def test_what_breaks_off_after_redirects_is_taken_up_where_they_led(site, fetcher):
    site.answers |= {"/away": moved("/x.jpg"), "/x.jpg": Pieces(site, size=6_000)}
    async with fetcher() as it:
        assert await got(it, site.url("/away")) == PICTURE
    assert [head.split(" ")[1] for head in site.heads] == ["/away", "/x.jpg", "/x.jpg"]


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        (('ETag: "one"', "Last-Modified: Sun, 01 Mar 2026 12:00:00 GMT"), 'if-range: "one"'),
        (
            ('ETag: W/"one"', "Last-Modified: Sun, 01 Mar 2026 12:00:00 GMT"),
            "if-range: sun, 01 mar 2026 12:00:00 gmt",
        ),
        (('ETag: W/"one"',), None),
        ((), None),
    ],
)
async def test_the_rest_is_asked_for_on_condition_that_nothing_changed(site, fetcher, headers, condition):
    site.answers["/x.jpg"] = Pieces(site, size=6_000, headers=("Accept-Ranges: bytes", *headers))
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE
    assert condition is None or condition in site.heads[1].lower()
    assert ("if-range" in site.heads[1].lower()) is (condition is not None)


@pytest.mark.parametrize("headers", [(), ("Accept-Ranges: none",), ('ETag: "one"',)])
async def test_the_rest_is_not_asked_for_where_it_is_not_offered(site, fetcher, headers):
    site.answers["/x.jpg"] = Pieces(site, size=6_000, headers=headers)
    assert await outcome(fetcher(), site.url()) is Outcome.BROKEN
    assert len(site.heads) == 1


@pytest.mark.parametrize(
    "odd", [{"shift": 1}, {"shift": -1}, {"grow": 1}, {"later": ("Accept-Ranges: bytes", 'ETag: "two"')}]
)
async def test_a_rest_that_does_not_fit_is_not_taken(site, fetcher, odd):
    site.answers["/x.jpg"] = Pieces(site, size=6_000, **odd)
    assert await outcome(fetcher(), site.url()) is Outcome.BROKEN
    assert len(site.heads) == 2


async def test_a_picture_that_has_changed_meanwhile_is_taken_whole(site, fetcher):
    other, first = PICTURE[::-1], Pieces(site, size=6_000)

    async def changed(writer):
        await (first(writer) if len(site.heads) == 1 else cut(answer(other))(writer))

    site.answers["/x.jpg"] = changed
    async with fetcher() as it:
        assert await got(it, site.url()) == other


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (answer(b"", "416 No"), Outcome.BROKEN),
        (answer(b"", "404 Gone"), Outcome.MISSING),
        (answer(b"", "503 Wait"), Outcome.AWAY),
        (answer(PICTURE, "206 Part", "Content-Type: multipart/byteranges; boundary=x"), Outcome.BROKEN),
    ],
)
async def test_a_rest_that_cannot_be_had_ends_the_try(site, fetcher, raw, expected):
    first = Pieces(site, size=6_000)

    async def gone(writer):
        await (first(writer) if len(site.heads) == 1 else cut(raw)(writer))

    site.answers["/x.jpg"] = gone
    assert await outcome(fetcher(), site.url()) is expected


@pytest.mark.parametrize(
    ("first", "later"), [(gzip.compress(PICTURE), PICTURE), (PICTURE, gzip.compress(PICTURE))]
)
async def test_a_rest_of_the_other_encoding_is_never_joined(site, fetcher, first, later):
    half = len(first) // 2
    rest = later[half:] or later[-1:]
    span = f"Content-Range: bytes {half}-{half + len(rest) - 1}/{half + len(rest)}"

    async def send(writer):
        head = answer(first[:half], "200 OK", "Accept-Ranges: bytes", length=len(first))
        await cut(head if len(site.heads) == 1 else answer(rest, "206 Part", span))(writer)

    site.answers["/x.jpg"] = send
    assert await outcome(fetcher(), site.url()) is Outcome.BROKEN


async def test_a_part_that_nobody_asked_for_is_completed(site, fetcher):
    part = answer(PICTURE[:500], "206 Part", f"Content-Range: bytes 0-499/{len(PICTURE)}")
    rest = answer(PICTURE[500:], "206 Part", f"Content-Range: bytes 500-{len(PICTURE) - 1}/{len(PICTURE)}")

    async def send(writer):
        writer.write(part if len(site.heads) == 1 else rest)

    site.answers["/x.jpg"] = send
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE
    assert len(site.heads) == 2


async def test_the_end_alone_is_no_picture(site, fetcher):
    site.answers["/x.jpg"] = answer(PICTURE[500:], "206 Part", f"Content-Range: bytes 500-10239/{len(PICTURE)}")
    assert await outcome(fetcher(), site.url()) is Outcome.BROKEN


# --- memory and files


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("memory_bytes", [0, 5_000, len(PICTURE) - 1])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_what_does_not_fit_into_memory_is_a_mapped_file_without_a_name(
    site, fetcher, tmp_path, memory_bytes, pack
):
    body = Image.effect_noise((101, 101), 90).tobytes() + PICTURE
    site.answers["/x.jpg"] = answer(pack(body))
    async with fetcher(memory_bytes=memory_bytes) as it:
        async with it.get(site.url()) as download:
            assert isinstance(download.body, mmap.mmap)
            assert download.body[:] == body
            assert it._spool.left_bytes == memory_bytes
        assert files(tmp_path) == []
        assert download.body[:5] == body[:5]


async def test_memory_is_given_back_when_a_download_is_done_with(site, fetcher):
    async with fetcher(memory_bytes=len(PICTURE) * 2) as it:
        async with it.get(site.url()) as one, it.get(site.url()) as two, it.get(site.url()) as three:
            assert [type(one.body), type(two.body), type(three.body)] == [bytes, bytes, mmap.mmap]
            assert one.body == two.body == three.body[:] == PICTURE
            assert it._spool.left_bytes == 0
        assert it._spool.left_bytes == len(PICTURE) * 2
        with pytest.raises(ZeroDivisionError):
            async with it.get(site.url()):
                1 / 0  # noqa: B018
        assert it._spool.left_bytes == len(PICTURE) * 2


async def test_256_downloads_run_at_once_within_their_memory(site, fetcher):
    body = bytes(400_000)
    go, waiting = asyncio.Event(), 0

    async def send(writer):
        nonlocal waiting
        waiting += 1
        writer.write(answer(body)[:200_000])
        await go.wait()
        writer.write(answer(body)[200_000:])
        await writer.drain()

    site.answers["/x.jpg"] = send
    async with fetcher(memory_bytes=8_000_000) as it:
        running = [asyncio.create_task(kinds(it, site.url(), body)) for _ in range(256)]
        await live.until(lambda: waiting == 256, timeout_s=20)
        assert it._spool.left_bytes >= 0
        go.set()
        found = await asyncio.gather(*running)
        assert it._spool.left_bytes == 8_000_000
    assert len(found) == 256
    assert mmap.mmap in found


async def kinds(fetcher, url, body):
    async with fetcher.get(url) as download:
        assert download.body[:] == body
        return type(download.body)


async def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path, made):
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "download-abc").write_bytes(b"x")
    (folder / "other").write_bytes(b"x")
    await made().aclose()
    assert [path.name for path in files(folder)] == ["other"]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("memory_bytes", [0, 5_000])
@pytest.mark.parametrize("buffering", [0, 100_000])
async def test_a_disk_that_is_full_is_no_fault_of_the_host(site, fetcher, monkeypatch, memory_bytes, buffering):
    it = fetcher(memory_bytes=memory_bytes)
    # A device that is always full, in place of a disk.
    full = functools.partial(pathlib.Path("/dev/full").open, "wb", buffering=buffering)
    monkeypatch.setattr(it._spool, "open", full)
    async with it:
        with pytest.raises(DownloadFailed) as caught:
            await got(it, site.url())
    assert caught.value.outcome is Outcome.NOT_STORED
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    assert it._spool.left_bytes == memory_bytes


async def test_a_folder_that_is_gone_is_no_fault_of_the_host(site, fetcher, tmp_path):
    it = fetcher(memory_bytes=0)
    (tmp_path / "spool").rmdir()
    async with it:
        with pytest.raises(DownloadFailed) as caught:
            await got(it, site.url())
    assert caught.value.outcome is Outcome.NOT_STORED
    assert str(tmp_path) not in str(caught.value)


# --- what is not there, or slow


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("X-Secret : bar", "illegal header line"),
        ("secret line", "illegal header line"),
        ("X: secret\0", "illegal header line"),
        ("Transfer-Encoding: identity", "Only Transfer-Encoding"),
        ("Content-Length: 1", "conflicting Content-Length headers"),
    ],
)
async def test_a_head_that_is_not_readable_as_http_is_named_and_may_be_mended_later(site, fetcher, header, reason):
    site.answers["/x.jpg"] = cut(answer(PICTURE, "200 OK", header))
    error = await failure(fetcher(), site.url())
    assert error.outcome is Outcome.AWAY
    assert f"RemoteProtocolError ({reason})" in str(error)


@pytest.mark.parametrize("raw", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_what_is_not_http_may_be_so_later(site, fetcher, raw):
    async def send(writer):
        writer.write(raw)

    site.answers["/x.jpg"] = send
    assert await outcome(fetcher(), site.url()) is Outcome.AWAY


async def test_a_closed_port_may_be_open_later(site, made):
    async with serving(Site()) as gone:
        pass
    it = made(download_hosts=frozenset({"127.0.0.1"}))
    assert await outcome(it, gone.url()) is Outcome.AWAY


def dribbling(first, each, *, every_s):
    async def send(writer):
        writer.write(first)
        while True:
            writer.write(each)
            await writer.drain()
            await asyncio.sleep(every_s)

    return send


BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n"
PATIENT = Tempo(silence_s=20, min_bytes_s=0, window_s=20, total_s=20)


@pytest.mark.parametrize(
    ("send", "tempo", "why"),
    [
        (dribbling(b"", b"", every_s=5), {"silence_s": 0.2}, "no byte for 0.2 s"),
        (dribbling(b"", b"H", every_s=0.01), {"silence_s": 0.2}, "no byte for 0.2 s"),
        (dribbling(BEGUN + b"x", b"", every_s=5), {"silence_s": 0.2}, "no byte for 0.2 s"),
        (
            dribbling(BEGUN, b"x" * 10, every_s=0.01),
            {"min_bytes_s": 9_000, "window_s": 0.2},
            "less than 9,000 bytes",
        ),
        (
            dribbling(BEGUN + b"x" * 5_000, b"x" * 10, every_s=0.01),
            {"min_bytes_s": 9_000, "window_s": 0.2},
            "less than 9,000 bytes",
        ),
        (dribbling(BEGUN, b"x" * 999, every_s=0.01), {"total_s": 0.3}, "not all of it within 0.3 s"),
        (dribbling(b"", b"", every_s=5), {"total_s": 0.2}, "not all of it within 0.2 s"),
    ],
)
async def test_a_host_that_is_too_slow_is_away(site, fetcher, send, tempo, why):
    site.answers["/x.jpg"] = send
    started = time.monotonic()
    error = await failure(fetcher(tempo=dataclasses.replace(PATIENT, **tempo)), site.url("/x.jpg?secret"))
    assert error.outcome is Outcome.AWAY
    assert why in str(error)
    assert 0.15 < time.monotonic() - started < 20


async def test_one_that_is_slow_but_steady_is_waited_for(site, fetcher):
    async def steady(writer):
        writer.write(answer(b"", length=len(PICTURE)))
        for at in range(0, len(PICTURE), 512):
            writer.write(PICTURE[at : at + 512])
            await writer.drain()
            await asyncio.sleep(0.03)

    site.answers["/x.jpg"] = steady
    tempo = Tempo(silence_s=0.3, min_bytes_s=4_000, window_s=0.2, total_s=20)
    async with fetcher(tempo=tempo) as it:
        assert await got(it, site.url()) == PICTURE


async def test_a_small_picture_that_takes_long_for_its_size_is_waited_for(site, fetcher):
    """What is over before the window is has no rate."""

    async def small(writer):
        writer.write(answer(b"", length=20))
        for _ in range(20):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    site.answers["/x.jpg"] = small
    async with fetcher() as it:
        assert await got(it, site.url()) == b"x" * 20


async def test_redirects_share_the_time_limit(site, fetcher):
    async def slow(writer):
        await asyncio.sleep(0.1)
        writer.write(moved("/slow"))

    site.answers["/slow"] = slow
    tempo = dataclasses.replace(PATIENT, total_s=0.15)
    assert await outcome(fetcher(tempo=tempo), site.url("/slow")) is Outcome.AWAY


async def test_a_cancelled_download_is_cancelled_and_not_failed(site, fetcher):
    begun = asyncio.Event()

    async def hang(writer):
        begun.set()
        await asyncio.sleep(60)

    site.answers["/x.jpg"] = hang
    async with fetcher() as it:
        task = asyncio.create_task(got(it, site.url()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- statuses


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, Outcome.MISSING) for status in (304, 300, 400, 402, 404, 405, 406, 410, 418, 422, 451)),
        *((status, Outcome.FORBIDDEN) for status in (401, 403)),
        *((status, Outcome.AWAY) for status in (408, 425, 429, 500, 501, 502, 503, 504, 520, 599)),
    ],
)
async def test_each_status_without_a_picture_has_its_outcome(site, fetcher, status, expected):
    site.answers["/x.jpg"] = answer(PICTURE if status != 304 else b"", f"{status} So")
    error = await failure(fetcher(), site.url("/x.jpg?secret"))
    assert error.outcome is expected
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
            assert await got(it, site.url()) == PICTURE
    assert (site.connections, len(site.heads)) == (1, 3)


async def test_cookies_are_not_kept(site, fetcher):
    site.answers["/x.jpg"] = answer(PICTURE, "200 OK", "Set-Cookie: a=b; Path=/")
    async with fetcher() as it:
        await got(it, site.url())
        await got(it, site.url())
    assert "cookie" not in site.heads[1].lower()


async def test_a_proxy_of_the_environment_is_not_used(site, fetcher, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with fetcher() as it:
        assert await got(it, site.url()) == PICTURE


async def test_downloads_may_run_side_by_side(site, fetcher):
    async with fetcher() as it:
        assert await asyncio.gather(*(got(it, site.url()) for _ in range(20))) == [PICTURE] * 20


async def test_no_query_is_logged_or_told(site, fetcher, caplog):
    caplog.set_level(0)
    site.answers["/x.jpg"] = answer(b"", "500 Oops")
    error = await failure(fetcher(), site.url("/x.jpg?sig=secret"))
    assert "secret" not in "".join(traceback.format_exception_only(error))
    assert not [record for record in caplog.records if record.name.startswith("httpx")]


async def test_downloads_that_hang_fill_small_pools_and_the_next_is_not_behind_them(site, fetcher):
    go_on = asyncio.Event()

    async def hang(_):
        await go_on.wait()

    site.answers["/hang.jpg"] = hang
    async with fetcher() as it, asyncio.timeout(60):
        hanging = [asyncio.create_task(failure(it, site.url("/hang.jpg"))) for _ in range(40)]
        await live.until(lambda: site.connections == 40)
        full = pinned.POOL_CONNECTIONS
        assert [pool.busy for pool in it._transport._pools] == [full, full, 40 - 2 * full]
        assert await got(it, site.url()) == PICTURE
        go_on.set()
        await asyncio.gather(*hanging)
        assert [pool.busy for pool in it._transport._pools] == [0]
