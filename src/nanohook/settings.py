"""
Settings: read once, frozen, passed down.

Names are those of the environment or a ``.env`` file; README "Settings" tells what each does. Problems are
reported all together and by name; a value never appears in a message.
"""

import ipaddress
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import limits
import pydantic_settings
from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from nanohook import errors
from nanohook.rules import credit, signing, smtp, wishes

MIN_KEY_CHARS = 16
AUTO = "auto"
"""As the public URL: whatever ngrok's tunnel is called at the moment."""
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LATER = {
    "database_url": "another database is not supported yet: leave it unset, SQLite lives in the data dir",
    "storage_url": "another storage is not supported yet: leave it unset, media lives in the data dir",
    "redis_url": "Redis is not supported yet: leave it unset, one process needs none",
}


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _http_url(value: str) -> str:
    """Take *value* without its last slash; plain http only where it cannot leave this machine."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an http(s) address without query")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("plain http is for loopback addresses only, use https")
    return value.rstrip("/")


def _public(value: str) -> str:
    return value if value == AUTO else _http_url(value)


def _rate(value: str) -> str:
    try:
        rates = limits.parse_many(value)
    except ValueError:
        rates = []
    if len(rates) != 1 or rates[0].amount < 1:
        raise ValueError("must be one rate of 1 or more, such as 20/10 seconds")
    return value


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise ValueError("every host must be a name or an address, perhaps with a port, and nothing else")
    return value.lower()


def _off(value: object) -> object:
    return None if value == "off" else value


def _a_path_each(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) != len(wishes.MODELS):
        raise ValueError(f"needs {len(wishes.MODELS)} paths, one for each model")
    return value


def _long_enough(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if any(len(key.get_secret_value()) < MIN_KEY_CHARS for key in value):
        raise ValueError(f"every key needs at least {MIN_KEY_CHARS} characters")
    return value


def _whsec(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for secret in value:
        signing.parse_secret(secret.get_secret_value())
    return value


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or value != f"{parts.scheme}://{parts.netloc}" or "@" in value:
        raise ValueError("every origin must be like https://app.example.org, without a path")
    return value.lower()


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("every proxy must be an address or a network such as 10.0.0.0/8") from None
    return value


def _smtp(value: SecretStr) -> SecretStr:
    smtp.parse(value.get_secret_value())
    return value


def _prices(value: object) -> object:
    return credit.parse(value) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
PublicUrl = Annotated[str, AfterValidator(_public)]
Rate = Annotated[str, AfterValidator(_rate)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[float, Field(gt=0, le=10_000_000, allow_inf_nan=False)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]


class LogSettings(pydantic_settings.BaseSettings):
    """How the log is: all that ``dev`` with its sandbox takes from its surroundings."""

    model_config = SettingsConfigDict(
        env_prefix="NANOHOOK_",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "text"] = "auto"


class Settings(LogSettings):
    """Everything the operator may choose, with the defaults of the contract."""

    nanobanana_api_key: SecretStr | None = Field(default=None, validation_alias="NANOBANANA_API_KEY")
    nanobanana_url: HttpUrl = "https://api.nanobananaapi.ai"
    nanobanana_paths: Annotated[Names, AfterValidator(_a_path_each)] = ("generate", "generate-pro", "generate-2")
    public_url: PublicUrl | None = None
    ngrok_api: HttpUrl = "http://127.0.0.1:4040"
    data_dir: pathlib.Path = pathlib.Path("var")
    database_url: str | None = None
    storage_url: str | None = None
    redis_url: SecretStr | None = None
    secret_keys: Annotated[Secrets, AfterValidator(_long_enough)] = ()
    webhook_secrets: Annotated[Secrets, AfterValidator(_whsec)] = ()
    result_hosts: Hosts = ("tempfile.aiquickdraw.com",)
    download_hosts: Hosts = ()
    max_upload_bytes: int = Field(default=20 * 1024 * 1024, ge=1024)
    max_pixels: int = Field(default=40_000_000, ge=1, le=60_000_000)
    submit_concurrency: int = Field(default=8, ge=1, le=100)
    finish_concurrency: int = Field(256, ge=1, le=1_000)
    open_tasks: int = Field(default=100, ge=1)
    upstream_rate: Rate = "20/10 seconds"
    reconcile_after_s: Annotated[Seconds | None, BeforeValidator(_off)] = 90.0
    reconcile_every_s: Annotated[Seconds, Field(ge=0.05)] = 5.0
    job_deadline_s: Seconds = 900.0
    registration: Literal["open", "closed"] = "closed"
    free_credits: int = Field(default=0, ge=0, lt=credit.MOST_CREDITS)
    prices: Annotated[credit.Prices, NoDecode, BeforeValidator(_prices)] = credit.Prices()
    smtp_url: Annotated[SecretStr, AfterValidator(_smtp)] | None = None
    mail_from: Annotated[str, AfterValidator(smtp.check_address)] | None = None
    rate_status: Rate = "60/minute"
    rate_write: Rate = "30/10 seconds"
    rate_upload: Rate = "120/minute"
    upload_quota_bytes: int = Field(default=1024 * 1024 * 1024, ge=1)
    trusted_proxies: Networks = ()
    allowed_origins: Origins = ()
    streams_per_user: int = Field(default=50, ge=1)
    keep_alive_s: float = Field(default=95.0, ge=1, le=3_600, allow_inf_nan=False)
    metrics_token: SecretStr | None = None
    disk_reserve_bytes: int = Field(default=500_000_000, ge=0)

    @field_validator("database_url", "storage_url", "redis_url")
    @classmethod
    def _later(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            raise ValueError(_LATER[info.field_name or ""])
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        problems = []
        if self.reconcile_after_s is None and self.public_url is None:
            problems.append("NANOHOOK_RECONCILE_AFTER_S: off needs NANOHOOK_PUBLIC_URL")
        if self.smtp_url is not None and (self.mail_from is None or self.public_url is None):
            # A link is built from the public address alone: a mail without it would lead nowhere.
            problems.append("NANOHOOK_SMTP_URL: needs NANOHOOK_MAIL_FROM and NANOHOOK_PUBLIC_URL")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def known_public_url(self) -> str | None:
        """The public URL as far as it stands in the settings: ``None`` too if ngrok has to be asked for it."""
        return None if self.public_url == AUTO else self.public_url

    @property
    def submit_paths(self) -> dict[str, str]:
        """Submit path below ``/api/v1/nanobanana/`` by model."""
        return dict(zip(wishes.MODELS, self.nanobanana_paths, strict=True))

    @property
    def believed_hosts(self) -> frozenset[str]:
        """Hosts whose results a signed callback is believed for."""
        return frozenset(self.result_hosts) | frozenset(self.download_hosts)


class _Fixed(Settings):
    """Settings from the given values alone: no environment, no file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def load(*, env_file: pathlib.Path | None = pathlib.Path(".env"), **given: Any) -> Settings:
    """
    Read the environment and *env_file*; *given* values win over both.

    Raises:
        ConfigError: With a line for every setting that cannot be used.
    """
    try:
        return Settings(_env_file=env_file, **given)  # type: ignore[call-arg]
    except ValidationError as exc:
        raise errors.ConfigError(_report(exc)) from None


def load_log(*, env_file: pathlib.Path | None = pathlib.Path(".env")) -> LogSettings:
    """
    Read how the log shall be, and nothing else.

    Raises:
        ConfigError: As ``load``.
    """
    try:
        return LogSettings(_env_file=env_file)  # type: ignore[call-arg]
    except ValidationError as exc:
        raise errors.ConfigError(_report(exc)) from None


def fixed(**values: Any) -> Settings:
    """
    Build settings that ignore the surroundings, for ``demo``, ``dev`` and tests.

    Raises:
        ConfigError: As ``load``.
    """
    try:
        return _Fixed(**values)
    except ValidationError as exc:
        raise errors.ConfigError(_report(exc)) from None


def unknown_names(env_file: pathlib.Path | None = pathlib.Path(".env")) -> list[str]:
    """List the ``NANOHOOK_*`` names that are set and that no setting has: a typing error, most likely."""
    names = _names_set(env_file)
    known = {f"NANOHOOK_{field}".upper() for field in Settings.model_fields}
    return sorted(name for name in names if name.startswith("NANOHOOK_") and name not in known)


def former_names(env_file: pathlib.Path | None = pathlib.Path(".env")) -> list[str]:
    """List the names that are set and that ``NANOHOOK_REDIS_URL`` has taken the place of."""
    return sorted(name for name in _names_set(env_file) if name.startswith("UPSTASH_REDIS_REST_"))


def _names_set(env_file: pathlib.Path | None) -> set[str]:
    return {*os.environ, *(dotenv_values(env_file) if env_file and env_file.is_file() else ())}


def _name(location: Sequence[int | str]) -> str:
    field = str(location[0])
    return field if field.isupper() else f"NANOHOOK_{field}".upper()


def _report(exc: ValidationError) -> str:
    lines = []
    for error in exc.errors(include_url=False, include_input=False, include_context=False):
        text = re.sub(r"^Value error, ", "", error["msg"])
        lines.append(f"{_name(error['loc'])}: {text}" if error["loc"] else text)
    return "Settings that cannot be used:\n" + "\n".join(f"  {line}" for line in "\n".join(lines).splitlines())
