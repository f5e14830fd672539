"""
The typed client of a nanohook service: ``create`` a job of a picture, ``generate``, ``follow``, ``result``.

    async with client.Client("http://127.0.0.1:8000", api_key) as nanohook:
        changed = await nanohook.change(pathlib.Path("photo.jpg"), "make it a winter evening")

It has the verbs of the browser's ``nanohook.js``, knows the service by HTTP alone, and imports nothing of it.
"""

from nanohook.client.failures import BadAnswer, ClientError, Deleted, NoAnswer, NotMade, Problem
from nanohook.client.values import (
    Accepted,
    BulkResult,
    Event,
    FailedTask,
    Fault,
    ImageJobStatus,
    Job,
    Picture,
    RefusedJob,
    Result,
    Standing,
    Task,
)
from nanohook.client.verbs import MOST_RETRY_AFTER_S, MOST_TRIES, Client

__all__ = [
    "MOST_RETRY_AFTER_S",
    "MOST_TRIES",
    "Accepted",
    "BadAnswer",
    "BulkResult",
    "Client",
    "ClientError",
    "Deleted",
    "Event",
    "FailedTask",
    "Fault",
    "ImageJobStatus",
    "Job",
    "NoAnswer",
    "NotMade",
    "Picture",
    "Problem",
    "RefusedJob",
    "Result",
    "Standing",
    "Task",
]
