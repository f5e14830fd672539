"""
Hundreds of requests made up from the document, good and bad ones: no answer is a crash, none is undocumented.

What a stream sends never ends, so the streams are left to ``test_openapi``.
"""

import asyncio
import collections

import limits
import orjson
import pytest
import pytest_asyncio
import schemathesis
from schemathesis import engine

from nanohook.web import docs, operation, operations
from nanohook.web.rates import Rate
from tests import rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDLESS = {each.path for each in operations.ALL if operation.EVENTS in each.gives.values()}
CHOSEN = {
    "seed": 20_260_101,
    "continue-on-failure": True,
    "request-timeout": 10,
    # The document alone decides what is tried; nothing is kept between runs.
    "generation": {
        "max-examples": 4,
        "deterministic": True,
        "no-shrink": True,
        "database": "none",
        "with-security-parameters": False,
    },
    "phases": {"stateful": {"enabled": False}},
    # A picture must be one, a ratio must be its model's: some of what the document allows is refused, with reason.
    "checks": {"positive_data_acceptance": {"enabled": False}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    secret = "whsec_" + "c2VjcmV0LW9mLXRlc3Rz" * 2
    async with rig.running(
        tmp_path_factory.mktemp("schemathesis"), sign_up=False, registration="open", webhook_secrets=(secret,)
    ) as running:
        # Else nearly every answer would be a 429, which says nothing of the rest.
        for rate in Rate:
            running.parts.rates._budgets[rate] = limits.parse("1000000/second")
        yield running


def try_out(base, key):
    """Run the whole of it; returns how often each operation gave each status, and what went wrong."""
    document = orjson.loads(docs.written()[0])
    document["paths"] = {path: item for path, item in document["paths"].items() if path not in ENDLESS}
    # Signing in is for pages of ours alone.
    headers = {"Origin": base, **({"Authorization": f"Bearer {key}"} if key else {})}
    # Who is turned away at every door need not try each in every way.
    phases = {**CHOSEN["phases"], "coverage": {"enabled": key is not None}}
    chosen = {**CHOSEN, "base-url": base, "headers": headers, "phases": phases}
    schema = schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(chosen))
    answers, wrong = collections.Counter(), {}
    for event in engine.from_schema(schema).execute():
        if isinstance(event, engine.events.NonFatalError | engine.events.FatalError):
            wrong[type(event).__name__] = str(event)
        if isinstance(event, engine.events.ScenarioFinished):
            _note(event.recorder, answers, wrong)
    return answers, wrong


def _note(recorder, answers, wrong):
    for exchange in recorder.interactions.values():
        if exchange.response is not None:
            answers[recorder.label, exchange.response.status_code] += 1
    for checks in recorder.checks.values():
        for failed in (check.failure_info for check in checks if check.failure_info is not None):
            told = f"{recorder.label}: {failed.failure.title}: {failed.failure.message}"
            wrong.setdefault(told, failed.code_sample)


async def tried(service, key=None):
    # It waits for its answers: in a thread, beside the loop that gives them.
    answers, wrong = await asyncio.to_thread(try_out, service.base, key)
    assert not wrong, "\n\n".join(f"{told}\n{sample}" for told, sample in sorted(wrong.items()))
    return answers


async def test_with_a_key_every_answer_is_as_documented(service, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    answers = await tried(service, await rig.make_account(service, "root@example.org", is_admin=True))
    good = {label for label, status in answers if status < 300}
    # It got as far as doing something, not only to the doors.
    assert {"POST /api/images", "POST /api/generate-image", "GET /api/images/{job_id}", "GET /metrics"} <= good


async def test_without_a_key_every_answer_is_as_documented(service, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    answers = await tried(service)
    open_to_all = {each.line.replace(":path", "") for each in operations.ALL if not each.who.schemes}
    assert {label for label, status in answers if status < 300} <= open_to_all
