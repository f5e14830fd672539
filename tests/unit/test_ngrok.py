"""Which of ngrok's tunnels is ours, by what its agent says."""

import orjson
import pytest

from nanohook.remote import ngrok
from nanohook.remote.ngrok import Missing, Trouble
from tests.tunnels import listed

ONE = "https://one.ngrok-free.app"


def choose(body, *, port):
    tunnels = ngrok.read(body)
    assert tunnels is not None
    return ngrok.choose(tunnels, port=port)


@pytest.mark.parametrize(
    "addr",
    [
        "http://localhost:8000",
        "https://127.0.0.1:8000",
        "localhost:8000",
        "8000",
        8000,
        "http://127.0.0.5:8000",
        "http://[::1]:8000",
        "http://0.0.0.0:8000",
        "http://host.docker.internal:8000",
        "http://LOCALHOST:8000/",
    ],
)
def test_a_tunnel_is_ours_by_its_target_however_that_is_written(addr):
    assert choose(orjson.dumps(listed((ONE, addr))), port=8000) == ONE


def test_a_target_without_a_port_has_its_schemes():
    assert choose(orjson.dumps(listed((ONE, "http://localhost"))), port=80) == ONE
    assert choose(orjson.dumps(listed((ONE, "https://localhost"))), port=443) == ONE


def test_of_many_tunnels_the_one_to_us_by_https_is_taken():
    tunnels = [
        ("https://other.ngrok-free.app", "http://localhost:3000"),
        ("http://one.ngrok-free.app", "http://localhost:8000"),
        ("tcp://0.tcp.ngrok.io:12345", "localhost:8000"),
        (f"{ONE}/", "http://localhost:8000"),
    ]
    assert choose(orjson.dumps(listed(*tunnels)), port=8000) == ONE


@pytest.mark.parametrize(
    ("tunnels", "trouble", "says"),
    [
        ([], Trouble.NO_TUNNEL, "no tunnel leads to port 8000"),
        ([(ONE, "http://localhost:3000")], Trouble.NO_TUNNEL, "others lead to http://localhost:3000"),
        ([(ONE, "http://192.168.1.9:8000")], Trouble.NO_TUNNEL, "others lead to http://192.168.1.9:8000"),
        ([("http://one.ngrok.app", "8000")], Trouble.ONLY_HTTP, "no https address"),
        ([("tcp://0.tcp.ngrok.io:12345", "8000")], Trouble.ONLY_HTTP, "no https address"),
        ([(ONE, "8000"), ("https://two.ngrok.app", "8000")], Trouble.SEVERAL, "2 https tunnels"),
        ([("https://user@one.ngrok.app", "8000"), ("https://[x", "8000"), (ONE, "x:y")], Trouble.NO_TUNNEL, ""),
    ],
)
def test_why_there_is_none_is_told(tunnels, trouble, says):
    missing = choose(orjson.dumps(listed(*tunnels)), port=8000)
    assert isinstance(missing, Missing)
    assert missing.trouble is trouble
    assert says in missing.detail


@pytest.mark.parametrize(
    "url",
    [
        "https://ev\x1bcil.example#x",
        f"{ONE}#x",
        f"{ONE}/#",
        f"{ONE}?x",
        f"{ONE}/x",
        "https://me@one.ngrok-free.app",
        "https://me:secret@one.ngrok-free.app",
        "https://one.ngrok-free.app:0",
        "https://one.ngrok-free.app\\@evil.example",
        "https://one .example",
        "https://",
        "https:one.ngrok-free.app",
        "ht\ttps://one.ngrok-free.app",
    ],
    ids=repr,
)
def test_an_address_that_has_more_than_a_host_and_a_port_is_none(url):
    missing = choose(orjson.dumps(listed((url, "8000"))), port=8000)
    assert isinstance(missing, Missing)
    assert missing.trouble is Trouble.NO_TUNNEL


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"{ONE}:8443/", f"{ONE}:8443"),
        (f"{ONE}:443", ONE),
        ("HTTPS://One.Ngrok-Free.App", ONE),
        ("https://éa.example", "https://xn--a-9fa.example"),
    ],
)
def test_an_address_is_spelt_in_one_way(url, told):
    assert choose(orjson.dumps(listed((url, "8000"), (told, "8000"))), port=8000) == told


def test_a_target_that_cannot_be_printed_is_not_told():
    missing = choose(orjson.dumps(listed((ONE, "http://localhost:3000/\x1b[2J"))), port=8000)
    assert missing.detail == "no tunnel leads to port 8000"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"tunnels": 3}', b'{"tunnel": []}'],
)
def test_another_programs_answer_is_told_from_ngroks(body):
    assert ngrok.read(body) is None


def test_newer_agents_call_them_endpoints():
    endpoint = {"name": "nanohook", "url": ONE, "upstream": {"url": "http://localhost:8000", "protocol": "http1"}}
    body = orjson.dumps({"endpoints": [endpoint, {"url": 3}, {"url": ONE, "upstream": {"url": None}}]})
    assert choose(body, port=8000) == ONE
    assert isinstance(choose(body, port=8001), Missing)


@pytest.mark.parametrize(
    "tunnel",
    [None, 3, {}, {"config": 1}, {"config": {"addr": None}, "public_url": ONE}, {"config": {"addr": "8000"}}],
)
def test_any_type_may_be_in_any_place(tunnel):
    missing = choose(orjson.dumps({"tunnels": [tunnel]}), port=8000)
    assert isinstance(missing, Missing)
    assert missing.trouble is Trouble.NO_TUNNEL
