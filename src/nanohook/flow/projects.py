"""Projects: made, changed, and deleted with all that is in them."""

from typing import Final

from nanohook import errors, ids
from nanohook.database import Transaction
from nanohook.flow import cancel
from nanohook.rules.job import Stored
from nanohook.stores import jobs, projects
from nanohook.stores.projects import Project

AT_ONCE: Final = 50
"""Jobs deleted in one transaction: others wait for it."""


async def create(
    tx: Transaction, *, owner_id: str, name: str, description: str | None, cover: Stored | None, now_us: int
) -> Project:
    """Make a project."""
    project = Project(
        id=ids.new_id(),
        owner_id=owner_id,
        name=name,
        description=description,
        cover=cover,
        created_at=now_us,
        updated_at=now_us,
    )
    await projects.insert(tx, project)
    return project


async def get(tx: Transaction, *, owner_id: str, project_id: str) -> Project:
    """
    Fetch a project.

    Raises:
        NotFound: No such project of this person.
    """
    project = await projects.get(tx, owner_id=owner_id, project_id=project_id)
    if project is None:
        raise errors.NotFound("no such project")
    return project


async def delete(tx: Transaction, *, owner_id: str, project_id: str, now_us: int) -> Project | None:
    """
    Delete some of a project's jobs; when none is left, the project itself.

    Returns:
        What is gone. Until it is, this is to be called again: half done, it is a project with fewer jobs.

    Raises:
        NotFound: No such project of this person.
    """
    project = await get(tx, owner_id=owner_id, project_id=project_id)
    left = await jobs.of_project(tx, owner_id=owner_id, project_id=project_id, most=AT_ONCE)
    for job in left:
        await cancel.delete(tx, owner_id=owner_id, job_id=job.id, now_us=now_us)
    if len(left) == AT_ONCE:
        return None
    await projects.delete(tx, owner_id=owner_id, project_id=project_id)
    return project
