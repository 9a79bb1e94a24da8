"""The Console as one ASGI application: `uvicorn --factory console.app:create`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from console import api, api_keys, api_operations, models, pages, pages_forms
from console.guarding import Guarded
from console.house import House
from console.oidc import Issuer
from console.problems import MEDIA_TYPE, TYPES, Refused, answer
from console.settings import Settings, from_environment
from console.store import open_store
from migrate import failures
from migrate.records import Records
from migrate.redaction import configure_logging
from migrate.stack import Project
from stacks.record import connect

HERE = Path(__file__).parent
ABOUT = """What a customer does about the keys of their Archive: look, plan, enable, rotate, confirm, revoke, restore,
remove. Long operations are answered with 202; a worker does them, whoever follows. Errors are RFC 9457 problems
with the command line's codes."""
UNSAFE = ("post", "put", "patch", "delete")


def create(settings: Settings | None = None, project: Project | None = None, issuer: Issuer | None = None) -> FastAPI:
    """The application. What is not given comes from the environment."""
    configure_logging()
    set_up, found = settings or from_environment(), project or Project.find()
    app = FastAPI(
        title="Keyshift Archive Console",
        version="1",
        description=ABOUT,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.state.house = House(
        project=found,
        settings=set_up,
        records=Records(connect(found.home)),
        engine=open_store(found.home, set_up.database_url),
        issuer=issuer or Issuer(set_up),
    )
    for router in (api.router, api_keys.router, api_operations.router, pages.router, pages_forms.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(Guarded, is_secure=set_up.is_secure, failed=_failed)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign] # FastAPI's own way to extend it
    return app


def _is_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/")


def _failed(request: Request, error: Exception) -> Response:
    """Whatever was raised, in the words that the command line would use."""
    said = failures.explained(error)
    if said.code == "unexpected":
        structlog.get_logger().error("a call failed", path=request.url.path, exc_info=error)
    return pages.problem(request, said) if _is_page(request) else answer(said)


def _not_served(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    code = {404: "not-found", 405: "method-not-allowed"}.get(status, "not-served")
    refused = Refused(f"{request.method} of this address is not served", code=code, hint="see the OpenAPI document")
    if _is_page(request):
        return pages.problem(request, refused, status=status)
    problem = {
        "type": f"{TYPES}{code}", "title": code.replace("-", " ").capitalize(), "status": status, "code": code,
        "detail": refused.message, "hint": refused.hint,
    }  # fmt: skip
    return JSONResponse(problem, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def _invalid(request: Request, error: Exception) -> Response:
    """Which value cannot be used and why; the value itself may be a secret and is not repeated."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    told = [{"where": ".".join(map(str, one["loc"])), "says": one["msg"]} for one in errors]
    where = "; ".join(f"{one['where']}: {one['says']}" for one in told)
    refused = Refused(f"what was sent cannot be used: {where}", code="invalid", hint="see the OpenAPI document")
    if _is_page(request):
        return pages.problem(request, refused)
    problem: dict[str, Any] = {
        "type": f"{TYPES}invalid", "title": "Invalid", "status": 422, "code": "invalid",
        "detail": refused.message, "hint": refused.hint, "errors": told,
    }  # fmt: skip
    return JSONResponse(problem, status_code=422, media_type=MEDIA_TYPE)


def _document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with what it cannot know: problems instead of its own errors, and who may call."""
    if app.openapi_schema:
        return app.openapi_schema
    from fastapi.openapi.utils import get_openapi  # noqa: PLC0415 - made once

    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = made["components"]["schemas"]
    schemas["Problem"] = models.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    made["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "session": {"type": "apiKey", "in": "cookie", "name": app.state.house.cookie},
    }
    made["security"] = [{"bearer": []}, {"session": []}]
    app.openapi_schema = made
    return made
