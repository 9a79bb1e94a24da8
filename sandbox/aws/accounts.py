# ruff: noqa: SLF001 - ministack offers no public functions; its version is pinned.
"""The sandbox's accounts and people: IAM users with access keys, written as AWS profiles."""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from defusedxml.ElementTree import fromstring
from ministack.core.responses import request_scope
from ministack.services import iam

VENDOR, CUSTOMER, ELASTIC = "111122223333", "444455556666", "777788889999"
ADMINISTRATOR = {"Effect": "Allow", "Action": "*", "Resource": "*"}
USES_KEYS = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}


@dataclass(frozen=True)
class Profile:
    """One IAM user, named as its AWS profile."""

    name: str
    account: str
    statement: Mapping[str, str]


PROFILES = (
    Profile("operator", VENDOR, ADMINISTRATOR),
    Profile("customer", CUSTOMER, ADMINISTRATOR),
    Profile("elastic", ELASTIC, USES_KEYS),
)


class BootstrapError(RuntimeError):
    """ministack refused to make one of the sandbox's users."""


async def bootstrap(folder: Path, region: str, endpoint: str) -> None:
    """Make the users that are missing and write `config` and `credentials` into `folder`, which must exist.

    A profile whose key ministack still knows keeps it, so that a restart breaks no session.
    """
    stored = configparser.ConfigParser(interpolation=None)
    stored.read(folder / "credentials")
    credentials = configparser.ConfigParser(interpolation=None)
    for profile in PROFILES:
        known = stored[profile.name] if stored.has_section(profile.name) else {}
        key_id = known.get("aws_access_key_id", "")
        if iam._access_keys.contains_scoped(profile.account, None, key_id):
            credentials[profile.name] = dict(known)
        else:
            credentials[profile.name] = await _new_user(profile, region)
    _write(folder / "credentials", credentials)
    _write(folder / "config", _config(region, endpoint))


async def _new_user(profile: Profile, region: str) -> dict[str, str]:
    async def call(action: str, **parameters: str) -> Any:
        return await _iam(profile.account, region, action, UserName=profile.name, **parameters)

    if profile.name not in _users(profile.account):
        await call("CreateUser")
    policy = {"Version": "2012-10-17", "Statement": [dict(profile.statement)]}
    await call("PutUserPolicy", PolicyName="sandbox", PolicyDocument=json.dumps(policy))
    answer = await call("CreateAccessKey")
    found = {item.tag.rpartition("}")[2]: item.text or "" for item in answer.iter()}
    return {"aws_access_key_id": found["AccessKeyId"], "aws_secret_access_key": found["SecretAccessKey"]}


def _users(account: str) -> set[str]:
    return {name for owner, name in iam._users.to_dict() if owner == account}


async def _iam(account: str, region: str, action: str, **parameters: str) -> Any:
    """Call ministack's IAM in process, as the account's root."""
    form = urlencode({"Action": action, "Version": "2010-05-08", **parameters}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    with request_scope(account, region):
        status, _, body = await iam.handle_request("POST", "/", headers, form, {})
    if status != 200:
        raise BootstrapError(f"{action} in account {account} failed with status {status}: {body!r}")
    return fromstring(body)


def _config(region: str, endpoint: str) -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    for profile in PROFILES:
        # SigV2, boto3's default for presigned URLs at a custom endpoint, is not taken by new buckets.
        config[f"profile {profile.name}"] = {
            "region": region,
            "endpoint_url": endpoint,
            "s3": "\nsignature_version = s3v4\naddressing_style = path",
        }
    return config


def _write(path: Path, content: configparser.ConfigParser) -> None:
    """Replace the file as a whole, readable by its owner alone."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        content.write(file)
    draft.replace(path)
