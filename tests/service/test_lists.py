"""Lists of images: every filter with every other, page by page without a gap, however many there are."""

import contextlib
import dataclasses
import itertools
import sqlite3
import time

import httpx
import pytest
import pytest_asyncio

from nanohook import clock, ids
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import job_lists
from tests import rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 2_500
STAGES = {
    "PENDING": "uploaded",
    "GENERATING": "generating",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELED": "canceled",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("lists")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many(service):
    """Somebody with thousands of images; and what they are, newest first."""
    one = await somebody(service)
    async with one.client:
        project = await one.client.post("/api/projects", json={"name": "some"})
        project_id = project.raise_for_status().json()["project_id"]
        kinds = itertools.cycle(itertools.product(STAGES, (None, project_id), range(7)))
        made = [
            Row(
                status=status,
                project_id=into,
                prompt=f"a kite {number}" if third == 0 else f"a boat {number}",
            )
            for number, (status, into, third) in zip(range(MANY), kinds, strict=False)
        ]
        # Two that only a long look finds, and between them many that it passes in vain.
        made[5] = dataclasses.replace(made[5], prompt="a needle, far down")
        made[2_400] = dataclasses.replace(made[2_400], prompt="a NEEDLE at the top")
        put(one, made)
        yield one, project_id, made[::-1]


@dataclasses.dataclass(frozen=True)
class Row:
    status: str = "COMPLETED"
    project_id: str | None = None
    prompt: str | None = "x"
    id: str = dataclasses.field(default_factory=ids.new_id)


async def somebody(service, **more):
    email = f"p{clock.now_us()}@example.org"
    headers = {"Authorization": f"Bearer {await rig.make_account(service, email, **more)}"}
    client = httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20)
    return dataclasses.replace(service, client=client)


def put(one, made):
    """Write jobs into the database as they are after they were asked for."""
    with sqlite3.connect(one.parts.settings.data_dir / "nanohook.db") as connection:
        [owner_id] = connection.execute("SELECT id FROM users ORDER BY id DESC LIMIT 1").fetchone()
        connection.executemany(
            "INSERT INTO jobs (id, owner_id, project_id, status, stage, progress, attempt, prompt, options, "
            "priority, language, metadata, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, 0, 0, ?, '{}', 'normal', 'en', '{}', 1, 1)",
            [(row.id, owner_id, row.project_id, row.status, STAGES[row.status], row.prompt) for row in made],
        )


async def page(one, **query):
    answer = await one.client.get("/api/images", params=query)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert set(said) == {"images", "next_cursor", "event_id"}
    return [job["job_id"] for job in said["images"]], said["next_cursor"]


async def pages(one, **query):
    """Every page from the first to the last."""
    found = []
    while True:
        job_ids, cursor = await page(one, **query)
        found.append(job_ids)
        if cursor is None:
            return found
        assert cursor < query.get("cursor", "g")
        query["cursor"] = cursor


SETS = [(), ("COMPLETED",), ("FAILED", "CANCELED"), ("PENDING", "GENERATING"), tuple(STAGES)]


@pytest.mark.parametrize("statuses", SETS, ids=lambda statuses: "+".join(statuses) or "any")
@pytest.mark.parametrize("has_project", [False, True])
@pytest.mark.parametrize("text", [None, "kite"])
async def test_every_filter_with_every_other_is_paged_without_gaps(many, statuses, has_project, text):
    one, project_id, made = many
    wanted = [
        row.id
        for row in made
        if (not statuses or row.status in statuses)
        and (not has_project or row.project_id == project_id)
        and (text is None or text in row.prompt)
    ]
    query = {
        "status": statuses,
        **({"project_id": project_id} if has_project else {}),
        **({"q": text} if text else {}),
    }
    for limit in (71, 200):
        found = await pages(one, limit=limit, **query)
        assert list(itertools.chain(*found)) == wanted
        if text is None:
            assert [len(job_ids) for job_ids in found[:-1]] == [limit] * (len(found) - 1)
        else:
            assert max(map(len, found)) <= limit


async def test_small_pages_have_no_gaps_either(many):
    one, project_id, made = many
    wanted = [row.id for row in made if row.project_id == project_id and row.status in {"FAILED", "CANCELED"}][:12]
    seen, cursor = [], {}
    for _ in range(12):
        [job_id], following = await page(
            one, limit=1, project_id=project_id, status=["FAILED", "CANCELED"], **cursor
        )
        seen.append(job_id)
        cursor = {"cursor": following}
    assert seen == wanted


async def test_a_search_looks_at_a_thousand_at_a_time_and_leads_on(many):
    one, _, made = many
    assert job_lists.LOOKED_THROUGH == 1_000
    found = await pages(one, q="needle")
    assert list(itertools.chain(*found)) == [made[MANY - 1 - 2_400].id, made[MANY - 1 - 5].id]
    assert [len(job_ids) for job_ids in found] == [1, 0, 1]
    found = await pages(one, q="no such thing")
    assert [len(job_ids) for job_ids in found] == [0, 0, 0]
    # Of those that are wanted otherwise.
    found = await pages(one, q="needle", status="COMPLETED")
    assert len(found) == 1


async def test_an_admin_finds_everybodys(service, many):
    _, _, made = many
    admin = await somebody(service, is_admin=True)
    async with admin.client:
        assert await page(admin) == ([], None)
        for query in ({}, {"status": ["FAILED"]}, {"q": "kite"}, {"q": "kite", "status": ["FAILED", "CANCELED"]}):
            found = list(itertools.chain(*await pages(admin, scope="all", limit=200, **query)))
            wanted = [
                row.id
                for row in made
                if row.status in (query.get("status") or STAGES) and query.get("q", "") in row.prompt
            ]
            assert [job_id for job_id in found if job_id in set(wanted)] == wanted
    refused = await many[0].client.get("/api/images", params={"scope": "all"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_what_is_searched_for_is_taken_literally(service):
    one = await somebody(service)
    prompts = [
        "100% sure",
        "100 percent",
        "a_b",
        "axb",
        "wow!",
        "wow?",
        "back\\slash",
        "it's",
        'a "b"',
        "é🍌 É",
        None,
    ]
    async with one.client:
        made = {prompt: Row(prompt=prompt) for prompt in prompts}
        put(one, list(made.values()))
        for text, expected in (
            ("100%", ["100% sure"]),
            ("%", ["100% sure"]),
            ("_", ["a_b"]),
            ("a_b", ["a_b"]),
            ("!", ["wow!"]),
            ("!%", []),
            ("wow?", ["wow?"]),
            ("\\", ["back\\slash"]),
            ("it's", ["it's"]),
            ('"b"', ['a "b"']),
            ("🍌", ["é🍌 É"]),
            ("SURE", ["100% sure"]),
            (" ", ["100% sure", "100 percent", 'a "b"', "é🍌 É"]),
        ):
            found, _ = await page(one, q=text)
            assert found == [made[prompt].id for prompt in reversed(prompts) if prompt in expected], text
        assert len((await page(one, q=""))[0]) == len(prompts)


@pytest.mark.parametrize("text", ["a" * 201, "a" * 60_000, "%" * 20_000, "🍌" * 5_000], ids=len)
async def test_a_search_for_too_much_is_refused(service, text):
    answer = await service.client.get("/api/images", params={"q": text})
    assert answer.status_code == 422, answer.text
    assert [line["field"] for line in answer.json()["errors"]] == ["q"]


@pytest.mark.parametrize(
    "query", [{"q": "\x00"}, {"q": "\ud800".encode("utf-16", "surrogatepass")}, {"q": "a" * 200}]
)
async def test_no_text_is_a_fault_of_ours(service, query):
    assert (await service.client.get("/api/images", params=query)).status_code == 200


@pytest.mark.parametrize("name", ["project_id", "task_id", "cursor"])
@pytest.mark.parametrize("value", ["", "x", "%", "\x00", "🍌", "z" * 5_000, "' OR 1=1 --"])
async def test_no_filter_is_a_fault_of_ours(service, name, value):
    assert (await service.client.get("/api/images", params={name: value})).status_code == 200


async def test_every_status_can_be_asked_for(many):
    one, _, made = many
    for status in ImageJobStatus:
        found, _ = await page(one, status=status.value, limit=5)
        assert found == [row.id for row in made if row.status == status.value][:5]


async def test_a_search_takes_no_product_of_two_lengths(tmp_path):
    """LIKE would take 23 seconds for this, and hold a read connection for as long."""
    async with rig.running(tmp_path) as service:
        long = "é" * 20_000
        made = (await service.generate("[sandbox:latency=60]" + long[:19_000]))["job_id"]
        with contextlib.closing(sqlite3.connect(tmp_path / "nanohook.db")) as connection, connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(jobs)")]
            values = ", ".join("? || substr(id, 9)" if name == "id" else name for name in columns)
            for number in range(900):
                connection.execute(
                    f"INSERT INTO jobs ({', '.join(columns)}) SELECT {values} FROM jobs WHERE id = ?",
                    (f"{number:08d}", made),
                )
            connection.execute("UPDATE jobs SET prompt = ?", (long,))
        hit, miss = "É" * 200, "é" * 199 + "b"
        begun = time.perf_counter()
        assert len((await service.client.get("/api/images", params={"q": hit})).json()["images"]) == 50
        plain_s = time.perf_counter() - begun
        begun = time.perf_counter()
        assert (await service.client.get("/api/images", params={"q": miss})).json()["images"] == []
        assert time.perf_counter() - begun < 20 * plain_s
