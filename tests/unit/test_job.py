import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohook.rules import job as rules
from nanohook.rules.downloads import Candidate
from nanohook.rules.job import Fault, Job, Step, Task
from nanohook.rules.status import ImageJobStatus, Stage

ORDER = list(Stage)
OPEN = [stage for stage in Stage if not stage.is_final]
RANK = {
    status: rank
    for rank, status in enumerate((ImageJobStatus.PENDING, ImageJobStatus.INITIALIZING, ImageJobStatus.GENERATING))
}

# The first example pays for what Hypothesis loads: no deadline a test.
quick = settings(max_examples=60, deadline=None)
stages = st.sampled_from(ORDER)
faults = st.none() | st.builds(Fault, code=st.sampled_from(["upstream_failed", "content_policy", "canceled"]))
percents = st.none() | st.integers(60, 69)
moves = st.tuples(stages, percents, faults)


def task(stage=Stage.QUEUED, *, index=0, progress=None, **more):
    values = {
        "job_id": "job",
        "attempt": 1,
        "index": index,
        "owner_id": "me",
        "task_id": None,
        "stage": stage,
        "progress": (stage.progress or 0) if progress is None else progress,
        "fault": None,
        "step": Step.SUBMIT,
        "due_at": 1,
        "claim": 3,
        "tries": 0,
        "asks": 0,
        "submit_started_at": None,
        "accepted_at": None,
        "finish_since": None,
        "candidates": (),
        "suspect_deaths": None,
        "is_held": False,
        "said": None,
        "may_buy": False,
    }
    return Task(**(values | more))


def job(stage=Stage.QUEUED, **more):
    values = {
        "id": "job",
        "owner_id": "me",
        "project_id": None,
        "source_job_id": None,
        "batch_id": None,
        "original_id": None,
        "status": stage.status,
        "stage": stage,
        "progress": stage.progress or 0,
        "fault": None,
        "attempt": 1,
        "prompt": "a kite",
        "transformation_type": "custom",
        "model": "nano-banana",
        "options": {"num_images": 1},
        "priority": "normal",
        "language": "en",
        "metadata": {},
        "last_event_id": 7,
        "created_at": 1,
        "updated_at": 1,
        "completed_at": None,
    }
    return Job(**(values | more))


def walk(start, steps):
    """Every state that a task comes to, the first included."""
    seen = [start]
    for stage, progress, fault in steps:
        moved = rules.advance(seen[-1], stage, progress=progress, fault=fault)
        if moved is not None:
            seen.append(moved)
    return seen


# One task.


@given(st.lists(moves, max_size=30))
@quick
def test_a_task_never_goes_back(steps):
    seen = walk(task(), steps)
    for before, after in itertools.pairwise(seen):
        assert ORDER.index(before.stage) <= ORDER.index(after.stage)
        assert before.progress <= after.progress
        assert 0 <= after.progress <= 100
        assert (before.stage, before.progress) != (after.stage, after.progress)


@given(st.lists(moves, max_size=30))
@quick
def test_a_final_task_stays_as_it_is(steps):
    seen = walk(task(), steps)
    assert all(not one.is_ended for one in seen[:-1])
    assert [one.step for one in seen if one.is_ended] in ([], [None])
    assert [one.due_at for one in seen if one.is_ended] in ([], [None])


@pytest.mark.parametrize("end", [Stage.COMPLETED, Stage.FAILED, Stage.CANCELED])
@given(move=moves)
@quick
def test_nothing_moves_a_task_that_has_ended(end, move):
    stage, progress, fault = move
    ended = rules.advance(task(Stage.GENERATING), end)
    assert rules.advance(ended, stage, progress=progress, fault=fault) is None


@given(st.lists(moves, max_size=30), moves)
@quick
def test_a_move_repeated_is_none(steps, move):
    stage, progress, fault = move
    start = walk(task(), steps)[-1]
    moved = rules.advance(start, stage, progress=progress, fault=fault)
    if moved is not None:
        assert rules.advance(moved, stage, progress=progress, fault=fault) is None


@given(st.lists(moves, max_size=30))
@quick
def test_a_move_changes_nothing_but_where_the_task_is(steps):
    start = task(
        task_id="t", candidates=(Candidate(url="https://a/b"),), submit_started_at=5, accepted_at=6, said="failed"
    )
    for after in walk(start, steps):
        expected = replace(
            start,
            stage=after.stage,
            progress=after.progress,
            fault=after.fault,
            step=after.step,
            due_at=after.due_at,
        )
        assert after == expected


def test_every_end_can_be_reached_from_every_open_stage():
    for stage in OPEN:
        for end in (Stage.COMPLETED, Stage.FAILED, Stage.CANCELED):
            moved = rules.advance(task(stage), end, fault=Fault(code="canceled"))
            assert moved.stage is end


@pytest.mark.parametrize("end", [Stage.FAILED, Stage.CANCELED])
def test_a_failed_task_stays_at_its_progress_and_says_why(end):
    moved = rules.advance(task(Stage.GENERATING, progress=64), end, fault=Fault(code="upstream_failed"))
    assert (moved.progress, moved.fault) == (64, Fault(code="upstream_failed"))


def test_a_completed_task_is_at_100_percent():
    assert rules.advance(task(Stage.STORING), Stage.COMPLETED).progress == 100


def test_a_task_may_leave_out_stages():
    assert rules.advance(task(), Stage.DOWNLOADING).progress == 70


def test_a_count_within_a_stage_moves_only_upwards():
    at_65 = rules.advance(task(Stage.GENERATING), Stage.GENERATING, progress=65)
    assert at_65.progress == 65
    for late in (60, 64, 65, None):
        assert rules.advance(at_65, Stage.GENERATING, progress=late) is None
    assert rules.advance(at_65, Stage.GENERATING, progress=66).progress == 66
    assert rules.advance(at_65, Stage.SUBMITTING, progress=99) is None


# A job of several tasks.


groups = st.lists(st.lists(moves, max_size=10), min_size=1, max_size=4)


def group_of(histories):
    return [walk(task(index=index), steps)[-1] for index, steps in enumerate(histories)]


@given(groups)
@quick
def test_a_job_has_ended_exactly_when_all_its_tasks_have(histories):
    group = group_of(histories)
    assert rules.summarise(job(), group).status.is_final is all(one.is_ended for one in group)


@given(groups)
@quick
def test_status_and_stage_of_a_job_never_disagree(histories):
    after = rules.summarise(job(), group_of(histories))
    assert after.stage.status is after.status
    assert 0 <= after.progress <= 100
    assert (after.progress == 100) is (after.status is ImageJobStatus.COMPLETED) or not after.status.is_final
    assert (after.fault is not None) <= (after.status in {ImageJobStatus.FAILED, ImageJobStatus.CANCELED})


@given(groups)
@quick
def test_an_open_job_is_never_at_100_percent(histories):
    after = rules.summarise(job(), group_of(histories))
    if not after.status.is_final:
        assert after.progress < 100


@given(groups, st.randoms(use_true_random=False))
@quick
def test_a_job_never_goes_back_while_its_tasks_move(histories, random):
    """Moves of all tasks, in any order between them: what people see only goes on."""
    group = [task(index=index) for index in range(len(histories))]
    left = [(index, move) for index, steps in enumerate(histories) for move in steps]
    random.shuffle(left)
    seen = [rules.summarise(job(), group)]
    for index, (stage, progress, fault) in left:
        moved = rules.advance(group[index], stage, progress=progress, fault=fault)
        if moved is None:
            continue
        group[index] = moved
        after = rules.summarise(seen[-1], group)
        if rules.shows_change(seen[-1], after):
            seen.append(after)
        else:
            assert (after.status, after.stage, after.progress) == (
                seen[-1].status,
                seen[-1].stage,
                seen[-1].progress,
            )
    for before, after in itertools.pairwise(seen):
        assert not before.status.is_final
        assert before.progress <= after.progress
        if not after.status.is_final:
            assert RANK[before.status] <= RANK[after.status]


@given(groups)
@quick
def test_a_job_with_one_picture_is_completed(histories):
    group = group_of(histories)
    after = rules.summarise(job(), group)
    if all(one.is_ended for one in group):
        has_one = any(one.stage is Stage.COMPLETED for one in group)
        assert (after.status is ImageJobStatus.COMPLETED) is has_one
        if not has_one:
            assert after.fault == group[0].fault
            all_canceled = all(one.stage is Stage.CANCELED for one in group)
            assert (after.status is ImageJobStatus.CANCELED) is all_canceled


def test_the_error_of_a_failed_job_is_that_of_its_lowest_index():
    group = [
        task(Stage.FAILED, index=1, fault=Fault(code="upstream_failed")),
        task(Stage.FAILED, index=0, fault=Fault(code="content_policy")),
    ]
    assert rules.summarise(job(), group).fault == Fault(code="content_policy")


def test_progress_is_the_mean_of_the_tasks_rounded_down():
    group = [task(Stage.COMPLETED, index=0), task(Stage.GENERATING, index=1), task(Stage.QUEUED, index=2)]
    after = rules.summarise(job(), group)
    assert (after.progress, after.stage) == ((100 + 60 + 10) // 3, Stage.QUEUED)


@given(groups)
@quick
def test_summarising_twice_shows_no_change(histories):
    group = group_of(histories)
    once = rules.summarise(job(), group)
    again = rules.summarise(once, group)
    assert again == once
    assert not rules.shows_change(once, again)


def test_only_what_people_see_is_a_change():
    here = job(Stage.GENERATING)
    for same in (
        here,
        replace(here, updated_at=99),
        replace(here, last_event_id=99),
        replace(here, metadata={"x": 1}),
        replace(here, project_id="p"),
    ):
        assert not rules.shows_change(here, same)
    for other in (
        replace(here, progress=61),
        replace(here, stage=Stage.DOWNLOADING),
        replace(here, status=ImageJobStatus.FAILED),
        replace(here, attempt=2),
    ):
        assert rules.shows_change(here, other)


def test_a_job_is_open_from_the_wish_to_the_end():
    assert [stage for stage in Stage if job(stage).is_open] == OPEN[1:]
