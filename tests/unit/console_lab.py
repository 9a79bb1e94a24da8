"""The Console in this process: real records and a real database in a folder, a local issuer, no cloud."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import layouts
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.testclient import TestClient as IssuerClient

from console.app import create
from console.house import House
from console.oidc import Issuer
from console.settings import Settings
from migrate.records import Records
from migrate.stack import Project
from sandbox.issuer import API, IssuerServer
from stacks.layout import Layout
from stacks.record import connect

URL = "http://127.0.0.1:9001"
ISSUER = "http://127.0.0.1:9002"
ADMIN, SECOND_ADMIN, VIEWER, OTHER, OPERATOR = "ada", "alan", "vivian", "grace", "olga"


@dataclass
class Lab:
    app: FastAPI
    issuer: IssuerServer
    project: Project
    records: Records

    @property
    def house(self) -> House:
        return self.app.state.house

    def as_(self, subject: str | None, **claims: Any) -> TestClient:
        """A client of the API with that person's token."""
        client = TestClient(self.app, base_url=URL, raise_server_exceptions=False)
        if subject is not None:
            token = self.issuer.token(self.issuer.person(subject), API, **claims)
            client.headers["authorization"] = f"Bearer {token}"
        return client

    def browser(self, subject: str | None = None, *, fresh: bool = True) -> TestClient:
        """A browser; signed in by the issuer's own pages if somebody is named."""
        client = TestClient(self.app, base_url=URL, follow_redirects=False, raise_server_exceptions=False)
        if subject is not None:
            back = self.signed_by_issuer(
                client.get(f"/sign-in{'?fresh=1' if fresh else ''}").headers["location"], subject
            )
            assert client.get(back).status_code == 303
        return client

    def signed_by_issuer(self, url: str, subject: str) -> str:
        """Where the issuer sends the browser back to, once that person was chosen."""
        pages = IssuerClient(self.issuer.app(), base_url=ISSUER, follow_redirects=False)
        shown = pages.get(url)
        assert shown.status_code == 200, shown.text
        asked = {**httpx.URL(url).params, "person": subject}
        return pages.post("/choose", data=asked).headers["location"]

    def tag(self, tenant: str, subject: str = ADMIN) -> str:
        return self.as_(subject).get(f"/api/v1/tenants/{tenant}").headers["etag"]

    def ask(self, subject: str, tenant: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        sent = {"Idempotency-Key": secrets.token_hex(8), "If-Match": "*", **headers}
        return self.as_(subject).post(f"/api/v1/tenants/{tenant}/operations", json=body, headers=sent)

    def advance(self, layout: Layout) -> None:
        with self.records.lease(layout.tenant) as fence:
            self.records.advance(layout, fence)


def build(folder: Path, change: Callable[[Settings], Settings] = lambda one: one) -> Lab:
    """Two customers: acme-corp with `acme` and `acme-two`, globex with `globex-one`."""
    project = Project(root=folder, home=folder / ".keyshift")
    records = Records(connect(project.home))
    for name, customer in (("acme", "acme-corp"), ("acme-two", "acme-corp"), ("globex-one", "globex")):
        records.create(layouts.changed(layouts.standard(), tenant=name, customer=customer))
    server = IssuerServer(ISSUER, folder / "issuer", (f"{URL}/sign-in/back",))
    settings = change(Settings(url=URL, issuer=ISSUER))
    issuer = Issuer(settings, IssuerClient(server.app(), base_url=ISSUER))  # type: ignore[arg-type] # it is an httpx client
    return Lab(create(settings, project, issuer), server, project, records)
