"""The operations about people: projects, credits, accounts; see ``operations``."""

from typing import Final

from nanohook.web import forms, people_shapes, wire
from nanohook.web.operation import NUMBERED, PAGED, SCOPE, Access, Body, Operation, fields_of

_COOKIE: Final = {"Set-Cookie": "The session."}
_DISK: Final = {507: ""}

_PROJECTS: Final = (
    Operation(
        "GET /api/projects",
        "projects",
        "List projects",
        asks=(*PAGED, SCOPE),
        gives={200: people_shapes.ProjectList},
    ),
    Operation(
        "POST /api/projects",
        "projects",
        "Make a project",
        takes=Body(json=wire.NewProject, parts=forms.NewProjectForm),
        gives={201: people_shapes.Project},
        refuses=_DISK,
    ),
    Operation(
        "GET /api/projects/{project_id}",
        "projects",
        "Show one project",
        gives={200: people_shapes.Project},
    ),
    Operation(
        "PATCH /api/projects/{project_id}",
        "projects",
        "Change a project",
        takes=Body(json=wire.ProjectChange, parts=forms.ProjectChangeForm, is_needed=False),
        gives={200: people_shapes.Project},
        refuses=_DISK,
    ),
    Operation(
        "DELETE /api/projects/{project_id}",
        "projects",
        "Delete a project and its jobs",
        gives={204: None},
    ),
)

_CREDITS: Final = (
    Operation(
        "GET /api/credits",
        "credits",
        "Show what is left, and every change of it",
        asks=NUMBERED,
        gives={200: people_shapes.Ledger},
    ),
    Operation(
        "GET /api/credits/estimate",
        "credits",
        "Tell what a generation would cost",
        asks=fields_of(
            wire.Estimate, model="Which one.", resolution="Where the model has a choice.", num_images="How many."
        ),
        gives={200: people_shapes.Estimate},
    ),
)

_ACCOUNT: Final = (
    Operation(
        "POST /api/auth/register",
        "account",
        "Make an account",
        who=Access.STRANGER,
        takes=Body(json=wire.Register, example={"email": "ada@example.org", "password": "correct horse battery"}),
        gives={202: people_shapes.CheckYourEmail},
        refuses={403: "`registration_closed`"},
    ),
    Operation(
        "POST /api/auth/login",
        "account",
        "Sign in",
        who=Access.STRANGER,
        takes=Body(json=wire.Login, example={"email": "ada@example.org", "password": "correct horse battery"}),
        gives={200: people_shapes.Me},
        headers=_COOKIE,
        refuses={401: "`bad_credentials`", 403: "`wrong_origin`"},
    ),
    Operation(
        "POST /api/auth/logout",
        "account",
        "End the session",
        who=Access.KNOWN,
        gives={204: None},
        headers=_COOKIE,
    ),
    Operation(
        "POST /api/auth/password",
        "account",
        "Change the password",
        takes=Body(json=wire.ChangePassword),
        refuses={403: "`bad_credentials`, `email_unverified`, `wrong_origin`"},
        gives={204: None},
    ),
    Operation(
        "POST /api/auth/password/forgot",
        "account",
        "Ask for a link to choose a new password",
        who=Access.STRANGER,
        takes=Body(json=wire.Forgot),
        gives={202: people_shapes.CheckYourEmail},
    ),
    Operation(
        "POST /api/auth/password/reset",
        "account",
        "Choose a new password by the link's token",
        who=Access.STRANGER,
        takes=Body(json=wire.Reset),
        gives={204: None},
        refuses={422: "`token_invalid`, `invalid`"},
    ),
    Operation(
        "POST /api/auth/verify-email",
        "account",
        "Confirm an address by the link's token",
        who=Access.STRANGER,
        takes=Body(json=wire.Verify),
        gives={204: None},
        refuses={422: "`token_invalid`, `invalid`"},
    ),
    Operation(
        "POST /api/auth/verify-email/resend",
        "account",
        "Ask for the confirming link again",
        who=Access.KNOWN,
        gives={202: people_shapes.CheckYourEmail},
    ),
    Operation(
        "GET /api/auth/me",
        "account",
        "Show who is signed in",
        who=Access.KNOWN,
        gives={200: people_shapes.Me},
    ),
    Operation("GET /api/auth/keys", "account", "List API keys", gives={200: people_shapes.ApiKeyList}),
    Operation(
        "POST /api/auth/keys",
        "account",
        "Make an API key",
        takes=Body(json=wire.NewKey, is_needed=False, example={"name": "for the shop"}),
        refuses={409: "`too_many_keys`"},
        gives={201: people_shapes.NewApiKey},
    ),
    Operation("DELETE /api/auth/keys/{key_id}", "account", "Revoke an API key", gives={204: None}),
    Operation(
        "GET /api/auth/sessions",
        "account",
        "List where one is logged in",
        gives={200: people_shapes.SessionList},
    ),
    Operation(
        "DELETE /api/auth/sessions/{session_id}",
        "account",
        "Log out in one of those places",
        gives={204: None},
    ),
)

ALL: Final = (*_PROJECTS, *_CREDITS, *_ACCOUNT)
