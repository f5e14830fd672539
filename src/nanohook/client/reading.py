"""From the JSON of an answer to a value: strict in what is missing, blind to what is new."""

import dataclasses
import datetime as dt
import enum
import types
import typing
from typing import Any, TypeVar

from nanohook.client import failures

T = TypeVar("T")


def take(kind: type[T], content: object) -> T:
    """
    Build *kind*, a dataclass, of a JSON object.

    Raises:
        failures.BadAnswer: A field is missing, or is not what it should be; names it.
    """
    if not isinstance(content, dict):
        raise failures.BadAnswer(f"{kind.__name__}: not an object")
    hints, values = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(typing.cast(Any, kind)):
        name = field.name
        if name in content:
            try:
                values[name] = _value(hints[name], content[name])
            except (TypeError, ValueError) as exc:
                raise failures.BadAnswer(f"{kind.__name__}: {name} cannot be understood") from exc
        elif field.default is dataclasses.MISSING:
            raise failures.BadAnswer(f"{kind.__name__}: {name} is missing")
    return kind(**values)


def _value(hint: Any, told: Any) -> Any:
    """Make of a JSON value what the annotation *hint* says."""
    if isinstance(hint, types.UnionType):
        return None if told is None else _value(typing.get_args(hint)[0], told)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return take(hint, told)
    origin = typing.get_origin(hint) or hint
    if origin is tuple:
        return tuple(_value(typing.get_args(hint)[0], each) for each in _checked(list, told))
    if origin is dt.datetime:
        return dt.datetime.fromisoformat(told)
    if origin is float:
        return float(told)
    return origin(told) if issubclass(origin, enum.Enum) else _checked(origin, told)


def _checked(kind: type[T], told: object) -> T:
    if not isinstance(told, kind):
        raise TypeError(f"not {kind.__name__}")
    return told
