"""The README's lines, run as they stand there against ``nanohook dev``."""

import asyncio
import pathlib
import shlex
import shutil
import subprocess
import sys
from typing import Any

import orjson
import pytest

from tests import live, needs
from tests.process import child

README = (child.ROOT / "README.md").read_text()
PICTURE = child.ROOT / "src" / "nanohook" / "cli" / "sample.jpg"


def block(name: str) -> str:
    """The lines of a block that says that it is run."""
    return README.split(f"<!-- run: {name} -->\n```sh\n")[1].split("\n```")[0]


def shell(lines: str, folder: pathlib.Path, *, port: int) -> str:
    """Run lines as a reader would type them, at another port and with this environment's own program."""
    lines = lines.replace("localhost:8000", f"127.0.0.1:{port}")
    lines = lines.replace(".venv/bin/nanohook", f"{shlex.quote(sys.executable)} -m nanohook")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
async def dev(tmp_path):
    """``nanohook dev`` in an empty folder, and its port."""
    port = live.closed_port()
    with child.started((*child.NANOHOOK, "dev", "--port", str(port)), tmp_path / "logs", cwd=tmp_path) as running:
        assert await running.is_up(f"http://127.0.0.1:{port}"), running.said
        yield port
        assert await running.stopped() == 0


async def test_the_api_as_the_readme_shows_it(dev, tmp_path):
    needs.program("jq")
    needs.program("curl")
    shutil.copy(PICTURE, tmp_path / "nanohook-demo.jpg")
    said = await asyncio.to_thread(shell, block("api") + "\necho\n" + block("callback"), tmp_path, port=dev)

    assert "retry: " in said, said
    accepted, rest = said.split("retry: ", 1)
    assert orjson.loads(accepted)["status"] == "PENDING"
    *stream, answers = rest.rpartition("\n\n")
    assert '"status":"COMPLETED"' in stream[0]
    checked, result, called_back = answers.strip().replace("}{", "}\n{", 1).splitlines()
    assert orjson.loads(called_back)["status"] == "accepted"
    job_id = orjson.loads(accepted)["job_id"]
    assert orjson.loads(checked) == {
        "success": True,
        "status": "completed",
        "imageId": job_id,
        "transformedUrl": orjson.loads(result)["images"][0]["url"],
    }
    assert [(image["width"], image["height"]) for image in orjson.loads(result)["images"]] == [(1024, 576)]


async def test_the_python_client_as_the_readme_shows_it(dev, tmp_path, monkeypatch, capsys):
    needs.program("curl")
    code = README.split("```python\n")[1].split("\n```")[0].replace("localhost:8000", f"127.0.0.1:{dev}")
    key = shell(
        "NANOHOOK_DATA_DIR=var/dev .venv/bin/nanohook user create ada@example.org --verified --credits 100",
        tmp_path,
        port=dev,
    ).split()[-1]
    shutil.copy(PICTURE, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    await names["winter"](key)
    assert (tmp_path / "winter.jpg").stat().st_size > 1_000
    told = capsys.readouterr().out.splitlines()
    assert told[-1].startswith("COMPLETED 100 ")
    assert told[-1].count("/media/results/") == 2


async def test_the_old_question_without_a_key_is_refused(dev, tmp_path):
    needs.program("curl")
    line = (
        "curl -s -X POST http://localhost:8000/api/check-generation-status "
        """-H "Content-Type: application/json" -d '{"imageId":"xxx","taskId":"xxx"}' -w '\\n%{http_code}'"""
    )
    body, status = (await asyncio.to_thread(shell, line, tmp_path, port=dev)).rsplit("\n", 1)
    assert (status, orjson.loads(body)["error"]) == ("401", "Unauthorized")
