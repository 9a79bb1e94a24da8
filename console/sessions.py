"""Sessions of browsers, kept here; the cookie holds a random number and the database only its hash."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass

import sqlalchemy as sql

from console.callers import Caller
from console.oidc import Begun, Issuer
from console.problems import Refused
from console.store import SESSIONS, SIGN_INS

SESSION_SECONDS = 8 * 3600.0
SIGN_IN_SECONDS = 600.0


@dataclass(frozen=True)
class Session:
    id: str
    caller: Caller
    csrf: str


class Sessions:
    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine

    def begin_sign_in(self, begun: Begun, goes_to: str) -> str:
        """Keeps a sign-in under way; returns what the browser's cookie must hold when it comes back."""
        browser = secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
            connection.execute(SIGN_INS.delete().where(SIGN_INS.c.until < time.time()))
            connection.execute(
                SIGN_INS.insert().values(
                    state=_hash(begun.state),
                    browser=_hash(browser),
                    verifier=begun.verifier,
                    nonce=begun.nonce,
                    goes_to=goes_to,
                    until=time.time() + SIGN_IN_SECONDS,
                )
            )
        return browser

    def end_sign_in(self, issuer: Issuer, *, state: str, code: str, browser: str) -> tuple[str, str]:
        """(the session's cookie, where the person wanted to go). A sign-in is ended once, by its own browser."""
        with self._engine.begin() as connection:
            mine = sql.and_(
                SIGN_INS.c.state == _hash(state), SIGN_INS.c.browser == _hash(browser), SIGN_INS.c.until > time.time()
            )
            row = connection.execute(sql.select(SIGN_INS).where(mine)).mappings().first()
            if row is None or connection.execute(SIGN_INS.delete().where(mine)).rowcount != 1:
                raise Refused(
                    "this sign-in was begun in another browser, or too long ago",
                    code="token-refused",
                    hint="sign in again",
                )
        return self.open(issuer.end(code, row["verifier"], row["nonce"])), str(row["goes_to"])

    def open(self, caller: Caller) -> str:
        cookie = secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.until < time.time()))
            connection.execute(
                SESSIONS.insert().values(
                    id=_hash(cookie),
                    caller=caller.model_dump_json(),
                    csrf=secrets.token_urlsafe(24),
                    until=time.time() + SESSION_SECONDS,
                )
            )
        return cookie

    def find(self, cookie: str) -> Session | None:
        live = sql.and_(SESSIONS.c.id == _hash(cookie), SESSIONS.c.until > time.time())
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(SESSIONS).where(live)).mappings().first()
        if row is None:
            return None
        return Session(str(row["id"]), Caller.model_validate_json(row["caller"]), str(row["csrf"]))

    def close(self, cookie: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(SESSIONS.delete().where(SESSIONS.c.id == _hash(cookie)))


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
