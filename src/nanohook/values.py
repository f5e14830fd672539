"""Values: keyword-only, slotted, and immutable as far as the type checker sees."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

__all__ = ["frozen", "replace"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def frozen(kind: type[T]) -> type[T]:
    """
    Make *kind* a dataclass that nobody changes.

    mypy refuses every assignment, as with ``frozen=True``; at run time a field is set plainly. A frozen one
    takes three times as long to make, and some of these are made for every callback.
    """
    return dataclasses.dataclass(kw_only=True, slots=True)(kind)


if TYPE_CHECKING:
    # The checker knows what the library's own may be given.
    from dataclasses import replace
else:

    def replace(value: T, /, **changes: Any) -> T:
        """
        Copy a value that is ``frozen`` by this module with some fields changed.

        As ``dataclasses.replace`` does, in a third of its time; ``__post_init__`` is not run.

        Raises:
            TypeError: It has no such field.
        """
        kind = type(value)
        copy = object.__new__(kind)
        for name in kind.__dataclass_fields__:
            setattr(copy, name, changes.pop(name) if name in changes else getattr(value, name))
        if changes:
            raise TypeError(f"{kind.__name__} has no {', '.join(changes)}")
        return copy
