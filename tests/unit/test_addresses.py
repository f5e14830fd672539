import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanohook import errors
from nanohook.rules import addresses, callbacks

RESULTS = frozenset({"tempfile.aiquickdraw.com"})


@pytest.mark.parametrize(
    "ip",
    [
        "1.1.1.1",
        "93.184.215.14",
        "100.63.255.255",
        "100.128.0.0",
        "172.32.0.1",
        "223.255.255.255",
        "2606:4700::1",
    ],
)
def test_ordinary_addresses_are_public(ip):
    assert addresses.is_public(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.9",
        "192.0.0.10",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
    ],
)
def test_special_addresses_and_other_text_are_not_public(ip):
    assert not addresses.is_public(ip)


@given(st.ip_addresses())
def test_nothing_that_python_calls_private_is_public(ip):
    if not ip.is_global or ip.is_multicast:
        assert not addresses.is_public(str(ip))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Example.COM/x", "example.com"),
        ("https://example.com:443/x", "example.com"),
        ("https://example.com:8443", "example.com:8443"),
        ("http://example.com:80?x", "example.com"),
        ("http://example.com:443/", "example.com:443"),
        ("HTTPS://example.com./", "example.com"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://faß.example/", "xn--fa-hia.example"),
        ("https://ｅｘａｍｐｌｅ.com/", "example.com"),
        ("https://under_score.example/", "under_score.example"),
        ("https://127.0.0.1/", "127.0.0.1"),
        ("https://[::1]:8000/", "[::1]:8000"),
        ("https://[0:0:0:0:0:0:0:1]/", "[::1]"),
        ("https://[::ffff:127.0.0.1]/", "[::ffff:7f00:1]"),
        ("https://example.com#@evil.example/", "example.com"),
        ("https://example.com/@evil.example/", "example.com"),
    ],
)
def test_the_host_of_a_url(url, host):
    assert addresses.host_of(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/x",
        "/x",
        "ftp://example.com/",
        "file:///etc/passwd",
        "data:image/png;base64,AA==",
        "https:example.com",
        "https:///x",
        "https://",
        "https://user@example.com/",
        "https://user:word@example.com/",
        "https://good.example@evil.example/",
        "https://good.example\\@evil.example/",
        "https://good.example\\.evil.example/",
        "https://example.com/\\x",
        "https:// example.com/",
        "https ://example.com/",
        "\thttps://example.com/",
        "https://example.com/\r",
        "https://example.com/a\r\nHost: evil.example",
        "https://example.com/\x85",
        "https://us er@example.com/",
        "https://example.com :80/",
        "https://exam\tple.com/",
        "https://example.com/\n",
        "https://example.com/\x00",
        "https://example.com/\x7f",
        "https://example.com/\ud800",
        "https://exa\u00a0mple.com/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:+80/",
        "https://example.com:８０/",
        "https://example.com:/",
        "https://exa%6dple.com/",
        "https://exam ple.com/",
        "https://.example.com/",
        "https://example..com/",
        "https://-x.example/",
        "https://x-.example/",
        f"https://{'x' * 64}.example/",
        f"https://{'x.' * 127}example/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0/",
        "https://127.1/",
        "https://127.0.0.1./",
        "https://0177.0.0.1/",
        "https://127.0.0.256/",
        "https://evil.example.0x1/",
        "https://１２７.1/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://[v1.x]/",
        "https://[::1]x/",
        "https://\u2025/",
    ],
)
def test_a_url_with_anything_odd_is_refused(url):
    with pytest.raises(errors.Invalid) as caught:
        addresses.host_of(url)
    assert caught.value.code == "invalid_url"
    assert not addresses.is_listed(url, frozenset({"example.com", "good.example", "127.0.0.1", "[::1]"}))


def test_fullwidth_digits_are_the_address_they_look_like():
    assert addresses.parse("https://１２７.０.０.１/").host == "127.0.0.1"


def test_a_url_may_have_8192_characters():
    url = "https://example.com/" + "x" * (addresses.MOST_URL_CHARS - 20)
    assert len(url) == 8_192
    assert addresses.host_of(url) == "example.com"
    with pytest.raises(errors.Invalid):
        addresses.host_of(url + "x")


def test_an_escaped_target_may_have_60_000_characters():
    banana = "https://example.com/" + "🍌" * 4_999
    assert len(addresses.parse(banana + "x" * 11).target) == 60_000
    with pytest.raises(errors.Invalid):
        addresses.parse(banana + "x" * 12)


def test_a_refusal_does_not_repeat_the_url():
    with pytest.raises(errors.Invalid) as caught:
        addresses.parse("https://user:secret@example.com/?token=secret")
    assert "secret" not in str(caught.value)


def test_a_target_keeps_its_escapes_and_loses_its_fragment():
    assert addresses.parse("https://example.com").target == "/"
    assert addresses.parse("https://example.com?a=1#b").target == "/?a=1"
    assert (
        addresses.parse("https://example.com/a%2Fb%20c/é|?x=%3D&y=1+2#z").target
        == "/a%2Fb%20c/%C3%A9|?x=%3D&y=1+2"
    )


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com/my picture.jpg", "/my%20picture.jpg"),
        ("https://example.com/a|b^`{}", "/a|b%5E%60%7B%7D"),
        ("https://example.com/x?a=b|^`{}[]'\"<>#z", "/x?a=b|^`{}[]'%22%3C%3E"),
        ("https://example.com/x?", "/x?"),
        ("https://example.com?", "/?"),
        ("https://example.com/my picture.jpg?name=a b", "/my%20picture.jpg?name=a%20b"),
        ("https://example.com/été.png?q=né", "/%C3%A9t%C3%A9.png?q=n%C3%A9"),
        ("https://example.com/e\u0301.png", "/e%CC%81.png"),
        ("https://example.com/图片/1.png", "/%E5%9B%BE%E7%89%87/1.png"),
        ("https://example.com/🍌.png", "/%F0%9F%8D%8C.png"),
        ("https://example.com/a\u00a0b", "/a%C2%A0b"),
        ("https://example.com/a\u200fb", "/a%E2%80%8Fb"),
        ("https://example.com/a%20b c%C3%A9é", "/a%20b%20c%C3%A9%C3%A9"),
        ("https://example.com/100% real.png", "/100%%20real.png"),
        ("https://example.com/a+b c", "/a+b%20c"),
        ("https://bücher.example/ü x", "/%C3%BC%20x"),
        ("https://example.com?a b", "/?a%20b"),
        ("https://example.com/x#a b é", "/x"),
        ("  https://example.com/x ", "/x"),
        ("https://example.com/x%20 ", "/x%20"),
    ],
)
def test_blanks_and_letters_in_a_target_are_escaped_as_browsers_do(url, target):
    assert addresses.parse(url).target == target


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (b"/y z.png", "https://example.com:8443/y%20z.png"),
        (b"y.png", "https://example.com:8443/r/y.png"),
        (b"?a=1", "https://example.com:8443/r/x.jpg?a=1"),
        (b" /y ", "https://example.com:8443/y"),
        ("/é.png".encode(), "https://example.com:8443/%C3%A9.png"),
        ("/é.png".encode("latin-1"), "https://example.com:8443/%E9.png"),
        ("/图.png".encode("gbk"), "https://example.com:8443/%CD%BC.png"),
        (b"/%E9%20.png", "https://example.com:8443/%E9%20.png"),
        ("https://bücher.example/ü".encode(), "https://xn--bcher-kva.example/%C3%BC"),
        (b"//other.example/y", "https://other.example/y"),
        (b"HTTP://other.example:8080/y", "http://other.example:8080/y"),
    ],
)
def test_a_redirect_is_read_as_the_bytes_that_came(location, url):
    place = addresses.parse("https://example.com:8443/r/x.jpg?sig=secret")
    assert addresses.redirected(place, location) == addresses.parse(url)


@pytest.mark.parametrize(
    "location",
    [
        b"/x\t.jpg",
        b"/x\x00",
        b"/\\evil.example/",
        b"\\\\evil.example/",
        b"https://user@evil.example/",
        "https://bücher.example/".encode("latin-1"),
        b"https://2130706433/",
        b"file:///etc/passwd",
        b"javascript:alert(1)",
        b"/" + b"x" * addresses.MOST_URL_CHARS,
    ],
)
def test_a_redirect_to_no_clean_address_is_refused(location):
    with pytest.raises(errors.Invalid) as caught:
        addresses.redirected(addresses.parse("https://example.com/"), location)
    assert caught.value.code == "invalid_url"


@pytest.mark.parametrize("location", [b"", b"  ", b"//[", b"https://[::1"])
def test_a_redirect_to_no_address_at_all_says_so(location):
    with pytest.raises(errors.Invalid) as caught:
        addresses.redirected(addresses.parse("https://example.com/"), location)
    assert caught.value.code == "no_url"


def test_every_address_that_a_callback_keeps_is_read():
    """What callbacks drop is what is refused here, so nothing is kept that cannot be asked for."""
    for code in (*range(0x20, 0x3000), 0xFEFF, 0x1F34C, 0x10FFFF):
        url = f"https://example.com/a{chr(code)}b"
        if callbacks._UNPRINTABLE.search(url) is None and chr(code) != "\\":
            assert addresses.parse(url).target.isascii()


def test_what_is_shown_has_no_query():
    assert (
        addresses.parse("https://example.com:8443/r/x.jpg?sig=secret").shown == "https://example.com:8443/r/x.jpg"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://tempfile.aiquickdraw.com/r/5f1c_1772359200.jpg",
        "https://TEMPFILE.aiquickdraw.com:443/x",
        "https://tempfile.aiquickdraw.com:8443/x",
        "https://tempfile.aiquickdraw.com./x",
    ],
)
def test_an_entry_without_a_port_lists_every_port(url):
    assert addresses.is_listed(url, RESULTS)


@pytest.mark.parametrize(
    "url",
    [
        "https://tempfile.aiquickdraw.com@evil.example/",
        "https://tempfile.aiquickdraw.com:443@evil.example/",
        "https://tempfile.aiquickdraw.com.evil.example/",
        "https://x.tempfile.aiquickdraw.com/",
        "https://aiquickdraw.com/",
        "https://evil.example/tempfile.aiquickdraw.com",
        "https://evil.example/#tempfile.aiquickdraw.com",
        "https://evil.example?tempfile.aiquickdraw.com",
        "https://evil.example\\.tempfile.aiquickdraw.com/",
        "https://evil.example/\\@tempfile.aiquickdraw.com/",
        "https://tempfile.aiquickdraw.com%2eevil.example/",
        "https://tempfile。aiquickdraw.com.evil.example/",
        "https://tempfile\u00adaiquickdraw.com/",
        "",
    ],
)
def test_another_host_is_not_listed_however_it_is_dressed(url):
    assert not addresses.is_listed(url, RESULTS)


def test_an_entry_with_a_port_lists_that_port_alone():
    hosts = frozenset({"Media.Example:8000", "secure.example:443", "[::1]:9000"})
    assert addresses.is_listed("http://media.example:8000/x", hosts)
    assert not addresses.is_listed("http://media.example/x", hosts)
    assert not addresses.is_listed("http://media.example:8001/x", hosts)
    assert addresses.is_listed("https://secure.example/x", hosts)
    assert not addresses.is_listed("http://secure.example/x", hosts)
    assert addresses.is_listed("http://[::1]:9000/", hosts)
    assert not addresses.is_listed("http://[::1]:9001/", hosts)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    for url in (text, "https://" + text, f"https://{text}.example/{text}"):
        try:
            place = addresses.parse(url)
        except errors.Invalid:
            continue
        assert place.host.isascii()
        assert place.target.isascii()
        again = addresses.parse(f"{place.scheme}://{place.host_text}:{place.port}{place.target}")
        assert again == place


@pytest.mark.parametrize(
    ("host", "is_fixed"),
    [
        ("127.0.0.1", True),
        ("93.184.215.14", True),
        ("::1", True),
        ("localhost", True),
        ("localhost.", True),
        ("cdn.localhost", True),
        ("cdn.example", False),
        ("notlocalhost", False),
        ("localhost.example", False),
    ],
)
def test_an_ip_address_and_the_names_of_this_machine_need_no_name_server(host, is_fixed):
    assert addresses.is_fixed_host(host) is is_fixed


@pytest.mark.parametrize(
    ("ips", "expected"),
    [
        ([], []),
        (["1.1.1.1"], ["1.1.1.1"]),
        (["::1", "::2", "::3", "1.1.1.1"], ["::1", "1.1.1.1", "::2", "::3"]),
        (["1.1.1.1", "1.1.1.2", "::1", "1.1.1.1"], ["1.1.1.1", "::1", "1.1.1.2"]),
        (["::1", "1.1.1.1", "1.1.1.2", "1.1.1.3"], ["::1", "1.1.1.1", "1.1.1.2", "1.1.1.3"]),
    ],
)
def test_families_take_turns(ips, expected):
    assert addresses.interleaved(ips) == expected
