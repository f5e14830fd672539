"""The command line: parse, run, print, exit code."""

import sys

from nanohook.cli.commands import commands
from nanohook.errors import ConfigError


def main() -> None:
    """Run the command that was typed; a problem of settings or surroundings is one message and exit 2."""
    try:
        commands()
    except ConfigError as exc:
        print(f"nanohook: {exc}", file=sys.stderr)  # noqa: T201 - what a command line is for
        sys.exit(2)
