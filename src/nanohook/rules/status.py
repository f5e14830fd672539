"""
The one status language: what a job is, which step it is at, and how far that is.

``stage_of`` is the only place where a backend's own words are understood; behind it there are enums.
"""

from enum import StrEnum
from typing import Final, Self


class ImageJobStatus(StrEnum):
    """What a job is: the same words in the database, the API, the events and the page."""

    _value_: str
    is_final: bool
    """Whether only a retry, or accepting a late result, leads out of it."""

    def __new__(cls, word: str, is_final: bool = False) -> Self:  # noqa: FBT001, FBT002 - as members are written
        member = str.__new__(cls, word)
        member._value_ = word
        member.is_final = is_final
        return member

    PENDING = "PENDING"
    INITIALIZING = "INITIALIZING"
    GENERATING = "GENERATING"
    COMPLETED = "COMPLETED", True
    FAILED = "FAILED", True
    CANCELED = "CANCELED", True


class Stage(StrEnum):
    """The step a job is at; in the order of the main path, the three ends last."""

    # Plain attributes: a property that looks itself up in a table is asked a dozen times for every callback.
    _value_: str
    place: int
    """In the order of the main path."""
    status: ImageJobStatus
    """The status a job has while it is at this stage."""
    progress: int | None
    """Percent done on entering this stage; ``None``: stays where it was."""
    is_final: bool
    """Whether its status is final."""

    # The defaults are never used: ``Stage(word)``, which looks a member up, is spelt like a call of this.
    def __new__(
        cls, word: str, status: ImageJobStatus = ImageJobStatus.PENDING, progress: int | None = None
    ) -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.place = len(cls.__members__)
        member.status, member.progress, member.is_final = status, progress, status.is_final
        return member

    UPLOADED = "uploaded", ImageJobStatus.PENDING, 0
    QUEUED = "queued", ImageJobStatus.PENDING, 10
    SUBMITTING = "submitting", ImageJobStatus.INITIALIZING, 25
    GENERATING = "generating", ImageJobStatus.GENERATING, 60
    DOWNLOADING = "downloading", ImageJobStatus.GENERATING, 70
    RESIZING = "resizing", ImageJobStatus.GENERATING, 80
    STORING = "storing", ImageJobStatus.GENERATING, 90
    COMPLETED = "completed", ImageJobStatus.COMPLETED, 100
    FAILED = "failed", ImageJobStatus.FAILED, None
    CANCELED = "canceled", ImageJobStatus.CANCELED, None


_WORDS: Final = {
    "pending": Stage.QUEUED,
    "queued": Stage.QUEUED,
    "waiting": Stage.QUEUED,
    "processing": Stage.SUBMITTING,
    "initializing": Stage.SUBMITTING,
    "generating": Stage.GENERATING,
    "completed": Stage.COMPLETED,
    "success": Stage.COMPLETED,
    "succeeded": Stage.COMPLETED,
    "failed": Stage.FAILED,
    "fail": Stage.FAILED,
    "error": Stage.FAILED,
    "canceled": Stage.CANCELED,
    "cancelled": Stage.CANCELED,
}

# A backend's own count may use up the room between "accepted" and "downloading", and no more.
_LEAST_GENERATING: Final = 60
_MOST_GENERATING: Final = 69
# Nobody means a percentage by more than this: a time stamp or an id in the wrong field.
_ABSURD_PERCENT: Final = 1_000_000


def stage_of(word: str) -> Stage | None:
    """
    Understand a backend's status word.

    Args:
        word: In any case, with or without spaces around it.

    Returns:
        The stage it stands for; ``COMPLETED`` means that the picture may be fetched, not that the job is
        done: finishing is due. ``None`` for a word that is not known, which is no news.
    """
    return _WORDS.get(word.strip().lower())


def generating_progress(percent: float | str | None) -> int:
    """
    Fit a backend's count into what generating may show.

    Args:
        percent: Whatever it sent; numeric text counts as its number.

    Returns:
        60 to 69; 60 for what is no sensible number.
    """
    if percent is None or isinstance(percent, bool):
        return _LEAST_GENERATING
    try:
        number = float(percent)
    except (ValueError, OverflowError):
        return _LEAST_GENERATING
    # Written so that NaN, which compares false with everything, is refused as well.
    if not abs(number) <= _ABSURD_PERCENT:
        return _LEAST_GENERATING
    return min(max(int(number), _LEAST_GENERATING), _MOST_GENERATING)
