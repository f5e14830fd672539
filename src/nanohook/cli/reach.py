"""What ``nanohook doctor`` looks at beyond this process: NanoBanana, the clock, and the way back to us."""

import asyncio
import email.utils
import http
import secrets
import time
from typing import Final, NamedTuple

import orjson

from nanohook import address, errors, ids
from nanohook.cli.findings import Finding, fail, ok, warn
from nanohook.flow.receive import TEST_JOB
from nanohook.remote import ngrok, probe
from nanohook.remote.nanobanana import Client
from nanohook.remote.ngrok import Missing, Trouble
from nanohook.remote.probe import Probe, Seen, Stranger
from nanohook.rules import signing
from nanohook.settings import AUTO, Settings
from nanohook.storage import Storage

PLAIN: Final = "nanohook-doctor"
BROWSER: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
)
MOST_SKEW_S: Final = 60
"""Signed addresses live by the clock; a minute is more than any clock that is set by the network is off."""
DEFAULT_LOCAL: Final = "http://127.0.0.1:8000"
_PROBE_FOR_S: Final = 600
_START: Final = "start nanohook serve (or nanohook dev) and ask again; --port tells where, if not on 8000"
_LEAD_HERE: Final = "make the tunnel, the proxy or the name in NANOHOOK_PUBLIC_URL lead to {local}"
# One pixel, so that the media route serves it as it serves a picture.
_PICTURE: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)
NGROK_CURES: Final = {
    Trouble.NOT_RUNNING: "run `ngrok start nanohook` (see ngrok.yml.example), or set NANOHOOK_NGROK_API",
    Trouble.NOT_NGROK: "set NANOHOOK_NGROK_API to the agent's web_addr, http://127.0.0.1:4040 unless changed",
    Trouble.NO_TUNNEL: "let upstream.url in ngrok.yml name the port that nanohook listens on, and start it again",
    Trouble.ONLY_HTTP: "give the endpoint in ngrok.yml an https address, or leave `url` and `schemes` out",
    Trouble.SEVERAL: "stop all tunnels but one, or set NANOHOOK_PUBLIC_URL to the address that is meant",
}
STRANGER_CURES: Final = {
    Stranger.WARNING_PAGE: (
        "NanoBanana would get that for a picture; any paid plan of ngrok is without it; or use another tunnel"
    ),
    Stranger.NGROK: "ngrok.com/docs/errors tells what that is; {here}",
    Stranger.OTHER_KEYS: (
        "{here}, and run this command with the settings of that service (NANOHOOK_DATA_DIR, SECRET_KEYS)"
    ),
    Stranger.OTHER_DATA: "{here}, and run this command with that service's NANOHOOK_DATA_DIR",
    Stranger.NANOHOOK: "see what the service's log says of it",
    Stranger.LOGIN: "let /api/webhooks/ and /media/ pass without a login: they are signed",
    Stranger.ANOTHER: "{here}",
}
"""What to do when it is not us who answer, by who it is."""


class Way(NamedTuple):
    """Where we are reached."""

    public_url: str
    local_url: str


def local_url_of(chosen: Settings, port: int | None) -> str:
    """Tell where the service should listen on this machine: *port*, else what it left in the data dir."""
    if port is not None:
        return f"http://127.0.0.1:{port}"
    return address.last_told(chosen.data_dir) or DEFAULT_LOCAL


async def public_url(chosen: Settings, local_url: str) -> str:
    """
    Tell the public address, and ask ngrok for it if need be.

    Raises:
        ConfigError: There is none.
    """
    if chosen.public_url is None:
        raise errors.ConfigError("NANOHOOK_PUBLIC_URL: it is not set, and a callback's address begins with it")
    found = await _public_url(chosen, local_url)
    if isinstance(found, Missing):
        cure = NGROK_CURES[found.trouble]
        raise errors.ConfigError(f"NANOHOOK_PUBLIC_URL: auto, but {found.detail}: {cure}")
    return found


async def _public_url(chosen: Settings, local_url: str) -> str | Missing:
    if chosen.public_url != AUTO:
        return chosen.public_url or ""
    async with ngrok.Agent(chosen.ngrok_api, port=address.port_of(local_url)) as agent:
        return await agent.look()


async def look_at_nanobanana(chosen: Settings) -> list[Finding]:
    """Ask NanoBanana for the credit, and what time it is there."""
    if chosen.nanobanana_api_key is None:
        cure = "set NANOBANANA_API_KEY, from nanobananaapi.ai/api-key"
        return [warn("NanoBanana", "without a key nothing is generated (409 no_api_key)", cure)]
    key = chosen.nanobanana_api_key.get_secret_value()
    try:
        async with Client(base_url=chosen.nanobanana_url, api_key=key, paths=chosen.submit_paths) as client:
            credit = await client.credit()
    except errors.ConfigError as exc:
        return [fail("NanoBanana", str(exc), "copy the key again from nanobananaapi.ai/api-key")]
    except errors.Transient as exc:
        return [_refused(exc, chosen.nanobanana_url), *await _look_at_clock(chosen)]
    if credit <= 0:
        found = fail("NanoBanana", f"the key is good, the credit is {credit}", "buy credit at nanobananaapi.ai")
    else:
        found = ok("NanoBanana", f"the key is good, the credit is {credit}")
    return [found, *await _look_at_clock(chosen)]


def _refused(exc: errors.Transient, url: str) -> Finding:
    if exc.code == "bad_key":
        return fail("NanoBanana", str(exc), "put the right key into NANOBANANA_API_KEY (nanobananaapi.ai/api-key)")
    if exc.code == "no_credit":
        return fail("NanoBanana", str(exc), "buy credit at nanobananaapi.ai")
    cure = f"see that this machine reaches {url} (NANOHOOK_NANOBANANA_URL), and ask again in a while"
    return fail("NanoBanana", str(exc), cure)


async def _look_at_clock(chosen: Settings) -> list[Finding]:
    """Compare our clock with the ``Date`` of NanoBanana's answer; nothing is said where there is none."""
    try:
        async with Probe() as prober:
            seen = await prober.get(f"{chosen.nanobanana_url}/api/v1/common/credit", user_agent=PLAIN)
        there = email.utils.parsedate_to_datetime(seen.headers.get("date", "")).timestamp()
    except (errors.Transient, ValueError):
        return []
    skew_s = round(time.time() - there)
    if abs(skew_s) > MOST_SKEW_S:
        how = f"{abs(skew_s)} s {'ahead of' if skew_s > 0 else 'behind'} NanoBanana's"
        text = f"it is {how}: signed addresses live by it"
        return [warn("clock", text, "let the network set it (timedatectl set-ntp true)")]
    return [ok("clock", "it agrees with NanoBanana's")]


async def look_at_public_url(chosen: Settings, local_url: str) -> tuple[Way | None, Finding]:
    """Tell what our public address is, and what it means that there is none."""
    if chosen.public_url is None:
        text = "none: text-to-image goes on by record-info, image-to-image is refused (409 no_public_url)"
        cure = "set NANOHOOK_PUBLIC_URL to your https address, or to auto with ngrok running"
        return None, warn("public URL", text, cure)
    found = await _public_url(chosen, local_url)
    if isinstance(found, Missing):
        return None, fail("public URL", f"auto, but {found.detail}", NGROK_CURES[found.trouble])
    way = Way(found, local_url)
    if not found.startswith("https:"):
        text = f"{found} is reached by this machine alone: good for the sandbox, not for NanoBanana"
        return way, warn("public URL", text, "set NANOHOOK_PUBLIC_URL to an https address, or to auto with ngrok")
    return way, ok("public URL", f"{found}{' (ngrok)' if chosen.public_url == AUTO else ''}")


async def look_at_service(local_url: str) -> tuple[bool, Finding]:
    """Tell whether a service answers on this machine."""
    try:
        async with Probe() as prober:
            seen = await prober.get(f"{local_url}/healthz", user_agent=PLAIN)
    except errors.Transient as exc:
        return False, warn("service", f"none is running at {local_url}: {exc}", _START)
    if seen.http_status != http.HTTPStatus.OK or seen.said.get("status") != "ok":
        return False, warn("service", f"what answers at {local_url} is not nanohook", _START)
    return True, ok("service", f"it answers at {local_url}")


async def look_at_way_back(chosen: Settings, way: Way, keys: list[str], *, is_running: bool) -> list[Finding]:
    """Fetch a picture and deliver a callback through the public address: does it lead back here?"""
    if not is_running:
        return [fail("way back", "the service is not running: nothing can lead back here", _START)]
    if not keys:
        return [fail("way back", "there is no key to sign a test with", "cure the keys first, see above")]
    key = f"doctor/{ids.new_id()}.png"
    signer, until = signing.Tokens(keys), int(time.time()) + _PROBE_FOR_S
    opened = signer.sign_media(key=key, expires_at_s=until, for_upstream=True)  # no row names it
    media = f"{way.public_url}/media/{key}?token={opened}"
    token = signer.sign_callback(job_id=TEST_JOB, attempt=1, index=0, expires_at_s=until)
    callback = f"{way.public_url}/api/webhooks/image-completion/{token}"
    body = {"job_id": TEST_JOB, "status": "pending", "data": {"nonce": secrets.token_hex(8)}}
    try:
        storage = await asyncio.to_thread(Storage, chosen.data_dir / "media")
        await storage.put(key, _PICTURE)
    except errors.StorageFailed as exc:
        return [fail("way back", f"the picture for the test could not be kept: {exc}", "cure the storage first")]
    try:
        async with Probe() as prober:
            fetched = await _fetched(prober, media, way)
            if fetched is not None:
                return [fetched]  # a callback would meet the same
            found = [ok("way back", "a signed picture comes back by the public URL")]
            found += await _fetched_as_browser(prober, media, way)
            return [*found, await _called_back(prober, callback, orjson.dumps(body), way)]
    finally:
        await storage.delete(key)


async def _fetched(prober: Probe, media: str, way: Way) -> Finding | None:
    """Fetch the picture as NanoBanana would; ``None``: it came."""
    try:
        seen = await prober.get(media, user_agent=PLAIN)
    except errors.Transient as exc:
        return _unreached(exc, way)
    return None if _is_picture(seen) else _stranger(seen, way)


async def _fetched_as_browser(prober: Probe, media: str, way: Way) -> list[Finding]:
    try:
        seen = await prober.get(media, user_agent=BROWSER)
    except errors.Transient as exc:
        return [_unreached(exc, way)]
    if _is_picture(seen):
        return []
    if probe.is_warning_page(seen):
        text = "ngrok's free plan answers browsers with a warning page in the picture's place"
        cure = "any paid plan of ngrok is without it; people can click it away, NanoBanana came through just now"
        return [warn("way back", text, cure)]
    return [_stranger(seen, way)]


async def _called_back(prober: Probe, callback: str, body: bytes, way: Way) -> Finding:
    try:
        seen = await prober.post(callback, body, user_agent=PLAIN)
    except errors.Transient as exc:
        return _unreached(exc, way)
    if seen.http_status == http.HTTPStatus.OK and seen.said.get("status") == "accepted":
        return ok("way back", "a signed callback is accepted by the public URL")
    return _stranger(seen, way)


def _unreached(exc: errors.Transient, way: Way) -> Finding:
    cure = f"see that the tunnel, the name and its certificate are well: {_LEAD_HERE.format(local=way.local_url)}"
    return fail("way back", f"the public URL is not reached: {exc}", cure)


def _stranger(seen: Seen, way: Way) -> Finding:
    """Tell who answered in our place, and what leads them away."""
    who, text = probe.stranger(seen)
    return fail("way back", text, STRANGER_CURES[who].format(here=_LEAD_HERE.format(local=way.local_url)))


def _is_picture(seen: Seen) -> bool:
    return seen.http_status == http.HTTPStatus.OK and seen.body == _PICTURE
