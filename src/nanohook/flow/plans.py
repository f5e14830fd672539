"""What a word of NanoBanana means for a task: planned here, written by ``receive``. Nothing is read or stored."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from nanohook.flow.terms import FINISH_FOR_US, NO_ANSWER_FOR_US, SECOND_US, UNREADABLE_FOR_US, Terms
from nanohook.rules import addresses, callbacks, downloads
from nanohook.rules import job as rules
from nanohook.rules.callbacks import Reading
from nanohook.rules.job import Fault, Step, Task
from nanohook.rules.status import Stage
from nanohook.values import replace

NAMING_FOR_US: Final = 3 * FINISH_FOR_US
"""New addresses of a result are taken for so long: one that is named anew at each question would have no end."""
UNSEEN_US: Final = 120 * SECOND_US
"""So long after its submit a task may be one that NanoBanana does not find."""


class Plan(NamedTuple):
    """What a reading means for a task: the task after it, or why there is nothing to do."""

    task: Task | None
    reason: str | None = None
    only_progress: bool = False
    """Nothing but stage and progress is changed."""


def of_callback(job_attempt: int, task: Task, reading: Reading, *, terms: Terms, now_us: int) -> Plan:
    """Tell what a callback's *reading* means for *task*."""
    if task.stage is Stage.COMPLETED:
        return Plan(None, f"the task has ended: {task.stage}")
    adopted = _adopted(task, reading, terms=terms, now_us=now_us)
    named = adopted or task
    if task.is_ended:
        return _late(adopted, named, reading, job_attempt=job_attempt, terms=terms, now_us=now_us)
    if reading.stage is None:
        return Plan(adopted, f"no news: {reading.word}")
    if not reading.stage.is_final:
        moved = rules.advance(named, reading.stage, progress=reading.progress)
        reason = None if moved else f"already at {task.stage} {task.progress} %"
        return Plan(moved or adopted, reason, only_progress=adopted is None)
    believed = _believed(reading, terms)
    if named.has_result or named.step is Step.FINISH:
        plan = _another(named, believed, now_us=now_us)
        return plan or Plan(adopted, "the first final word won: its result is being fetched")
    if believed:
        return Plan(_finish(named, believed, now_us=now_us))
    said = replace(named, said=reading.stage, candidates=downloads.named((), reading.urls, now_us=now_us))
    if reading.stage is not Stage.COMPLETED:
        said = replace(said, fault=_fault(reading.stage, reading))
    if named.task_id is None:
        return _without_id(said, now_us=now_us)
    if named.step is Step.ASK and named.is_held:
        return Plan(said, "record-info is being asked")
    return Plan(replace(said, step=Step.ASK, due_at=now_us), "asked record-info first")


def _without_id(noted: Task, *, now_us: int) -> Plan:
    """Tell what a final word means that record-info cannot confirm: no id of NanoBanana's is known."""
    if noted.step is Step.SUBMIT and noted.submit_started_at is not None:
        # The submit's answer is on its way, and brings the id.
        return Plan(noted, "noted until its submit is answered")
    return Plan(*by_signature(noted, now_us=now_us))


def by_signature(said: Task, *, now_us: int) -> tuple[Task | None, str | None]:
    """Take a final word that *said* has noted as it is: there is nothing to ask by, and the signature was good."""
    if said.said is not None and Stage(said.said) is not Stage.COMPLETED:
        return rules.advance(said, Stage(said.said), fault=said.fault), None
    if not said.candidates:
        return None, "a success without address or task id"
    return _finish(said, [each.url for each in said.candidates], now_us=now_us), "nothing to ask by"


def _adopted(task: Task, reading: Reading, *, terms: Terms, now_us: int) -> Task | None:
    """Take the id that NanoBanana calls *task* by, if none is known: from now on it can be asked after."""
    if task.task_id is not None or reading.task_id is None:
        return None
    taken = replace(task, task_id=reading.task_id, accepted_at=task.accepted_at or now_us)
    if task.step is not Step.ASK:
        return taken
    first_ask = next_question(taken, now_us + terms.ask_interval_us(0), terms=terms, now_us=now_us)
    return replace(taken, due_at=min(first_ask, task.due_at or first_ask))


def _late(
    adopted: Task | None, task: Task, reading: Reading, *, job_attempt: int, terms: Terms, now_us: int
) -> Plan:
    """Tell what it means for a task that has ended without a picture: one that comes now is kept for its owner."""
    if task.attempt != job_attempt:
        ended = f"attempt {task.attempt} has ended, the job is at {job_attempt}"
    else:
        ended = f"the task has ended: {task.stage}"
    if reading.stage is not Stage.COMPLETED:
        return Plan(adopted, ended)
    believed = _believed(reading, terms)
    if not believed and task.task_id is None:  # there is nothing to ask by, and the signature was good
        believed = list(reading.urls)
    if task.has_result and task.step is not None:
        return _another(task, believed, now_us=now_us) or Plan(
            adopted, f"{ended}; its late result is being fetched"
        )
    if believed:
        return Plan(_finish(task, believed, now_us=now_us), f"{ended}; its late result is kept")
    if task.task_id is None:
        return Plan(None, f"{ended}; a success without address or task id")
    if task.step is Step.ASK and task.is_held:
        return Plan(adopted, f"{ended}; record-info is being asked")
    return Plan(replace(task, step=Step.ASK, due_at=now_us), f"{ended}; asked record-info first")


def _believed(reading: Reading, terms: Terms) -> list[str]:
    """List the addresses of a success that a good signature is enough for; others ``record-info`` has to name."""
    if not reading.is_success:
        return []
    return [url for url in reading.urls if addresses.is_listed(url, terms.believed_hosts)]


def _another(task: Task, urls: Sequence[str], *, now_us: int) -> Plan | None:
    """Add what *urls* name to the addresses of a result that is being fetched; ``None``: all are known."""
    more = downloads.named(task.candidates, urls, now_us=now_us)
    if more == task.candidates or not task.has_result:
        return None
    added = replace(task, candidates=more)
    # Whoever is at it looks at the row again before it gives anything up.
    if not task.is_held:
        added = replace(added, step=Step.FINISH, due_at=now_us)
    return Plan(added, "another address for its result")


def of_record(job_attempt: int, task: Task, record: callbacks.Record, *, terms: Terms, now_us: int) -> Plan:
    """Tell what an answer of ``record-info`` means for *task*."""
    reading = record.reading
    if task.stage is Stage.COMPLETED:
        return Plan(None, "the task has ended")
    urls = reading.urls if reading is not None and reading.is_success else ()
    of_result = _of_result(task, urls, is_fault=record.is_fault, now_us=now_us)
    if of_result is not None:
        return of_result
    has_failed = reading is not None and reading.stage in {Stage.FAILED, Stage.CANCELED}
    is_gone = record.is_gone and not _is_young(task, now_us=now_us)
    is_late = now_us >= _patient_until(task, terms)
    if record.is_fault:
        until = _patient_until(task, terms) + UNREADABLE_FOR_US
        is_late = now_us >= until and task.tries >= downloads.MIN_TRIES
    if task.is_ended:
        is_over = task.step is not None and (has_failed or is_gone or is_late)
        after = replace(task, step=None, due_at=None) if is_over else None
        return Plan(after, f"attempt {task.attempt} of {job_attempt}: the task has ended")
    if task.may_buy and (has_failed or is_gone):
        return Plan(_buy(task, now_us=now_us), "NanoBanana has none: bought again")
    if has_failed and reading is not None:
        return Plan(_end(task, reading.stage or Stage.FAILED, reading))
    if task.said in {Stage.FAILED, Stage.CANCELED} and is_gone:
        return Plan(_end_by_deadline(task))
    if is_late:
        return Plan(_end_by_deadline(task), "past its deadline")
    return _of_running(task, record)


def _of_running(task: Task, record: callbacks.Record) -> Plan:
    """Tell what an answer means that names no result and no failure."""
    stage = None if record.reading is None else record.reading.stage
    if stage is None:
        return Plan(None, "no news" if record.found else "not found yet")
    if stage is Stage.COMPLETED:
        return Plan(None if task.said else replace(task, said=stage), "a success without an address")
    moved = rules.advance(task, stage)
    return Plan(moved, None if moved else "still running")


def _of_result(task: Task, urls: Sequence[str], *, is_fault: bool, now_us: int) -> Plan | None:
    """Tell what *urls*, where ``record-info`` says a result is, mean; ``None``: there is no result yet."""
    if task.step is Step.FINISH:
        return _another(task, urls, now_us=now_us) or Plan(None, "its result is being fetched")
    if task.has_result and task.step is Step.ASK:
        taken = urls if now_us < (task.finish_since or now_us) + NAMING_FOR_US else ()
        known = downloads.named(task.candidates, taken, is_confirmed=True, now_us=now_us)
        more = replace(task, candidates=known)
        if is_fault and more.next_candidate is None and not _is_waited_out(task, now_us=now_us):
            return Plan(None, "an outage, and no address left")
        return Plan(fetch_or_end(more, now_us=now_us), "asked because an address of its result failed")
    if urls:
        late = "the task has ended; its late result is kept" if task.is_ended else None
        return Plan(_finish(task, urls, now_us=now_us), late)
    return None


def of_silence(task: Task, *, is_unreadable: bool, pause_us: int, terms: Terms, now_us: int) -> Task:
    """
    Tell what *task* is when ``record-info`` gave no answer that says anything about it.

    Args:
        is_unreadable: There was an answer, and no sense in it; else nobody answered.
        pause_us: Back-off to the next question.
    """
    tried = replace(task, tries=task.tries + 1)
    if task.has_result:
        if task.next_candidate is not None:
            return fetch_or_end(tried, now_us=now_us)
        until = _outage_until(task)
    else:
        until = deadline_of(task, terms) + (UNREADABLE_FOR_US if is_unreadable else NO_ANSWER_FOR_US)
    # Not by the first silence: a laptop that wakes after a day has asked nobody meanwhile.
    if now_us >= until and tried.tries >= downloads.MIN_TRIES:
        return fetch_or_end(tried, now_us=now_us) if task.has_result else _end_by_silence(tried, now_us=now_us)
    due_at = next_question(tried, now_us + pause_us, terms=terms, now_us=now_us)
    return replace(tried, due_at=min(due_at, until) if until > now_us else due_at)


def next_question(task: Task, due_at: int, *, terms: Terms, now_us: int) -> int:
    """Move *due_at*, when ``record-info`` is to be asked next, to the deadline if that comes before."""
    deadline = deadline_of(task, terms)
    return min(due_at, deadline) if deadline > now_us else due_at


def fetch_or_end(task: Task, *, now_us: int) -> Task:
    """Go on with the next address of a result that was told; without one that is alive, end *task*."""
    candidate = task.next_candidate
    if candidate is not None:
        return replace(task, step=Step.FINISH, due_at=max(candidate.due_at, now_us), tries=0)
    if task.is_ended:
        return replace(task, step=None, due_at=None)
    fault = task.fault or Fault(code="download_failed")
    return rules.advance(task, Stage.FAILED, fault=fault) or task


def _outage_until(task: Task) -> int:
    """Tell until when an outage of NanoBanana is waited for, in case it knows an address beside the dead ones."""
    return max(each.patient_until for each in task.candidates) + UNREADABLE_FOR_US


def _is_waited_out(task: Task, *, now_us: int) -> bool:
    return now_us >= _outage_until(task) and task.tries >= downloads.MIN_TRIES


def _patient_until(task: Task, terms: Terms) -> int:
    """Tell until when *task* may run: a success word, though nobody has confirmed it, ends the deadline."""
    return deadline_of(task, terms) + (FINISH_FOR_US if task.said == Stage.COMPLETED else 0)


def _end_by_silence(task: Task, *, now_us: int) -> Task:
    """End *task*, after which nobody could be asked: what a signed callback has said of it counts."""
    if task.said == Stage.COMPLETED and task.candidates and not task.is_ended:
        return _finish(task, [each.url for each in task.candidates], now_us=now_us)
    return _end_by_deadline(task)


def _end_by_deadline(task: Task) -> Task:
    """End *task* because its time is over; what a callback has said of it counts if that was a failure."""
    if task.is_ended:
        return replace(task, step=None, due_at=None)
    if task.said in {Stage.FAILED, Stage.CANCELED}:
        said = Stage(task.said)
        return rules.advance(task, said, fault=task.fault or Fault(code=_ended_code(said))) or task
    return rules.advance(task, Stage.FAILED, fault=Fault(code="deadline")) or task


def _is_young(task: Task, *, now_us: int) -> bool:
    """NanoBanana may not see it yet: "not found" is no news."""
    return now_us < (task.submit_started_at or task.accepted_at or 0) + UNSEEN_US


def deadline_of(task: Task, terms: Terms) -> int:
    """When NanoBanana's time for *task* is over, µs; counted from its acceptance, else from the submit."""
    started = task.accepted_at or task.submit_started_at or 0
    return started + terms.deadline_us


def _finish(task: Task, urls: Sequence[str], *, now_us: int) -> Task:
    """Have the result fetched that is told to be at *urls*; what was tried before gets its patience again."""
    moved = rules.advance(task, Stage.DOWNLOADING) or task
    return replace(
        moved,
        candidates=downloads.named((), urls, now_us=now_us),
        fault=task.fault if task.is_ended else None,
        step=Step.FINISH,
        due_at=now_us,
        tries=0,
        finish_since=now_us,
        said=None,
    )


def _buy(task: Task, *, now_us: int) -> Task:
    return replace(
        task,
        task_id=None,
        step=Step.SUBMIT,
        due_at=now_us,
        tries=0,
        asks=0,
        submit_started_at=None,
        accepted_at=None,
        said=None,
        candidates=(),
        may_buy=False,
    )


def _end(task: Task, stage: Stage, reading: Reading) -> Task | None:
    return rules.advance(task, stage, fault=_fault(stage, reading))


def _fault(stage: Stage, reading: Reading) -> Fault:
    code = callbacks.fault_code(reading) if stage is Stage.FAILED else _ended_code(stage)
    return Fault(code=code, detail=reading.error_message)


def _ended_code(stage: Stage) -> str:
    return "canceled" if stage is Stage.CANCELED else "upstream_failed"
