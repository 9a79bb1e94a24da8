"""Aliases: names of keys within one account, which can be moved from key to key."""

import re
from dataclasses import replace
from typing import Any

from sandbox.aws.kms import refusals
from sandbox.aws.kms.call import Call, Reach
from sandbox.aws.kms.model import Alias, Key
from sandbox.aws.kms.paging import page

_NAME = re.compile(r"alias/(?!aws/)[a-zA-Z0-9:/_-]+")
_ALIASES_OF_A_KEY = 50


def _arn(call: Call, name: str) -> str:
    return f"arn:aws:kms:{call.kms.region}:{call.caller.account}:{name}"


def _target(call: Call) -> Key:
    ref = call.request["TargetKeyId"]
    if ref.startswith("alias/") or ":alias/" in ref:
        raise refusals.ALIAS_TO_ALIAS.error()
    key = call.find(ref, Reach.OWN_KEY)
    if sum(alias.key_id == key.id for alias in call.kms.aliases.values()) >= _ALIASES_OF_A_KEY:
        raise refusals.TOO_MANY_ALIASES.error(arn=key.arn)
    return key


def create_alias(call: Call) -> dict[str, Any]:
    """Needs kms:CreateAlias on the alias (IAM) and on the key (key policy)."""
    name = call.request["AliasName"]
    if not _NAME.fullmatch(name):
        raise refusals.ALIAS_NAME.error(name=name)
    arn = _arn(call, name)
    call.authorize_by_identity(arn)
    key = _target(call)
    call.authorize(key)
    if arn in call.kms.aliases:
        raise refusals.ALIAS_EXISTS.error(arn=arn)
    call.require_state(key)
    call.kms.put_alias(Alias(arn, name, call.caller.account, key.id, call.now, call.now))
    return {}


def update_alias(call: Call) -> dict[str, Any]:
    """Needs kms:UpdateAlias on the alias (IAM) and on both keys; only the new key's state matters."""
    alias = call.alias(call.request["AliasName"], call.caller.account)
    call.authorize_by_identity(alias.arn)
    call.authorize(call.kms.keys[alias.key_id])
    key = _target(call)
    call.authorize(key)
    call.require_state(key)
    call.kms.put_alias(replace(alias, key_id=key.id, updated_at=call.now))
    return {}


def delete_alias(call: Call) -> dict[str, Any]:
    alias = call.alias(call.request["AliasName"], call.caller.account)
    call.authorize_by_identity(alias.arn)
    call.authorize(call.kms.keys[alias.key_id])
    call.kms.delete_alias(alias.arn)
    return {}


def list_aliases(call: Call) -> dict[str, Any]:
    call.authorize_by_identity("*")
    key = call.find(call.request["KeyId"], Reach.OWN_KEY) if "KeyId" in call.request else None
    own = [
        alias
        for alias in sorted(call.kms.aliases.values(), key=lambda alias: alias.name)
        if alias.account == call.caller.account and (key is None or alias.key_id == key.id)
    ]
    return page(call, "Aliases", [(alias.name, _entry(alias)) for alias in own])


def _entry(alias: Alias) -> dict[str, Any]:
    return {
        "AliasName": alias.name,
        "AliasArn": alias.arn,
        "TargetKeyId": alias.key_id,
        "CreationDate": alias.created_at,
        "LastUpdatedDate": alias.updated_at,
    }
