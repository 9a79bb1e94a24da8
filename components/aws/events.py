"""How events of a bucket find their way: what a rule listens for, and who may put them into its queue."""

from __future__ import annotations

from collections.abc import Sequence

from components import naming


def event_pattern(detail_types: Sequence[str], *, account: str, bucket: str, prefix: str) -> dict[str, object]:
    """A rule's pattern: these events of a bucket, below `prefix` ("" for all of it)."""
    detail: dict[str, object] = {"bucket": {"name": [bucket]}}
    if prefix:
        detail["object"] = {"key": [{"prefix": prefix}]}
    return {"source": ["aws.s3"], "account": [account], "detail-type": list(detail_types), "detail": detail}


def queue_policy(name: str, *, region: str, account: str) -> dict[str, object]:
    """Lets the rule called `name`, and no other, send to the queue of the same name."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "EventsOfThisRuleOnly",
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": naming.arn("sqs", name, region=region, account=account),
                "Condition": {
                    "ArnEquals": {"aws:SourceArn": naming.arn("events", f"rule/{name}", region=region, account=account)}
                },
            }
        ],
    }
