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
    r"(?i)((?:password|token|secret|api[-_]?key|authorization)[\"']?\s*[:=]\s*[\"']?)([^\s\"',}]+)"
    r"|((?:ApiKey|Bearer|Basic)\s+)([A-Za-z0-9+/=_.-]{12,})"
)
MASK = "[redacted]"


def redact_text(text: str) -> str:
    """The text with what follows a secret's name, and every authorization value, masked."""
    return SECRET_TEXT.sub(lambda m: (m[1] or m[3]) + MASK, text)


def redact(value: Any, name: str = "") -> Any:
    """A copy of any JSON-like value without secrets; bytes are never let through."""
    if isinstance(value, bytes | bytearray | memoryview):
        return MASK
    if SECRET_NAME.search(name) and value is not None and not isinstance(value, bool | int | dict):
        return MASK
    if isinstance(value, dict):
        return {key: redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, name) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in list(event):
        event[key] = redact(event[key], key if key != "event" else "")
    return event


class _RedactingFilter(logging.Filter):
    """The same for records of libraries that use the standard logging module."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact_text(record.getMessage()), None
        return True


def configure_logging() -> None:
    """JSON lines to stderr from KEYSHIFT_LOG (a level name; default: only warnings)."""
    level = logging.getLevelName(os.environ.get("KEYSHIFT_LOG", "WARNING").upper())
    handler = logging.StreamHandler()
    handler.addFilter(_RedactingFilter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
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
