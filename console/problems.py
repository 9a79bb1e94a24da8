"""Errors as RFC 9457 problem details, with the codes that the command line uses."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from migrate.errors import (
    CloudError,
    Conflict,
    KeyshiftError,
    KeyUnavailable,
    RefusedInput,
    VerificationFailed,
    Waiting,
)

MEDIA_TYPE = "application/problem+json"
TYPES = "https://keyshift.invalid/problems/"
"""Names, no addresses: `.invalid` never resolves (RFC 2606)."""

CODES: dict[str, int] = {
    "not-found": 404,
    "unknown-tenant": 404,
    "unknown-verdict": 404,
    "not-signed-in": 401,
    "token-refused": 401,
    "sign-in-stale": 401,
    "not-allowed": 403,
    "csrf": 403,
    "tenant-changed": 412,
    "if-match-missing": 428,
    "not-confirmed": 422,
    "idempotency-key-missing": 400,
    "idempotency-key-reused": 422,
    "too-many-requests": 429,
    "too-large": 413,
    # What the tenant is in the middle of, and not what was sent, speaks against it.
    **dict.fromkeys(
        (
            "key-already-imported",
            "key-bound",
            "key-destroyed",
            "lease-held",
            "mode-not-offered",
            "no-empty-key",
            "no-key-bound",
            "not-reversible",
            "not-sealed",
            "not-waiting",
            "nothing-to-abort",
            "nothing-to-resume",
            "operation-ended",
            "operation-unfinished",
            "order-ended",
            "order-open",
            "runner-busy",
            "sealed",
            "token-stale",
        ),
        409,
    ),
}
"""Code → HTTP status, where the kind of the error does not say it."""


class Refused(RefusedInput):
    """A refusal of the Console itself. `headers` go with the answer."""

    def __init__(self, message: str, *, code: str, hint: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message, hint=hint, code=code)
        self.headers = headers or {}


def status_of(error: KeyshiftError) -> int:
    if error.code in CODES:
        return CODES[error.code]
    for kind, status in (
        (RefusedInput, 422),
        (Waiting, 409),
        (Conflict, 409),
        (KeyUnavailable, 503),
        (CloudError, 502),
        (VerificationFailed, 500),
    ):
        if isinstance(error, kind):
            return status
    return 500


def not_found() -> Refused:
    """The one answer for what does not exist and for what is another customer's."""
    return Refused("there is nothing here, or nothing that you may see", code="not-found", hint="look at your tenants")


def body(error: KeyshiftError) -> dict[str, Any]:
    """The problem; `hint` is what the command line would say next."""
    found: dict[str, Any] = {
        "type": f"{TYPES}{error.code}",
        "title": error.code.replace("-", " ").capitalize(),
        "status": status_of(error),
        "code": error.code,
        "detail": error.message,
    }
    if error.hint:
        found["hint"] = error.hint
    if isinstance(error, Waiting):
        found["waits_for"] = error.waits_for
    return found


def answer(error: KeyshiftError) -> JSONResponse:
    headers = error.headers if isinstance(error, Refused) else {}
    return JSONResponse(body(error), status_code=status_of(error), headers=headers, media_type=MEDIA_TYPE)
