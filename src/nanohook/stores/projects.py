"""Projects in SQL."""

from typing import Final

from nanohook.database import Row, Transaction
from nanohook.rules.job import Stored
from nanohook.values import frozen


@frozen
class Project:
    """What groups a person's jobs. Times are µs."""

    id: str
    owner_id: str
    name: str
    description: str | None
    cover: Stored | None
    created_at: int
    updated_at: int


_COLUMNS: Final = (
    "id",
    "owner_id",
    "name",
    "description",
    "key",
    "thumbnail_key",
    "content_type",
    "width_px",
    "height_px",
    "bytes",
    "created_at",
    "updated_at",
)


async def insert(tx: Transaction, project: Project) -> None:
    """Store a new project."""
    names = ", ".join(f":{name}" for name in _COLUMNS)
    await tx.run(f"INSERT INTO projects ({', '.join(_COLUMNS)}) VALUES ({names})", _values(project))


async def update(tx: Transaction, project: Project) -> None:
    """Store what may change of a project."""
    changes = ", ".join(f"{name} = :{name}" for name in _COLUMNS if name not in {"id", "owner_id", "created_at"})
    await tx.run(f"UPDATE projects SET {changes} WHERE id = :id AND owner_id = :owner_id", _values(project))


async def delete(tx: Transaction, *, owner_id: str, project_id: str) -> None:
    """Remove a project; its jobs are somebody else's business."""
    await tx.run(
        "DELETE FROM projects WHERE id = :id AND owner_id = :owner_id", {"id": project_id, "owner_id": owner_id}
    )


async def get(tx: Transaction, *, owner_id: str, project_id: str) -> Project | None:
    """Fetch a project of *owner_id*; somebody else's is as unknown as none."""
    row = await tx.one(
        "SELECT * FROM projects WHERE id = :id AND owner_id = :owner_id", {"id": project_id, "owner_id": owner_id}
    )
    return None if row is None else _project(row)


async def owner_of(tx: Transaction, project_id: str) -> str | None:
    """Tell whose a project is; for admins."""
    row = await tx.one("SELECT owner_id FROM projects WHERE id = :id", {"id": project_id})
    return None if row is None else row["owner_id"]


async def delete_all(tx: Transaction, *, owner_id: str) -> None:
    """Remove the projects of a person; whoever looks for files without a row removes their covers."""
    await tx.run("DELETE FROM projects WHERE owner_id = ?", (owner_id,))


async def page(tx: Transaction, *, owner_id: str | None, before_id: str | None, most: int) -> list[Project]:
    """List projects of *owner_id*, newest first; ``None``: everybody's, for an admin."""
    given = {"owner_id = :owner_id": owner_id, "id < :before_id": before_id}
    where = " AND ".join(condition for condition, value in given.items() if value is not None)
    rows = await tx.all(
        f"SELECT * FROM projects {where and 'WHERE '}{where} ORDER BY id DESC LIMIT :most",
        {"owner_id": owner_id, "before_id": before_id, "most": most},
    )
    return [_project(row) for row in rows]


def _values(project: Project) -> dict[str, str | int | None]:
    cover = project.cover
    return {
        "id": project.id,
        "owner_id": project.owner_id,
        "name": project.name,
        "description": project.description,
        "key": None if cover is None else cover.key,
        "thumbnail_key": None if cover is None else cover.thumbnail_key,
        "content_type": None if cover is None else cover.content_type,
        "width_px": None if cover is None else cover.width_px,
        "height_px": None if cover is None else cover.height_px,
        "bytes": None if cover is None else cover.size_bytes,
        "created_at": project.created_at,
        "updated_at": project.updated_at,
    }


def _project(row: Row) -> Project:
    cover = None
    if row["key"] is not None:
        cover = Stored(
            key=row["key"],
            thumbnail_key=row["thumbnail_key"],
            content_type=row["content_type"],
            width_px=row["width_px"],
            height_px=row["height_px"],
            size_bytes=row["bytes"],
        )
    return Project(
        id=row["id"],
        owner_id=row["owner_id"],
        name=row["name"],
        description=row["description"],
        cover=cover,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
