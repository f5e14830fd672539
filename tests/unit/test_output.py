"""Writing that never waits: a text arrives whole, or is counted."""

import contextlib
import io
import os
import pathlib
import socket
import sys
import threading
import traceback
from collections.abc import Iterator

import pytest

from nanohook import output

LINE = b"x" * 99 + b"\n"


class Pipe:
    """A pipe, and an output to its one end."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer = reader, writer
        os.set_blocking(self.reader, False)
        self.output = output.Output(os.fdopen(self.writer, "w", closefd=False))

    def fill(self) -> None:
        while self.output.put(LINE):
            pass

    def read(self) -> bytes:
        found = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.reader, 1 << 20):
                found += piece
        return found

    def close(self) -> None:
        self.output.close()
        for end in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(end)


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """A pipe that belongs to another user cannot be opened anew."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(params=[contextlib.nullcontext, another_user])
def pipe(request):
    ends = os.pipe()
    with request.param():
        made = Pipe(*ends)
    yield made
    made.close()


def test_a_full_pipe_takes_no_more_and_nothing_is_torn(pipe):
    pipe.fill()
    assert pipe.output.dropped == 1
    assert not pipe.output.put(LINE)
    assert pipe.output.dropped == 2
    text = pipe.read()
    assert set(text.splitlines(keepends=True)) == {LINE}
    assert pipe.output.put(LINE)
    assert pipe.read() == LINE


def test_a_text_longer_than_the_pipe_is_cut_counted_and_ended(pipe):
    long = b"y" * (1 << 20) + b"\n"
    assert not pipe.output.put(long)
    assert pipe.output.dropped == 1
    rest = pipe.read()
    assert 0 < len(rest) < len(long)
    # What comes next is a line of its own.
    assert pipe.output.put(LINE)
    assert pipe.read() == b"\n" + LINE
    assert pipe.output.put(LINE)
    assert pipe.read() == LINE


def test_a_text_of_several_pieces_arrives_whole(pipe):
    text = b"z" * 20_000 + b"\n"
    assert pipe.output.put(text)
    assert pipe.read() == text


def test_the_descriptor_itself_stays_as_it_was(pipe):
    assert os.get_blocking(pipe.writer)
    pipe.output.close()
    os.write(pipe.writer, b"still open")
    assert pipe.read() == b"still open"


def test_without_a_reader_texts_are_counted(pipe):
    os.close(pipe.reader)
    assert not pipe.output.put(LINE)
    assert not pipe.output.put(LINE)
    assert pipe.output.dropped == 2


def test_a_pipe_that_nobody_reads_from_the_start_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        made = output.Output(stream)
        assert not made.put(LINE)
        made.close()


def test_a_socket_is_sent_to_without_waiting_and_stays_open():
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("w") as stream:
        made = output.Output(stream)
        while made.put(LINE):
            pass
        made.close()
        assert theirs.getblocking()
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while ours.recv(1 << 20):
                pass
        theirs.send(b"still open")
        assert ours.recv(100) == b"still open"


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_without_a_stream_texts_are_counted(stream):
    made = output.Output(stream)
    assert not made.put(LINE)
    assert made.dropped == 1
    made.close()
    assert not made.put(LINE)


def test_a_full_disk_is_counted():
    with pathlib.Path("/dev/full").open("w", encoding="utf-8") as full:
        made = output.Output(full)
        assert not made.put(LINE)
        assert made.dropped == 1
        made.close()


def test_a_file_takes_texts_of_any_length(tmp_path):
    text = b"z" * (1 << 21) + b"\n"
    with (tmp_path / "log").open("w") as file:
        made = output.Output(file)
        assert made.put(text)
        made.close()
    assert (tmp_path / "log").read_bytes() == text


def test_what_others_print_waits_for_nobody_either(pipe):
    before = sys.stdout, sys.stderr
    with output.printing(stdout=pipe.output, stderr=pipe.output):
        print("greeting é", flush=True)
        traceback.print_exception(ValueError("told"))
        assert pipe.read().decode() == "greeting é\nValueError: told\n"
        pipe.fill()
        print("x" * 100_000)
        print("x" * 100_000, file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    # The output itself is still open.
    pipe.read()
    assert pipe.output.put(LINE)


def test_threads_tear_no_lines_of_each_other(pipe):
    lines = [bytes([letter]) * 9_000 + b"\n" for letter in b"abcd"]
    threads = [threading.Thread(target=pipe.output.put, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pipe.read().splitlines(keepends=True)) == lines
