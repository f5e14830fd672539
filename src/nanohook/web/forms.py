"""
What the parts of a multipart body are called, for the document.

A file's bytes are judged by ``rules.imaging``; the other parts by the models of ``wire``.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from nanohook.web import wire

File = Annotated[bytes, Field(json_schema_extra={"contentMediaType": "application/octet-stream"})]


class Upload(BaseModel):
    """Parts of ``POST /api/images``; others are passed over."""

    model_config = ConfigDict(frozen=True)

    file: File
    project_id: str | None = None


class NewProjectForm(wire.NewProject):
    """Parts of ``POST /api/projects``."""

    cover: File | None = None


class ProjectChangeForm(BaseModel):
    """Parts of ``PATCH /api/projects/{project_id}``: what is not named stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: wire.ProjectName = ""
    description: wire.Description | None = None
    cover: File | None = None
