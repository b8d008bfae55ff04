"""Every exception that a request may raise, as a problem document."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match

from collegium.app.http.document import spec_problem
from collegium.app.http.problems import Problem, of_status
from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import InvalidCursor
from collegium.search.errors import InvalidSpec

log = logging.getLogger("collegium.api")

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def install_problem_handlers(app: FastAPI) -> None:
    """Map every expected exception to a problem; any other becomes ``internal`` in the middleware."""

    def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return _send(request, error)

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = ", ".join(sorted(_methods(app.routes, request)))
            return _send(
                request,
                Problem("method-not-allowed", f"use {allowed or 'another path'}", headers={"Allow": allowed}),
            )
        detail = f"no route matches {request.url.path[:200]}" if error.status_code == 404 else str(error.detail)
        return _send(request, of_status(error.status_code, detail, error.headers))

    def parameters(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [(tuple(item["loc"]), item["msg"].removeprefix("Value error, ")) for item in error.errors()]
        return _send(request, Problem("invalid-request", "a parameter is invalid", errors=errors))

    def specification(request: Request, error: Exception) -> Response:
        assert isinstance(error, InvalidSpec)
        return _send(request, spec_problem(error.errors))

    def cursor(request: Request, error: Exception) -> Response:
        return _send(request, Problem("invalid-cursor", "give 'next_cursor' of an earlier page, unchanged"))

    def unavailable(request: Request, error: Exception) -> Response:
        log.warning("the database did not answer: %s", error)
        return _send(request, Problem("unavailable", "the database does not answer", headers={"Retry-After": "5"}))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(InvalidSpec, specification)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, parameters)
    app.add_exception_handler(InvalidCursor, cursor)
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, unavailable)


def _send(request: Request, problem: Problem) -> Response:
    return problem.response(request.state.request_id)


def _methods(routes: Iterable[BaseRoute], request: Request) -> set[str]:
    """The methods that some route takes at the request's path."""
    return {
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    }
