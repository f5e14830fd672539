import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohook.rules import sse


def test_a_stream_opens_as_the_contract_shows():
    opening = sse.retry(2734) + sse.event(name="status", data=b'{"progress":60}', id=1041)
    assert opening == b'retry: 2734\nid: 1041\nevent: status\ndata: {"progress":60}\n\n'


def test_an_event_without_an_id_leaves_the_cursor_alone():
    assert sse.event(name="photo:progress", data="{}") == b"event: photo:progress\ndata: {}\n\n"


def test_text_goes_out_as_utf8():
    assert sse.event(name="status", data="prêt") == "event: status\ndata: prêt\n\n".encode()


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
def test_each_line_of_the_payload_gets_its_own_field(line_end):
    block = sse.event(name="note", data=f"one{line_end}id: 9{line_end}{line_end}two", id=3)
    assert block == b"id: 3\nevent: note\ndata: one\ndata: id: 9\ndata: \ndata: two\n\n"


@pytest.mark.parametrize("name", ["", "a b", "a\nid: 1", "a\r", "é", "9", "a" * 65, "status\n"])
def test_a_name_that_would_break_the_framing_is_refused(name):
    with pytest.raises(ValueError, match="not an event name"):
        sse.event(name=name, data=b"{}")


def test_numbers_below_zero_are_refused():
    for wrong in (
        lambda: sse.retry(-1),
        lambda: sse.ready(-1),
        lambda: sse.event(name="status", data=b"{}", id=-1),
    ):
        with pytest.raises(ValueError, match="negative"):
            wrong()


def test_a_reader_of_all_jobs_is_given_its_cursor_with_an_event():
    assert sse.ready(0) == b"id: 0\nevent: ready\ndata: {}\n\n"


def test_reset_has_no_id():
    assert sse.reset() == b"event: reset\ndata: {}\n\n"


def test_retry_is_a_line_and_no_block_of_its_own():
    assert sse.retry(0) == b"retry: 0\n"


@pytest.mark.parametrize(
    ("sizes", "pieces"),
    [
        ([], []),
        ([sse.PIECE_BYTES], [1]),
        ([sse.PIECE_BYTES // 2, sse.PIECE_BYTES // 2, 1], [2, 1]),
        ([1, 3 * sse.PIECE_BYTES, 1], [1, 1, 1]),
    ],
)
def test_what_is_sent_at_once_is_bounded_and_no_block_is_cut(sizes, pieces):
    blocks = [bytes([number]) * size for number, size in enumerate(sizes)]
    found = list(sse.pieces(iter(blocks)))
    assert b"".join(found) == b"".join(blocks)
    assert [len(set(piece)) for piece in found] == pieces


def test_the_heartbeat_closes_no_block():
    assert sse.HEARTBEAT == b":\n"


def test_no_header_is_no_cursor():
    assert sse.read_cursor(None) is None


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("1041", 1041), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_a_whole_number_is_a_cursor(text, number):
    assert sse.read_cursor(text) == number


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "+1", "-1", "1.0", "1e3", "0x1", "9" * 19, "٣", "1\n", "\x00", "x"]
)
def test_anything_else_is_a_bad_cursor(text):
    assert sse.read_cursor(text) is sse.BAD_CURSOR


@settings(max_examples=50, deadline=None, database=None)
@given(st.text("\r\n: idaté\u2028\x85\x00", max_size=30), st.integers(0, 10**18 - 1))
def test_whatever_the_payload_it_stays_one_block_and_comes_out_again(text, number):
    block = sse.event(name="status", data=text, id=number).decode()
    assert block.endswith("\n\n")
    assert "\n\n" not in block[:-1]
    fields = block.removesuffix("\n\n").split("\n")
    assert fields[:2] == [f"id: {number}", "event: status"]
    assert all(field.startswith("data: ") for field in fields[2:])
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    assert "\n".join(field.removeprefix("data: ") for field in fields[2:]) == plain
