"""A local OpenID Connect issuer for the Console: authorization code with PKCE, and it refuses what issuers refuse.

It asks for no password: its page lists the people of the sandbox, and whoever is chosen is signed in. What is
checked is the protocol: the client, the exact redirect address, S256, a code that is good once and for a minute.
`python -m sandbox.issuer --dir … --port … --redirect …`
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT = "keyshift-console"
API = "keyshift-console-api"
CODE_SECONDS = 60.0
TOKEN_SECONDS = 3600
COOKIE = "issuer-person"


@dataclass(frozen=True)
class Person:
    subject: str
    name: str
    role: str
    customer: str | None

    def claims(self) -> dict[str, Any]:
        about = {"sub": self.subject, "name": self.name, "keyshift_role": self.role}
        return {**about, "keyshift_customer": self.customer} if self.customer else about


PEOPLE = (
    Person("ada", "Ada", "customer-admin", "acme-corp"),
    Person("alan", "Alan", "customer-admin", "acme-corp"),
    Person("vivian", "Vivian", "customer-viewer", "acme-corp"),
    Person("grace", "Grace", "customer-admin", "globex"),
    Person("olga", "Olga", "vendor-operator", None),
)


@dataclass(frozen=True)
class Code:
    person: Person
    redirect: str
    challenge: str
    nonce: str
    auth_time: float
    until: float


@dataclass
class IssuerServer:
    """The issuer at `url`, for a client that may be answered at `redirects` only."""

    url: str
    folder: Path
    redirects: tuple[str, ...]
    people: tuple[Person, ...] = PEOPLE
    _codes: dict[str, Code] = field(default_factory=dict, repr=False)
    _sessions: dict[str, tuple[Person, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key = self._private_key()
        self._id = hashlib.sha256(str(self._key.public_key().public_numbers().x).encode()).hexdigest()[:16]

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/jwks", self._jwks),
                Route("/authorize", self._authorize),
                Route("/choose", self._choose, methods=["POST"]),
                Route("/token", self._token, methods=["POST"]),
                Route("/_sandbox/health", lambda _: JSONResponse({"ok": True})),
            ]
        )

    def person(self, subject: str) -> Person:
        return next(one for one in self.people if one.subject == subject)

    def token(self, person: Person, audience: str, **more: Any) -> str:
        """A token as the issuer signs it; `more` replaces or adds claims, for tests of refusals."""
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": audience, "iat": now, "exp": now + TOKEN_SECONDS, "auth_time": now,
            **person.claims(), **more,
        }  # fmt: skip
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._id})

    # the endpoints ----------------------------------------------------------------------------

    async def _discovery(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "code_challenge_methods_supported": ["S256"],
            }
        )

    async def _jwks(self, _: Request) -> Response:
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return JSONResponse({"keys": [{**public, "kid": self._id, "use": "sig", "alg": "ES256"}]})

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if (wrong := self._wrong(asked)) is not None:
            return HTMLResponse(_page(f"<h1>Refused</h1><p>{html.escape(wrong)}</p>"), status_code=400)
        if asked.get("response_type") != "code" or "openid" not in asked.get("scope", "").split():
            return self._back(asked, {"error": "invalid_request"})
        if asked.get("code_challenge_method") != "S256" or not asked.get("code_challenge"):
            return self._back(asked, {"error": "invalid_request", "error_description": "PKCE with S256 is required"})
        known = self._sessions.get(request.cookies.get(COOKIE, ""))
        is_young = known is not None and time.time() - known[1] <= float(asked.get("max_age", "inf"))
        if known and is_young and asked.get("prompt") != "login":
            return self._signed(asked, *known)
        if asked.get("prompt") == "none":
            return self._back(asked, {"error": "login_required"})
        return HTMLResponse(_page(self._choices(asked)))

    async def _choose(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        subject = form.pop("person", "")
        if (wrong := self._wrong(form)) is not None:
            return HTMLResponse(_page(f"<h1>Refused</h1><p>{html.escape(wrong)}</p>"), status_code=400)
        person, session = self.person(subject), secrets.token_urlsafe(24)
        self._sessions[session] = (person, time.time())
        answer = self._signed(form, person, time.time())
        answer.set_cookie(COOKIE, session, httponly=True, samesite="lax")
        return answer

    def _wrong(self, asked: Mapping[str, str]) -> str | None:
        """What must never be answered by a redirect: it could lead anywhere."""
        if asked.get("client_id") != CLIENT:
            return "this client is not known"
        if asked.get("redirect_uri") not in self.redirects:
            return "this client may not be answered at that address"
        return None

    def _signed(self, asked: Mapping[str, str], person: Person, auth_time: float) -> Response:
        code = secrets.token_urlsafe(24)
        self._codes[code] = Code(
            person, asked["redirect_uri"], asked.get("code_challenge", ""), asked.get("nonce", ""), auth_time,
            time.time() + CODE_SECONDS,
        )  # fmt: skip
        return self._back(asked, {"code": code})

    def _back(self, asked: Mapping[str, str], values: Mapping[str, str]) -> Response:
        more = {**values, "state": asked.get("state", ""), "iss": self.url}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(more)}", status_code=303)

    async def _token(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        if form.get("grant_type") != "authorization_code":
            return JSONResponse({"error": "unsupported_grant_type"}, status_code=400)
        code = self._codes.pop(form.get("code", ""), None)  # good once, also if what follows is wrong
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).rstrip(b"=").decode()
        if (
            code is None
            or code.until < time.time()
            or form.get("client_id") != CLIENT
            or form.get("redirect_uri") != code.redirect
            or not secrets.compare_digest(challenge, code.challenge)
        ):
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        more = {"auth_time": int(code.auth_time)}
        return JSONResponse(
            {
                "token_type": "Bearer",
                "expires_in": TOKEN_SECONDS,
                "id_token": self.token(code.person, CLIENT, nonce=code.nonce, **more),
                "access_token": self.token(code.person, API, **more),
            },
            headers={"Cache-Control": "no-store"},
        )

    def _choices(self, asked: Mapping[str, str]) -> str:
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in asked.items()
        )
        people = "".join(
            f'<p><button name="person" value="{one.subject}">{one.name} <small>({one.customer or "the vendor"}, '
            f"{one.role})</small></button></p>"
            for one in self.people
        )
        return f'<h1>Who are you?</h1><form method="post" action="/choose">{hidden}{people}</form>'

    def _private_key(self) -> ec.EllipticCurvePrivateKey:
        file = self.folder / "issuer-key.pem"
        if not file.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            file.touch(mode=0o600)
            file.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key = load_pem_private_key(file.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key


def _page(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>The sandbox\'s sign-in</title>'
        "<style>:root{color-scheme:light dark}body{font:16px system-ui;max-width:30rem;margin:4rem auto}"
        f"button{{font:inherit;padding:.6rem 1rem;width:100%;text-align:left}}</style><body>{body}</body></html>"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.issuer", description="A local OpenID Connect issuer.")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redirect", action="append", required=True, help="where the client may be answered")
    arguments = parser.parse_args()
    server = IssuerServer(f"http://127.0.0.1:{arguments.port}", arguments.dir, tuple(arguments.redirect))
    uvicorn.run(server.app(), host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
