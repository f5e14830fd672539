import gzip
import json
import math
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohook import errors
from nanohook.rules import callbacks
from nanohook.rules.status import Stage

SAMPLES = Path(__file__).parent.parent / "samples"
TASK = "7a40c2d91e5b4f3c8b6ad0e1f2435566"
JOB = "0193a4c1-5e22-7b60-8f10-2b6f3c9d7e11"
HOST = "https://tempfile.aiquickdraw.com"


def sample(name):
    return (SAMPLES / f"{name}.json").read_bytes()


def read(tree):
    return callbacks.read(orjson.dumps(tree))


def read_or_reason(body):
    try:
        return callbacks.read(body)
    except (callbacks.NotJson, callbacks.Unreadable) as reason:
        return reason


@pytest.mark.parametrize(
    ("name", "shape", "stage", "word"),
    [
        ("a_success", "A", Stage.COMPLETED, "200"),
        ("a_content_policy", "A", Stage.FAILED, "400"),
        ("a_internal_error", "A", Stage.FAILED, "500"),
        ("a_task_failed", "A", Stage.FAILED, "501"),
        ("a_success_without_url", "A", Stage.COMPLETED, "200"),
        ("b_success", "B", Stage.COMPLETED, "1"),
        ("b_failed", "B", Stage.FAILED, "3"),
        ("b_creation_failed", "B", Stage.FAILED, "2"),
        ("b_generating", "B", Stage.GENERATING, "0"),
        ("b_many_urls", "B", Stage.COMPLETED, "1"),
        ("b_kie_success", "B", Stage.COMPLETED, "success"),
        ("b_kie_fail", "B", Stage.FAILED, "fail"),
        ("c_processing", "C", Stage.SUBMITTING, "processing"),
        ("c_generating", "C", Stage.GENERATING, "Generating"),
        ("c_completed", "C", Stage.COMPLETED, "completed"),
        ("c_failed", "C", Stage.FAILED, "FAILED"),
        ("c_canceled", "C", Stage.CANCELED, "cancelled"),
    ],
)
def test_every_recorded_body_is_read_as_what_it_says(name, shape, stage, word):
    reading = callbacks.read(sample(name))
    assert (reading.shape, reading.stage, reading.word) == (shape, stage, word)
    assert reading.task_id == TASK if shape != "C" else reading.job_id == JOB


@pytest.mark.parametrize(
    ("name", "urls"),
    [
        ("a_success", [f"{HOST}/r/{TASK}_1793610850.jpg"]),
        ("b_success", [f"{HOST}/gemini-preview/boat.jpeg", f"https://origin.example.net/{TASK}.png"]),
        ("b_many_urls", [f"{HOST}/r/boat-1.png", f"{HOST}/r/boat-2.png"]),
        ("b_kie_success", [f"{HOST}/s/boat.png"]),
        ("c_completed", [f"{HOST}/r/boat{letter}.png" for letter in ("", "-a", "-b", "-c")]),
    ],
)
def test_a_success_lists_its_addresses_best_first_and_once(name, urls):
    reading = callbacks.read(sample(name))
    assert list(reading.urls) == urls
    assert reading.is_success
    assert (reading.error_code, reading.error_message) == (None, None)


def test_a_success_without_an_address_is_only_a_claim():
    reading = callbacks.read(sample("a_success_without_url"))
    assert not reading.is_success
    assert (reading.stage, reading.urls) == (Stage.COMPLETED, ())


@pytest.mark.parametrize(
    ("name", "code", "message", "fault"),
    [
        (
            "a_content_policy",
            "400",
            "Your prompt was flagged as violating content policies.",
            "content_policy",
        ),
        ("a_internal_error", "500", "Internal error, please try again later.", "upstream_failed"),
        ("a_task_failed", "501", "Image generation task failed.", "upstream_failed"),
        ("b_failed", "400", "sensitive content", "content_policy"),
        ("b_creation_failed", "500", "upstream failed", "upstream_failed"),
        ("b_kie_fail", "422", "Input image could not be read", "upstream_failed"),
        ("c_failed", None, "The picture is too blurred", "upstream_failed"),
    ],
)
def test_a_failure_keeps_the_upstreams_reason(name, code, message, fault):
    reading = callbacks.read(sample(name))
    assert (reading.error_code, reading.error_message) == (code, message)
    assert callbacks.fault_code(reading) == fault
    assert reading.urls == ()


def test_the_flag_is_believed_before_the_envelopes_code():
    assert read({"code": 200, "data": {"successFlag": 3}}).stage is Stage.FAILED
    assert read({"code": 500, "data": {"successFlag": 0}}).stage is Stage.GENERATING


@pytest.mark.parametrize("flag", [4, -1, None, 1.5, "", "one", "1.5", [], {}, "9" * 400, float("1e30")])
def test_an_unknown_flag_is_no_news(flag):
    reading = read({"code": 200, "data": {"successFlag": flag}})
    assert (reading.shape, reading.stage) == ("B", None)


@pytest.mark.parametrize("flag", ["1", " 1 ", 1])
def test_a_flag_may_be_numeric_text(flag):
    assert read({"data": {"successFlag": flag}}).stage is Stage.COMPLETED


def test_a_code_may_be_numeric_text():
    assert read({"code": "501", "data": {}}).stage is Stage.FAILED


@pytest.mark.parametrize("word", ["daydreaming", "", "\u0000"])
def test_an_unknown_word_is_no_news(word):
    reading = read({"status": word, "data": {"taskId": "t"}})
    assert (reading.shape, reading.stage, reading.task_id) == ("C", None, "t")


@pytest.mark.parametrize(
    ("percent", "progress"),
    [(66, 66), ("64", 64), (5, 60), (99, 69), (True, 60), ("x", 60), (None, None), ([], None)],
)
def test_progress_is_counted_where_shape_c_generates(percent, progress):
    assert read({"status": "generating", "data": {"progress": percent}}).progress == progress


def test_progress_is_counted_nowhere_else():
    assert read({"status": "processing", "data": {"progress": 66}}).progress is None
    assert read({"data": {"successFlag": 0, "progress": 66}}).progress is None


@pytest.mark.parametrize(
    "tree",
    [
        {"code": 200, "data": {"taskId": " t-1 "}},
        {"code": 200, "data": {"task_id": "t-1"}},
        {"code": 200, "taskId": "t-1", "data": None},
        {"code": 200, "task_id": "t-1"},
        {"code": 200, "task_id": "t-1", "taskId": "", "data": {"taskId": "t-1", "task_id": None}},
    ],
)
def test_a_task_id_is_found_in_each_of_its_four_places(tree):
    assert read(tree).task_id == "t-1"


def test_a_whole_number_is_an_id():
    assert read({"code": 200, "data": {"taskId": 42}, "task_id": "42"}).task_id == "42"


@pytest.mark.parametrize(
    "tree",
    [
        {"code": 200, "taskId": "t-1", "data": {"taskId": "t-2"}},
        {"code": 200, "data": {"taskId": "t-1", "task_id": "T-1"}},
        {"status": "failed", "job_id": "j-1", "jobId": "j-2"},
        {"status": "failed", "job_id": "j-1", "data": {"job_id": "j-2"}},
    ],
)
def test_ids_that_disagree_are_unreadable(tree):
    with pytest.raises(callbacks.Unreadable, match="more than one"):
        read(tree)


@pytest.mark.parametrize("bad", ["x" * 513, "a\u0000b", True, 1.5, 1e30, [], {}, ["t"], " "])
@pytest.mark.parametrize("name", ["taskId", "job_id"])
def test_what_cannot_be_an_id_loses_no_picture(bad, name):
    body = json.dumps({"code": 200, "data": {name: bad, "info": {"resultImageUrl": "https://a/b"}}})
    reading = callbacks.read(body.encode())
    assert (reading.task_id, reading.job_id, reading.urls) == (None, None, ("https://a/b",))
    named = read({"code": 200, "task_id": "t-1", "jobId": "j-1", "data": {name: bad}})
    assert (named.task_id, named.job_id) == ("t-1", "j-1")


def test_blanks_around_an_id_are_no_part_of_it():
    assert read({"code": 200, "data": {"taskId": " t-1 "}, "task_id": "t-1\n"}).task_id == "t-1"


def test_a_body_without_ids_can_be_read():
    reading = read({"status": "failed"})
    assert (reading.task_id, reading.job_id) == (None, None)


def test_the_longest_id_is_taken():
    assert read({"code": 200, "data": {"taskId": "x" * 512}}).task_id == "x" * 512


@pytest.mark.parametrize(
    "inner",
    [
        {"response": {"resultImageUrl": "u1"}, "info": {"resultImageUrl": "u2"}, "resultImageUrl": "u3"},
        {"response": {"resultImageUrl": ["u1", "u2"]}, "resultUrls": ["u3"]},
        {"response": ["u1", "u2", "u3"]},
        {"response": {"result_urls": ["u1"]}, "resultImageUrls": ["u2", 5, None, ["x"], "u3"]},
        {"response": {"originImageUrl": "u3"}, "resultJson": '{"resultUrls":["u1","u2"]}'},
        {
            "resultJson": {"resultUrls": "u1"},
            "info": {"originImageUrl": ["u2", "u3"], "resultImageUrl": "  "},
        },
        {"resultImageUrl": [{"url": "u1"}, {"image_url": "u2"}, {"other": "x"}, "u3", "u1"]},
    ],
)
def test_addresses_are_found_wherever_integrators_saw_them(inner):
    found = read({"code": 200, "data": {"successFlag": 1, **inner}}).urls
    assert found == ("u1", "u2", "u3")[: len(found)]
    assert len(found) >= 2


@pytest.mark.parametrize("broken", ["", "null", "not json", "[]", '"u"', "[" * 100_000, '{"resultUrls":5}'])
def test_a_broken_text_of_json_inside_holds_no_address(broken):
    reading = read({"data": {"state": "success", "resultJson": broken}})
    assert (reading.stage, reading.urls) == (Stage.COMPLETED, ())


def test_the_input_picture_of_other_shapes_is_not_mistaken_for_the_result():
    assert read({"code": 200, "data": {"url": "u1", "images": ["u2"]}}).urls == ()


def test_addresses_are_bounded_in_number_and_length():
    many = [f"u{number}" for number in range(5000)]
    reading = read({"status": "completed", "data": {"url": "x" * 4097, "image_url": "y" * 4096, "images": many}})
    assert len(reading.urls) == 20
    assert reading.urls[:2] == ("y" * 4096, "u0")


def test_an_address_with_control_characters_is_dropped():
    assert read({"status": "completed", "data": {"images": ["a\u0000b", "a\nb", "fine"]}}).urls == ("fine",)


@pytest.mark.parametrize(
    ("given_code", "code"),
    [
        (422, "422"),
        ("422", "422"),
        ("BAD_INPUT", "BAD_INPUT"),
        (None, None),
        ("", None),
        (0, None),
        ([], None),
    ],
)
def test_an_error_code_may_be_a_number_a_word_or_nothing(given_code, code):
    assert read({"data": {"successFlag": 3, "errorCode": given_code}}).error_code == code


def test_an_error_may_be_an_object():
    reading = read({"status": "error", "data": {"error": {"code": 400, "message": "no"}, "message": "other"}})
    assert (reading.error_code, reading.error_message) == ("400", "no")


def test_a_message_becomes_one_clean_short_line():
    text = "first\r\n\tsecond\u0000\u0007\u0085 " + "x" * 3000
    message = read({"code": 501, "msg": text, "data": {}}).error_message
    assert message.startswith("first second� x")
    assert len(message) == 500
    assert message.isprintable()


def test_a_word_for_the_log_is_clean_and_short():
    word = read({"status": "odd\nword\u001b[31m" + "x" * 100}).word
    assert word.isprintable()
    assert len(word) == 64


@pytest.mark.parametrize(
    "message", ["NSFW", "This is Prohibited.", "flagged", "against our policy", "SENSITIVE words"]
)
def test_a_message_about_content_is_a_matter_of_policy(message):
    reading = read({"data": {"successFlag": 3, "errorCode": 500, "errorMessage": message}})
    assert callbacks.fault_code(reading) == "content_policy"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"code=200&taskId=t",
        b"<html></html>",
    ],
    ids=range(9),
)
def test_what_is_not_json_is_told_apart(body):
    with pytest.raises(callbacks.NotJson) as caught:
        callbacks.read(body)
    assert not isinstance(caught.value, errors.Invalid)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("body", "repair"),
    [
        (b'\xef\xbb\xbf{"code":501,"msg":"no"}', "byte order mark"),
        (gzip.compress(b'{"code":501,"msg":"no"}'), "compressed"),
        (b'{"code":501,"msg":"no","n":NaN}', "not strictly JSON"),
        (b'{"code":501,"msg":"no","n":1e999}', "not strictly JSON"),
        (b'{"code":501,"msg":"no","n":"\xff"}', "not UTF-8"),
    ],
    ids=["mark", "gzip", "NaN", "infinite", "bytes"],
)
def test_what_was_mended_is_noted(body, repair):
    reading = callbacks.read(body)
    assert (reading.word, reading.error_message, reading.repairs) == ("501", "no", (repair,))


def test_whole_numbers_may_be_written_as_others_write_them():
    for flag in (1, 1.0, "1", "1.0", " 1 ", True):
        response = {"resultImageUrl": "https://a/b"}
        assert read({"code": 200.0, "data": {"successFlag": flag, "response": response}}).is_success, flag
    for code in (200, 200.0, "200", "200.0"):
        assert read({"code": code, "data": {"info": {"resultImageUrl": "https://a/b"}}}).is_success, code
    assert callbacks.read_record(b'{"code":404.0,"data":null}', http_status=200).is_gone
    assert read({"data": {"successFlag": 1.5}}).stage is None


def test_a_message_that_is_no_text_shows_that():
    assert callbacks.read(b'{"code":501,"msg":"a\\ud800 \\u0000b"}').error_message == "a\ufffd \ufffdb"


def test_a_compressed_body_that_grows_too_large_is_too_large():
    with pytest.raises(errors.TooLarge):
        callbacks.read(gzip.compress(b" " * 2_000_000))


@pytest.mark.parametrize(
    "tree",
    [
        None,
        1,
        "text",
        [],
        [{"code": 200}],
        {},
        {"data": {}},
        {"code": None},
        {"code": True},
        {"code": "OK"},
        {"code": 2.5},
    ],
)
def test_json_of_no_known_shape_is_unreadable(tree):
    with pytest.raises(callbacks.Unreadable) as caught:
        read(tree)
    assert isinstance(caught.value, errors.Invalid)
    assert caught.value.code == "unreadable_callback"


@settings(max_examples=50, deadline=None, database=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(body):
    assert read_or_reason(body) is not None


NAMES = [
    *(
        "code",
        "msg",
        "message",
        "data",
        "taskId",
        "task_id",
        "job_id",
        "jobId",
        "status",
        "state",
        "successFlag",
    ),
    *("response", "info", "resultJson", "url", "image_url", "images", "resultImageUrl", "resultUrls"),
    *("originImageUrl", "progress", "error", "errorCode", "errorMessage", "failCode"),
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=12).map(lambda raw: raw.decode("utf-16-le", "replace"))
    | st.sampled_from(["success", "fail", "generating", "200", "\u0000", '{"resultUrls":["u"]}'])
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), TREES, max_size=6)


@settings(max_examples=40, deadline=None, database=None)
@given(BODIES, BODIES)
def test_any_type_in_any_place_is_read_or_refused(top, inner):
    for tree in (top, {**top, "data": inner}):
        reading = read_or_reason(orjson.dumps(tree))
        if isinstance(reading, callbacks.Reading):
            assert reading.task_id is None or 0 < len(reading.task_id) <= 200
            assert all(reading.urls)
            assert len(reading.word) <= 64
            assert reading.progress is None or 60 <= reading.progress <= 69
            assert callbacks.fault_code(reading) in {"content_policy", "upstream_failed"}


@pytest.mark.parametrize("name", ["b_success", "b_failed", "b_generating", "b_kie_fail"])
def test_a_record_is_read_like_a_callback(name):
    record = callbacks.read_record(sample(name), http_status=200)
    assert record.found
    assert record.reading == callbacks.read(sample(name))


@pytest.mark.parametrize(
    ("name", "code"),
    [("record_not_found", 404), ("record_not_visible_yet", 422), ("record_server_exception", 500)],
)
def test_no_record_is_told_with_the_reason(name, code):
    for http_status in (200, code):
        record = callbacks.read_record(sample(name), http_status=http_status)
        assert record == callbacks.Record(found=False, reading=None, code=code)


def test_an_empty_success_is_no_record_yet():
    record = callbacks.read_record(b'{"code":200,"msg":"success","data":null}', http_status=200)
    assert (record.found, record.code) == (False, 200)


@pytest.mark.parametrize(
    ("body", "http_status"),
    [
        (sample("record_bad_key"), 200),
        (sample("record_not_found"), 502),
        (sample("record_not_found"), 401),
        (b'{"code":429,"msg":"slow down","data":null}', 200),
        (b'{"detail":"Not Found"}', 404),
        (b"{}", 404),
        (sample("a_task_failed"), 200),
        (b'{"status":"failed"}', 200),
    ],
    ids=range(8),
)
def test_a_gateway_or_a_refused_key_does_not_say_that_a_task_is_gone(body, http_status):
    with pytest.raises(callbacks.Unreadable):
        callbacks.read_record(body, http_status=http_status)


def test_an_html_answer_is_not_json():
    with pytest.raises(callbacks.NotJson):
        callbacks.read_record(b"<html>404</html>", http_status=404)


@settings(max_examples=50, deadline=None, database=None)
@given(BODIES, st.sampled_from([200, 404, 500, 502]))
def test_any_answer_is_a_record_or_refused(tree, http_status):
    try:
        record = callbacks.read_record(orjson.dumps(tree), http_status=http_status)
    except callbacks.Unreadable:
        return
    assert record.found is (record.reading is not None)
    assert math.isfinite(record.code)
