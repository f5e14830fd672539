"""What may be asked of a model."""

import pytest

from nanohook import errors
from nanohook.rules import wishes, words


def wish(**more):
    plain = {
        "prompt": "a kite",
        "transformation_type": "custom",
        "model": "nano-banana",
        "num_images": 1,
        "aspect_ratio": None,
        "resolution": None,
        "output_format": None,
        "fit": "cover",
        "use": "original",
        "priority": "normal",
        "language": "en",
    }
    return wishes.Wish(**{**plain, **more})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"aspect_ratio": "1:8"}, "aspect_ratio"),
        ({"resolution": "2K"}, "resolution"),
        ({"model": "nano-banana-pro", "resolution": "8K"}, "resolution"),
        ({"model": "nano-banana-pro", "aspect_ratio": "1:8"}, "aspect_ratio"),
    ],
)
def test_what_a_model_lacks_is_named_by_its_field(given, field):
    with pytest.raises(errors.Invalid) as caught:
        wishes.check(wish(**given))
    assert list(caught.value.fields) == [field]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"prompt": None, "transformation_type": "enhance"},
        {"model": "nano-banana-2", "aspect_ratio": "1:8", "resolution": "4K"},
        {"model": "nano-banana-pro", "aspect_ratio": "auto", "resolution": "1K"},
    ],
)
def test_what_a_model_has_may_be_asked(given):
    wishes.check(wish(**given))


def test_the_nearest_ratio_is_asked_for_unless_one_was_wished():
    assert wishes.upstream_ratio(wish(), (1024, 576)) == "16:9"
    assert wishes.upstream_ratio(wish(aspect_ratio="1:1"), (1024, 576)) == "1:1"
    assert wishes.upstream_ratio(wish(), None) is None
    assert wishes.upstream_ratio(wish(model="nano-banana-2"), (100, 790)) == "1:8"


def test_a_prompt_joins_the_template_and_the_persons_words():
    assert wishes.full_prompt("custom", "a kite") == "a kite"
    joined = wishes.full_prompt("enhance", "keep the kite")
    assert joined.startswith(wishes.TEMPLATES["enhance"])
    assert joined.endswith("keep the kite")


def test_the_prompt_does_not_show():
    assert "kite" not in repr(wish())


@pytest.mark.parametrize(
    ("header", "language"),
    [(None, "en"), ("fr-CA,en;q=0.5", "fr"), ("de, fr;q=0.3", "fr"), ("*", "en"), ("EN-gb", "en"), (",,;", "en")],
)
def test_the_language_is_the_first_of_ours_that_the_header_names(header, language):
    assert words.language_of(header) == language
