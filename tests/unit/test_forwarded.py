"""What a trusted proxy says of a request's way is read in every spelling, and nobody else is believed."""

import pytest

from nanohook.web import forwarded

PROXIES = ("10.0.0.0/8", "192.168.1.1", "::1", "fd00::/8", "fe80::/10", "::ffff:172.16.0.0/108")
CLIENT = "203.0.113.7"


async def seen(*headers, peer="10.0.0.1", trusted=PROXIES):
    """Scheme, client and host of a request that came with *headers* from *peer*."""
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)

    scope = {
        "type": "http",
        "scheme": "http",
        "client": None if peer is None else (peer, 4711),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    await forwarded.Forwarded(app, trusted=trusted)(scope, None, None)
    [scope] = scopes
    return scope["scheme"], scope["client"] and scope["client"][0], scope.get(forwarded.HOST)


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        (["https"], "https"),
        (["HTTPS"], "https"),
        (["https, http"], "https"),
        (["https,https"], "https"),
        (["  https\t,http"], "https"),
        (['"https"'], "https"),
        (["wss"], "https"),
        (["ws"], "http"),
        (["https", "http"], "https"),
        (["", "https"], "https"),
        ([",https"], "https"),
        (["http, https"], "http"),
        (["http"], "http"),
        (["https://"], "http"),
        (["javascript"], "http"),
        (["https;q=1"], "http"),
        ([""], "http"),
        ([], "http"),
        (["\xff"], "http"),
        (["x" * 60_000], "http"),
    ],
)
async def test_the_first_scheme_counts(values, scheme):
    said = [("X-Forwarded-Proto", value) for value in values]
    assert (await seen(*said))[0] == scheme
    # Of nobody else.
    assert (await seen(*said, peer="11.0.0.1"))[0] == "http"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([CLIENT], CLIENT),
        ([f"{CLIENT}:4711"], CLIENT),
        ([f'"{CLIENT}:4711"'], CLIENT),
        ([f"1.1.1.1, {CLIENT}"], CLIENT),
        (["1.1.1.1", CLIENT], CLIENT),
        ([f"{CLIENT}, 10.1.1.1, 192.168.1.1"], CLIENT),
        ([f"{CLIENT},", ",", " 10.1.1.1 "], CLIENT),
        ([f"::ffff:{CLIENT}"], CLIENT),
        ([f"[::ffff:{CLIENT}]:4711"], CLIENT),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (['"[2001:DB8::1]:4711"'], "2001:db8::1"),
        (["2001:db8::1%eth0, fd00::1"], "2001:db8::1"),
        # All are proxies: the first of them asks for itself.
        (["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        # What cannot be read ends the way, and what stands before it is anybody's word.
        (["unknown"], "10.0.0.1"),
        ([f"{CLIENT}, unknown"], "10.0.0.1"),
        ([f"{CLIENT}, _hidden, 10.1.1.1"], "10.1.1.1"),
        ([f"{CLIENT}, garbage, 10.1.1.1"], "10.1.1.1"),
        ([f"{CLIENT}:port"], "10.0.0.1"),
        (["999.1.1.1"], "10.0.0.1"),
        (["[2001:db8::1"], "10.0.0.1"),
        (["\xff"], "10.0.0.1"),
        ([""], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
async def test_the_client_is_the_nearest_hop_that_is_no_proxy(values, client):
    said = [("X-Forwarded-For", value) for value in values]
    assert (await seen(*said))[1] == client
    assert (await seen(*said, peer="11.0.0.1"))[1] == "11.0.0.1"


@pytest.mark.parametrize(("more", "client"), [(0, CLIENT), (1, "10.1.1.1"), (7_000, "10.1.1.1")])
async def test_a_long_way_is_followed_no_further_than_its_bound(more, client):
    hops = [CLIENT, *["10.1.1.1"] * (forwarded.MAX_HOPS - 1 + more)]
    assert (await seen(("X-Forwarded-For", ", ".join(hops))))[1] == client


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("10.200.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("::FFFF:0a00:0001", True),
        ("192.168.1.1", True),
        ("::1", True),
        ("fd00::2", True),
        ("fe80::1%eth0", True),
        ("172.20.0.1", True),
        ("::ffff:172.20.0.1", True),
        ("192.168.1.2", False),
        ("::ffff:11.0.0.1", False),
        ("::a00:1", False),
        ("2001:db8::1", False),
        ("testclient", False),
        ("", False),
        (None, False),
    ],
)
async def test_only_a_trusted_peer_is_believed(peer, is_trusted):
    said = [("X-Forwarded-For", CLIENT), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "a.example")]
    expected = ("https", CLIENT, "a.example") if is_trusted else ("http", peer, None)
    assert await seen(*said, peer=peer) == expected
    assert await seen(*said, peer=peer, trusted=()) == ("http", peer, None)


@pytest.mark.parametrize(
    ("values", "host"),
    [
        (["a.example"], "a.example"),
        (["a.example:8443, b.example"], "a.example:8443"),
        (["a.example", "b.example"], "a.example"),
        (['"a.example"'], "a.example"),
        (["[2001:db8::1]:8443"], "[2001:db8::1]:8443"),
        (["a.example/path"], ""),
        (["a.example@evil"], ""),
        (["a b"], ""),
        (["\xff"], ""),
        (["x" * 300], ""),
        ([""], ""),
    ],
)
async def test_the_first_host_counts_if_it_is_one(values, host):
    assert (await seen(*[("X-Forwarded-Host", value) for value in values]))[2] == host


async def test_other_headers_say_nothing():
    said = [
        ("Forwarded", f"for={CLIENT};proto=https;host=a.example"),
        ("X-Real-Ip", CLIENT),
        ("X-Forwarded-Scheme", "https"),
        ("X-Forwarded-Ssl", "on"),
        ("X_Forwarded_Proto", "https"),
    ]
    assert await seen(*said) == ("http", "10.0.0.1", "")
