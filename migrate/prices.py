"""What a cloud asks for a request: list prices, with the page and the month that they were taken from.

A table to be kept, not an oracle: free tiers, discounts and private agreements are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Price:
    """`dollars` for `per` requests (or GB-months)."""

    dollars: float
    per: int
    source: str
    as_of: str


_S3 = {"source": "https://aws.amazon.com/s3/pricing/", "as_of": "2024-04"}
_KMS = {"source": "https://aws.amazon.com/kms/pricing/", "as_of": "2026-03"}
_WRITES = Price(dollars=0.005, per=1_000, **_S3)
_READS = Price(dollars=0.0004, per=1_000, **_S3)
_FREE = Price(dollars=0.0, per=1_000, **_S3)
_CRYPTO = Price(dollars=0.03, per=10_000, **_KMS)

REGIONS = frozenset({"us-east-1", "eu-west-1"})
"""Where these prices hold; they are the same in both. For another region only the counts are told."""

REQUESTS: Mapping[str, Price] = {
    "LIST": _WRITES,
    "PUT": _WRITES,
    "COPY": _WRITES,
    "HEAD": _READS,
    "GET": _READS,
    "GET tags": _READS,
    "DELETE": _FREE,
    "KMS Decrypt": _CRYPTO,
    "KMS GenerateDataKey": _CRYPTO,
}
STORAGE = Price(dollars=0.023, per=1, **_S3)
"""A GB (2**30 bytes) of S3 Standard for a month, the first 50 TB."""
KEY = Price(dollars=1.0, per=1, **_KMS)
"""A KMS key for a month."""
HOURS_A_MONTH = 730


def cost(requests: Mapping[str, int]) -> float:
    """Dollars for counts of requests by kind. Raises KeyError for a kind without a price."""
    return sum(count * REQUESTS[kind].dollars / REQUESTS[kind].per for kind, count in requests.items())
