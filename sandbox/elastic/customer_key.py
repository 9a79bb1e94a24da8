"""What Elastic Cloud does with a customer's KMS key, done against the KMS of this environment.

Elastic acts from its own AWS account, here the profile `elastic`, whose principals carry Elastic's
organization path. It needs DescribeKey, GetKeyRotationStatus, GenerateDataKey, Encrypt and Decrypt,
the five actions of the key policy statement that its documentation asks for
(docs: "Encrypt your deployment with a customer-managed encryption key").
"""

from __future__ import annotations

import base64
import logging
import os
import re
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from sandbox.elastic.record import BoundKey

log = logging.getLogger(__name__)

PROFILE = "elastic"
_ARN = re.compile(r"^arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:(key|alias)/.+$")
_CONFIG = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "max_attempts": 2})

# Answers by which KMS says that the key is not to be used. Throttling, server errors and the sandbox's
# own credentials going wrong are not among them: Elastic does not lock a deployment for those.
_LOST = frozenset(
    {"AccessDeniedException", "DisabledException", "KMSInvalidStateException", "NotFoundException"}
    | {"IncorrectKeyException", "InvalidCiphertextException", "InvalidKeyUsageException"}
)


class KeyRefusedError(Exception):
    """The key cannot encrypt a deployment. `code` is the API's error code, the message holds KMS's own words."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Usability(StrEnum):
    """`unknown`: KMS could not be asked, which is no reason to lock."""

    USABLE = "usable"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """`key` differs from the one that was checked if the alias now names another key."""

    usability: Usability
    key: BoundKey
    reason: str = ""


class CustomerKeys:
    """KMS as Elastic sees it. Safe to use from several threads."""

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def bind(self, path: str, region: str) -> BoundKey:
        """Make a data key under the key at `path` for a deployment in `region` (`eu-west-1`).

        Raises KeyRefusedError: wrong kind of identifier, another region, not symmetric, or not usable.
        """
        arn = _ARN.match(path)
        if arn is None:
            raise KeyRefusedError(
                "deployments.byok.invalid_key", f"[{path}] is neither a key ARN nor an alias ARN of AWS KMS"
            )
        if arn["region"] != region:
            raise KeyRefusedError(
                "deployments.byok.invalid_key", f"the key is in [{arn['region']}] and the deployment in [{region}]"
            )
        try:
            return self._bind(path)
        except ClientError as error:
            raise KeyRefusedError("deployments.byok.key_unreachable", _words(error)) from error
        except BotoCoreError as error:
            raise KeyRefusedError("deployments.byok.key_unreachable", f"KMS was not reached: {error}") from error

    def check(self, key: BoundKey) -> Finding:
        """Can the deployment's data key be unwrapped now? Follows an alias to its new key, as Elastic does."""
        try:
            return Finding(Usability.USABLE, self._renew(key))
        except ClientError as error:
            usability = Usability.LOST if error.response["Error"]["Code"] in _LOST else Usability.UNKNOWN
            return Finding(usability, key, _words(error))
        except BotoCoreError as error:
            return Finding(Usability.UNKNOWN, key, f"KMS was not reached: {error}")
        except KeyRefusedError as error:
            return Finding(Usability.UNKNOWN, key, str(error))

    def _bind(self, path: str) -> BoundKey:
        kms = self._kms(path)
        described = kms.describe_key(KeyId=path)["KeyMetadata"]
        if described["KeySpec"] != "SYMMETRIC_DEFAULT":
            raise KeyRefusedError("deployments.byok.invalid_key", f"the key is {described['KeySpec']}, not symmetric")
        _ask_rotation_status(kms, described["Arn"])
        data_key = kms.generate_data_key(KeyId=path, KeySpec="AES_256")
        unwrapped = kms.decrypt(KeyId=path, CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"]
        if unwrapped != data_key["Plaintext"]:
            raise KeyRefusedError("deployments.byok.key_unreachable", "KMS did not return the data key it had wrapped")
        return self._wrap(path, unwrapped)

    def _renew(self, key: BoundKey) -> BoundKey:
        kms = self._kms(key.path)
        data_key = kms.decrypt(KeyId=key.key_arn, CiphertextBlob=base64.b64decode(key.wrapped))["Plaintext"]
        if kms.describe_key(KeyId=key.path)["KeyMetadata"]["Arn"] == key.key_arn:
            return key
        return self._wrap(key.path, data_key)

    def _wrap(self, path: str, data_key: bytes) -> BoundKey:
        wrapped = self._kms(path).encrypt(KeyId=path, Plaintext=data_key)
        return BoundKey(
            path=path, key_arn=wrapped["KeyId"], wrapped=base64.b64encode(wrapped["CiphertextBlob"]).decode()
        )

    def _kms(self, path: str) -> Any:
        region = path.split(":")[3]
        with self._lock:
            if region not in self._clients:
                self._clients[region] = _client(region)
            return self._clients[region]


def _client(region: str) -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_KMS") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint:
        # Without it boto3 would call AWS itself.
        raise KeyRefusedError(
            "deployments.byok.key_unreachable", "the sandbox's KMS is not configured: AWS_ENDPOINT_URL is not set"
        )
    session = boto3.Session(profile_name=PROFILE, region_name=region)
    return session.client("kms", endpoint_url=endpoint, config=_CONFIG)


def _ask_rotation_status(kms: Any, arn: str) -> None:
    """Elastic wants to know it; a key with imported material, which Elastic accepts, may have none."""
    try:
        kms.get_key_rotation_status(KeyId=arn)
    except ClientError as error:
        if error.response["Error"]["Code"] != "UnsupportedOperationException":
            raise


def _words(error: ClientError) -> str:
    """KMS's own code and message."""
    said = error.response["Error"]
    return f"{said['Code']}: {said.get('Message', '')}"
