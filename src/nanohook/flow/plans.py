"""What a word of NanoBanana means for a task: planned here, written by ``receive``. Nothing is read or stored."""

from typing import Final, NamedTuple

from nanohook.flow.terms import SECOND_US, Terms
from nanohook.rules import addresses, callbacks
from nanohook.rules import job as rules
from nanohook.rules.callbacks import Reading
from nanohook.rules.job import Fault, Step, Task
from nanohook.rules.status import Stage
from nanohook.values import replace

UNSEEN_US: Final = 120 * SECOND_US
"""So long after its submit a task may be one that NanoBanana does not find."""
OUTAGE_US: Final = 3600 * SECOND_US
"""A "server error" in place of a record is no answer about the task, for so long after its deadline."""


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
    if named.step is Step.FINISH:
        return Plan(adopted, "the first final word won: its result is being fetched")
    if reading.is_success and addresses.is_listed(reading.urls[0], terms.believed_hosts):
        return Plan(_finish(named, reading.urls[0], now_us=now_us))
    said = replace(named, said=reading.stage)
    if reading.stage is not Stage.COMPLETED:
        said = replace(said, fault=_fault(reading.stage, reading))
    if named.task_id is None:
        return _without_id(said, reading, now_us=now_us)
    return Plan(replace(said, step=Step.ASK, due_at=now_us), "asked record-info first")


def _without_id(said: Task, reading: Reading, *, now_us: int) -> Plan:
    """Tell what a final word means that record-info cannot confirm: no id of NanoBanana's is known."""
    noted = replace(said, result_url=reading.urls[0] if reading.urls else None)
    if said.step is Step.SUBMIT and said.submit_started_at is not None:
        # The submit's answer is on its way, and brings the id.
        return Plan(noted, "noted until its submit is answered")
    return Plan(*by_signature(noted, now_us=now_us))


def by_signature(said: Task, *, now_us: int) -> tuple[Task | None, str | None]:
    """Take a final word that *said* has noted as it is: there is nothing to ask by, and the signature was good."""
    if said.said is not None and Stage(said.said) is not Stage.COMPLETED:
        return rules.advance(said, Stage(said.said), fault=said.fault), None
    if said.result_url is None:
        return None, "a success without address or task id"
    return _finish(said, said.result_url, now_us=now_us), "nothing to ask by"


def _adopted(task: Task, reading: Reading, *, terms: Terms, now_us: int) -> Task | None:
    """Take the id that NanoBanana calls *task* by, if none is known: from now on it can be asked after."""
    if task.task_id is not None or reading.task_id is None:
        return None
    first_ask = now_us + terms.ask_interval_us(0)
    sooner = first_ask if task.step is Step.ASK and (task.due_at or 0) > first_ask else task.due_at
    return replace(task, task_id=reading.task_id, accepted_at=task.accepted_at or now_us, due_at=sooner)


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
    if task.step is Step.FINISH:
        return Plan(adopted, f"{ended}; its late result is being fetched")
    is_believed = reading.is_success and addresses.is_listed(reading.urls[0], terms.believed_hosts)
    if is_believed or (reading.is_success and task.task_id is None):  # without an id there is nothing to ask by
        return Plan(_finish(task, reading.urls[0], now_us=now_us), f"{ended}; its late result is kept")
    if task.task_id is None:
        return Plan(None, f"{ended}; a success without address or task id")
    return Plan(replace(task, step=Step.ASK, due_at=now_us), f"{ended}; asked record-info first")


def of_record(job_attempt: int, task: Task, record: callbacks.Record, *, terms: Terms, now_us: int) -> Plan:
    """Tell what an answer of ``record-info`` means for *task*."""
    reading = record.reading
    if task.stage is Stage.COMPLETED:
        return Plan(None, "the task has ended")
    if task.step is Step.FINISH:
        return Plan(None, "its result is being fetched")
    has_failed = reading is not None and reading.stage in {Stage.FAILED, Stage.CANCELED}
    is_gone = record.is_gone and not _is_young(task, now_us=now_us)
    if reading is not None and reading.is_success:
        late = "the task has ended; its late result is kept" if task.is_ended else None
        return Plan(_finish(task, reading.urls[0], now_us=now_us), late)
    is_late = now_us >= deadline_of(task, terms) + (OUTAGE_US if record.is_fault else 0)
    if task.is_ended:
        is_over = task.step is not None and (has_failed or is_gone or is_late)
        after = replace(task, step=None, due_at=None) if is_over else None
        return Plan(after, f"attempt {task.attempt} of {job_attempt}: the task has ended")
    if task.may_buy and (has_failed or is_gone):
        return Plan(_buy(task, now_us=now_us), "NanoBanana has none: bought again")
    if has_failed and reading is not None:
        return Plan(_end(task, reading.stage or Stage.FAILED, reading))
    if task.said in {Stage.FAILED, Stage.CANCELED} and (is_gone or (is_late and not record.found)):
        said = Stage(task.said)
        return Plan(rules.advance(task, said, fault=task.fault or Fault(code=_ended_code(said))))
    if is_late:
        return Plan(rules.advance(task, Stage.FAILED, fault=Fault(code="deadline")), "past its deadline")
    if reading is not None and reading.stage is not None and not reading.stage.is_final:
        moved = rules.advance(task, reading.stage)
        return Plan(moved, None if moved else "still running")
    return Plan(None, "not found yet" if not record.found else "no news")


def _is_young(task: Task, *, now_us: int) -> bool:
    """NanoBanana may not see it yet: "not found" is no news."""
    return now_us < (task.submit_started_at or task.accepted_at or 0) + UNSEEN_US


def deadline_of(task: Task, terms: Terms) -> int:
    """When NanoBanana's time for *task* is over, µs; counted from its acceptance, else from the submit."""
    started = task.accepted_at or task.submit_started_at or 0
    return started + terms.deadline_us


def _finish(task: Task, url: str, *, now_us: int) -> Task:
    moved = rules.advance(task, Stage.DOWNLOADING) or task
    return replace(moved, result_url=url, step=Step.FINISH, due_at=now_us, tries=0, finish_since=now_us, said=None)


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
        may_buy=False,
    )


def _end(task: Task, stage: Stage, reading: Reading) -> Task | None:
    return rules.advance(task, stage, fault=_fault(stage, reading))


def _fault(stage: Stage, reading: Reading) -> Fault:
    code = callbacks.fault_code(reading) if stage is Stage.FAILED else _ended_code(stage)
    return Fault(code=code, detail=reading.error_message)


def _ended_code(stage: Stage) -> str:
    return "canceled" if stage is Stage.CANCELED else "upstream_failed"
