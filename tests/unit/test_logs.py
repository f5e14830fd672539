"""Lines of the log: the short way and the library's say the same, and none breaks what it tells of."""

import logging

import pytest

from nanohook import logs

FIELDS = {"job_id": "0199", "progress": 65, "reason": None, "names": ["é", "\n"], 7: object}
logger = logging.getLogger("nanohook.test")


@pytest.fixture(params=["json", "text"])
def written(request, capfd, monkeypatch):
    """Set the log up as a service does, with nobody else's handlers; tells what was written since it was asked."""
    before = logging.root.handlers[:], logging.root.level
    # Same moment, same line.
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.25)

    is_set_up = False

    def ask():
        nonlocal is_set_up
        if not is_set_up:
            # Within the test: pytest puts its own handlers there for each phase.
            logging.root.handlers.clear()
            logs.configure(level="INFO", form=request.param)
            is_set_up = True
        return capfd.readouterr().err

    yield ask
    logging.root.handlers[:], level = before
    logging.root.setLevel(level)


def test_the_short_way_writes_what_the_library_writes(written):
    assert not written()
    token = logs.request_id.set("0123456789ab")
    try:
        logger.info("job.event", extra={str(name): value for name, value in FIELDS.items()})
        theirs = written()
        logs.info(logger, "job.event", FIELDS)
        assert written() == theirs
        assert "job.event" in theirs
    finally:
        logs.request_id.reset(token)


def test_the_short_way_keeps_to_the_level(written):
    assert not written()
    logger.setLevel(logging.WARNING)
    try:
        logs.info(logger, "job.event", FIELDS)
    finally:
        logger.setLevel(logging.NOTSET)
    assert not written()


def test_another_handler_gets_its_record_too(written):
    assert not written()
    seen = []
    handler = logging.Handler()
    handler.emit = seen.append
    logging.root.addHandler(handler)
    logs.info(logger, "job.event", {"progress": 65})
    assert [(record.getMessage(), record.progress) for record in seen] == [("job.event", 65)]
    assert "job.event" in written()


def test_a_line_that_cannot_be_written_breaks_nothing(written):
    assert not written()

    class Odd:
        def __str__(self):
            raise ValueError("unsayable")

        __repr__ = __str__

    logger.warning("%d files", "x")
    assert "Logging error" in written()
    logs.info(logger, "job.event", {"odd": Odd()})
    assert "Logging error" in written()


def test_ids_are_shortened_for_people_alone(written):
    assert not written()
    job_id = "0199a4d2-6b1e-7c3a-9f00-d658fce4a1b2"
    logs.info(logger, "job.event", {"job_id": job_id, "event_id": 12, "note": job_id})
    line = written()
    assert f'"job_id":"{job_id}"' in line or f"job_id=…fce4a1b2 event_id=12 note={job_id}" in line


def test_what_strangers_said_commands_no_terminal(written):
    assert not written()
    logs.info(logger, "job.event", {"detail": "red \x1b[31m\nand more"})
    assert "\x1b" not in written()
