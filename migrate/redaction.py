"""Logging with redaction at the root: no call has to remember it. Over-masking beats leaking."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import MutableMapping
from typing import Any

import structlog

SECRET_NAME = re.compile(
    r"(?i)(pass(word|phrase)|secret|token|api[-_]?key|authorization|credential|wrapped|material|private)"
)
SECRET_TEXT = re.compile(
    r"""(?ix)
    (?P<before>
      (?:pass(?:word|phrase) | token | secret (?:[-_]?access[-_]?key)? | secretstring | api[-_]?key
        | authorization | x-amz-signature)
      \\?["']? \s* [:=] \s* (?!\w+::|:)     # a name, maybe quoted, then its value; not a URN
      | \b (?:ApiKey | Bearer | Basic) \s+   # the schemes of an Authorization header
    )
    (?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | (?:(?:ApiKey|Bearer|Basic|AWS4-HMAC-SHA256)\s+)? \S+ )
    """
)
URL_PASSWORD = re.compile(r"(?P<before>://[^\s:/@]*:)[^\s/@]+(?=@)")
BYTES_TEXT = re.compile(r"""\bb(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
MASK = "[redacted]"


def redact_text(text: str) -> str:
    """The text with what follows a secret's name, authorizations, passwords of URLs and bytes literals masked."""
    text = BYTES_TEXT.sub(MASK, text)
    for pattern in (URL_PASSWORD, SECRET_TEXT):
        text = pattern.sub(lambda found: found["before"] + MASK, text)
    return text


def redact(value: Any, name: str = "") -> Any:
    """A copy of any value as JSON can hold it, without secrets; bytes are never let through.

    What lies below a secret's name is masked at any depth; numbers and booleans are no secrets.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        is_secret = SECRET_NAME.search(name) is not None
        return {_named(key): redact(item, name if is_secret else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, name) for item in value]
    if isinstance(value, bytes | bytearray | memoryview) or SECRET_NAME.search(name):
        return MASK
    return redact_text(str(value))


def _named(key: Any) -> str:
    return MASK if isinstance(key, bytes) else redact_text(str(key))


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in list(event):
        event[key] = redact(event[key], key if key != "event" else "")
    return event


class _RedactingFormatter(logging.Formatter):
    """The same for libraries that use the standard logging module: the whole line, its traceback included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))


def configure_logging() -> None:
    """JSON lines to stderr from KEYSHIFT_LOG (a level name; default: only warnings)."""
    level = logging.getLevelName(os.environ.get("KEYSHIFT_LOG", "WARNING").upper())
    handler = logging.StreamHandler()
    handler.setFormatter(_RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if level > logging.DEBUG:
        # It logs a traceback of what it also raises; the error we print says it in one line.
        logging.getLogger("botocore.credentials").setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact_event,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(handler.stream),
    )
