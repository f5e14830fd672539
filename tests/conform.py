"""Checks answers against the service's own document."""

import re
from typing import Any

import httpx
import jsonschema_rs


class Document:
    """The document, ready to be held against what came."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._components = document["components"]
        self._paths = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))), item)
            for path, item in document["paths"].items()
        ]
        # The exact path first: ``/api/credits/estimate`` is not the credits of somebody called "estimate".
        self._paths.sort(key=lambda line: line[0].pattern.count("[^/]+"))
        self._validators: dict[str, Any] = {}

    async def check(self, answer: httpx.Response) -> None:
        """Fail where *answer* is not as documented; an event hook of ``httpx`` that reads all but streams."""
        asked = f"{answer.request.method} {answer.request.url.path}"
        operation = self.operation(answer.request.method, answer.request.url.path)
        if operation is None:
            return
        documented = self._resolved(operation["responses"].get(str(answer.status_code)))
        assert documented is not None, f"{asked}: {answer.status_code} is not documented"
        for name, header in documented.get("headers", {}).items():
            is_needed = self._resolved(header).get("required", False)
            assert not is_needed or name in answer.headers, f"{asked}: {answer.status_code} without {name}"
        content = documented.get("content", {})
        came = answer.headers.get("content-type", "").partition(";")[0]
        if not content:
            assert await answer.aread() == b"", f"{asked}: {answer.status_code} has content"
            return
        assert came in content, f"{asked}: {answer.status_code} as {came}"
        if came.endswith("json"):
            await answer.aread()
            self.check_json(content[came]["schema"], answer.json(), what=f"{asked}: {answer.status_code}")

    def check_json(self, schema: dict[str, Any], value: object, *, what: str) -> None:
        """Fail where *value* does not fit *schema*, a part of the document."""
        key = repr(schema)
        if key not in self._validators:
            whole = {**schema, "components": self._components}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        problems = [
            f"{list(error.instance_path)}: {error.message}" for error in self._validators[key].iter_errors(value)
        ]
        assert not problems, f"{what} {problems}"

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """Find what is documented for an address; ``None`` for pages and unknown paths."""
        item = next((item for pattern, item in self._paths if pattern.fullmatch(path)), {})
        return item.get(method.lower())

    def _resolved(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        if found is None or "$ref" not in found:
            return found
        _, _, kind, name = found["$ref"].split("/")
        return self._components[kind][name]
