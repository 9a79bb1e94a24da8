"""No secret reaches a log, whatever carries it: a field, a text, a library's record, a traceback."""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from migrate.redaction import MASK, configure_logging, redact, redact_text

SECRET_FIELDS = (
    "password",
    "Passphrase",
    "client_secret",
    "SecretString",
    "ImportToken",
    "session_token",
    "api_key",
    "apiKey",
    "Authorization",
    "credentials",
    "wrapped_key",
    "EncryptedKeyMaterial",
    "private_key",
)
# The beginning makes sure that no draw is a word which a text holds anyway.
SECRETS = st.text(string.ascii_letters + string.digits + "+/=_.-!$%&#", min_size=12, max_size=40).map("Zq7".__add__)
PLAIN = st.text(string.ascii_lowercase + " ", max_size=12)


def nested(secret: str) -> st.SearchStrategy[Any]:
    """JSON-like values that hold `secret` somewhere below a secret's name."""
    leaf = st.sampled_from([secret, [secret], {"value": secret}, (secret,), {secret}, [{"deep": [secret]}]])
    named = st.builds(lambda name, value: {name: value}, st.sampled_from(SECRET_FIELDS), leaf)
    return st.recursive(
        named,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "b", "operation"]), inner, min_size=1)
        ),
        max_leaves=6,
    )


@given(st.data(), SECRETS)
def test_a_secret_below_its_name_never_survives_at_any_depth(data: st.DataObject, secret: str) -> None:
    event = {"plain": "kept", "value": data.draw(nested(secret))}
    assert secret in repr(event), "the test would prove nothing if the secret were not there"
    masked = redact(event)
    assert secret not in json.dumps(masked)
    assert masked["plain"] == "kept"


@given(PLAIN, SECRETS, PLAIN, st.sampled_from(["{}", "a {} b", '{{"x": "{}"}}']))
def test_bytes_never_pass_neither_as_values_nor_printed_into_a_text(
    before: str, secret: str, after: str, shape: str
) -> None:
    for value in (secret.encode(), bytearray(secret.encode()), memoryview(secret.encode())):
        assert secret not in json.dumps(redact({"data": value, "list": [value]}))
    printed = f"{before} {secret.encode()!r} {after}"
    assert secret not in redact_text(shape.format(printed))
    assert redact({secret.encode(): 1}) == {MASK: 1}


@given(SECRETS)
@example('Zq7a"b\\c d')
def test_a_secret_that_a_text_names_is_masked_to_its_end(secret: str) -> None:
    for text in (
        f"password={secret}",
        f"Password: {secret} and more",
        json.dumps({"user": "a", "password": secret, "more": 1}),
        str({"api_key": secret}),
        f"Authorization: ApiKey {secret}",
        f"authorization: Bearer {secret}",
        f"header Basic {secret}",
        f"aws_secret_access_key = {secret}",
        f"X-Amz-Security-Token: {secret}",
    ):
        if " " in secret and "{" not in text:
            continue  # where nothing quotes it, a secret ends at a space
        masked = redact_text(text)
        assert secret not in masked, masked
        assert "Zq7" not in masked, masked


def test_the_password_of_a_database_url_is_masked_and_its_host_stays_readable() -> None:
    masked = redact_text("cannot reach postgresql://keyshift:hunter2@db.example/records today")
    assert "hunter2" not in masked
    assert masked == f"cannot reach postgresql://keyshift:{MASK}@db.example/records today"
    assert redact_text("http://127.0.0.1:4566/x") == "http://127.0.0.1:4566/x"


def test_what_is_no_secret_stays_as_it_is() -> None:
    event = {"operation": "acme-enable-1", "objects": 12, "ratio": 0.5, "done": True, "none": None, "tokens": 3}
    assert redact(event) == event
    urn = "urn:pulumi:tenant-acme::keyshift::x$elasticstack:index/securityApiKey:SecurityApiKey::e1-archive-key"
    for text in (urn, "the token has expired", "AWS answered ExpiredTokenException (renew it)", "3 secrets were read"):
        assert redact_text(text) == text


def test_any_other_object_is_logged_as_its_text_and_that_is_masked_too() -> None:
    class Client:
        def __repr__(self) -> str:
            return "Client(password='hunter2')"

    masked = redact({"client": Client()})["client"]
    assert masked.startswith("Client(password=")
    assert "hunter2" not in masked


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv("KEYSHIFT_LOG", "INFO")
    configure_logging()
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("logged")
def test_our_own_events_are_masked_before_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()  # on the stream that pytest has put in place
    structlog.get_logger().warning("read the secret", password="hunter2", blob=b"hunter2", text="token=hunter2")
    said = capsys.readouterr().err
    assert "read the secret" in said
    assert "hunter2" not in said


@pytest.mark.usefixtures("logged")
def test_a_librarys_record_and_its_traceback_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    try:
        int("Authorization: ApiKey hunter2hunter2")
    except ValueError:
        logging.getLogger("some.library").exception("calling with %s", {"api_key": "hunter2"})
    said = capsys.readouterr().err
    assert "calling with" in said
    assert "ValueError" in said
    assert "hunter2" not in said
