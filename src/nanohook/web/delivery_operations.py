"""The operations about the log of deliveries; see ``operations``."""

from typing import Final

from nanohook.stores.deliveries import Effect, Source
from nanohook.stores.delivery_log import Verdict
from nanohook.web import delivery_shapes, delivery_wire
from nanohook.web.operation import PAGED, Access, Body, Operation, Parameter

_TIME: Final = {"type": "string", "format": "date-time"}

ALL: Final = (
    Operation(
        "GET /api/deliveries",
        "deliveries",
        "List what came to the webhook, newest first",
        about="Taken and rejected requests, and answers of `record-info`, in one list.",
        who=Access.ADMIN,
        asks=(
            Parameter("verdict", "Of this verdict alone.", {"type": "string", "enum": list(Verdict)}),
            Parameter("effect", "With this effect alone.", {"type": "string", "enum": list(Effect)}),
            Parameter("source", "That came this way alone.", {"type": "string", "enum": list(Source)}),
            Parameter("job_id", "Of this job."),
            Parameter("task_id", "Of this NanoBanana task."),
            Parameter("since", "Received then or later.", _TIME),
            Parameter("until", "Received before.", _TIME),
            *PAGED,
        ),
        gives={200: delivery_shapes.DeliveryList},
    ),
    Operation(
        "GET /api/deliveries/{delivery_id}",
        "deliveries",
        "Show one with its headers and body",
        who=Access.ADMIN,
        gives={200: delivery_shapes.WholeDelivery},
    ),
    Operation(
        "POST /api/deliveries/{delivery_id}/replay",
        "deliveries",
        "Apply one again",
        about="From its stored bytes; the verdict stands. `unapplied` says that it will be tried again by itself.",
        who=Access.ADMIN,
        gives={200: delivery_shapes.Replayed},
        refuses={409: "`not_accepted`: it was rejected."},
    ),
    Operation(
        "POST /api/deliveries/replay",
        "deliveries",
        "Apply several again, oldest first",
        about="Those of a filter, or those named: 1,000 a request at most, `cursor` goes on.",
        who=Access.ADMIN,
        takes=Body(json=delivery_wire.Replay, example={"effect": "dead"}),
        gives={202: delivery_shapes.SeveralReplayed},
        refuses={404: "One of those named is not there, or was rejected."},
    ),
    Operation(
        "POST /api/deliveries/test",
        "deliveries",
        "Send a test callback to the public address",
        about="Tells whether it came in here, how long that took, and what is wrong if it did not.",
        who=Access.ADMIN,
        gives={200: delivery_shapes.TestedWay},
        refuses={409: "`no_public_url`"},
    ),
)
