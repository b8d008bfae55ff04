"""The published OpenAPI document: every body, every problem, every header that the service uses."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from collegium.app.http.problems import KINDS, MEDIA_TYPE, ProblemDocument
from collegium.versions import software_version

Responses = dict[int | str, dict[str, Any]]
_SCHEMAS = "#/components/schemas/"
_NAME = {"type": "string"}
_BARE_FORMS = {
    "TrainingSpec": {"data": _NAME, "recipe": _NAME},
    "StudySpec": {"data": _NAME, "seeds": {"type": "integer", "minimum": 1, "maximum": 1000}},
}
_DESCRIPTION = (
    "Find the m × n grouping of a network whose neural tangent kernel has the smallest variance, and train it. "
    "Every error is `application/problem+json` (RFC 9457) with a stable `type`."
)


def problems(*kinds: str) -> Responses:
    """Documentation of the problems that a route may raise."""
    titles: dict[int, list[str]] = {}
    for kind in kinds:
        status, title = KINDS[kind]
        titles.setdefault(status, []).append(f"{title} (`{kind}`)")
    schema = {"schema": {"$ref": _SCHEMAS + ProblemDocument.__name__}}
    return {
        status: {"description": "; ".join(texts), "content": {MEDIA_TYPE: schema}} for status, texts in titles.items()
    }


#: Problems of every route that needs authorization.
COMMON_RESPONSES = problems("unauthorized", "forbidden", "invalid-request", "internal", "unavailable")


def header(description: str, **schema: Any) -> dict[str, Any]:
    """Documentation of a response header."""
    return {"description": description, "schema": {"type": "string", **schema}}


def json_body(model: type[BaseModel], description: str = "") -> dict[str, Any]:
    """``openapi_extra`` for a route that reads ``model`` from its body itself."""
    schema = {"$ref": _SCHEMAS + model.__name__}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"requestBody": body | ({"description": description} if description else {})}


def binary(media_type: str = "application/octet-stream") -> dict[str, Any]:
    """The content of a binary body or response."""
    return {media_type: {"schema": {"type": "string", "format": "binary"}}}


def publish_openapi(app: FastAPI, bodies: tuple[type[BaseModel], ...]) -> None:
    """Have ``app`` publish its document, with ``bodies`` and the problem document among the schemas."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, bodies)
        return app.openapi_schema

    app.openapi = document


def _document(app: FastAPI, bodies: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    document = get_openapi(title="collegium", version=software_version(), description=_DESCRIPTION, routes=app.routes)
    _, schemas = models_json_schema(
        [(model, "validation") for model in (*bodies, ProblemDocument)],
        ref_template=_SCHEMAS + "{model}",
    )
    components = document.setdefault("components", {})
    components["schemas"] = components.get("schemas", {}) | _with_bare_forms(schemas["$defs"])
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key. Required as soon as the service has one, or listens beyond its machine.",
        }
    }
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
    # An empty requirement as the alternative: without keys the service is open to its own machine.
    for path, operations in document["paths"].items():
        if path.startswith("/v1/") or path == "/metrics":
            for operation in operations.values():
                operation["security"] = [{"key": []}, {}]
    return document


def _with_bare_forms(schemas: dict[str, Any]) -> dict[str, Any]:
    """Schemas with the short forms, where a name or a number stands for an object (``"data": "digits"``)."""
    for model, forms in _BARE_FORMS.items():
        for field, bare in forms.items():
            properties = schemas[model]["properties"]
            outer = {name: properties[field].pop(name) for name in ("title", "default") if name in properties[field]}
            properties[field] = {"anyOf": [properties[field], bare], **outer}
    methods = schemas["StudySpec"]["properties"]["methods"]
    methods["items"] = {"anyOf": [methods["items"], schemas["TrainingSpec"]["properties"]["method"]]}
    return schemas


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without ``null``, which a query or a header cannot hold: it is left out instead."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return rest | kinds[0]
