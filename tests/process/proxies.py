"""Reverse proxies in front of a service: README's own blocks, with other ports and another certificate."""

import contextlib
import dataclasses
import os
import pathlib
import pwd
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from nanohook import settings
from nanohook.cli import people
from tests import live, needs
from tests.process import child

README = (child.ROOT / "README.md").read_text()
EMAIL = "ada@example.org"
PASSWORD = "correct horse battery staple"
START_S = 20.0


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a proxy is given to work with."""

    folder: pathlib.Path
    port: int
    """Its own."""
    upstream_port: int

    @property
    def certificate(self) -> pathlib.Path:
        return self.folder / "certificate.pem"

    @property
    def key(self) -> pathlib.Path:
        return self.folder / "key.pem"

    @property
    def both(self) -> pathlib.Path:
        return self.folder / "both.pem"

    def make_certificate(self) -> None:
        """Sign one for this machine by itself."""
        curve = "ec_paramgen_curve:prime256v1"
        command = [needs.program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", curve]
        command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command += ["-keyout", str(self.key), "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)
        self.both.write_text(self.certificate.read_text() + self.key.read_text())


def block(language: str) -> str:
    """Cut the only block of *language* out of the README."""
    [found] = [each.split("\n```")[0] for each in README.split(f"```{language}\n")[1:]]
    return found


def adapted(text: str, **changes: str) -> str:
    """Put a test's ports and files in the place of README's; each of them must be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(at: Surroundings, *, http: str = "1.1") -> tuple[str, ...]:
    """Write the configuration, and spell the command."""
    folder = "/etc/letsencrypt/live/hook.example.org"
    text = adapted(
        block("nginx"),
        **{
            "127.0.0.1:8000": f"127.0.0.1:{at.upstream_port}",
            "listen 443 ": f"listen 127.0.0.1:{at.port} ",
            f"{folder}/fullchain.pem": str(at.certificate),
            f"{folder}/privkey.pem": str(at.key),
            "server_name hook.example.org": "server_name localhost",
            "proxy_http_version 1.1": f"proxy_http_version {http}",
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {at.folder}/{kind};" for kind in kinds)
    # Started by root it would work as somebody who may not enter the folder.
    user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
    conf = at.folder / "nginx.conf"
    conf.write_text(
        f"daemon off; {user} pid {at.folder}/nginx.pid; error_log stderr warn; events {{}}\n"
        f"http {{ access_log off; {places}\n{text}\n}}\n"
    )
    return (needs.program("nginx"), "-p", str(at.folder), "-c", str(conf), "-e", "stderr")


def nginx_over_http_1_0(at: Surroundings) -> tuple[str, ...]:
    """Speak to the service as nginx does where nobody tells it otherwise."""
    return nginx(at, http="1.0")


def caddy(at: Surroundings) -> tuple[str, ...]:
    """Write the configuration, and spell the command."""
    text = adapted(
        block("caddyfile"),
        **{
            "hook.example.org {": f"https://localhost:{at.port} {{\n    tls {at.certificate} {at.key}",
            "127.0.0.1:8000": f"127.0.0.1:{at.upstream_port}",
        },
    )
    conf = at.folder / "Caddyfile"
    conf.write_text(f"{{\n    admin off\n    auto_https disable_redirects\n}}\n{text}\n")
    return (needs.program("caddy"), "run", "--config", str(conf), "--adapter", "caddyfile")


def haproxy(at: Surroundings) -> tuple[str, ...]:
    """Write the configuration, and spell the command."""
    text = adapted(
        block("haproxy"),
        **{
            "127.0.0.1:8000": f"127.0.0.1:{at.upstream_port}",
            "bind :443": f"bind 127.0.0.1:{at.port}",
            "/etc/haproxy/hook.example.org.pem": str(at.both),
        },
    )
    conf = at.folder / "haproxy.cfg"
    conf.write_text(f"global\n    maxconn 200\n\n{text}\n")
    return (needs.program("haproxy"), "-db", "-f", str(conf))


PROXIES: dict[str, Callable[[Surroundings], tuple[str, ...]]] = {
    "nginx": nginx,
    "nginx over HTTP/1.0": nginx_over_http_1_0,
    "caddy": caddy,
    "haproxy": haproxy,
}


class Front:
    """A proxy that runs, and the service behind it, which can be stopped and started."""

    def __init__(self, at: Surroundings, data_dir: pathlib.Path, upstream: str, proxy: child.Child) -> None:
        self.at = at
        self.data_dir = data_dir
        self.proxy = proxy
        self.base = f"https://localhost:{at.port}"
        self.tls = ssl.create_default_context(cafile=str(at.certificate))
        self._upstream = upstream
        self._running = contextlib.AsyncExitStack()
        self._service: child.Child | None = None

    async def start(self) -> None:
        """Start the service."""
        how: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",), "public_url": self.base, "stream_life_s": 600.0}
        self._service = await self._running.enter_async_context(
            child.service(self.data_dir, port=self.at.upstream_port, upstream=self._upstream, **how)
        )

    async def stop(self) -> None:
        """Tell the service to go, and wait for its end."""
        assert self._service is not None
        assert await self._service.stopped() == 0
        await self.close()

    @property
    def is_up(self) -> bool:
        """Whether the service runs."""
        return self._service is not None

    async def close(self) -> None:
        """End the service, if it runs."""
        self._service = None
        await self._running.aclose()

    def client(self, **headers: str) -> httpx.AsyncClient:
        """Make a client that comes through the proxy; close it."""
        return httpx.AsyncClient(base_url=self.base, verify=self.tls, headers=headers, trust_env=False, timeout=30)

    async def token(self, job_id: str) -> str:
        """Sign a callback for a job."""
        chosen = settings.fixed(data_dir=self.data_dir)
        return await people.callback_token(chosen, job_id=job_id, index=0, expires_at_s=4_000_000_000)


@contextlib.asynccontextmanager
async def running(name: str, folder: pathlib.Path, upstream: str) -> AsyncIterator[tuple[Front, str]]:
    """Run the proxy *name* and a service behind it; yields them, and the API key of the account there is."""
    at = Surroundings(folder, port=live.closed_port(), upstream_port=live.closed_port())
    command = PROXIES[name](at)
    at.make_certificate()
    account = people.NewAccount(email=EMAIL, password=PASSWORD, is_verified=True, credits=1_000)
    key = await people.create(settings.fixed(data_dir=folder / "data"), account)
    env = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    with child.started(command, folder / "proxy", env=env) as proxy:
        front = Front(at, folder / "data", upstream, proxy)
        try:
            await front.start()
            try:
                await live.until(lambda: child.is_listening(at.port), timeout_s=START_S)
            except TimeoutError:
                raise AssertionError(f"{name} does not listen\n{proxy.said[-3000:]}") from None
            yield front, key
        finally:
            await front.close()
