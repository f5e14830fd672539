"""Rules of the house that no single module can keep."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

from nanohook import errors
from nanohook.rules import page_words, views, words
from nanohook.rules.job import Fault
from nanohook.rules.status import Stage
from nanohook.settings import Settings
from nanohook.web import failures

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted((ROOT / "src/nanohook").rglob("*.py"))


def test_imports_go_down_only():
    # A process of its own: within ours it would switch off every logger that there is.
    lint = pathlib.Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _family(kind: type[errors.NanohookError]) -> list[type[errors.NanohookError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _family(child))]


@pytest.mark.parametrize("kind", _family(errors.NanohookError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_of_its_own_or_its_parents(kind):
    status = failures.status_of(kind.__new__(kind))
    is_ours = status >= 500
    assert is_ours is not issubclass(kind, errors.Rejected) or issubclass(kind, errors.LeaseLost)


def test_the_tree_in_the_docstring_names_every_error():
    drawn = inspect.getdoc(errors)
    here = [kind.__name__ for kind in _family(errors.NanohookError) if kind.__module__ == errors.__name__]
    assert [name for name in here if name not in drawn] == []


def test_every_stage_and_every_error_code_has_words_in_both_languages():
    assert set(words.STAGES) == set(Stage)
    for texts in (value for value in vars(page_words).values() if isinstance(value, dict) and "fr" in value):
        assert set(texts["en"]) == set(texts["fr"])
    for code in words.FAULTS:
        for language in words.LANGUAGES:
            shown = views.fault(Fault(code=code), language)
            assert shown["code"] == code
            assert shown["message"]
            assert shown["advice"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src/nanohook")))
def test_modules_and_functions_keep_to_their_size(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src/nanohook")))
def test_the_former_name_of_a_status_stands_nowhere(path):
    assert "PROCESSING" not in path.read_text()


def test_env_example_names_only_settings_that_exist():
    known = {f"NANOHOOK_{name}".upper() for name in Settings.model_fields} | {"NANOBANANA_API_KEY"}
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = {line.lstrip("# ").partition("=")[0] for line in lines if "=" in line}
    assert named <= known
    readme = (ROOT / "README.md").read_text()
    assert [name for name in sorted(named) if name not in readme] == []
