import asyncio
import contextlib
import dataclasses
import gzip
import io
import logging
import random

import httpx
import orjson
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nanohook.sandbox import app as sandbox
from nanohook.sandbox import callbacks, options, orders, pictures, tasks
from tests import live

KEY = {"authorization": "Bearer some-key"}


@dataclasses.dataclass
class Receiver:
    """Takes callbacks, and hands out one picture to be changed."""

    url: str = ""
    statuses: list[int] = dataclasses.field(default_factory=list)
    """Answers to give, in turn; then 200."""

    stall: asyncio.Event | None = None
    bodies: list[dict] = dataclasses.field(default_factory=list)
    content_types: list[str] = dataclasses.field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/cb/{token}", self._callback, methods=["POST"]),
                Route("/in.png", self._picture),
                Route("/text", self._text),
            ]
        )

    async def _callback(self, request: Request) -> Response:
        self.bodies.append(orjson.loads(await request.body()))
        self.content_types.append(request.headers["content-type"])
        if self.stall is not None:
            await self.stall.wait()
        return Response(status_code=self.statuses.pop(0) if self.statuses else 200)

    async def _picture(self, request: Request) -> Response:
        return Response(png(), media_type="image/png")

    async def _text(self, request: Request) -> Response:
        return Response("not a picture", media_type="image/png")


@dataclasses.dataclass
class Rig:
    table: tasks.Table
    url: str
    receiver: Receiver
    http: httpx.AsyncClient

    async def submit(self, prompt="a red kite", *, tier="generate", **more) -> dict:
        answer = await self.http.post(f"/api/v1/nanobanana/{tier}", json=self.body(prompt, tier, **more))
        assert answer.status_code == 200
        return answer.json()

    def body(self, prompt, tier, **more) -> dict:
        body = {"prompt": prompt, "callBackUrl": f"{self.receiver.url}/cb/token"}
        if tier == "generate":
            body["type"] = "IMAGETOIAMGE" if more.get("imageUrls") else "TEXTTOIAMGE"
        return {key: value for key, value in (body | more).items() if value is not None}

    async def run(self, prompt="a red kite", **more) -> tasks.Task:
        answer = await self.submit(prompt, **more)
        task = self.table.by_id[answer["data"]["taskId"]]
        await asyncio.wait_for(task.ended.wait(), 20)
        return task

    async def record(self, task_id: str) -> dict:
        answer = await self.http.get("/api/v1/nanobanana/record-info", params={"taskId": task_id})
        return answer.json()

    async def credit(self) -> float:
        return (await self.http.get("/api/v1/common/credit")).json()["data"]


@contextlib.asynccontextmanager
async def rig(**settings):
    defaults = {"latency_s": 0.0, "callback_pause_s": 0.005, "seed": 1}
    app = sandbox.create_app(options.Options(**(defaults | settings)))
    receiver = Receiver()
    async with (
        live.serve(receiver.app()) as receiver.url,
        live.serve(app) as url,
        httpx.AsyncClient(base_url=url, headers=KEY, trust_env=False) as http,
    ):
        yield Rig(app.state.tasks, url, receiver, http)


def png(size=(640, 480), colour=(200, 30, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


async def test_an_image_comes_back_changed_in_the_upstreams_own_size():
    async with rig() as it:
        task = await it.run(imageUrls=[f"{it.receiver.url}/in.png"], image_size="16:9")
        (body,) = it.receiver.bodies
        assert body["code"] == 200
        assert body["data"]["taskId"] == task.task_id
        answer = await it.http.get(body["data"]["info"]["resultImageUrl"])
        image = Image.open(io.BytesIO(answer.content))
        assert (image.size, image.format) == ((1344, 768), "JPEG")
        assert answer.headers["content-type"] == "image/jpeg"
        assert image.convert("RGB").getpixel((300, 300)) != (200, 30, 30)
        assert it.receiver.content_types == ["application/json"]
        assert (task.callbacks_sent, task.callback_status) == (1, 200)


async def test_text_alone_gives_a_picture_of_the_default_size():
    async with rig() as it:
        task = await it.run("é 🍌 \u0000 odd")
        assert Image.open(io.BytesIO(task.outcome.content)).size == (1184, 864)
        assert task.result_url.startswith(it.url + "/r/")


async def test_the_newer_tiers_say_message_and_generate_2_calls_back_with_the_record():
    async with rig() as it:
        pro = await it.submit(tier="generate-pro", resolution="2K")
        assert pro["message"] == "success"
        assert "msg" not in pro
        task = await it.run(tier="generate-2", aspectRatio="1:8", outputFormat="png")
        assert Image.open(io.BytesIO(task.outcome.content)).format == "PNG"
        (body,) = [each for each in it.receiver.bodies if each["data"]["taskId"] == task.task_id]
        assert body == await it.record(task.task_id)
        assert body["data"]["successFlag"] == 1
        assert body["data"]["response"]["resultImageUrl"] == task.result_url
        assert orjson.loads(body["data"]["paramJson"]) == task.params


@pytest.mark.parametrize(("shape", "tier"), [("b", "generate"), ("a", "generate-2")])
async def test_a_shape_may_be_forced(shape, tier):
    async with rig(shape=shape) as it:
        await it.run(tier=tier)
        assert ("info" in it.receiver.bodies[0]["data"]) == (shape == "a")


async def test_a_failure_is_told_in_both_shapes():
    async with rig() as it:
        await it.run("[sandbox:fail=400] kite")
        two = await it.run("[sandbox:fail=501] kite", tier="generate-2")
        first, second = it.receiver.bodies
        assert (first["code"], first["data"]["info"]["resultImageUrl"]) == (400, "")
        assert (second["code"], second["data"]["successFlag"], second["data"]["errorCode"]) == (200, 3, 501)
        assert (await it.record(two.task_id))["data"]["response"] is None


@pytest.mark.parametrize(("path", "code"), [("/nothing.png", 400), ("/text", 400)])
async def test_an_input_that_cannot_be_used_fails_the_tasks_creation(path, code):
    async with rig() as it:
        task = await it.run(imageUrls=[it.receiver.url + path])
        assert it.receiver.bodies[0]["code"] == code
        assert (await it.record(task.task_id))["data"]["successFlag"] == 2


async def test_an_input_host_that_is_away_fails_the_tasks_creation():
    async with rig() as it:
        await it.run(imageUrls=[f"http://127.0.0.1:{live.closed_port()}/x.png"])
        assert it.receiver.bodies[0]["code"] == 500


async def test_record_info_says_generating_until_the_result_is_there():
    async with rig(latency_s=600) as it:
        task_id = (await it.submit())["data"]["taskId"]
        data = (await it.record(task_id))["data"]
        assert (data["successFlag"], data["response"], data["completeTime"]) == (0, None, "")


async def test_record_info_refuses_as_the_vendor_does():
    async with rig() as it:
        assert await it.record("unknown") == {"code": 404, "msg": "Task not found", "data": None}
        wrong = await it.http.get("/api/v1/nanobanana/record-info", params={"task_id": "x"})
        text = "Server exception, please check the parameters"
        assert wrong.json() == {"code": 500, "msg": text, "data": None}


@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic abc", None])
async def test_a_key_is_needed_everywhere(authorization):
    async with rig() as it:
        headers = {} if authorization is None else {"authorization": authorization}
        async with httpx.AsyncClient(base_url=it.url, headers=headers, trust_env=False) as http:
            for method, path in [
                ("POST", "/api/v1/nanobanana/generate"),
                ("GET", "/api/v1/nanobanana/record-info?taskId=x"),
                ("GET", "/api/v1/common/credit"),
            ]:
                answer = await http.request(method, path)
                assert (answer.status_code, answer.json()["code"]) == (200, 401)
        assert it.table.submitted == 0


@pytest.mark.parametrize(
    ("tier", "more", "code"),
    [
        ("generate", {"type": "TEXTTOIMAGE"}, 422),
        ("generate", {"type": ""}, 422),
        ("generate", {"prompt": " "}, 422),
        ("generate", {"image_size": "auto"}, 422),
        ("generate", {"type": "IMAGETOIAMGE"}, 422),
        ("generate", {"numImages": 5}, 422),
        ("generate", {"callBackUrl": None}, 422),
        ("generate", {"callBackUrl": "ftp://x/y"}, 422),
        ("generate-pro", {"aspectRatio": "1:8"}, 422),
        ("generate-pro", {"resolution": "8K"}, 422),
        ("generate-pro", {"imageUrls": ["http://x/y"] * 9}, 422),
        ("generate-2", {"imageUrls": ["http://x/y"] * 15}, 422),
        ("generate-2", {"imageUrls": "http://x/y"}, 422),
        ("generate-2", {"imageUrls": [1]}, 422),
        ("generate-2", {"outputFormat": "webp"}, 422),
        ("generate-2", {"prompt": "x" * 20_001}, 422),
    ],
)
async def test_a_wrong_field_is_refused(tier, more, code):
    async with rig() as it:
        body = it.body("a red kite", tier) | more
        body = {key: value for key, value in body.items() if value is not None}
        answer = await it.http.post(f"/api/v1/nanobanana/{tier}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (200, code)
        assert it.table.submitted == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_object_is_refused(body):
    async with rig() as it:
        answer = await it.http.post("/api/v1/nanobanana/generate", content=body)
        assert answer.json()["code"] == 400


async def test_a_body_over_a_mebibyte_and_a_wrong_path_are_refused_by_http():
    async with rig() as it:
        big = await it.http.post("/api/v1/nanobanana/generate", content=b"x" * (sandbox.MAX_BODY_BYTES + 1))
        assert big.status_code == 413
        wrong = await it.http.post("/api/v1/nanobanana/generate-v2", json={})
        assert (wrong.status_code, wrong.json()["code"]) == (404, 404)
        assert (await it.http.get("/r/nothing.jpg")).status_code == 404


async def test_credits_are_taken_by_tier_and_resolution_until_there_are_none():
    async with rig(latency_s=600, credit=32) as it:
        await it.submit(callBackUrl="https://callback.invalid/")
        await it.submit(tier="generate-pro", resolution="1K")
        assert await it.credit() == 10
        assert (await it.submit(tier="generate-2", resolution="4K"))["code"] == 402
        await it.submit(tier="generate-2")
        assert await it.credit() == 2


async def test_an_unacknowledged_callback_is_repeated_three_times_and_then_given_up():
    async with rig() as it:
        it.receiver.statuses = [500, 302, 404, 503]
        task = await it.run()
        assert len(it.receiver.bodies) == 1 + callbacks.REPEATS
        assert (task.callbacks_sent, task.callback_status) == (4, 503)


async def test_a_repeated_callback_stops_when_it_is_acknowledged():
    async with rig() as it:
        it.receiver.statuses = [500, 204]
        task = await it.run()
        assert (task.callbacks_sent, task.callback_status) == (2, 204)
        assert it.receiver.bodies[0] == it.receiver.bodies[1]


async def test_a_receiver_that_takes_too_long_has_not_acknowledged():
    async with rig(callback_timeout_s=0.05) as it:
        it.receiver.stall = asyncio.Event()
        task = await it.run()
        assert (task.callbacks_sent, task.callback_status) == (4, None)
        it.receiver.stall.set()


async def test_duplicates_drops_and_invalid_hosts():
    async with rig() as it:
        assert (await it.run("[sandbox:duplicate=3]")).callbacks_sent == 4
        assert (await it.run("[sandbox:drop]")).callbacks_sent == 0
        assert (await it.run(callBackUrl="https://callback.invalid/")).callbacks_sent == 0
        assert (await it.run(tier="generate-2", callBackUrl=None)).callbacks_sent == 0
        assert len(it.receiver.bodies) == 4


async def test_a_late_callback_comes_after_record_info_tells():
    async with rig() as it:
        task_id = (await it.submit("[sandbox:late=600]"))["data"]["taskId"]
        await live.until(lambda: it.table.by_id[task_id].outcome is not None)
        assert (await it.record(task_id))["data"]["successFlag"] == 1
        assert it.receiver.bodies == []


async def test_an_early_callback_comes_before_the_answer():
    async with rig(early=True) as it:
        await it.submit()
        assert len(it.receiver.bodies) == 1
        # Also when there will never be one: the answer must not wait for it.
        await it.submit("[sandbox:drop]")


async def test_a_submit_may_be_refused_and_costs_nothing():
    async with rig() as it:
        assert (await it.submit("[sandbox:submit=429]"))["code"] == 429
        assert (it.table.submitted, await it.credit()) == (0, 1000)
    async with rig(fail_submit=455) as it:
        assert (await it.submit(tier="generate-pro"))["code"] == 455


async def test_an_answer_may_be_lost_after_the_task_was_accepted():
    async with rig() as it:
        with pytest.raises(httpx.RemoteProtocolError, match=r"without sending a response|closed"):
            await it.submit("[sandbox:reset]")
        body = it.body("[sandbox:html]", "generate")
        answer = await it.http.post("/api/v1/nanobanana/generate", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")
        assert it.table.submitted == 2
        await live.until(lambda: len(it.receiver.bodies) == 2)


async def test_progress_is_told_only_when_asked_for():
    async with rig(progress=True, latency_s=0.02) as it:
        task = await it.run()
        assert it.receiver.bodies[0] == {
            "status": "generating",
            "data": {"task_id": task.task_id, "progress": 25},
        }
        assert len(it.receiver.bodies) == 4
        assert task.callbacks_sent == 1


async def test_canned_bytes_are_served_as_they_are():
    content = png()
    async with rig(picture_bytes=content) as it:
        task = await it.run(image_size="1:1")
        answer = await it.http.get(task.result_url)
        assert (answer.content, answer.headers["content-type"]) == (content, "image/png")


async def test_the_same_seed_gives_the_same_fates():
    settings = options.Options(fail_rate=0.5, drop=0.5)
    fates = []
    for _ in range(2):
        chances = random.Random(7)
        fates.append([settings.behaviour("x", chances=chances) for _ in range(50)])
    assert fates[0] == fates[1]
    assert {(fate.fail_code, fate.drop) for fate in fates[0]} == {
        (500, True),
        (500, False),
        (None, True),
        (None, False),
    }


async def test_trouble_befalls_a_share_of_the_tasks_with_each_fault():
    fates = drawn(trouble=0.3, trouble_late_s=7)
    assert fates == drawn(trouble=0.3, trouble_late_s=7)
    for field, value in [
        ("fail_code", 500),
        ("drop", True),
        ("duplicate", 1),
        ("late_s", 7),
        ("early", True),
        ("submit_code", 429),
        ("accident", "reset"),
        ("flaw", "half"),
    ]:
        assert 0.2 < sum(getattr(fate, field) == value for fate in fates) / len(fates) < 0.4, field
    # Of two refusals, accidents or flaws the first counts: the second comes in its share of what is left.
    for field, value in [("submit_code", 500), ("accident", "html"), ("flaw", "broken")]:
        assert 0.14 < sum(getattr(fate, field) == value for fate in fates) / len(fates) < 0.28, field


async def test_without_trouble_nothing_is_drawn_to_happen():
    assert set(drawn()) == {options.Options().behaviour("x", chances=random.Random(1))}


def drawn(**settings) -> list[options.Behaviour]:
    chances = random.Random(3)
    return [options.Options(**settings).behaviour("x", chances=chances) for _ in range(1_000)]


async def test_half_a_picture_is_followed_by_the_whole_one():
    async with rig() as it:
        task = await it.run("[sandbox:half]")
        with pytest.raises(httpx.RemoteProtocolError):
            await it.http.get(task.result_url)
        assert (await it.http.get(task.result_url)).content == task.outcome.content


async def test_a_broken_picture_is_whole_the_second_time():
    async with rig() as it:
        task = await it.run("[sandbox:broken]")
        assert (await it.http.get(task.result_url)).status_code == 500
        assert (await it.http.get(task.result_url)).content == task.outcome.content


@pytest.mark.parametrize(("word", "status"), [("missing", 404), ("forbidden", 403), ("empty", 200)])
async def test_a_picture_that_is_not_there_yet_is_there_the_second_time(word, status):
    async with rig() as it:
        task = await it.run(f"[sandbox:{word}]")
        first = await it.http.get(task.result_url)
        assert (first.status_code, task.outcome.content in first.content) == (status, False)
        assert (await it.http.get(task.result_url)).content == task.outcome.content


async def test_a_picture_may_be_labelled_wrongly_or_packed_without_a_label():
    async with rig() as it:
        for word, label in (("labelled", "aws-chunked"), ("packed", None)):
            task = await it.run(f"[sandbox:{word}]")
            async with it.http.stream("GET", task.result_url) as answer:
                raw = b"".join([piece async for piece in answer.aiter_raw()])
            assert answer.headers.get("content-encoding") == label
            assert (gzip.decompress(raw) if word == "packed" else raw) == task.outcome.content


async def test_json_may_come_behind_a_mark_or_gzipped():
    undress = {"marked": lambda body: body.removeprefix(b"\xef\xbb\xbf"), "zipped": gzip.decompress}
    async with rig() as it:
        for word, plain in undress.items():
            order = it.body(f"[sandbox:{word}]", "generate", callBackUrl="https://callback.invalid/")
            answer = await it.http.post("/api/v1/nanobanana/generate", json=order)
            task_id = orjson.loads(plain(answer.content))["data"]["taskId"]
            await asyncio.wait_for(it.table.by_id[task_id].ended.wait(), 20)
            record = await it.http.get("/api/v1/nanobanana/record-info", params={"taskId": task_id})
            assert orjson.loads(plain(record.content))["data"]["taskId"] == task_id


async def test_a_slow_picture_drips():
    async with rig() as it:
        task = await it.run("[sandbox:slow=0.2]")
        begun = asyncio.get_running_loop().time()
        assert (await it.http.get(task.result_url)).content == task.outcome.content
        assert asyncio.get_running_loop().time() - begun > 0.15


async def test_prompt_key_and_callback_token_are_not_logged(caplog):
    caplog.set_level(logging.DEBUG, logger="nanohook")
    async with rig() as it:
        it.receiver.statuses = [500, 500, 500, 500]
        await it.run("a private prompt", imageUrls=[f"{it.receiver.url}/in.png"])
        await it.run("a private prompt", callBackUrl=f"http://127.0.0.1:{live.closed_port()}/cb/token")
    said = [str(vars(record)) for record in caplog.records if record.name.startswith("nanohook")]
    assert len(said) > 8
    assert [line for line in said for word in ("private", "some-key", "cb/token") if word in line] == []


async def test_shutting_down_stops_what_is_under_way():
    async with rig(latency_s=600) as it:
        task = it.table.by_id[(await it.submit())["data"]["taskId"]]
    assert task.running.cancelled()
    assert task.callbacks_sent == 0


async def test_the_oldest_tasks_and_pictures_are_forgotten():
    table = tasks.Table(credit=0, max_tasks=3, max_picture_bytes=25)
    settings = options.Options().behaviour("x", chances=random.Random(1))
    order = orders.parse("generate-2", b'{"prompt":"x"}')
    made = [table.add(order, settings, base_url="http://x") for _ in range(3)]
    for task in made:
        table.finish(task, tasks.Picture(content=b"x" * 10, media_type="image/png", suffix="png"))
    assert table.picture(made[0].name) is None
    assert table.picture(made[1].name) is not None
    assert made[0].flag == tasks.Flag.DONE
    table.add(order, settings, base_url="http://x")
    table.add(order, settings, base_url="http://x")
    assert made[1].task_id not in table.by_id
    assert (len(table.by_id), table.submitted) == (3, 5)


@pytest.mark.parametrize("ratio", sorted(pictures.SIZES))
def test_every_ratio_has_its_own_size(ratio):
    body = orjson.dumps({"prompt": ratio, "aspectRatio": ratio, "resolution": "1K"})
    picture = pictures.paint(orders.parse("generate-2", body), [])
    assert Image.open(io.BytesIO(picture.content)).size == pictures.SIZES[ratio]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK", "1", "I;16"])
def test_every_kind_of_input_is_changed(mode):
    buffer = io.BytesIO()
    Image.new(mode, (300, 500)).save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    body = b'{"prompt":"x","aspectRatio":"auto","resolution":"4K"}'
    picture = pictures.paint(orders.parse("generate-2", body), [buffer.getvalue()])
    assert Image.open(io.BytesIO(picture.content)).size == (1536, 2688)


def test_a_truncated_input_is_a_picture_error():
    buffer = io.BytesIO()
    Image.effect_noise((400, 400), 90).save(buffer, "PNG")
    with pytest.raises(pictures.PictureError):
        pictures.paint(orders.parse("generate-2", b'{"prompt":"x"}'), [buffer.getvalue()[:5000]])
