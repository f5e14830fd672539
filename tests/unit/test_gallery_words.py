"""The texts of the project pages: nothing is said in one language alone."""

import re

import pytest

from nanohook.rules import gallery_words

_GROUPS = {name: value for name, value in vars(gallery_words).items() if isinstance(value, dict) and "fr" in value}
_FILLED_IN = re.compile(r"\{\w+\}")


@pytest.mark.parametrize("group", _GROUPS)
def test_every_text_is_there_in_both_languages_with_the_same_places_to_fill(group):
    texts = _GROUPS[group]
    assert set(texts["en"]) == set(texts["fr"])
    for name, text in texts["en"].items():
        assert set(_FILLED_IN.findall(text)) == set(_FILLED_IN.findall(texts["fr"][name])), name


def test_no_script_finds_two_texts_under_one_name():
    for own in (gallery_words.PROJECTS_SCRIPT, gallery_words.GALLERY_SCRIPT):
        assert set(own["en"]) & set(gallery_words.SAID["en"]) == set()
