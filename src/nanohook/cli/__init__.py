"""The command line: parse, run, print, exit code."""

import sys

from nanohook import output
from nanohook.cli.commands import commands
from nanohook.cli.printing import plain
from nanohook.errors import NanohookError


def main() -> None:
    """Run the command that was typed; what we refuse on purpose is one message and exit 2."""
    output.occupy_closed()
    try:
        commands()
    except NanohookError as exc:
        print(f"nanohook: {plain(str(exc), may_fold=True)}", file=sys.stderr)  # noqa: T201 - what a command line is for
        sys.exit(2)
