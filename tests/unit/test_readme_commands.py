"""Every command that the README shows is there, with its options: what is typed off it works."""

import pathlib
import re
import shlex

import pytest
import typer.main

from nanohook.cli.commands import commands

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
SHOWN = sorted(
    {
        line.split("nanohook ", 1)[1].split("   #")[0].split(" | ")[0].rstrip("` .|)")
        for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
        for line in block.splitlines()
        if ".venv/bin/nanohook " in line
    }
)


def test_there_are_commands_to_look_at():
    assert len(SHOWN) > 12


@pytest.mark.parametrize("shown", SHOWN)
def test_a_command_that_is_shown_is_there(shown):
    words = shlex.split(shown.split("#")[0].split("$(")[0])
    found = typer.main.get_command(commands)
    while words and hasattr(found, "commands"):
        name = words.pop(0)
        assert name in found.commands, f"no command {name}"
        found = found.commands[name]
    known = {option for parameter in found.params for option in parameter.opts}
    asked = {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}
    assert asked <= known, asked - known
