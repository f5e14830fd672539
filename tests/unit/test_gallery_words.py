"""The texts of the project pages: nothing is said in one language alone."""

import re

import pytest

from nanohook.rules import gallery_words, page_words

_GROUPS = {name: value for name, value in vars(gallery_words).items() if isinstance(value, dict) and "fr" in value}
_FILLED_IN = re.compile(r"\{\w+\}")


@pytest.mark.parametrize("group", _GROUPS)
def test_every_text_is_there_in_both_languages_with_the_same_places_to_fill(group):
    texts = _GROUPS[group]
    assert set(texts["en"]) == set(texts["fr"])
    for name, text in texts["en"].items():
        assert set(_FILLED_IN.findall(text)) == set(_FILLED_IN.findall(texts["fr"][name])), name


@pytest.mark.parametrize(
    "groups",
    [
        (page_words.SCRIPTS, page_words.STUDIO_SCRIPT),
        (page_words.SCRIPTS, page_words.DOORS_SCRIPT),
        (page_words.SCRIPTS, gallery_words.SAID, gallery_words.PROJECTS_SCRIPT),
        (page_words.SCRIPTS, gallery_words.SAID, gallery_words.GALLERY_SCRIPT),
    ],
    ids=["studio", "doors", "projects", "gallery"],
)
def test_no_script_finds_two_texts_under_one_name(groups):
    assert len(page_words.of("en", *groups)) == sum(len(group["en"]) for group in groups)
