"""Settings: read once, all problems together, by name and never by value."""

import os

import pytest

from nanohook import errors, settings

CANARY = "canary-31337"


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("NANOHOOK_", "NANOBANANA_")):
            monkeypatch.delenv(name)


def problem(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.ConfigError) as caught:
        settings.load(env_file=None)
    return str(caught.value)


def test_defaults_are_the_contracts():
    found = settings.fixed()
    assert found.nanobanana_url == "https://api.nanobananaapi.ai"
    assert found.submit_paths["nano-banana-2"] == "generate-2"
    assert (found.reconcile_after_s, found.reconcile_every_s, found.job_deadline_s) == (90, 5, 900)
    assert found.believed_hosts == {"tempfile.aiquickdraw.com"}
    assert found.keep_alive_s == 95
    assert (found.max_upload_bytes, found.max_pixels, found.streams_per_user) == (20 * 2**20, 40_000_000, 50)


def test_all_problems_come_together_by_name_and_without_values(monkeypatch):
    text = problem(
        monkeypatch,
        NANOHOOK_PUBLIC_URL=f"ftp://{CANARY}",
        NANOHOOK_MAX_PIXELS=CANARY,
        NANOHOOK_UPSTREAM_RATE=CANARY,
        NANOHOOK_WEBHOOK_SECRETS=CANARY,
        NANOHOOK_LOG_LEVEL=CANARY,
    )
    for name in ("PUBLIC_URL", "MAX_PIXELS", "UPSTREAM_RATE", "WEBHOOK_SECRETS", "LOG_LEVEL"):
        assert f"NANOHOOK_{name}: " in text
    assert CANARY not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NANOHOOK_DATABASE_URL", "postgresql://u:canary-31337@h/d"),
        ("NANOHOOK_STORAGE_URL", "s3://canary-31337/x"),
        ("NANOHOOK_REDIS_URL", "redis://:canary-31337@h"),
        ("NANOHOOK_SECRET_KEYS", "canary-31337"),
        ("NANOHOOK_NANOBANANA_PATHS", "canary-31337"),
        ("NANOHOOK_RECONCILE_AFTER_S", "off"),
        ("NANOHOOK_PUBLIC_URL", "http://canary-31337.example.org"),
        ("NANOHOOK_NANOBANANA_URL", "http://canary-31337.example.org"),
        ("NANOHOOK_REGISTRATION", "canary-31337"),
        ("NANOHOOK_FREE_CREDITS", "-31337"),
        ("NANOHOOK_FREE_CREDITS", "1000000000"),
        ("NANOHOOK_PRICES", "canary-31337"),
        ("NANOHOOK_PRICES", '{"canary-31337": 4}'),
        ("NANOHOOK_PRICES", '{"nano-banana": "canary-31337"}'),
        ("NANOHOOK_SMTP_URL", "http://canary-31337"),
        ("NANOHOOK_SMTP_URL", "smtps://canary-31337@mail.example.org"),
        ("NANOHOOK_MAIL_FROM", "canary-31337"),
        ("NANOHOOK_RATE_STATUS", "canary-31337"),
        ("NANOHOOK_RATE_WRITE", "canary-31337"),
        ("NANOHOOK_TRUSTED_PROXIES", "canary-31337"),
        ("NANOHOOK_ALLOWED_ORIGINS", "https://canary-31337/"),
        ("NANOHOOK_ALLOWED_ORIGINS", "*"),
        ("NANOHOOK_JOB_DEADLINE_S", "inf"),
        ("NANOHOOK_RECONCILE_EVERY_S", "nan"),
        ("NANOHOOK_KEEP_ALIVE_S", "0.5"),
        ("NANOHOOK_KEEP_ALIVE_S", "3601"),
        ("NANOHOOK_RATE_WRITE", "0/second"),
        ("NANOHOOK_UPSTREAM_RATE", "0/minute"),
        ("NANOHOOK_RATE_WRITE", "30/10 seconds; 100/minute"),
        ("NANOHOOK_RESULT_HOSTS", "https://canary-31337/y"),
        ("NANOHOOK_DOWNLOAD_HOSTS", "::::"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(monkeypatch, name, value):
    text = problem(monkeypatch, **{name: value})
    assert f"{name}: " in text
    assert CANARY not in text


def test_settings_that_do_not_go_together_are_named_together(monkeypatch):
    text = problem(monkeypatch, NANOHOOK_SMTP_URL="smtps://h", NANOHOOK_RECONCILE_AFTER_S="off")
    assert "NANOHOOK_SMTP_URL: " in text
    assert "NANOHOOK_RECONCILE_AFTER_S: " in text


def test_a_file_is_read_and_the_environment_wins_over_it(tmp_path, monkeypatch):
    file = tmp_path / ".env"
    file.write_text("NANOBANANA_API_KEY=from-file\nNANOHOOK_OPEN_TASKS=7\nNANOHOOK_PUBLIC_ULR=x\n")
    monkeypatch.setenv("NANOHOOK_OPEN_TASKS", "9")
    found = settings.load(env_file=file)
    assert found.open_tasks == 9
    assert found.nanobanana_api_key.get_secret_value() == "from-file"
    assert settings.unknown_names(file) == ["NANOHOOK_PUBLIC_ULR"]


def test_the_former_names_of_redis_are_found_so_that_one_warning_can_name_the_new_one(tmp_path, monkeypatch):
    file = tmp_path / ".env"
    file.write_text("UPSTASH_REDIS_REST_URL=x\n")
    monkeypatch.setenv("UPSTASH_REDIS_REST_TOKEN", "y")
    assert settings.former_names(file) == ["UPSTASH_REDIS_REST_TOKEN", "UPSTASH_REDIS_REST_URL"]
    assert settings.unknown_names(file) == []


def test_what_people_and_money_need_is_read(monkeypatch):
    for name, value in {
        "NANOHOOK_PRICES": '{"nano-banana": 5, "nano-banana-pro": {"4K": 30}}',
        "NANOHOOK_SMTP_URL": "smtps://user:pass@mail.example.org",
        "NANOHOOK_MAIL_FROM": "nanohook <a@example.org>",
        "NANOHOOK_PUBLIC_URL": "https://hook.example.org/",
        "NANOHOOK_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8",
        "NANOHOOK_ALLOWED_ORIGINS": "https://app.example.org,http://localhost:3000",
    }.items():
        monkeypatch.setenv(name, value)
    found = settings.load(env_file=None)
    assert (found.prices.of("nano-banana", None), found.prices.of("nano-banana-pro", "4K")) == (5, 30)
    assert (found.prices.of("nano-banana-pro", None), found.prices.of("nano-banana-2", "2K")) == (18, 12)
    assert found.trusted_proxies == ("127.0.0.1", "10.0.0.0/8")
    assert found.allowed_origins == ("https://app.example.org", "http://localhost:3000")
    assert (found.registration, found.free_credits, found.rate_status) == ("closed", 0, "60/minute")


def test_fixed_ignores_the_surroundings(monkeypatch):
    monkeypatch.setenv("NANOHOOK_OPEN_TASKS", "9")
    assert settings.fixed().open_tasks == 100


def test_secrets_do_not_show():
    found = settings.fixed(nanobanana_api_key=CANARY, secret_keys=(CANARY * 2,), metrics_token=CANARY)
    assert CANARY not in repr(found)


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        settings.fixed().open_tasks = 3


def test_auto_is_a_public_url_that_is_not_known_yet():
    found = settings.fixed(
        public_url="auto", reconcile_after_s="off", smtp_url="smtps://h", mail_from="a@example.org"
    )
    assert (found.public_url, found.known_public_url) == (settings.AUTO, None)
    assert found.ngrok_api == "http://127.0.0.1:4040"
    assert settings.fixed(public_url="https://hook.example.org/").known_public_url == "https://hook.example.org"
    with pytest.raises(errors.ConfigError, match="NANOHOOK_NGROK_API"):
        settings.fixed(ngrok_api="http://ngrok.example.org:4040")


def test_the_log_is_read_without_the_rest(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("NANOHOOK_LOG_FORMAT=text\nNANOHOOK_MAX_PIXELS=no\n")
    monkeypatch.setenv("NANOHOOK_LOG_LEVEL", "DEBUG")
    found = settings.load_log(env_file=tmp_path / ".env")
    assert (found.log_level, found.log_format) == ("DEBUG", "text")
    monkeypatch.setenv("NANOHOOK_LOG_LEVEL", CANARY)
    with pytest.raises(errors.ConfigError, match="NANOHOOK_LOG_LEVEL") as caught:
        settings.load_log(env_file=None)
    assert CANARY not in str(caught.value)
