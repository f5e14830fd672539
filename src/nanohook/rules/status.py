"""
The one status language: what a job is, which step it is at, and how far that is.

``stage_of`` is the only place where a backend's own words are understood; behind it there are enums.
"""

from enum import StrEnum
from typing import Final


class ImageJobStatus(StrEnum):
    """What a job is: the same words in the database, the API, the events and the page."""

    PENDING = "PENDING"
    INITIALIZING = "INITIALIZING"
    GENERATING = "GENERATING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Whether only a retry, or accepting a late result, leads out of it."""
        return self in _FINAL


class Stage(StrEnum):
    """The step a job is at; in the order of the main path, the three ends last."""

    UPLOADED = "uploaded"
    QUEUED = "queued"
    SUBMITTING = "submitting"
    GENERATING = "generating"
    DOWNLOADING = "downloading"
    RESIZING = "resizing"
    STORING = "storing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def status(self) -> ImageJobStatus:
        """The status a job has while it is at this stage."""
        return _STAGES[self][0]

    @property
    def progress(self) -> int | None:
        """Percent done on entering this stage; ``None``: stays where it was."""
        return _STAGES[self][1]

    @property
    def is_final(self) -> bool:
        """Whether its status is final."""
        return self.status.is_final


_FINAL: Final = frozenset({ImageJobStatus.COMPLETED, ImageJobStatus.FAILED, ImageJobStatus.CANCELED})

_STAGES: Final[dict[Stage, tuple[ImageJobStatus, int | None]]] = {
    Stage.UPLOADED: (ImageJobStatus.PENDING, 0),
    Stage.QUEUED: (ImageJobStatus.PENDING, 10),
    Stage.SUBMITTING: (ImageJobStatus.INITIALIZING, 25),
    Stage.GENERATING: (ImageJobStatus.GENERATING, 60),
    Stage.DOWNLOADING: (ImageJobStatus.GENERATING, 70),
    Stage.RESIZING: (ImageJobStatus.GENERATING, 80),
    Stage.STORING: (ImageJobStatus.GENERATING, 90),
    Stage.COMPLETED: (ImageJobStatus.COMPLETED, 100),
    Stage.FAILED: (ImageJobStatus.FAILED, None),
    Stage.CANCELED: (ImageJobStatus.CANCELED, None),
}

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
