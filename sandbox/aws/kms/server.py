"""The KMS itself: its state, and the way every call takes."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.aws.caller import Caller
from sandbox.aws.kms import aliases, cryptographic, imports, lifecycle, refusals, rotation, shapes
from sandbox.aws.kms.call import Call, Reach
from sandbox.aws.kms.faults import Faults
from sandbox.aws.kms.model import Alias, ImportToken, Key
from sandbox.aws.kms.store import Store
from sandbox.aws.kms.wrapping import WrappingKeys

Answer = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """An operation on one key: `run` is called once its key is found, permitted and in a fit state."""

    run: Callable[[Call, Key], Answer]
    reach: Reach = Reach.OWN_KEY


ON_A_KEY: dict[str, Operation] = {
    "CancelKeyDeletion": Operation(lifecycle.cancel_key_deletion),
    "DeleteImportedKeyMaterial": Operation(imports.delete_imported_key_material),
    "DescribeKey": Operation(lifecycle.describe_key, Reach.ANY_KEY_OR_ALIAS),
    "DisableKey": Operation(lifecycle.disable_key),
    "DisableKeyRotation": Operation(rotation.disable_key_rotation),
    "EnableKey": Operation(lifecycle.enable_key),
    "EnableKeyRotation": Operation(rotation.enable_key_rotation),
    "GetKeyPolicy": Operation(lifecycle.get_key_policy),
    "GetKeyRotationStatus": Operation(rotation.get_key_rotation_status, Reach.FOREIGN_KEY),
    "GetParametersForImport": Operation(imports.get_parameters_for_import),
    "ImportKeyMaterial": Operation(imports.import_key_material),
    "ListKeyPolicies": Operation(lifecycle.list_key_policies),
    "ListKeyRotations": Operation(rotation.list_key_rotations),
    "ListResourceTags": Operation(lifecycle.list_resource_tags),
    "PutKeyPolicy": Operation(lifecycle.put_key_policy),
    "RotateKeyOnDemand": Operation(rotation.rotate_key_on_demand),
    "ScheduleKeyDeletion": Operation(lifecycle.schedule_key_deletion),
    "TagResource": Operation(lifecycle.tag_resource),
    "UntagResource": Operation(lifecycle.untag_resource),
    "UpdateKeyDescription": Operation(lifecycle.update_key_description),
}
# They look for their keys themselves. The cryptographic ones write nothing and take no lock.
OTHERS: dict[str, Callable[[Call], Answer]] = {
    "CreateAlias": aliases.create_alias,
    "CreateKey": lifecycle.create_key,
    "DeleteAlias": aliases.delete_alias,
    "ListAliases": aliases.list_aliases,
    "ListKeys": lifecycle.list_keys,
    "UpdateAlias": aliases.update_alias,
}
CRYPTOGRAPHIC: dict[str, Callable[[Call], Answer]] = {
    "Decrypt": cryptographic.decrypt,
    "Encrypt": cryptographic.encrypt,
    "GenerateDataKey": cryptographic.generate_data_key,
    "GenerateDataKeyWithoutPlaintext": cryptographic.generate_data_key_without_plaintext,
    "ReEncrypt": cryptographic.re_encrypt,
}
OFFERED = frozenset({*ON_A_KEY, *OTHERS, *CRYPTOGRAPHIC})


class Kms:
    """All keys of all accounts in one region.

    Thread-safe: changes are made one at a time and written to disk before they show; readers use
    the frozen records in memory, so a change holds at the very next call.

    `principal_exists`, if set, is asked for each principal ARN of a new key policy; one that it
    does not know is refused as AWS refuses it.
    """

    def __init__(
        self,
        state_dir: Path,
        region: str,
        *,
        principal_exists: Callable[[str], bool] | None = None,
        wrapping_keys_ready: int = 2,
        rotation_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`rotation_seconds`: how long an on-demand rotation takes, since in AWS it is not done at once."""
        self.region = region
        self.principal_exists = principal_exists
        self.faults = Faults()
        self._clock = clock
        self._rotation_seconds = rotation_seconds
        self._lock = threading.RLock()
        self._store = Store(Path(state_dir) / "kms.sqlite")
        self.keys: dict[str, Key] = {key.id: key for key in self._store.load_keys()}
        self.aliases: dict[str, Alias] = {alias.arn: alias for alias in self._store.load_aliases()}
        self.tokens: dict[bytes, ImportToken] = {token.token: token for token in self._store.load_tokens()}
        self.wrapping_keys = WrappingKeys(wrapping_keys_ready)
        self._next_event = 0.0

    def call(
        self, caller: Caller, operation: str, request: dict[str, Any], *, via_service: str | None = None
    ) -> Answer:
        """Run one operation. Request and answer are as on the wire: JSON, blobs in base64.

        `via_service` is the service that acts in the caller's name ("s3.eu-west-1.amazonaws.com").
        Raises KmsError.
        """
        if operation not in shapes.operation_names():
            raise refusals.UNKNOWN_OPERATION.error(operation=operation)
        if operation not in OFFERED:
            raise refusals.NOT_OFFERED.error(what=operation)
        self.faults.strike(operation)
        decoded = shapes.decode(operation, request)
        if decoded.get("GrantTokens"):
            raise refusals.NO_SUCH_GRANT_TOKEN.error()
        now = self._clock()
        if now >= self._next_event:
            self._settle(now)
        call = Call(self, caller, operation, decoded, via_service, now)
        if operation in CRYPTOGRAPHIC:
            return CRYPTOGRAPHIC[operation](call)
        with self._lock:
            return OTHERS[operation](call) if operation in OTHERS else self._on_a_key(call, ON_A_KEY[operation])

    def _on_a_key(self, call: Call, operation: Operation) -> Answer:
        key = call.find(call.request["KeyId"], operation.reach)
        call.authorize(key)
        call.require_state(key)
        return operation.run(call, key)

    # --- changes: first on disk, then in memory ----------------------------------------------

    def put(self, key: Key) -> None:
        with self._lock:
            self._store.put_key(key)
            self.keys[key.id] = key
            self._next_event = min(self._next_event, rotation.next_event(key, self._rotation_seconds))

    def put_alias(self, alias: Alias) -> None:
        with self._lock:
            self._store.put_alias(alias)
            self.aliases[alias.arn] = alias

    def delete_alias(self, arn: str) -> None:
        with self._lock:
            self._store.delete_alias(arn)
            del self.aliases[arn]

    def put_token(self, token: ImportToken) -> None:
        with self._lock:
            self._store.put_token(token)
            self.tokens[token.token] = token

    def forget_tokens(self, before: float) -> None:
        """Drop the tokens that ended before then; until so long they are told apart from unknown ones."""
        with self._lock:
            for token in [t for t in self.tokens.values() if t.valid_to < before]:
                self._store.delete_token(token.token)
                del self.tokens[token.token]

    def shred(self) -> None:
        """Leave no copy of deleted material on disk."""
        with self._lock:
            self._store.shred()

    def _settle(self, now: float) -> None:
        """Do what time has made due: expiry, deletion, rotation."""
        with self._lock:
            for key in list(self.keys.values()):
                if key.deletion_date is not None and key.deletion_date <= now:
                    self._delete(key)
                    continue
                settled = rotation.settled(key, now, self._rotation_seconds)
                if settled is not key:
                    self.put(settled)
                    self._store.shred()
            events = [rotation.next_event(key, self._rotation_seconds) for key in self.keys.values()]
            self._next_event = min(events, default=float("inf"))

    def _delete(self, key: Key) -> None:
        """With the key go its material and its aliases (API, ScheduleKeyDeletion)."""
        arns = [alias.arn for alias in self.aliases.values() if alias.key_id == key.id]
        tokens = [token.token for token in self.tokens.values() if token.key_id == key.id]
        self._store.delete_key(key.id, arns, tokens)
        self._store.shred()
        for arn in arns:
            del self.aliases[arn]
        for token in tokens:
            del self.tokens[token]
        del self.keys[key.id]

    def close(self) -> None:
        self.wrapping_keys.close()
        with self._lock:
            self._store.close()
