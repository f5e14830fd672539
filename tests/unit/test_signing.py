import base64
import datetime as dt
import hashlib
import hmac
import time

import pytest
import standardwebhooks
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohook import errors
from nanohook.rules import signing

NOW_S = 1_793_610_847.0
LATER_S = 1_794_000_000
JOB = "0193a4c1-5e22-7b60-8f10-2b6f3c9d7e11"
KEY = "the first key of the house"
TOKENS = signing.Tokens([KEY])
CALLBACK = TOKENS.sign_callback(job_id=JOB, attempt=2, index=3, expires_at_s=LATER_S)

URL_SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
VECTORS = [
    (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    (
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1649367553,
        b'{"email":"test@example.com","username":"test_user"}',
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
]
SECRET = b"0123456789abcdef01234567"
OTHER_SECRET = b"another secret of 24 byt"
BODY = b'{"status":"completed"}'

# Any code point, lone surrogates too; hypothesis's own table of characters takes a second to build.
LETTERS = st.integers(0, 0x10FFFF).map(chr)
ANY_TEXT = st.lists(LETTERS, max_size=40).map("".join)
TEXT = ANY_TEXT.map(lambda text: text.encode(errors="replace").decode())

modest = settings(max_examples=30, deadline=None, database=None)


def refused_callback(token, *, tokens=TOKENS, now_s=NOW_S):
    with pytest.raises(errors.SignatureInvalid):
        tokens.read_callback(token, now_s=now_s)
    return True


def flipped(text, at):
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def test_a_callback_token_comes_back_as_it_was_signed():
    token = TOKENS.read_callback(CALLBACK, now_s=NOW_S)
    assert token == signing.CallbackToken(job_id=JOB, attempt=2, index=3, expires_at_s=LATER_S)


def test_a_callback_token_is_short_and_keeps_the_job_readable():
    assert CALLBACK.startswith(f"{JOB}.2.3.{LATER_S}.")
    assert len(CALLBACK) < 100


@modest
@given(TEXT, st.integers(0, 10**18 - 1))
def test_any_job_id_survives_and_stays_safe_in_a_path(job_id, number):
    token = TOKENS.sign_callback(job_id=job_id, attempt=number, index=0, expires_at_s=LATER_S)
    assert set(token) <= URL_SAFE
    assert TOKENS.read_callback(token, now_s=NOW_S).job_id == job_id


def test_a_token_ends_at_its_expiry():
    assert TOKENS.read_callback(CALLBACK, now_s=LATER_S - 0.001).job_id == JOB
    assert refused_callback(CALLBACK, now_s=LATER_S)
    assert refused_callback(CALLBACK, now_s=float("nan"))


def test_after_a_rotation_old_tokens_still_count_and_new_ones_use_the_new_key():
    rotated = signing.Tokens(["a newer key", KEY])
    assert rotated.read_callback(CALLBACK, now_s=NOW_S).job_id == JOB
    fresh = rotated.sign_callback(job_id=JOB, attempt=1, index=0, expires_at_s=LATER_S)
    assert signing.Tokens(["a newer key"]).read_callback(fresh, now_s=NOW_S).attempt == 1
    assert refused_callback(fresh)


def test_a_stranger_key_signs_nothing_here():
    stranger = signing.Tokens(["somebody else's key"])
    assert refused_callback(CALLBACK, tokens=stranger)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "....",
        "x" * 1025,
        CALLBACK + "=",
        CALLBACK + "\n",
        " " + CALLBACK,
        CALLBACK.upper(),
        CALLBACK.replace(".", "/"),
        CALLBACK.replace("2.3", "٢.3"),
        CALLBACK.replace(".2.3.", ".-2.3."),
        CALLBACK.replace(str(LATER_S), "9" * 5000),
        CALLBACK.rpartition(".")[0],
        CALLBACK.rpartition(".")[0] + ".",
        CALLBACK + "\ud800",
        "\x00" + CALLBACK[1:],
        "é" + CALLBACK[1:],
    ],
)
def test_a_malformed_token_is_refused_and_nothing_else_happens(token):
    assert refused_callback(token)


def test_no_second_spelling_of_a_signature_is_accepted():
    # The last of 43 characters carries four bits: three others decode to the same bytes.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [CALLBACK[:-1] + letter for letter in alphabet if letter != CALLBACK[-1]]
    assert all(refused_callback(token) for token in others)


@modest
@given(st.integers(0, len(CALLBACK) - 1), LETTERS)
def test_a_token_with_one_character_changed_is_refused(at, letter):
    mutated = CALLBACK[:at] + letter + CALLBACK[at + 1 :]
    assert mutated == CALLBACK or refused_callback(mutated)


@modest
@given(ANY_TEXT | st.text("abcXYZ019.~-_", max_size=120))
def test_an_arbitrary_text_is_refused(text):
    assert refused_callback(text)


def test_a_token_too_long_to_be_accepted_is_not_made():
    with pytest.raises(ValueError, match="too long"):
        TOKENS.sign_callback(job_id="j" * 1000, attempt=1, index=0, expires_at_s=LATER_S)


@pytest.mark.parametrize("number", [-1, 10**18])
def test_a_number_that_would_not_be_accepted_is_not_signed(number):
    with pytest.raises(ValueError, match="18 digits"):
        TOKENS.sign_callback(job_id=JOB, attempt=number, index=0, expires_at_s=LATER_S)


@pytest.mark.parametrize("keys", [[], [""], [KEY, ""]])
def test_no_key_or_an_empty_one_is_refused_at_the_start(keys):
    with pytest.raises(ValueError, match="at least one key"):
        signing.Tokens(keys)


def test_a_media_token_opens_its_file_and_no_other():
    token = TOKENS.sign_media(key="2026/boat one.png", expires_at_s=LATER_S)
    assert "boat" not in token
    assert set(token) <= URL_SAFE
    TOKENS.read_media(token, key="2026/boat one.png", now_s=NOW_S)
    for key in ("2026/boat two.png", "", "\ud800"):
        with pytest.raises(errors.SignatureInvalid):
            TOKENS.read_media(token, key=key, now_s=NOW_S)


def test_a_media_token_cannot_be_given_more_time():
    token = TOKENS.sign_media(key="boat", expires_at_s=LATER_S)
    for wrong, now_s in ((token, LATER_S), (token.replace(str(LATER_S), str(LATER_S + 1)), NOW_S)):
        with pytest.raises(errors.SignatureInvalid):
            TOKENS.read_media(wrong, key="boat", now_s=now_s)


def test_a_media_token_is_the_same_all_day_and_good_for_one_to_two_days():
    midnight_s = int(dt.datetime(2026, 11, 2, tzinfo=dt.UTC).timestamp())
    last_s = midnight_s + 86_399.9
    assert signing.media_expiry(midnight_s) == signing.media_expiry(last_s) == midnight_s + 48 * 3600
    assert signing.media_expiry(last_s) - last_s > 24 * 3600


@modest
@given(TEXT)
def test_a_purpose_token_says_its_subject(subject):
    token = TOKENS.sign_purpose("stream", subject, LATER_S)
    assert set(token) <= URL_SAFE
    assert TOKENS.read_purpose("stream", token, NOW_S) == subject


def test_a_token_is_good_for_its_own_purpose_alone():
    session = TOKENS.sign_purpose("session", JOB, LATER_S)
    media = TOKENS.sign_media(key=JOB, expires_at_s=LATER_S)
    for purpose in ("stream", "media", "callback"):
        for token in (session, media, CALLBACK):
            with pytest.raises(errors.SignatureInvalid):
                TOKENS.read_purpose(purpose, token, NOW_S)
    named_alike = TOKENS.sign_purpose("media", "boat", LATER_S)
    for token in (session, named_alike, CALLBACK):
        with pytest.raises(errors.SignatureInvalid):
            TOKENS.read_media(token, key="boat", now_s=NOW_S)
    assert refused_callback(session)
    assert refused_callback(media)


def test_a_purpose_token_ends():
    token = TOKENS.sign_purpose("login", "someone@example.com", int(NOW_S) + 60)
    assert TOKENS.read_purpose("login", token, NOW_S) == "someone@example.com"
    with pytest.raises(errors.SignatureInvalid):
        TOKENS.read_purpose("login", token, NOW_S + 60)


def test_a_fingerprint_names_a_key_without_telling_it():
    assert signing.fingerprint(KEY) == hashlib.sha256(KEY.encode()).hexdigest()[:16]
    assert signing.fingerprint(KEY) != signing.fingerprint("a newer key")


def signed(*, at_s=int(NOW_S), webhook_id="msg_1", body=BODY, secret=SECRET):
    return signing.sign_headers(webhook_id=webhook_id, body=body, secret=secret, timestamp_s=at_s)


def verified(headers, *, body=BODY, secrets=(SECRET,), now_s=NOW_S):
    try:
        return signing.verify_headers(headers, body, secrets=secrets, now_s=now_s)
    except errors.SignatureInvalid:
        return None


@pytest.mark.parametrize(("secret", "webhook_id", "timestamp_s", "body", "signature"), VECTORS)
def test_the_published_vectors(secret, webhook_id, timestamp_s, body, signature):
    key = signing.parse_secret(secret)
    headers = signing.sign_headers(webhook_id=webhook_id, body=body, secret=key, timestamp_s=timestamp_s)
    assert headers["webhook-signature"] == signature
    assert signing.verify_headers(headers, body, secrets=[key], now_s=timestamp_s) == webhook_id


@pytest.mark.parametrize(
    ("off_s", "accepted"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)]
)
def test_a_time_may_be_five_minutes_off_both_ways(off_s, accepted):
    assert (verified(signed(at_s=int(NOW_S) + off_s)) is not None) is accepted


def test_one_good_signature_among_several_is_enough():
    headers = signed()
    good = headers["webhook-signature"]
    for several in (f"v1a,xyz {good}", f"{good} v2,abc", f"v1,AAAA {good}", f"junk {good}", f"v1, {good} v1"):
        assert verified(headers | {"webhook-signature": several}) == "msg_1"


def test_a_good_signature_under_another_version_is_none():
    headers = signed()
    for version in ("v1a", "v2", "V1", ""):
        other = headers["webhook-signature"].replace("v1,", f"{version},")
        assert verified(headers | {"webhook-signature": other}) is None


def test_several_secrets_allow_a_rotation():
    assert verified(signed(), secrets=(OTHER_SECRET, SECRET)) == "msg_1"
    assert verified(signed(), secrets=(OTHER_SECRET,)) is None


@pytest.mark.parametrize("secrets", [(), (b"",), (SECRET, b"")])
def test_without_secrets_the_door_stays_shut(secrets):
    assert verified(signed(), secrets=secrets) is None
    forged = hmac.digest(b"", b"msg_1.%d.%b" % (int(NOW_S), BODY), hashlib.sha256)
    headers = signed() | {"webhook-signature": "v1," + base64.b64encode(forged).decode()}
    assert verified(headers, secrets=secrets) is None


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize(
    "value", [None, "", " ", "é", "\ud800", "\x00", "x" * 9999, "1.5", "-1", "٣", "v1", "v1,", "1e9"]
)
def test_a_missing_or_malformed_header_is_refused(name, value):
    headers = signed()
    del headers[name]
    if value is not None:
        headers[name] = value
    assert verified(headers) is None


@pytest.mark.parametrize(
    "timestamp", ["nan", "inf", "+1793610847", "1793610847 ", "1793610847.0", "9" * 19, "9" * 9999]
)
def test_a_time_is_plain_digits(timestamp):
    # Signed as it stands, so that nothing but its form can be the reason.
    raw = hmac.digest(SECRET, f"msg_1.{timestamp}.".encode() + BODY, hashlib.sha256)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(raw).decode(),
    }
    assert verified(headers) is None


def test_part_of_a_body_cannot_be_moved_into_the_headers():
    at_s = int(NOW_S)
    headers = signed(body=b"%d.{}" % at_s)
    moved = headers | {"webhook-id": f"msg_1.{at_s}"}
    assert verified(headers, body=b"%d.{}" % at_s) == "msg_1"
    assert verified(moved, body=b"{}") is None


@pytest.mark.parametrize("webhook_id", ["", "a.b", "a b", "é", "x" * 256])
def test_an_id_no_receiver_takes_is_not_signed(webhook_id):
    with pytest.raises(ValueError, match="no receiver"):
        signed(webhook_id=webhook_id)


def test_the_longest_id_is_taken():
    assert verified(signed(webhook_id="x" * 255)) == "x" * 255


@modest
@given(
    st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), ANY_TEXT),
    st.binary(),
)
def test_arbitrary_headers_are_refused(headers, body):
    assert verified(headers, body=body) is None


def oracle_accepts(headers, body):
    try:
        standardwebhooks.Webhook(SECRET).verify(body, headers, json_parse=False)
    except (standardwebhooks.WebhookVerificationError, ValueError):
        return False
    return True


@modest
@given(
    TEXT,
    st.text("abcXYZ019_-", min_size=1, max_size=30),
)
def test_what_is_signed_here_the_reference_library_accepts(text, webhook_id):
    body = text.encode()
    headers = signed(webhook_id=webhook_id, body=body, at_s=int(time.time()))
    assert oracle_accepts(headers, body)
    assert verified(headers, body=body, now_s=time.time()) == webhook_id


@modest
@given(st.text("abcXYZ019_-", min_size=1, max_size=30), st.dates())
def test_what_the_reference_library_signs_is_accepted_here(webhook_id, date):
    body = f'{{"date":"{date}"}}'
    moment = dt.datetime.now(tz=dt.UTC)
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(SECRET).sign(webhook_id, moment, body),
    }
    assert verified(headers, body=body.encode(), now_s=moment.timestamp()) == webhook_id


@modest
@given(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "body"]), st.integers(0, 10**6))
def test_what_was_changed_on_the_way_both_refuse(part, place):
    headers, body = signed(at_s=int(time.time())), BODY.decode()
    if part == "body":
        body = flipped(body, place % len(body))
    elif part == "webhook-signature":
        # Not the last character before the padding: some of its bits mean nothing to the oracle.
        headers[part] = flipped(headers[part], 3 + place % 40)
    else:
        headers[part] = flipped(headers[part], place % len(headers[part]))
    assert not oracle_accepts(headers, body.encode())
    assert verified(headers, body=body.encode(), now_s=time.time()) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_MfKQ9r8GKYqrTwjU*D8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjU D8ILPZIo2LaLaSw",
        "whsec_éfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + base64.b64encode(b"fifteen bytes..").decode(),
    ],
)
def test_a_bad_secret_is_refused_without_being_quoted(text):
    with pytest.raises(ValueError, match="secret") as caught:
        signing.parse_secret(text)
    assert "fKQ9r8" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_of_sixteen_bytes_is_long_enough():
    assert signing.parse_secret("whsec_" + base64.b64encode(b"sixteen bytes...").decode()) == b"sixteen bytes..."
