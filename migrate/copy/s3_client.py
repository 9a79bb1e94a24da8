"""What boto3's S3 client cannot do by itself, taught to it once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ORDER = "KeyshiftOrder"
"""Where a listing's answer keeps the kinds of its entries, in their order."""
_BROKEN_XML = re.compile(
    rb"&#(?:x0*[0-8bBcCeEfF]|x0*1[0-9a-fA-F]|0*(?:[0-8]|1[124-9]|2[0-9]|3[01])|x[fF]{3}[eEfF]|6553[45]);"
    rb"|[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]"
)


def prepare(s3: Any) -> Any:
    """Teach a client what boto3 cannot do by itself; returns the client.

    - The order of versions and delete markers: S3 lists both in one order, newest first, but boto3 sorts
      them into two lists, and `LastModified` (whole seconds) cannot tell what came first within a second.
    - Answers about a key with control characters, which S3 writes into XML that no parser takes.
    - An `Expires` header that is no date (`ExpiresString`): S3 keeps it as it came, boto3 sends dates only.
    """
    events = s3.meta.events
    events.register("before-parse.s3.ListObjectVersions", _remember_order, unique_id="keyshift-order")
    # So named it comes before boto3's own handlers: an answer that cannot be parsed they take for a failure of S3.
    events.register("before-parse.*.*", _mend_xml, unique_id="keyshift-xml")
    create = "s3.CreateMultipartUpload"
    events.register(f"before-parameter-build.{create}", _keep_expires, unique_id="keyshift-expires")
    events.register(f"before-call.{create}", _send_expires, unique_id="keyshift-expires-header")
    return s3


def _mend_xml(response_dict: dict[str, Any], **_: Any) -> None:
    """The key in such an answer is only an echo of what was asked; listings encode their keys."""
    if isinstance(response_dict.get("body"), bytes):
        response_dict["body"] = _BROKEN_XML.sub(b"?", response_dict["body"])


def _keep_expires(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["keyshift_expires"] = params.pop("ExpiresString", None)


def _send_expires(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    if context.get("keyshift_expires"):
        params["headers"]["Expires"] = context["keyshift_expires"]


def _remember_order(response_dict: Mapping[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    customized_response_dict[ORDER] = [
        tag.decode() for tag in re.findall(rb"<(Version|DeleteMarker)>", response_dict["body"])
    ]
