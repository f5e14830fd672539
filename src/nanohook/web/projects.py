"""Projects: what groups a person's images, with a name and perhaps a cover."""

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from nanohook import clock
from nanohook.clock import rfc3339
from nanohook.database import Lane, Transaction
from nanohook.flow import projects as flow
from nanohook.rules import views
from nanohook.rules.job import Stored
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import counts, projects
from nanohook.stores.projects import Project
from nanohook.values import replace
from nanohook.web import paging, query, uploads, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, Parts, signed_address

_Numbers = Mapping[str, Mapping[ImageJobStatus, int]]
"""How many jobs of each status projects have, by their ids."""


async def listing(call: Call) -> Response:
    """List this person's projects, newest first, with their jobs by status; an admin may list everybody's."""
    asked = call.request.query_params
    most = query.limit(asked)

    async def read(tx: Transaction) -> tuple[list[Project], _Numbers]:
        page = await projects.page(tx, owner_id=call.whose(), before_id=asked.get("cursor"), most=most + 1)
        return page, await _numbers(tx, page[:most])

    async with call.turn(rows=most):
        page, numbers = await call.read(read, lane=Lane.PAGE)
        return await paging.page(
            call,
            "projects",
            page[:most],
            render=lambda project: _rendered(call.parts, project, numbers),
            cursor_of=lambda project: project.id,
            next_cursor=page[most - 1].id if len(page) > most else None,
        )


async def create(call: Call) -> Response:
    """Make a project; 201 with it."""
    body, cover = await _asked(call, wire.NewProject)

    async def write(tx: Transaction) -> Project:
        await _check_quota(tx, call, cover)
        return await flow.create(
            tx,
            owner_id=call.person.id,
            name=body.name,
            description=body.description,
            cover=cover,
            now_us=clock.now_us(),
        )

    made = await uploads.keep(call, cover, write)
    return json_answer(await _one(call, made.id), status=201)


async def one(call: Call) -> Response:
    """Show a project."""
    return json_answer(await _one(call, _id(call.request)))


async def change(call: Call) -> Response:
    """Change what is named of a project."""
    project_id = _id(call.request)
    # Looked at first: a picture for nobody's project need not be stored.
    await call.parts.database.read(lambda tx: flow.get(tx, owner_id=call.person.id, project_id=project_id))
    body, cover = await _asked(call, wire.ProjectChange)
    former: Stored | None = None

    async def write(tx: Transaction) -> Project:
        nonlocal former
        project = await flow.get(tx, owner_id=call.person.id, project_id=project_id)
        former = project.cover if cover is not None or body.drops_cover else None
        await _check_quota(tx, call, cover, former=former)
        changed = replace(
            project,
            **body.named(),
            cover=cover if cover is not None or body.drops_cover else project.cover,
            updated_at=clock.now_us(),
        )
        await projects.update(tx, changed)
        return changed

    await uploads.keep(call, cover, write)
    await uploads.remove(call.parts, former)
    return json_answer(await _one(call, project_id))


async def remove(call: Call) -> Response:
    """Delete a project and its jobs."""
    project_id = _id(call.request)
    gone = None
    while gone is None:
        gone = await call.write(
            lambda tx: flow.delete(tx, owner_id=call.person.id, project_id=project_id, now_us=clock.now_us())
        )
    # The cover as it was then: somebody may have changed it while the jobs went.
    await uploads.remove(call.parts, gone.cover)
    return Response(status_code=204)


def _id(request: Request) -> str:
    return str(request.path_params["project_id"])


async def _asked(call: Call, model: type[wire.M]) -> tuple[wire.M, Stored | None]:
    """Read a body of JSON, or one of multipart with a cover; its other fields are checked before that is kept."""
    if not uploads.is_form(call.request):
        # The route's own limit is for pictures.
        return await wire.body_of(wire.bounded(call.request, most_bytes=wire.JSON_BYTES), model), None
    most_bytes = call.parts.settings.max_upload_bytes
    async with uploads.place(call), uploads.received(call.request, name="cover", most_bytes=most_bytes) as form:
        body = wire.model_of(form.fields, model)
        cover = None if form.file is None else await uploads.store(call, form.file, folder="covers")
    return body, cover


async def _check_quota(tx: Transaction, call: Call, cover: Stored | None, *, former: Stored | None = None) -> None:
    if cover is not None:
        await uploads.check_quota(
            tx,
            call.parts,
            owner_id=call.person.id,
            adds_bytes=cover.size_bytes,
            frees_bytes=0 if former is None else former.size_bytes,
        )


async def _one(call: Call, project_id: str) -> dict[str, object]:
    async def read(tx: Transaction) -> tuple[Project, _Numbers]:
        project = await flow.get(tx, owner_id=call.person.id, project_id=project_id)
        return project, await _numbers(tx, [project])

    return _rendered(call.parts, *await call.parts.database.read(read))


async def _numbers(tx: Transaction, page: Sequence[Project]) -> _Numbers:
    return await counts.of_projects(tx, [(project.owner_id, project.id) for project in page])


def _rendered(parts: Parts, project: Project, numbers: _Numbers) -> dict[str, object]:
    return {
        "project_id": project.id,
        "name": project.name,
        "description": project.description,
        "cover": None if project.cover is None else _cover(parts, project.cover),
        "counts": {status.value: number for status, number in numbers[project.id].items()},
        "created_at": rfc3339(project.created_at),
        "updated_at": rfc3339(project.updated_at),
    }


def _cover(parts: Parts, cover: Stored) -> dict[str, object]:
    return views.stored(cover, lambda key: signed_address(parts.tokens, key))
