"""Query parameters are as strict as bodies: one that is unknown to the route, or given twice, is refused."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request
from fastapi.dependencies.models import Dependant

from collegium.app.http.problems import Problem


def only_known_parameters(request: Request) -> None:
    """Refuse unknown and repeated query parameters. Raises a 422 problem."""
    route = request.scope.get("route")
    known = set(_names(route.dependant)) if route is not None else set()
    errors = []
    for name in dict.fromkeys(key for key, _ in request.query_params.multi_items()):
        if name not in known:
            allowed = f"; known are {', '.join(sorted(known))}" if known else ""
            errors.append((("query", name), f"unknown parameter{allowed}"))
        elif len(request.query_params.getlist(name)) > 1:
            errors.append((("query", name), "given more than once"))
    if errors:
        raise Problem("invalid-request", "a query parameter is not understood", errors=errors)


def _names(dependant: Dependant) -> Iterable[str]:
    yield from (field.alias for field in dependant.query_params)
    for below in dependant.dependencies:
        yield from _names(below)
