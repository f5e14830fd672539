import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohook.rules import smtp
from nanohook.rules.smtp import Security

# Any code point, lone surrogates too; hypothesis's own table of characters takes a second to build.
LETTERS = st.integers(0, 0x10FFFF).map(chr) | st.sampled_from('@:/<>".\r\n %[]')
TEXT = st.lists(LETTERS, max_size=40).map("".join)

modest = settings(max_examples=60, deadline=None, database=None)


def relay(url):
    made = smtp.parse(url)
    return made.host, made.port, made.security, made.user, made.password


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example", ("mail.example", 587, Security.STARTTLS, None, None)),
        ("smtp://mail.example:25", ("mail.example", 25, Security.STARTTLS, None, None)),
        ("smtp://u:p@mail.example/", ("mail.example", 587, Security.STARTTLS, "u", "p")),
        ("SMTPS://u:p@Mail.Example", ("mail.example", 465, Security.TLS, "u", "p")),
        ("smtps://u:p@mail.example:2465", ("mail.example", 2465, Security.TLS, "u", "p")),
        ("smtp://localhost:1025", ("localhost", 1025, Security.STARTTLS_IF_OFFERED, None, None)),
        ("smtp://u:p@127.0.0.2:25", ("127.0.0.2", 25, Security.STARTTLS_IF_OFFERED, "u", "p")),
        ("smtp://[::1]:25", ("::1", 25, Security.STARTTLS_IF_OFFERED, None, None)),
        ("smtps://localhost", ("localhost", 465, Security.TLS, None, None)),
        ("smtp://10.0.0.5", ("10.0.0.5", 587, Security.STARTTLS, None, None)),
        ("smtp://localhost.example", ("localhost.example", 587, Security.STARTTLS, None, None)),
        ("smtp://127.0.0.1.example", ("127.0.0.1.example", 587, Security.STARTTLS, None, None)),
        ("smtp://[2a00::1]", ("2a00::1", 587, Security.STARTTLS, None, None)),
        ("smtp://bücher.example", ("xn--bcher-kva.example", 587, Security.STARTTLS, None, None)),
    ],
)
def test_a_relay_is_read(url, expected):
    assert relay(url) == expected


@pytest.mark.parametrize(
    ("written", "user", "password"),
    [
        ("me%40a.example:p%3Aa%2Fs%25s+word", "me@a.example", "p:a/s%s+word"),
        ("me@a.example:p@ss:word", "me@a.example", "p@ss:word"),
        ("u:50%", "u", "50%"),
        ("u:with a blank", "u", "with a blank"),
    ],
)
def test_credentials_are_decoded_up_to_the_last_at_sign(written, user, password):
    made = smtp.parse(f"smtps://{written}@mail.example")
    assert (made.user, made.password, made.host) == (user, password, "mail.example")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example",
        "http://hidden.example",
        "smtp://",
        "smtp://hidden@mail.example",
        "smtp://hidden:@mail.example",
        "smtp://:hidden@mail.example",
        "smtp://@hidden.example",
        "smtp://u:hidden@mail.example:0",
        "smtp://u:hidden@mail.example:65536",
        "smtp://u:hidden@mail.example:x",
        "smtp://u:hidden@mail.example/path",
        "smtp://u:hidden@mail.example?query",
        "smtp://u:hidden@mail.example#fragment",
        # Read leniently, this is the host "u" and the port 12.
        "smtp://u:12#hidden@mail.example",
        "smtp://u:hid/den@mail.example",
        "smtp://u:hidden%0a@mail.example",
        "smtp://u:hidden%00@mail.example",
        "smtp://u:hidden%ff@mail.example",
        "smtp://u:hiddené@mail.example",
        "smtp://u:hidden@mail.example\n",
        "smtp://u:hidden@127.1",
        "smtp://u:hidden@2130706433",
        "smtp://u:hidden@ma il.example",
        "smtp://u:hidden@[::1",
        "smtp://u:hidden@::1",
        "smtp://u:hidden@mail..example",
    ],
)
def test_what_is_no_relay_is_refused_without_being_quoted(url):
    with pytest.raises(ValueError, match=r"must|cannot") as caught:
        smtp.parse(url)
    assert "hid" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_relay_hides_its_password():
    made = smtp.parse("smtp://user:hidden@mail.example")
    assert "hidden" not in repr(made)
    assert "hidden" not in f"{made}"
    with pytest.raises(AttributeError):
        made.password = "other"


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("a@b.example", "", "a@b.example"),
        ("a@localhost", "", "a@localhost"),
        ("O'Neil.x+tag@B.Example", "", "O'Neil.x+tag@b.example"),
        ("<a@b.example>", "", "a@b.example"),
        ("Nanohook <a@b.example>", "Nanohook", "a@b.example"),
        ("Nanohook<a@b.example>", "Nanohook", "a@b.example"),
        ('"Doe, John" <a@b.example>', "Doe, John", "a@b.example"),
        ("Doe, John <a@b.example>", "Doe, John", "a@b.example"),
        ("L’équipe de Zoé <zoe@b.example>", "L’équipe de Zoé", "zoe@b.example"),
        ("a@bücher.example", "", "a@xn--bcher-kva.example"),
        ("a" * 64 + "@b.example", "", "a" * 64 + "@b.example"),
    ],
)
def test_an_address_is_read(text, name, address):
    assert smtp.check_address(text) == text
    found = smtp.mailbox(text)
    assert (found.name, found.address) == (name, address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "@",
        "a@",
        "@hidden.example",
        "a@b@c.example",
        "a@hidden.example, c@d.example",
        "a@hidden.example\r\nBcc: c@d.example",
        "a@hidden.example\n",
        "\ra@hidden.example",
        "Name\n <a@hidden.example>",
        "Name\u2028 <a@hidden.example>",
        "Name\x85 <a@hidden.example>",
        "Name\x00 <a@hidden.example>",
        "Name\ud800 <a@hidden.example>",
        "Name <a@hidden.example",
        "Name a@hidden.example>",
        "Name <a@hidden.example> more",
        '"Name <a@hidden.example>',
        "Name <>",
        "Name <<a@hidden.example>>",
        '"a b"@hidden.example',
        "a b@hidden.example",
        " a@hidden.example",
        "a@hidden.example ",
        ".a@hidden.example",
        "a..b@hidden.example",
        "é@hidden.example",
        "a@b..example",
        "a@-hidden.example",
        "a@b_c.example",
        "a@127.0.0.1",
        "a@[127.0.0.1]",
        "a@hidden.example.",
        "a" * 65 + "@hidden.example",
        "a@" + "b." * 130 + "example",
        "x" * 101 + " <a@hidden.example>",
        pytest.param("Name " + " " * 1_000_000 + "<a@hidden.example>", id="a million blanks"),
    ],
)
def test_what_is_no_address_is_refused_without_being_quoted(text):
    with pytest.raises(ValueError, match="address") as caught:
        smtp.check_address(text)
    assert "hidden" not in str(caught.value)


@modest
@given(TEXT)
def test_no_text_gets_more_out_of_the_readers_than_a_value_error(text):
    for read in (smtp.mailbox, smtp.parse, lambda part: smtp.parse(f"smtp://{part}@mail.example")):
        try:
            found = read(text)
        except ValueError:
            continue
        assert smtp.is_one_line(repr(found))
