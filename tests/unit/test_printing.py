"""What commands print of texts from anywhere: never a command to a terminal, and cut where a line is meant."""

import orjson
import pytest

from nanohook.cli import findings, printing

ODD = "\x1b]0;gone\x07\x9b2J\x7f\u202etxt\udcff"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a kite, é, 凧, 🪁", "a kite, é, 凧, 🪁"),
        (ODD, "\\x1b]0;gone\\x07\\x9b2J\\x7f\\u202etxt\\udcff"),
        ("one\ntwo\tthree\r", "one\\ntwo\\tthree\\r"),
    ],
    ids=["ordinary", "odd", "lines"],
)
def test_no_text_is_a_command_to_a_terminal(text, told):
    assert printing.plain(text) == told
    assert printing.plain(f"\n{text}\t", may_fold=True)[1:-1].isprintable() is ("\n" not in text)


def test_lines_may_stay_where_a_text_has_several():
    assert printing.plain("one\n\ttwo\r\n\x1b", may_fold=True) == "one\n\ttwo\\r\n\\x1b"


def test_json_is_as_harmless_and_says_the_same(capsys):
    content = {"text": f"{ODD[:-1]}\U000e0001é\n"}
    printing.print_json(content)
    printed = capsys.readouterr().out
    assert [char for char in printed if not char.isprintable() and char != "\n"] == []
    assert orjson.loads(printed) == content


def test_a_finding_is_short_and_harmless_whoever_had_a_hand_in_it():
    found = findings.fail("way back", f"{ODD}{'x' * 3_000}", f"see {ODD}")
    said, cure = found.lines().split("\n")
    assert (said + cure).isprintable()
    assert len(said) < printing.MOST_CHARS + 60
    assert said.endswith("x…")
    assert orjson.dumps(found.shown())
