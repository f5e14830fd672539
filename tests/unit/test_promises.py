"""Numbers that people, proxies and NanoBanana rely on: each is changed here and in the README, or not at all."""

from nanohook import database, http1, hub, page_check, server, settings


def test_what_strangers_are_given():
    limits = http1.Limits()
    assert (limits.head_bytes, limits.headers, limits.head_s, limits.first_byte_s) == (64 * 1024, 100, 10, 20)
    assert limits.keep_alive_s == settings.fixed().keep_alive_s == 95


def test_what_one_person_is_given():
    assert settings.fixed().upload_quota_bytes == 1024**3
    assert settings.fixed().streams_per_user == 50
    assert database.LONG_READ_S <= 5


def test_how_soon_things_are_felt():
    # Within a second: the look, and the commit before it.
    assert hub.CREDENTIALS_EVERY_S <= 0.5
    assert page_check.START_S == 0.2
    assert server.GRACE_S < server.EXIT_S < 8
