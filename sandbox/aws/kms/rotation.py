"""The materials of a key over time: on-demand and automatic rotation."""

import hashlib
import os
from dataclasses import replace
from typing import Any

from sandbox.aws.kms import refusals
from sandbox.aws.kms.call import Call
from sandbox.aws.kms.model import Key, KeyState, Material, MaterialState, Origin
from sandbox.aws.kms.paging import page

_DAY = 86_400
_ON_DEMAND_ROTATIONS = 25
_SOON = 20 * 60
_DEFAULT_PERIOD_DAYS = 365


def material_id(key_id: str, secret: bytes) -> str:
    """Bound to the key: the same bytes in two keys have two ids (API, ImportKeyMaterial, KeyMaterialId)."""
    return hashlib.sha256(key_id.encode() + secret).hexdigest()


def rotated(key: Key, now: float, rotation_type: str) -> Key:
    """`key` with its waiting material current, or for an AWS_KMS key a new one."""
    if key.origin is Origin.EXTERNAL:
        successor = key.pending
    else:
        secret = os.urandom(32)
        successor = Material(material_id(key.id, secret), MaterialState.PENDING_ROTATION, secret)
    if successor is None:
        raise ValueError(f"{key.id} has no material to rotate to")
    earlier = tuple(
        replace(m, state=MaterialState.NON_CURRENT) if m.state is MaterialState.CURRENT else m
        for m in key.materials
        if m.id != successor.id
    )
    current = replace(successor, state=MaterialState.CURRENT, rotated_at=now, rotation_type=rotation_type)
    return replace(key, materials=(*earlier, current))


def rotate_key_on_demand(call: Call, key: Key) -> dict[str, Any]:
    """Begins the rotation; it is complete `rotation_seconds` later, as KMS rotates in the background."""
    if key.on_demand_started is not None or (key.next_rotation is not None and key.next_rotation - call.now < _SOON):
        raise refusals.ROTATION_UNDER_WAY.error(arn=key.arn)
    if key.origin is Origin.EXTERNAL and key.pending is None:
        raise refusals.NOTHING_TO_ROTATE_TO.error(arn=key.arn)
    if key.on_demand_count >= _ON_DEMAND_ROTATIONS:
        raise refusals.TOO_MANY_ROTATIONS.error(id=key.id)
    call.kms.put(replace(key, on_demand_started=call.now, on_demand_count=key.on_demand_count + 1))
    return {"KeyId": key.id}


def list_key_rotations(call: Call, key: Key) -> dict[str, Any]:
    """ROTATIONS_ONLY, the default, leaves out the first material and one that waits for its rotation."""
    shows_all = call.request.get("IncludeKeyMaterial") == "ALL_KEY_MATERIAL"
    entries = [
        (f"{position:04}", _entry(key, material))
        for position, material in enumerate(key.materials)
        if shows_all or material.rotated_at is not None
    ]
    return page(call, "Rotations", entries)


def _entry(key: Key, material: Material) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "KeyId": key.id,
        "KeyMaterialId": material.id,
        "KeyMaterialState": material.state.value,
    }
    if material.rotated_at is not None:
        entry |= {"RotationDate": material.rotated_at, "RotationType": material.rotation_type}
    if key.origin is Origin.EXTERNAL:
        is_imported = material.secret is not None
        entry["ImportState"] = "IMPORTED" if is_imported else "PENDING_IMPORT"
        if material.description:
            entry["KeyMaterialDescription"] = material.description
        if is_imported:
            expires = material.valid_to is not None
            entry["ExpirationModel"] = "KEY_MATERIAL_EXPIRES" if expires else "KEY_MATERIAL_DOES_NOT_EXPIRE"
            if expires:
                entry["ValidTo"] = material.valid_to
    return entry


def get_key_rotation_status(call: Call, key: Key) -> dict[str, Any]:
    """A key that is pending deletion reads as not rotating (API, GetKeyRotationStatus)."""
    is_enabled = key.next_rotation is not None and key.state is not KeyState.PENDING_DELETION
    status: dict[str, Any] = {"KeyId": key.id, "KeyRotationEnabled": is_enabled}
    if is_enabled:
        status |= {"RotationPeriodInDays": key.rotation_period_days, "NextRotationDate": key.next_rotation}
    if key.on_demand_started is not None:
        status["OnDemandRotationStartDate"] = key.on_demand_started
    return status


def enable_key_rotation(call: Call, key: Key) -> dict[str, Any]:
    days = call.request.get("RotationPeriodInDays", _DEFAULT_PERIOD_DAYS)
    call.kms.put(replace(key, rotation_period_days=days, next_rotation=call.now + days * _DAY))
    return {}


def disable_key_rotation(call: Call, key: Key) -> dict[str, Any]:
    call.kms.put(replace(key, rotation_period_days=None, next_rotation=None))
    return {}


def settled(key: Key, now: float, rotation_seconds: float) -> Key:
    """`key` as time has left it: expired material gone, due rotations done. The same object if nothing was due."""
    expired = [m for m in key.materials if m.secret is not None and m.valid_to is not None and m.valid_to <= now]
    for material in expired:
        key = without_material(key, material)
    if key.on_demand_started is not None and key.on_demand_started + rotation_seconds <= now:
        finished = replace(key, on_demand_started=None)
        can_rotate = key.state is KeyState.ENABLED and (key.origin is Origin.AWS_KMS or key.pending is not None)
        key = rotated(finished, now, "ON_DEMAND") if can_rotate else finished
    if key.next_rotation is not None and key.next_rotation <= now and key.state is KeyState.ENABLED:
        days = key.rotation_period_days or _DEFAULT_PERIOD_DAYS
        key = replace(rotated(key, now, "AUTOMATIC"), next_rotation=now + days * _DAY)
    return key


def next_event(key: Key, rotation_seconds: float) -> float:
    """When `settled` or the key's deletion has something to do next; infinity for never."""
    times = [m.valid_to for m in key.materials if m.secret is not None and m.valid_to is not None]
    if key.deletion_date is not None:
        times.append(key.deletion_date)
    if key.on_demand_started is not None:
        times.append(key.on_demand_started + rotation_seconds)
    if key.next_rotation is not None and key.state is KeyState.ENABLED:
        times.append(key.next_rotation)
    return min(times, default=float("inf"))


def without_material(key: Key, material: Material) -> Key:
    """`key` after the bytes of `material` are gone; the entry of a permanently associated one stays."""
    if not material.is_permanent:
        return replace(key, materials=tuple(m for m in key.materials if m.id != material.id))
    emptied = replace(material, secret=None, valid_to=None)
    return replace(key, materials=tuple(emptied if m.id == material.id else m for m in key.materials))
