"""What the log of a whole job says at its loudest, and what it must never say."""

import base64
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson

from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from tests import live, rig
from tests.process import child

CANARIES = {
    "NANOBANANA_API_KEY": "canary-upstream-key",
    "NANOHOOK_SECRET_KEYS": "canary-secret-key-1,canary-secret-key-2",
    "NANOHOOK_WEBHOOK_SECRETS": f"whsec_{base64.b64encode(b'canary-webhook-secret-24').decode()}",
    "NANOHOOK_METRICS_TOKEN": "canary-metrics-token",
}
PROMPT = "canary-prompt"
HEADERS = {
    "webhook-id": "msg_1",
    "webhook-timestamp": "1700000000",
    "webhook-signature": "v1,canary-signature",
    "Authorization": "Bearer canary-callback-bearer",
    "Cookie": "canary-callback-cookie=1",
}


def token_of(address: str) -> str:
    """The secret in an address: its ``token``, else the last part of its path."""
    parts = urlsplit(address)
    return parse_qs(parts.query).get("token", [parts.path.rpartition("/")[2]])[0]


async def final(client: httpx.AsyncClient, job_id: str) -> None:
    async with client.stream("GET", f"/api/images/{job_id}/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: ") and orjson.loads(line[6:])["status"] in rig.FINAL:
                return
    raise AssertionError("the stream ended before the job")


async def test_the_log_tells_a_whole_job_and_no_secret(tmp_path):
    sandbox = create_sandbox(Options(latency_s=0.02))
    secrets = {PROMPT, "canary"}
    async with (
        live.serve(sandbox) as upstream,
        child.serving(
            tmp_path, upstream=upstream, NANOHOOK_LOG_LEVEL="DEBUG", NANOHOOK_LOG_FORMAT="json", **CANARIES
        ) as (service, base, env),
        httpx.AsyncClient(base_url=base, trust_env=False, timeout=20) as client,
    ):
        words = ("user", "create", "ada@example.org", "--verified", "--credits", "100")
        created = await child.ran(*words, folder=tmp_path / "user", env=env)
        key = created.printed.splitlines()[-1]
        secrets |= {key, key.removeprefix("nh_")}
        client.headers["Authorization"] = f"Bearer {key}"

        job = (await client.post("/api/images", files={"file": ("x.png", rig.picture())})).json()
        job_id = job["job_id"]
        await client.post("/api/generate-image", json={"imageId": job_id, "prompt": PROMPT})
        await final(client, job_id)
        job = (await client.get(f"/api/images/{job_id}")).json()
        [image] = job["images"]
        addresses = {picture[name] for picture in (image, job["original"]) for name in ("url", "thumbnail_url")}
        for address in addresses:
            assert (await client.get(address)).status_code == 200

        # A job that fails, whose reason comes from the other side.
        failing = {"prompt": f"{PROMPT} [sandbox:fail=400]"}
        failed_id = (await client.post("/api/generate-image", json=failing)).json()["job_id"]
        await final(client, failed_id)

        # And what is refused.
        tokens = {token_of(task.order.callback_url) for task in sandbox.state.tasks.by_id.values()}
        forged = [f"{token[:-1]}{'x' if token[-1] != 'x' else 'y'}" for token in tokens]
        callbacks = "/api/webhooks/image-completion"
        body = {"code": 200, "data": {"taskId": "canary-task", "token": "canary-body"}}
        statuses = [
            (await client.post(f"{callbacks}/{forged[0]}", json=body)).status_code,
            (await client.post(callbacks, json=body, headers=HEADERS)).status_code,
            (await client.get(f"/media/results/x.png?token={forged[1]}")).status_code,
            (await client.get("/api/images", headers={"Authorization": "Bearer canary-wrong-key"})).status_code,
            (await client.get("/metrics", headers={"Authorization": "Bearer canary-wrong-token"})).status_code,
        ]
        assert statuses == [401] * 5
        assert "set-cookie" not in (await client.get("/login?token=canary-login")).headers
        assert await service.stopped() == 0

    addresses |= {url for task in sandbox.state.tasks.by_id.values() for url in task.order.image_urls}
    tokens |= {token_of(address) for address in addresses} | set(forged)
    assert len(tokens) >= 8
    # The signature alone would be half of it; it stands behind the last dot.
    secrets |= tokens | {token.rpartition(".")[2] for token in tokens}
    told = service.said + service.printed + created.said
    assert [secret for secret in secrets if secret in told] == []

    lines = [orjson.loads(line) for line in service.said.splitlines()]
    assert {line["level"] for line in lines} <= {"DEBUG", "INFO", "WARNING"}
    ours = [line for line in lines if line.get("job_id") == job_id]
    steps = [(line["status"], line["progress"]) for line in ours if line["message"] == "job.event"]
    assert steps[0] == ("PENDING", 0)
    assert steps[1:4] == [("PENDING", 10), ("INITIALIZING", 25), ("GENERATING", 60)]
    assert steps[-1] == ("COMPLETED", 100)
    assert [progress for _, progress in steps] == sorted(progress for _, progress in steps)
    assert {"image.uploaded", "job.created", "upstream.submitting", "upstream.submitted", "image.stored"} <= {
        line["message"] for line in ours
    }
    [door] = [line for line in ours if line["message"] == "http.request" and line["route"].startswith(callbacks)]
    assert (door["status"], door["verdict"], door["effect"]) == (200, "accepted", "applied")
    [failed] = [line for line in lines if line.get("job_id") == failed_id and line.get("status") == "FAILED"]
    assert failed["error"] == "content_policy"
