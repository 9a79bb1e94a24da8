"""The one way in which lists come in pages."""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from sandbox.aws.kms import refusals
from sandbox.aws.kms.call import Call

_DEFAULT_LIMIT = 100


def page(call: Call, member: str, entries: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A page of `entries`, which are (sort name, what to return) in the order of their names.

    The marker holds the name of the last entry returned, so that what comes and goes between two
    calls is neither skipped nor repeated. Raises InvalidMarkerException.
    """
    limit = call.request.get("Limit", _DEFAULT_LIMIT)
    if "Marker" in call.request:
        last = _last_name(call.request["Marker"])
        entries = [entry for entry in entries if entry[0] > last]
    shown = entries[:limit]
    answer: dict[str, Any] = {member: [entry for _, entry in shown], "Truncated": len(entries) > limit}
    if answer["Truncated"]:
        answer["NextMarker"] = base64.urlsafe_b64encode(b"after:" + shown[-1][0].encode()).decode("ascii")
    return answer


def _last_name(marker: str) -> str:
    try:
        content = base64.b64decode(marker, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise refusals.INVALID_MARKER.error() from error
    if not content.startswith("after:"):
        raise refusals.INVALID_MARKER.error()
    return content.removeprefix("after:")
