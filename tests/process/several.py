"""Runs several commands of ``nanohook`` in one process: each start costs a second of imports."""

import contextlib
import io
import sys

import orjson

from nanohook import cli


def run(words: list[str]) -> dict[str, object]:
    """Run one command as if it had been typed; what it says is kept apart."""
    output, log = io.StringIO(), io.StringIO()
    code: object = 0
    sys.argv = ["nanohook", *words]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(log):
        try:
            cli.main()
        except SystemExit as exc:
            code = exc.code or 0
    return {"code": code, "printed": output.getvalue(), "said": log.getvalue()}


if __name__ == "__main__":
    for command in orjson.loads(sys.argv[1]):
        print(orjson.dumps(run(command)).decode(), flush=True)
