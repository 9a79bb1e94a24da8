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


def queue_policy(name: str, *, region: str, account: str, rules: Sequence[str] = ()) -> dict[str, object]:
    """Lets the rule called `name`, those of `rules`, and no other, send to the queue called `name`."""
    senders = [naming.arn("events", f"rule/{rule}", region=region, account=account) for rule in (name, *rules)]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "EventsOfThisRuleOnly",
                "Effect": "Allow",
                "Principal": {"Service": "events.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": naming.arn("sqs", name, region=region, account=account),
                "Condition": {"ArnEquals": {"aws:SourceArn": senders if rules else senders[0]}},
            }
        ],
    }
