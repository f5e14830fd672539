"""How a job looks from outside: the dictionaries that answers, events and pages are made of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from nanohook.clock import rfc3339
from nanohook.rules import words
from nanohook.rules.job import Fault, Job, ResultPicture, Stored, Task, Unclaimed
from nanohook.rules.status import Stage

Sign = Callable[[str], str]
"""From a storage key to the root-relative, signed address of its bytes."""


def fault(found: Fault | None, language: str) -> dict[str, Any] | None:
    """Show an error as code, sentence, advice and whether a retry can help."""
    if found is None:
        return None
    sentence = words.FAULTS.get(found.code, words.FAULTS["internal"])
    return {
        "code": found.code,
        "message": words.in_language(sentence.message, language),
        "advice": words.in_language(sentence.advice, language),
        "retryable": sentence.retryable,
    }


BEFORE_SUBMIT: Final = frozenset({Stage.QUEUED, Stage.SUBMITTING})
"""It waits or is sent: one that was refused for the moment waits again, while its status never goes back."""


def message(job: Job, *, held_by: str | None = None) -> str:
    """
    Say in the job's language what it is doing, or why it failed.

    Args:
        held_by: Why nobody's job is submitted at the moment, one of ``words.HELD``.
    """
    if job.stage in BEFORE_SUBMIT and held_by in words.HELD:
        return words.in_language(words.HELD[held_by], job.language)
    if job.stage is Stage.FAILED and job.fault is not None:
        sentence = words.FAULTS.get(job.fault.code, words.FAULTS["internal"])
        return words.in_language(sentence.message, job.language)
    return words.in_language(words.STAGES[job.stage], job.language)


def event(
    job: Job, pictures: Sequence[ResultPicture], *, now_us: int, held_by: str | None = None
) -> dict[str, Any]:
    """
    Build the payload of a ``status`` event as the log keeps it, where *held_by* is left out: it passes.

    Its ``images`` hold keys in place of addresses: a signed address expires, a stored event must not.
    """
    return {
        "job_id": job.id,
        "status": job.status,
        "progress": job.progress,
        "stage": job.stage,
        "message": message(job, held_by=held_by),
        "attempt": job.attempt,
        "images": [_kept(picture) for picture in pictures],
        "error": fault(job.fault, job.language),
        "at": rfc3339(now_us),
    }


def addressed(payload: dict[str, Any], sign: Sign) -> dict[str, Any]:
    """Turn a stored event's picture keys into signed addresses."""
    images = [
        {
            "index": kept["index"],
            "url": sign(kept["key"]),
            "thumbnail_url": sign(kept["thumbnail_key"]),
            **{name: kept[name] for name in ("width", "height", "content_type", "bytes")},
        }
        for kept in payload.get("images", ())
    ]
    return {**payload, "images": images}


def status(
    job: Job, *, held_by: str | None = None, place: int | None = None, estimated_wait_s: float | None = None
) -> dict[str, Any]:
    """Build the answer of the status route, with what who knows the line tells of one that waits."""
    return {
        "job_id": job.id,
        "status": job.status,
        "progress": job.progress,
        "stage": job.stage,
        "message": message(job, held_by=held_by),
        "error": fault(job.fault, job.language),
        "attempt": job.attempt,
        "place": place,
        "estimated_wait_s": estimated_wait_s,
        "event_id": job.last_event_id,
        "updated_at": rfc3339(job.updated_at),
    }


def images(pictures: Iterable[ResultPicture], sign: Sign) -> list[dict[str, Any]]:
    """List finished pictures with their addresses."""
    return [{"index": picture.index, **stored(picture.stored, sign)} for picture in pictures]


def stored(picture: Stored, sign: Sign) -> dict[str, Any]:
    """Show one picture of ours."""
    return {
        "url": sign(picture.key),
        "thumbnail_url": sign(picture.thumbnail_key),
        "width": picture.width_px,
        "height": picture.height_px,
        "content_type": picture.content_type,
        "bytes": picture.size_bytes,
    }


def links(job_id: str) -> dict[str, str]:
    """Where everything about a job is, root-relative."""
    here = f"/api/images/{job_id}"
    return {
        "self": here,
        "status": f"{here}/status",
        "result": f"{here}/result",
        "events": f"{here}/events",
        "cancel": f"{here}/cancel",
        "retry": f"{here}/retry",
    }


def whole_job(
    job: Job,
    *,
    original: Stored | None,
    tasks: Sequence[Task],
    pictures: Sequence[ResultPicture],
    late: Sequence[Unclaimed],
    credits: int,
    sign: Sign,
    held_by: str | None = None,
) -> dict[str, Any]:
    """Build the job object of the contract."""
    return {
        "job_id": job.id,
        "project_id": job.project_id,
        "batch_id": job.batch_id,
        "source_job_id": job.source_job_id,
        "status": job.status,
        "progress": job.progress,
        "stage": job.stage,
        "message": message(job, held_by=held_by),
        "error": fault(job.fault, job.language),
        "attempt": job.attempt,
        "prompt": job.prompt,
        "prompt_truncated": job.is_prompt_cut,
        "transformation_type": job.transformation_type,
        "model": job.model,
        "options": dict(job.options),
        "priority": job.priority,
        "credits": credits,
        "original": None if original is None else stored(original, sign),
        "images": images(pictures, sign),
        "unclaimed": [_unclaimed(picture, sign) for picture in late],
        "failed_tasks": [
            {"index": task.index, "error": fault(task.fault, job.language)}
            for task in tasks
            if task.stage in {Stage.FAILED, Stage.CANCELED}
        ],
        "tasks": [{"index": task.index, "task_id": task.task_id, "status": task.stage.status} for task in tasks],
        "metadata": _metadata(job.metadata, tasks),
        "created_at": rfc3339(job.created_at),
        "updated_at": rfc3339(job.updated_at),
        "completed_at": None if job.completed_at is None else rfc3339(job.completed_at),
        "links": links(job.id),
        "event_id": job.last_event_id,
    }


def _unclaimed(picture: Unclaimed, sign: Sign) -> dict[str, Any]:
    """Show a picture that may be taken; the whole of it only who takes it, since it may have to be paid."""
    whole = stored(picture.stored, sign)
    del whole["url"]
    return {
        "index": picture.index,
        "attempt": picture.attempt,
        "kept_until": rfc3339(picture.kept_until),
        **whole,
    }


def _metadata(kept: Mapping[str, object], tasks: Sequence[Task]) -> dict[str, object]:
    first = next((task.task_id for task in tasks if task.index == 0), None)
    return dict(kept) if first is None else {**kept, "nanobanana_task_id": first}


def _kept(picture: ResultPicture) -> dict[str, Any]:
    kept = picture.stored
    return {
        "index": picture.index,
        "key": kept.key,
        "thumbnail_key": kept.thumbnail_key,
        "width": kept.width_px,
        "height": kept.height_px,
        "content_type": kept.content_type,
        "bytes": kept.size_bytes,
    }
