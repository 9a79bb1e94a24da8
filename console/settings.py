"""How the Console is set up: from the environment, once, at the start."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from migrate.errors import RefusedInput

PREFIX = "KEYSHIFT_CONSOLE_"


class Settings(BaseModel):
    """`url`: where people reach the Console. `issuer`: who signs them in (OIDC), with `client_id` as its client.

    `audience`: what a bearer token of the API must be for. `second_person`: the customers of whom a second
    administrator has to approve what destroys or closes, separated by commas; `*` means all.
    `notifications`: a JSON file, customer → targets. `fresh_seconds`: how old a sign-in may be for such acts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    issuer: str
    client_id: str = "keyshift-console"
    client_secret_file: Path | None = None
    audience: str = "keyshift-console-api"
    database_url: str | None = None
    second_person: frozenset[str] = frozenset()
    notifications: Path | None = None
    fresh_seconds: int = 300
    worker_id: str = socket.gethostname()
    worker_processes: int = 4

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        for name in ("url", "issuer"):
            parts = urlsplit(getattr(self, name))
            is_here = parts.hostname in {"127.0.0.1", "localhost", "::1"}
            if parts.scheme != "https" and not (parts.scheme == "http" and is_here):
                raise ValueError(f"{name} has to be https; http is for this machine alone")
        return self

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https://")

    @property
    def redirect_uri(self) -> str:
        return f"{self.url.rstrip('/')}/sign-in/back"

    def needs_second_person(self, customer: str) -> bool:
        return bool(self.second_person & {"*", customer})

    def client_secret(self) -> str | None:
        """Read when it is used, so that no object holds it for longer."""
        return self.client_secret_file.read_text().strip() if self.client_secret_file else None


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of KEYSHIFT_CONSOLE_*. Raises RefusedInput naming what is wrong or missing."""
    given = os.environ if environment is None else environment
    values: dict[str, object] = {
        name.removeprefix(PREFIX).lower(): value for name, value in given.items() if name.startswith(PREFIX) and value
    }
    if isinstance(named := values.get("second_person"), str):
        values["second_person"] = frozenset(filter(None, (one.strip() for one in named.split(","))))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{PREFIX}{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" if one["loc"] else one["msg"]
            for one in error.errors()
        )
        raise RefusedInput(
            f"the Console's settings cannot be used: {wrong}",
            hint="see docs/console.md, `make console` shows a set that works",
            code="console-settings",
        ) from error
