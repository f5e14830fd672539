"""Builds the OpenAPI document from a table of operations and the pydantic models they name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from nanohook.web import credentials
from nanohook.web.operation import EVENTS, JSON, REFUSALS, Body, Content, Json, Operation, Parameter, Plain
from nanohook.web.shapes import Problem

Refs = Callable[[type[BaseModel], JsonSchemaMode], Json]
"""Where a model stands in the document."""

_PROBLEM: Final = "application/problem+json"
_MULTIPART: Final = "multipart/form-data"
_REF: Final = "#/components/schemas/{model}"
_WAITS: Final = frozenset({429, 503, 507})
_SCHEMES: Final[Json] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, `nh_…`."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": credentials.FORMER_COOKIE,
        "description": "A browser's session. Writes also need an `Origin` that is the service's own.",
    },
    "token": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "Signed: of a stream, from `POST /api/events/token`; of a picture, part of its address.",
    },
    "figures": {"type": "http", "scheme": "bearer", "description": "`NANOHOOK_METRICS_TOKEN`."},
}
_REQUEST_ID: Final[Json] = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
_RETRY_AFTER: Final[Json] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
_HEADERS: Final[Json] = {
    "X-Request-Id": {
        "description": "Of this request, in the log too; one that came with it is kept.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9-]{8,64}$"},
    },
    "Retry-After": {
        "description": "Seconds.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
}


def build(
    operations: Sequence[Operation],
    *,
    info: Mapping[str, object],
    tags: Mapping[str, str],
    webhooks: Mapping[str, Operation],
    session_cookie: str,
) -> Json:
    """Build the document; *webhooks* are what others send to the service of their own accord."""
    # Without a variable in its path: a webhook's address is not for its sender to fill in.
    nested = [*webhooks.values(), *(inner for outer in operations for inner in outer.callbacks.values())]
    refs, schemas = _schemas([*operations, *nested])
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": dict(info),
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "paths": paths,
        "webhooks": {name: _incoming(operation, refs) for name, operation in webhooks.items()},
        "components": {
            "schemas": schemas,
            "responses": {name: _refusal(status, text, refs) for status, (name, text) in REFUSALS.items()},
            "headers": _HEADERS,
            "securitySchemes": {**_SCHEMES, "session": {**_SCHEMES["session"], "name": session_cookie}},
        },
    }


def _schemas(operations: Sequence[Operation]) -> tuple[Refs, Json]:
    """Give every model that an operation names a place in the document."""
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    both_cases: set[type[BaseModel]] = set()
    for operation in operations:
        answers = [model for content in operation.gives.values() for model in _models(content)]
        models |= {(model, "serialization"): None for model in (*answers, *operation.events.values())}
        if operation.takes is not None:
            asked = [*_models(operation.takes.json), *_models(operation.takes.parts)]
            models |= {(model, "validation"): None for model in asked}
            both_cases |= set(asked) if operation.takes.in_both_cases else set()
    refs, made = models_json_schema(list(models), ref_template=_REF, schema_generator=Plain)
    schemas = made["$defs"]
    for model in both_cases:
        _add_camel_case(schemas[refs[model, "validation"]["$ref"].rpartition("/")[2]])
    return lambda model, mode: dict(refs[model, mode]), dict(sorted(schemas.items()))


def _add_camel_case(schema: Json) -> None:
    """Name each field of *schema* a second time; which of the two is given is the caller's choice."""
    for name, described in list(schema["properties"].items()):
        head, *tail = name.split("_")
        twin = head + "".join(word.capitalize() for word in tail)
        if twin == name:
            continue
        schema["properties"][twin] = {**described, "description": f"The same as `{name}`."}
        if name in schema.get("required", ()):
            schema["required"].remove(name)
            schema.setdefault("allOf", []).append({"anyOf": [{"required": [name]}, {"required": [twin]}]})
    schema["description"] += " In snake_case or camelCase; a field in both, with different values, is refused."


def _models(content: Content) -> Iterable[type[BaseModel]]:
    named = content if isinstance(content, tuple) else (content,)
    return [each for each in named if isinstance(each, type)]


def _operation(operation: Operation, refs: Refs) -> Json:
    made: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": _answers(operation, refs),
        "security": [{scheme: []} for scheme in operation.who.schemes],
    }
    about = " ".join(filter(None, (operation.about, operation.who.words)))
    if about:
        made["description"] = about
    parameters = [*map(_variable, operation.variables), *map(_parameter, operation.asks)]
    if parameters:
        made["parameters"] = parameters
    if operation.takes is not None:
        made["requestBody"] = _body(operation.takes, refs)
    if operation.callbacks:
        made["callbacks"] = {
            inner.name: {expression: _incoming(inner, refs)} for expression, inner in operation.callbacks.items()
        }
    return made


def _incoming(operation: Operation, refs: Refs) -> Json:
    """Describe a request that somebody else makes to an address that they were given."""
    made = _operation(operation, refs)
    kept = [parameter for parameter in made.pop("parameters", ()) if parameter["in"] != "path"]
    del made["operationId"]
    return {operation.method.lower(): {**made, **({"parameters": kept} if kept else {})}}


def _variable(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _parameter(asked: Parameter) -> Json:
    made: Json = {"name": asked.name, "in": asked.place, "description": asked.about, "schema": dict(asked.schema)}
    return {**made, "required": True} if asked.is_needed else made


def _body(body: Body, refs: Refs) -> Json:
    content: Json = {}
    if body.json is not None:
        content[JSON] = {"schema": _schema(body.json, refs, "validation")}
        if body.example is not None:
            content[JSON]["example"] = dict(body.example)
    if body.parts is not None:
        content[_MULTIPART] = {"schema": _schema(body.parts, refs, "validation")}
    return {"required": body.is_needed, "content": content}


def _answers(operation: Operation, refs: Refs) -> Json:
    made: Json = {}
    extra = {name: {"description": text, "schema": {"type": "string"}} for name, text in operation.headers.items()}
    for status, content in operation.gives.items():
        answer: Json = {"description": _said(status), "headers": {**_REQUEST_ID, **extra}}
        shown = _content(content, refs)
        if shown:
            answer["content"] = shown
        if operation.events and EVENTS in shown:
            sent = {name: refs(model, "serialization") for name, model in operation.events.items()}
            shown[EVENTS]["x-events"] = sent
        made[str(status)] = answer
    for status, text in sorted(operation.refusals.items()):
        refusal = {"$ref": f"#/components/responses/{REFUSALS[status][0]}"}
        made[str(status)] = {**refusal, "description": text} if text else refusal
    return made


def _refusal(status: int, text: str, refs: Refs) -> Json:
    return {
        "description": text,
        "headers": {**_REQUEST_ID, **(_RETRY_AFTER if status in _WAITS else {})},
        "content": {_PROBLEM: {"schema": _schema(Problem, refs, "serialization")}},
    }


def _content(content: Content, refs: Refs) -> Json:
    if content is None:
        return {}
    if _models(content):
        return {JSON: {"schema": _schema(content, refs, "serialization")}}
    named = content if isinstance(content, tuple) else (content,)
    return {str(media_type): {"schema": _raw(str(media_type))} for media_type in named}


def _raw(media_type: str) -> Json:
    if media_type == JSON:
        return {"type": "object"}
    return {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}


def _schema(content: Content, refs: Refs, mode: JsonSchemaMode) -> Json:
    found = [refs(model, mode) for model in _models(content)]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _said(status: int) -> str:
    told = {200: "Done.", 201: "Made.", 202: "Taken; it goes on in the background.", 204: "Done, nothing to tell."}
    return told.get(status, {206: "A part of it.", 304: "It has not changed."}.get(status, "Done."))
