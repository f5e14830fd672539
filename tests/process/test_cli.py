"""The commands, as people start them: what they print, what they refuse, and their exit codes."""

import asyncio
import io
import pathlib
import re
import socket
import sys

import httpx
import orjson
import pytest
from PIL import Image

from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from tests import live, rig
from tests.process import child

NOWHERE = "http://127.0.0.1:9"
FOREIGN = {
    "NANOHOOK_DATABASE_URL": "postgresql://elsewhere/db",
    "NANOHOOK_DATA_DIR": "/proc/nowhere",
    "NANOHOOK_LOG_LEVEL": "LOUD",
    "NANOHOOK_NANOBANANA_URL": NOWHERE,
}
"""Settings that would break whoever reads them."""
PROXIES = {"HTTP_PROXY": NOWHERE, "http_proxy": NOWHERE, "ALL_PROXY": NOWHERE, "https_proxy": NOWHERE}


def rotated(width: int, height: int) -> bytes:
    """A JPEG that a camera held upright: stored as *width* × *height*, seen as *height* × *width*."""
    held = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(held, "JPEG", exif=exif)
    return held.getvalue()


def size_of(path: pathlib.Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


async def test_the_demo_runs_in_an_empty_environment_and_reads_no_settings(tmp_path):
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in FOREIGN.items()))
    result = tmp_path / "[red]" / "winter.jpg"
    result.parent.mkdir()
    demo = await child.ran("demo", "--out", "[red]/winter.jpg", folder=tmp_path / "logs", cwd=tmp_path)
    assert demo.code == 0, demo.printed + demo.said
    lines = demo.printed.splitlines()
    assert "original 1024x576  result 1024x576" in lines
    assert str(result) == lines[-1]
    assert size_of(result) == (1024, 576)
    assert {path.name for path in tmp_path.iterdir()} == {".env", "logs", "[red]"}


async def test_the_demo_takes_a_picture_of_ones_own_and_no_proxy(tmp_path):
    (tmp_path / "mine.jpg").write_bytes(rotated(301, 199))
    demo = await child.ran(
        "demo", "--image", "mine.jpg", folder=tmp_path / "logs", cwd=tmp_path, env={**FOREIGN, **PROXIES}
    )
    assert demo.code == 0, demo.printed + demo.said
    lines = demo.printed.splitlines()
    assert "original 199x301  result 199x301" in lines
    [result] = tmp_path.glob("nanohook-demo.*")
    assert str(result) == lines[-1]
    assert size_of(result) == (199, 301)


async def test_the_demo_names_the_step_that_failed(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture at all")
    runs = await asyncio.gather(
        *(
            child.ran("demo", "--image", image, folder=tmp_path / "logs" / image, cwd=tmp_path)
            for image in ("text.jpg", "missing.jpg")
        )
    )
    for run, step in zip(runs, ("upload", "read the picture"), strict=True):
        assert run.code == 1
        assert f"failed at step: {step}" in run.printed
        assert "Traceback" not in run.said + run.printed
    assert not list(tmp_path.glob("nanohook-demo.*"))


async def test_commands_work_beside_a_running_service(tmp_path):
    async with (
        live.serve(create_sandbox(Options())) as upstream,
        child.serving(tmp_path, upstream=upstream) as (service, base, env),
    ):

        async def run(*words: str) -> child.Child:
            folder = tmp_path / re.sub(r"\W", "", "".join(words))
            return await child.ran(*words, folder=folder, env=env, cwd=tmp_path)

        created, migrated = await asyncio.gather(
            run("user", "create", "Ada@Example.org", "--verified", "--credits", "100"), run("migrate")
        )
        assert created.code == migrated.code == 0, created.said + migrated.said
        assert "ada@example.org" in created.printed
        assert "newest" in migrated.printed
        key = created.printed.splitlines()[-1]
        assert re.fullmatch(r"nh_[\w-]{43}", key)

        async with httpx.AsyncClient(
            base_url=base, headers={"Authorization": f"Bearer {key}"}, trust_env=False
        ) as person:
            assert (await person.get("/api/images")).status_code == 200
            answer = await person.post("/api/generate-image", json={"prompt": "a kite [sandbox:latency=30]"})
            job_id = answer.json()["job_id"]

            again, signed, unknown, second, same_port = await asyncio.gather(
                run("user", "create", "ADA@example.org"),
                run("sign", job_id),
                run("sign", "no-such-job"),
                run("serve", "--port", "0"),
                run("serve", "--port", base.rpartition(":")[2]),
            )
            address = signed.printed.strip()
            assert signed.code == 0
            assert address.startswith(f"{base}/api/webhooks/image-completion/")
            told = await person.post(address, json={"status": "generating", "data": {"progress": 66}})
            assert (told.status_code, told.json()["status"]) == (200, "accepted")
            assert (await person.get(f"/api/images/{job_id}")).json()["progress"] == 66
            forged = await person.post(f"{address[:-2]}xx", json={"status": "failed"})
            assert forged.status_code == 401

        for refused, why in (
            (again, "has an account already"),
            (unknown, "there is no job of this id"),
            (second, "NANOHOOK_DATA_DIR"),
            (same_port, f"cannot listen on 127.0.0.1 port {base.rpartition(':')[2]}"),
        ):
            assert why in refused.said
            assert refused.code == 2, refused.said
            assert "Traceback" not in refused.said
        assert await service.stopped() == 0


CANARY = "canary-7f3a"
WRONG = {
    "NANOHOOK_PUBLIC_URL": f"http://{CANARY}.example",
    "NANOHOOK_NANOBANANA_URL": f"ftp://{CANARY}",
    "NANOHOOK_MAX_PIXELS": CANARY,
    "NANOHOOK_JOB_DEADLINE_S": f"-1{CANARY}",
    "NANOHOOK_UPSTREAM_RATE": f"{CANARY}/second",
    "NANOHOOK_WEBHOOK_SECRETS": f"whsek_{CANARY}",
    "NANOHOOK_LOG_LEVEL": CANARY,
    "NANOHOOK_SECRET_KEYS": CANARY,
    "NANOHOOK_REDIS_URL": f"redis://:{CANARY}@127.0.0.1",
    "NANOHOOK_STORAGE_URL": f"s3://{CANARY}/x",
    "NANOHOOK_NANOBANANA_PATHS": CANARY,
}
POSTGRES = {"NANOHOOK_DATABASE_URL": f"postgresql://ada:{CANARY}@127.0.0.1/db"}
REFUSED = {
    "two workers": (("serve", "--workers", "2"), {}, ["NANOHOOK_DATABASE_URL"]),
    "no work": (("serve", "--no-work"), {}, ["NANOHOOK_DATABASE_URL"]),
    "postgres": (("serve", "--port", "0"), POSTGRES, ["NANOHOOK_DATABASE_URL", "not supported yet"]),
    "wrong settings": (("serve", "--port", "0"), WRONG, ["NANOHOOK_MAX_UPLOAD_BYTES", *WRONG]),
    "public sandbox": (("sandbox", "--host", "0.0.0.0"), {}, ["--unsafe-public"]),
    "a code that no task fails with": (("sandbox", "--fail-code", "404"), {}, ["--fail-code"]),
    "no address": (("user", "create", f"{CANARY}.example.org"), {}, ["no e-mail address"]),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, child.Child]:
    """Every refused command, side by side."""

    async def run(name: str) -> child.Child:
        words, env, _ = REFUSED[name]
        folder = tmp_path_factory.mktemp("refused")
        (folder / ".env").write_text(f"NANOHOOK_MAX_UPLOAD_BYTES={CANARY}\n" if env is WRONG else "")
        return await child.ran(*words, folder=folder / "logs", env=env, cwd=folder)

    async def run_all() -> list[child.Child]:
        return await asyncio.gather(*map(run, REFUSED))

    return dict(zip(REFUSED, asyncio.run(run_all()), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_by_name_and_never_by_value(refusals, name):
    _, _, why = REFUSED[name]
    refused = refusals[name]
    assert refused.code == 2, refused.said
    assert [word for word in why if word not in refused.said] == []
    assert CANARY not in refused.said + refused.printed
    assert "Traceback" not in refused.said


GUEST = {"Host": "abc.ngrok-free.app"}


async def test_dev_logs_in_once_and_shows_guests_only_what_a_tunnel_is_for(tmp_path):
    port = live.closed_port()
    base = f"http://127.0.0.1:{port}"
    command = (*child.NANOHOOK, "dev", "--port", str(port))
    with child.started(command, tmp_path / "logs", cwd=tmp_path) as dev:
        assert await dev.is_up(base), dev.said
        await live.until(lambda: "/login?token=" in dev.printed)
        [link] = [word for word in dev.printed.split() if "/login?token=" in word]

        async with httpx.AsyncClient(base_url=base, trust_env=False) as browser:
            first = await browser.get(link)
            assert (first.status_code, first.headers["location"]) == (303, "/generate-images")
            assert (await browser.get("/api/images")).status_code == 200
            assert (await browser.get("/generate-images")).status_code == 200

            async with httpx.AsyncClient(base_url=base, trust_env=False) as another:
                second = await another.get(link)
                assert "set-cookie" not in second.headers
                assert (await another.get("/api/images")).status_code == 401

            # The cookie is there, and does not help.
            static = re.findall(r"/static/[\w./-]+", (await browser.get("/generate-images")).text)
            paths = ["/", "/login", "/generate-images", "/api/images", "/api/events", "/api/images/x/events"]
            paths += ["/healthz", "/readyz", "/metrics", *static[:1]]
            reached = {path: (await browser.get(path, headers=GUEST)).status_code for path in paths}
            assert {path: status for path, status in reached.items() if status != 404} == {}
            upload = await browser.post("/api/images", headers=GUEST, files={"file": ("x.png", rig.picture())})
            assert upload.status_code == 404
            media = await browser.get("/media/results/x.png?token=forged", headers=GUEST)
            callback = await browser.post("/api/webhooks/image-completion/forged", headers=GUEST, json={})
            assert (media.status_code, callback.status_code) == (401, 401)
        assert await dev.stopped() == 0
    assert (tmp_path / "var" / "dev" / "nanohook.db").is_file()


async def test_a_port_in_use_is_a_clear_message(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        runs = await asyncio.gather(
            *(
                child.ran(name, "--port", port, folder=tmp_path / name, cwd=tmp_path)
                for name in ("serve", "dev", "sandbox")
            )
        )
    for run in runs:
        assert run.said.strip() == f"nanohook: cannot listen on 127.0.0.1 port {port}: Address already in use"
        assert run.code == 2


LOOKS = [
    ["jobs", "list"],
    ["jobs", "show", "0192a4b0c1d2"],
    ["jobs", "retry", "--all-failed"],
    ["jobs", "pause", "--json"],
    ["jobs", "clear", "--yes"],
    ["deliveries", "list", "--json"],
    ["deliveries", "show", "0192a4b0c1d2"],
    ["deliveries", "replay", "--effect", "dead"],
    ["user", "list"],
    ["user", "disable", "ada@example.org"],
    ["user", "credits", "ada@example.org", "5"],
    ["sign", "no-such-job"],
    ["doctor", "--audit"],
]


async def test_where_there_is_no_database_none_is_made_by_looking(tmp_path):
    looks = [*LOOKS, ["backup", str(tmp_path / "copy")]]
    command = (sys.executable, "-m", "tests.process.several", orjson.dumps(looks).decode())
    env = {"NANOHOOK_DATA_DIR": str(tmp_path / "data"), "NANOHOOK_PUBLIC_URL": NOWHERE}
    with child.started(command, tmp_path / "logs", env=env) as running:
        await running.exited(timeout_s=60)
    runs = [orjson.loads(line) for line in running.printed.splitlines()]
    assert len(runs) == len(looks), running.said
    for words, run in zip(looks, runs, strict=True):
        assert (run["code"], run["printed"]) == (2, ""), (words, run)
        assert f"there is no database at {tmp_path / 'data' / 'nanohook.db'}" in run["said"], (words, run)
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}
