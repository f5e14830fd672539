"""Values: keyword-only, slotted, and immutable as far as the type checker sees."""

import dataclasses
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def frozen(kind: type[T]) -> type[T]:
    """
    Make *kind* a dataclass that nobody changes.

    mypy refuses every assignment, as with ``frozen=True``; at run time a field is set plainly. A frozen one
    takes three times as long to make, and some of these are made for every callback.
    """
    return dataclasses.dataclass(kw_only=True, slots=True)(kind)
