"""The pages of a person's projects: all of them, and the gallery of one."""

from typing import Any, Final

from starlette.responses import Response

from nanohook import errors
from nanohook.flow import projects as flow
from nanohook.rules import gallery_words, page_words, words
from nanohook.web import archive, pages
from nanohook.web.parts import Call

PROJECTS: Final = "/dashboard/projects"


async def projects(call: Call) -> Response:
    """Show a person's projects."""
    return await _page(call, "projects.html", said=gallery_words.PROJECTS_SCRIPT)


async def project(call: Call) -> Response:
    """Show the gallery of one project; somebody else's is as unknown as none."""
    project_id = str(call.request.path_params["project_id"])
    try:
        found = await call.parts.database.read(
            lambda tx: flow.get(tx, owner_id=call.person.id, project_id=project_id)
        )
    except errors.NotFound:
        return await _page(call, "lost.html", status=404)
    language = pages.language_of(call.request)
    return await _page(
        call,
        "project.html",
        said=gallery_words.GALLERY_SCRIPT,
        project=found,
        most_zip=archive.MOST_FILES,
        stages=pages.stages(language),
        held=pages.held(language),
        faults=_faults(language),
    )


def _faults(language: str) -> dict[str, list[str]]:
    """Give the sentence and the advice of each error code: a job's own are in the language it was made in."""
    return {
        code: [words.in_language(sentence.message, language), words.in_language(sentence.advice, language)]
        for code, sentence in words.FAULTS.items()
    }


async def _page(
    call: Call, name: str, *, said: page_words.Texts | None = None, status: int = 200, **shown: Any
) -> Response:
    language = pages.language_of(call.request)
    filled = pages.bounds(call.parts.settings)
    spoken = () if said is None else (page_words.SCRIPTS, gallery_words.SAID, said)
    return pages.page(
        call.request,
        name,
        status=status,
        texts=page_words.of(language, gallery_words.PAGE, filled=filled),
        said=page_words.of(language, *spoken, filled=filled),
        most_bytes=call.parts.settings.max_upload_bytes,
        projects=PROJECTS,
        **await pages.account(call),
        **shown,
    )
