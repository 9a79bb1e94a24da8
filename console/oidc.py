"""Sign-in by OpenID Connect: authorization code with PKCE, and the tokens that the issuer signs.

The Console keeps no password. Who somebody is, of which customer and in which role, stands in the issuer's
tokens: `keyshift_customer`, `keyshift_role`; when they proved it, in `auth_time`.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import jwt

from console.callers import Caller, Role
from console.problems import Refused
from console.settings import Settings
from migrate.errors import CloudError

ALGORITHMS = ["RS256", "ES256", "EdDSA"]
"""Signatures by a key pair only: with a shared secret whoever verifies could sign."""
LEEWAY_SECONDS = 30
ASKED_AGAIN_SECONDS = 30.0
"""How soon the issuer is asked once more for its keys, when a token names one that is not known."""
TIMEOUT_SECONDS = 10.0
CUSTOMER, ROLE = "keyshift_customer", "keyshift_role"


@dataclass(frozen=True)
class Begun:
    """A sign-in under way: where the browser goes, and what has to be kept until it comes back."""

    url: str
    state: str
    verifier: str
    nonce: str


class Issuer:
    """The issuer, as its discovery document describes it. Threads share it."""

    def __init__(self, settings: Settings, http: httpx.Client | None = None) -> None:
        self._settings = settings
        self._http = http or httpx.Client(timeout=TIMEOUT_SECONDS)
        self._lock = threading.Lock()
        self._found: dict[str, Any] | None = None
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_at = -ASKED_AGAIN_SECONDS

    def begin(self, *, fresh: bool) -> Begun:
        """`fresh`: the issuer has to ask the person again, whatever session it holds."""
        state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect_uri,
            "scope": "openid profile email",
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **({"prompt": "login", "max_age": "0"} if fresh else {}),
        }
        return Begun(f"{self._discovered()['authorization_endpoint']}?{urlencode(asked)}", state, verifier, nonce)

    def end(self, code: str, verifier: str, nonce: str) -> Caller:
        """Who has signed in. Raises Refused when the code or the token is not what was asked for."""
        secret = self._settings.client_secret()
        answer = self._asked(
            "POST",
            self._discovered()["token_endpoint"],
            data={
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._settings.redirect_uri,
                "client_id": self._settings.client_id,
                "code_verifier": verifier,
            },
            auth=(self._settings.client_id, secret) if secret else None,
        )
        if answer.status_code != 200:
            raise _refused("the issuer did not take the code")
        claims = self._checked(str(answer.json().get("id_token", "")), audience=self._settings.client_id)
        if not secrets.compare_digest(str(claims.get("nonce", "")), nonce):
            raise _refused("the token is of another sign-in")
        return _caller(claims)

    def bearer(self, token: str) -> Caller:
        """Who calls the API with this access token. Raises Refused for one that is not good for it."""
        return _caller(self._checked(token, audience=self._settings.audience))

    def origin(self) -> str:
        """Where its pages are, for the content policy."""
        parts = urlsplit(self._settings.issuer)
        return f"{parts.scheme}://{parts.netloc}"

    def _checked(self, token: str, *, audience: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(str(header.get("kid", "")))
            return jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise _refused("the token is not one that the issuer signed for this Console, or has run out") from error

    def _key(self, id: str) -> jwt.PyJWK:
        with self._lock:
            if id not in self._keys and time.monotonic() - self._asked_at > ASKED_AGAIN_SECONDS:
                self._asked_at = time.monotonic()
                answer = self._asked("GET", self._discovered()["jwks_uri"])
                known = jwt.PyJWKSet.from_dict(answer.json())
                self._keys = {key.key_id: key for key in known.keys if key.key_id}
            if id not in self._keys:
                raise _refused("the token is signed with a key that the issuer does not have")
            return self._keys[id]

    def _discovered(self) -> dict[str, Any]:
        found = self._found
        if found is None:
            url = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            found = self._asked("GET", url).json()
            if found.get("issuer") != self._settings.issuer:
                raise CloudError(
                    f"{url} describes another issuer than {self._settings.issuer}",
                    hint="set KEYSHIFT_CONSOLE_ISSUER to exactly what the issuer calls itself",
                    code="issuer",
                )
            self._found = found
        return found

    def _asked(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, url, **more)
        except httpx.HTTPError as error:
            raise CloudError(
                f"the issuer of sign-ins cannot be reached at {urlsplit(url).netloc}: {error}",
                hint="see that it runs, then sign in again",
                code="issuer",
            ) from error


def _caller(claims: dict[str, Any]) -> Caller:
    try:
        role = Role(claims.get(ROLE))
    except ValueError as error:
        raise _refused("the issuer gives this person no role here") from error
    customer = claims.get(CUSTOMER)
    if (role is Role.VENDOR_OPERATOR) == bool(customer):
        raise _refused("a customer's people belong to one customer, the vendor's to none")
    return Caller(
        subject=str(claims["sub"]),
        name=str(claims.get("name") or claims["sub"]),
        role=role,
        customer=str(customer) if customer else None,
        email=claims.get("email"),
        auth_time=float(claims.get("auth_time", 0)),
    )


def _refused(why: str) -> Refused:
    return Refused(
        f"this sign-in cannot be taken: {why}",
        code="token-refused",
        hint="sign in again",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )
