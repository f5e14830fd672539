"""What a picture costs, and what the operator may write about it."""

import pytest

from nanohook import errors, settings
from nanohook.rules import credit

CONTRACT = [
    ("nano-banana", None, 4),
    ("nano-banana-2", "1K", 8),
    ("nano-banana-2", "2K", 12),
    ("nano-banana-2", "4K", 18),
    ("nano-banana-2", None, 8),
    ("nano-banana-pro", "1K", 18),
    ("nano-banana-pro", "2K", 18),
    ("nano-banana-pro", "4K", 24),
    ("nano-banana-pro", None, 18),
]
BAD = [
    "",
    "4",
    "null",
    "[]",
    "{",
    "nano-banana=4",
    '"nano-banana"',
    '{"dall-e": 4}',
    '{"NANO-BANANA": 4}',
    '{"nano-banana": "4"}',
    '{"nano-banana": 4.5}',
    '{"nano-banana": 4.0}',
    '{"nano-banana": -1}',
    '{"nano-banana": true}',
    '{"nano-banana": null}',
    '{"nano-banana": [4]}',
    '{"nano-banana": 1000000000}',
    '{"nano-banana": 1e400}',
    '{"nano-banana": 99999999999999999999999}',
    '{"nano-banana": NaN}',
    '{"nano-banana": {"1K": 4}}',
    '{"nano-banana-2": {"8K": 4}}',
    '{"nano-banana-2": {"1k": 4}}',
    '{"nano-banana-2": {"1K": {"1K": 4}}}',
    '{"nano-banana-2": {"1K": "4"}}',
    '{"nano-banana": 4, "nano-banana-2": {"1K": 8, "2K": -12}}',
    "[" * 5_000,
    '{"nano-banana": \udcff}',
]


@pytest.mark.parametrize(("model", "resolution", "price"), CONTRACT)
def test_the_prices_are_those_of_the_contract(model, resolution, price):
    assert credit.Prices().of(model, resolution) == price


def test_one_number_holds_for_all_resolutions_of_a_model():
    prices = credit.parse('{"nano-banana-2": 5}')
    assert [prices.of("nano-banana-2", size) for size in (None, "1K", "2K", "4K")] == [5, 5, 5, 5]
    assert prices.of("nano-banana", None) == 4


def test_what_is_not_named_keeps_its_price():
    prices = credit.parse('{"nano-banana-2": {"4K": 40}, "nano-banana": 0}')
    assert [prices.of("nano-banana-2", size) for size in ("1K", "2K", "4K")] == [8, 12, 40]
    assert prices.of("nano-banana", None) == 0
    assert prices.of("nano-banana-pro", "4K") == 24


@pytest.mark.parametrize("text", ["{}", ' {"nano-banana-pro": {}} ', '{"nano-banana": 4}'])
def test_saying_nothing_new_changes_nothing(text):
    prices = credit.parse(text)
    assert [prices.of(model, resolution) for model, resolution, _ in CONTRACT] == [line[2] for line in CONTRACT]


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text)[:40])
def test_what_is_no_price_list_is_refused(text):
    with pytest.raises(ValueError, match=r"^(must be|knows|the price|nano-banana)"):
        credit.parse(text)


@pytest.mark.parametrize("text", [text for text in BAD if text], ids=lambda text: ascii(text)[:40])
def test_settings_name_the_variable_and_never_its_value(text):
    with pytest.raises(errors.ConfigError) as caught:
        settings.load(env_file=None, prices=text)
    said = str(caught.value)
    assert "NANOHOOK_PRICES" in said
    assert len(said) < 300
    if len(text) > 3:
        assert text not in said


def test_prices_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("NANOHOOK_PRICES", '{"nano-banana": 7}')
    assert settings.load(env_file=None).prices.of("nano-banana", None) == 7
    monkeypatch.setenv("NANOHOOK_PRICES", '{"nano-banana": -7}')
    with pytest.raises(errors.ConfigError, match=r"NANOHOOK_PRICES: the price of nano-banana must be a whole"):
        settings.load(env_file=None)
