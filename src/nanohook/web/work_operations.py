"""The operations about many jobs, and about the work as a whole; see ``operations``."""

from typing import Final

from nanohook.web import work_shapes, work_wire
from nanohook.web.operation import IDEMPOTENCY, REPLAYED, SCOPE, Access, Body, Operation

_DISK: Final = {507: ""}
_JOB_IDS: Final = {"job_ids": ["0192a4b0-0000-7000-8000-000000000000"]}

ALL: Final = (
    Operation(
        "POST /api/batches",
        "batches",
        "Start up to 100 jobs, all or none of them",
        about=(
            "Each job is a body of `generate-image`; `priority` is for those that name none. If any is refused, "
            "none is started, and `errors` names all that is wrong: `jobs[3].model`, or `jobs[3]` with the `code` "
            "that it would be refused with alone. Counts as one write."
        ),
        asks=(IDEMPOTENCY,),
        takes=Body(
            json=work_wire.Batch,
            example={"jobs": [{"prompt": "a red kite over dunes"}, {"prompt": "a blue one"}], "priority": "low"},
        ),
        gives={202: work_shapes.Batch},
        headers=REPLAYED,
        refuses={402: "`insufficient_credits` for all of them together.", 409: "`no_api_key`", **_DISK},
    ),
    Operation(
        "GET /api/batches/{batch_id}",
        "batches",
        "Tell how the jobs of a batch stand",
        gives={200: work_shapes.Batch},
    ),
    Operation(
        "POST /api/batches/{batch_id}/cancel",
        "batches",
        "Cancel every open job of a batch",
        about="Those that have ended stay as they are.",
        gives={200: work_shapes.Batch},
    ),
    Operation(
        "POST /api/jobs/retry",
        "batches",
        "Retry many jobs",
        about=(
            "Those named, or with `all_failed` those that failed for a reason that may pass: at most 1,000 of "
            "these a request, `cursor` goes on. Nothing that may be paid is bought again: such a job is skipped "
            "as `may_be_paid`. Asked again, what runs by then is skipped as `not_failed`."
        ),
        asks=(SCOPE,),
        takes=Body(json=work_wire.RetryMany, example={"all_failed": True}),
        gives={202: work_shapes.Retried},
        refuses={409: "`no_api_key`", **_DISK},
    ),
    Operation(
        "POST /api/images/delete",
        "images",
        "Hide many images at once",
        about="As the deletion of each alone. Counts as one write; what is hidden already is done.",
        takes=Body(json=work_wire.JobIds, example=_JOB_IDS),
        gives={200: work_shapes.BulkResult},
    ),
    Operation(
        "POST /api/images/restore",
        "images",
        "Bring many deleted images back",
        about="As the restoring of each alone. Counts as one write; what is there already is done.",
        takes=Body(json=work_wire.JobIds, example=_JOB_IDS),
        gives={200: work_shapes.BulkResult},
    ),
    Operation(
        "POST /api/work/pause",
        "work",
        "Submit nothing for now",
        about="What NanoBanana has goes on: callbacks are taken, pictures finished. What waits keeps its place.",
        who=Access.ADMIN,
        gives={200: work_shapes.WholeWork},
    ),
    Operation(
        "POST /api/work/resume", "work", "Submit again", who=Access.ADMIN, gives={200: work_shapes.WholeWork}
    ),
    Operation(
        "POST /api/work/drain",
        "work",
        "Submit nothing, and let what is under way end",
        about="The same as pause; `state` becomes `drained` when nothing is under way any more.",
        who=Access.ADMIN,
        gives={200: work_shapes.WholeWork},
    ),
    Operation(
        "GET /api/stats",
        "work",
        "Tell how much there is to do, and how it went",
        asks=(SCOPE,),
        gives={200: work_shapes.Stats},
    ),
)
