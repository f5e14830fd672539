"""
Every operation of the API, for its document: a line here for each line of the route table.

What follows from who may ask, from a body or from an id in the address is not said again: see ``operation``.
"""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

from nanohook.rules.status import ImageJobStatus
from nanohook.web import (
    callback_shapes,
    delivery_operations,
    forms,
    people_operations,
    people_shapes,
    shapes,
    wire,
    work_operations,
)
from nanohook.web.operation import (
    EVENTS,
    IDEMPOTENCY,
    JSON,
    NUMBERED,
    PAGED,
    REPLAYED,
    SCOPE,
    Access,
    Body,
    Operation,
    Parameter,
)

INFO: Final = {
    "title": "nanohook",
    "version": "1",
    "description": (
        "Signed callbacks in, finished pictures out. Errors are RFC 9457 problem JSON, times RFC 3339 in UTC, ids "
        "opaque text. Messages come in the language of `Accept-Language`: English or French."
    ),
}
TAGS: Final = {
    "images": "Pictures, and the job that each of them is.",
    "generation": "Starting, following and ending jobs.",
    "batches": "Many jobs of one request, and many retried at once.",
    "work": "Everybody's work: how it stands, pause and resume.",
    "streams": "Server-sent events: what happens, as it happens.",
    "callbacks": "Where NanoBanana reports.",
    "deliveries": "The log of callbacks: look, apply again, test. For admins.",
    "projects": "Folders for jobs.",
    "credits": "What was spent and what is left.",
    "account": "Signing in, passwords, API keys.",
    "service": "For machines that watch, and this document.",
}

_HOW: Final = (
    Parameter("Last-Event-ID", "The last event that was read; what was missed comes first.", place="header"),
    Parameter("last_event_id", "The same; the header wins."),
    Parameter("lastEventId", "The same, as polyfills of EventSource send it; it wins over `last_event_id`."),
    Parameter(
        "heartbeat",
        "`event`: while nothing happens, an `event: heartbeat` every 15 seconds, and one to begin with, in place "
        "of a comment that script cannot see.",
        {"type": "string", "enum": ["event"]},
    ),
)
_STREAM: Final[Mapping[str, type[BaseModel]]] = {
    "status": shapes.StatusEvent,
    "deleted": shapes.DeletedEvent,
    "reset": shapes.ResetEvent,
    "ready": shapes.ReadyEvent,
    "heartbeat": shapes.HeartbeatEvent,
}

_CALLBACKS: Final = (callback_shapes.CallbackA, callback_shapes.CallbackB, callback_shapes.CallbackC)
_CALLBACK: Final = {
    "code": 200,
    "msg": "success",
    "data": {"taskId": "5f1c", "info": {"resultImageUrl": "https://tempfile.aiquickdraw.com/r/5f1c.jpg"}},
}
_NO_PICTURE: Final = "`no_api_key`, `no_public_url`"
_DISK: Final = {507: ""}

_BY_ADDRESS: Final = Operation(
    "POST /api/webhooks/image-completion/{token}",
    "callbacks",
    "Callback signed by its address",
    about=(
        "The token signs job, attempt and task. Committed before it is answered; the same body again is told to "
        "be a `duplicate`. A failure, or a result on an unknown host, is confirmed by asking NanoBanana."
    ),
    who=Access.ANYONE,
    takes=Body(json=_CALLBACKS, example=_CALLBACK),
    gives={200: callback_shapes.Receipt},
    refuses={
        401: "`signature_invalid`: missing, wrong, expired, or of another job than the body.",
        404: "",
        429: "More deliveries than one task may have.",
    },
)
_BY_HEADERS: Final = Operation(
    "POST /api/webhooks/image-completion",
    "callbacks",
    "Callback signed by Standard Webhooks headers",
    about="Open only where `NANOHOOK_WEBHOOK_SECRETS` is set. The task is found by its id, else by `job_id`.",
    who=Access.ANYONE,
    asks=(
        Parameter("webhook-id", "Unique for a message.", place="header"),
        Parameter("webhook-timestamp", "Seconds since the epoch.", place="header"),
        Parameter("webhook-signature", "`v1,` and the signature in Base64; several by spaces.", place="header"),
    ),
    takes=Body(json=_CALLBACKS, example=_CALLBACK),
    gives={200: callback_shapes.Receipt},
    refuses={
        401: "`signature_invalid`",
        404: "No secret is set.",
        429: "More deliveries than one task may have.",
    },
)
WEBHOOKS: Final = {"image-completion": _BY_ADDRESS, "image-completion-signed-by-headers": _BY_HEADERS}
_COMES_BACK: Final = {"https://{$request.header.host}/api/webhooks/image-completion/TOKEN": _BY_ADDRESS}

_IMAGES: Final = (
    Operation(
        "POST /api/images",
        "images",
        "Upload a picture",
        about="JPEG, PNG, WebP or GIF, told by content. Nothing is asked of NanoBanana yet.",
        takes=Body(parts=forms.Upload),
        gives={201: shapes.Job},
        refuses={404: "No such project.", **_DISK},
    ),
    Operation(
        "GET /api/images",
        "images",
        "List images, newest first",
        asks=(
            Parameter("project_id", "Of this project alone."),
            Parameter(
                "status",
                "Of these statuses alone; may be repeated.",
                {"type": "array", "items": {"type": "string", "enum": list(ImageJobStatus)}, "uniqueItems": True},
            ),
            Parameter("q", "Text that the prompt holds."),
            Parameter("task_id", "Of this NanoBanana task."),
            Parameter("ids", "These jobs alone: up to 100 ids, separated by commas."),
            SCOPE,
            *PAGED,
        ),
        gives={200: shapes.ImageList},
    ),
    Operation(
        "GET /api/images.zip",
        "images",
        "Download several results in one file",
        asks=(
            Parameter(
                "id",
                "Of a completed job; may be repeated.",
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 200},
                is_needed=True,
            ),
        ),
        gives={200: "application/zip"},
        refuses={404: "", 409: "`no_result`: none of them has a picture."},
    ),
    Operation("GET /api/images/{job_id}", "images", "Show one image", gives={200: shapes.Job}),
    Operation(
        "DELETE /api/images/{job_id}",
        "images",
        "Hide an image at once",
        about="An open job is canceled. Its files are removed after 24 hours, unless it is restored.",
        gives={204: None},
    ),
    Operation(
        "POST /api/images/{job_id}/restore",
        "images",
        "Bring a deleted image back",
        gives={200: shapes.Job},
    ),
    Operation(
        "GET /api/images/{job_id}/history",
        "images",
        "Tell everything that happened to a job",
        asks=NUMBERED,
        gives={200: shapes.History},
    ),
    Operation(
        "GET /media/{key:path}",
        "images",
        "Fetch a picture by its signed address",
        who=Access.HOLDER,
        asks=(
            Parameter("Range", "A part of the file.", place="header"),
            Parameter("If-None-Match", "An `ETag` that is known.", place="header"),
        ),
        gives={
            200: ("image/jpeg", "image/png", "image/webp"),
            206: ("image/jpeg", "image/png", "image/webp"),
            304: None,
        },
        headers={"ETag": "Of the file.", "Cache-Control": "As long as the address is good."},
        refuses={416: ""},
    ),
)

_GENERATION: Final = (
    Operation(
        "POST /api/generate-image",
        "generation",
        "Start a job",
        about="NanoBanana is called in the background, and calls back.",
        asks=(IDEMPOTENCY,),
        takes=Body(json=wire.Generate, in_both_cases=True, example={"prompt": "a red kite over dunes"}),
        gives={202: shapes.Accepted},
        headers=REPLAYED,
        refuses={402: "", 404: "", 409: f"`job_running`, {_NO_PICTURE}", **_DISK},
        callbacks=_COMES_BACK,
    ),
    Operation(
        "GET /api/images/{job_id}/status",
        "generation",
        "Tell how far a job is",
        gives={200: shapes.Status},
    ),
    Operation(
        "GET /api/images/{job_id}/result",
        "generation",
        "Give a completed job's pictures",
        gives={200: shapes.Result},
        refuses={409: "`not_completed`; `job_status` says where it is."},
    ),
    Operation(
        "POST /api/images/{job_id}/cancel",
        "generation",
        "Cancel an open job",
        gives={200: shapes.Job},
        refuses={409: "`job_ended`"},
    ),
    Operation(
        "POST /api/images/{job_id}/retry",
        "generation",
        "Start the next attempt of a job",
        about="Resumes at the step that failed. A new task is bought only where none can have been paid for yet.",
        asks=(IDEMPOTENCY,),
        takes=Body(json=wire.Retry, is_needed=False, in_both_cases=True, example={"buyAgain": False}),
        gives={202: shapes.Accepted},
        headers=REPLAYED,
        refuses={402: "", 409: f"`may_be_paid`, `not_failed`, {_NO_PICTURE}", **_DISK},
        callbacks=_COMES_BACK,
    ),
    Operation(
        "POST /api/images/{job_id}/accept-late",
        "generation",
        "Take results that came too late",
        about="Pictures that came when their task had ended; what was given back for them is charged again.",
        gives={200: shapes.Job},
        refuses={402: "", 409: "`nothing_late`, `job_running`"},
    ),
    Operation(
        "POST /api/check-generation-status",
        "generation",
        "Ask NanoBanana how far a job is",
        about="For callers of the former service. Its errors carry `error` beside the problem's own fields.",
        takes=Body(
            json=wire.Check,
            in_both_cases=True,
            example={"imageId": "0192a4b0-0000-7000-8000-000000000000"},
        ),
        gives={200: (shapes.CheckProcessing, shapes.CheckCompleted, shapes.CheckFailed)},
        refuses={404: "", 409: "`No task ID found for this image`"},
    ),
)

_STREAMS: Final = (
    Operation(
        "GET /api/images/{job_id}/events",
        "streams",
        "Follow one job",
        about=(
            "Begins with the present state, or with what was missed; ends after a final event. A stream that "
            "cannot be had at the moment is 200 too: it says when to come back, and ends."
        ),
        who=Access.READER,
        asks=_HOW,
        gives={200: EVENTS, 204: None},
        events=_STREAM,
    ),
    Operation(
        "GET /api/events",
        "streams",
        "Follow all of one's jobs, or some",
        about=(
            "With `job` it begins with these jobs' states; without, with `event: ready`, whose id is the newest "
            "so far, and new jobs join by themselves. More than 1,000 missed events are told by `event: reset`."
        ),
        who=Access.READER,
        asks=(
            Parameter(
                "job",
                "Of this job; may be repeated.",
                {"type": "array", "items": {"type": "string"}, "maxItems": 100},
            ),
            SCOPE,
            *_HOW,
        ),
        gives={200: EVENTS, 204: None},
        refuses={404: ""},
        events=_STREAM,
    ),
    Operation(
        "POST /api/events/token",
        "streams",
        "Make a token that opens a stream for 24 hours",
        about="Of one job, or of all of one's own.",
        takes=Body(json=wire.StreamToken, is_needed=False),
        gives={201: people_shapes.NewStreamToken},
        refuses={404: ""},
    ),
)

_SERVICE: Final = (
    Operation(
        "GET /healthz",
        "service",
        "Tell that the process answers",
        who=Access.ALIVE,
        gives={200: shapes.Alive},
    ),
    Operation(
        "GET /readyz",
        "service",
        "Tell whether callbacks can be taken",
        who=Access.ANYONE,
        gives={200: shapes.Ready},
    ),
    Operation(
        "GET /metrics",
        "service",
        "Give the figures, for Prometheus",
        who=Access.WATCHER,
        gives={200: "text/plain"},
    ),
    Operation(
        "GET /api/openapi.json",
        "service",
        "Give this document",
        who=Access.ALIVE,
        gives={200: JSON, 304: None},
        headers={"ETag": "Of the document."},
    ),
    Operation(
        "GET /api/docs",
        "service",
        "Show this document to people",
        who=Access.ALIVE,
        gives={200: "text/html"},
    ),
)

ALL: Final = (
    *_IMAGES,
    *_GENERATION,
    *work_operations.ALL,
    *_STREAMS,
    _BY_ADDRESS,
    _BY_HEADERS,
    *delivery_operations.ALL,
    *people_operations.ALL,
    *_SERVICE,
)
