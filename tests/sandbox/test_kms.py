"""The sandbox's KMS as boto3 sees it, over HTTP, in the process and the environment it runs in."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from engine.paths import emulator_python

pytestmark = pytest.mark.sandbox

TREE = Path(__file__).parents[2]
VENDOR_ROOT, CUSTOMER_ROOT = "arn:aws:iam::111122223333:root", "arn:aws:iam::444455556666:root"
ORG_PATH = "o-ygducmlz12/r-e5t3/ou-e5t3-fzpdq76p/ou-e5t3-ysfcmd95/ou-e5t3-hwt05su3/"


class Server:
    """The process, and boto3 clients for it."""

    def __init__(self, state_dir: Path) -> None:
        python = os.environ.get("KEYSHIFT_EMULATOR_PYTHON") or str(emulator_python())
        assert Path(python).exists(), "the emulators' environment is missing: run `make setup`"
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("kms_process.py")), str(state_dir)],
            cwd=state_dir,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TREE)},
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline()
        assert line.strip().isdigit(), "the server ended before it listened"
        self._endpoint = f"http://127.0.0.1:{line.strip()}"

    def client(self, who: str) -> Any:
        return boto3.client(
            "kms",
            region_name="eu-west-1",
            endpoint_url=self._endpoint,
            aws_access_key_id=who,
            aws_secret_access_key="unused",
            config=Config(retries={"total_max_attempts": 1}),
        )

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(30) == 0, "SIGTERM is a clean stop"
        self._process.stdout.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("kms"))
    yield server
    server.stop()


@pytest.fixture
def vendor(server: Server) -> Any:
    return server.client("VENDOR")


@pytest.fixture
def customer(server: Server) -> Any:
    return server.client("CUSTOMER")


def refused(call: Callable[..., Any], **request: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**request)
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return error.value.response["Error"]["Code"]


def bring(kms: Any, key: str, material: bytes, **request: Any) -> str:
    """What the customer and the runner do together: wrap, upload, import."""
    parameters = kms.get_parameters_for_import(
        KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_4096"
    )
    public = serialization.load_der_public_key(parameters["PublicKey"])
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    answer = kms.import_key_material(
        KeyId=key,
        ImportToken=parameters["ImportToken"],
        EncryptedKeyMaterial=public.encrypt(material, oaep),
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
        **request,
    )
    return answer["KeyMaterialId"]


def policy(*statements: dict[str, Any]) -> str:
    own = {"Effect": "Allow", "Principal": {"AWS": CUSTOMER_ROOT}, "Action": "kms:*", "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [own, *statements]})


def state(kms: Any, key: str) -> str:
    return kms.describe_key(KeyId=key)["KeyMetadata"]["KeyState"]


def test_a_customers_key_is_imported_used_rotated_and_revoked(vendor: Any) -> None:
    key = vendor.create_key(Origin="EXTERNAL", Description="acme k1")["KeyMetadata"]["Arn"]
    assert refused(vendor.encrypt, KeyId=key, Plaintext=b"x") == "KMSInvalidStateException"
    first = bring(vendor, key, os.urandom(32), ImportType="NEW_KEY_MATERIAL")
    context = {"aws:s3:arn": "arn:aws:s3:::acme/records/1.json"}
    data_key = vendor.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
    assert data_key["KeyMaterialId"] == first

    second = bring(vendor, key, os.urandom(32), ImportType="NEW_KEY_MATERIAL")
    vendor.rotate_key_on_demand(KeyId=key)
    deadline = time.monotonic() + 10
    while "OnDemandRotationStartDate" in vendor.get_key_rotation_status(KeyId=key):
        assert time.monotonic() < deadline, "the rotation does not end"
    assert vendor.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] == second
    listed = vendor.list_key_rotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert [r["KeyMaterialState"] for r in listed] == ["NON_CURRENT", "CURRENT"]
    opened = vendor.decrypt(CiphertextBlob=data_key["CiphertextBlob"], EncryptionContext=context)
    assert (opened["Plaintext"], opened["KeyMaterialId"]) == (data_key["Plaintext"], first)
    wrong_context = {"CiphertextBlob": data_key["CiphertextBlob"], "EncryptionContext": {}}
    assert refused(vendor.decrypt, **wrong_context) == "InvalidCiphertextException"

    vendor.disable_key(KeyId=key)
    sealed = {"CiphertextBlob": data_key["CiphertextBlob"], "EncryptionContext": context}
    assert refused(vendor.decrypt, **sealed) == "DisabledException"
    vendor.enable_key(KeyId=key)
    vendor.delete_imported_key_material(KeyId=key)
    assert refused(vendor.decrypt, **sealed) == "KMSInvalidStateException"
    assert state(vendor, key) == "PendingImport"


def test_boto3_knows_every_error_by_its_class(vendor: Any) -> None:
    key = vendor.create_key()["KeyMetadata"]["KeyId"]
    blob = vendor.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    with pytest.raises(vendor.exceptions.InvalidCiphertextException):
        vendor.decrypt(CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(vendor.exceptions.DryRunOperationException):
        vendor.decrypt(CiphertextBlob=blob, DryRun=True)
    with pytest.raises(vendor.exceptions.NotFoundException, match="Invalid keyId"):
        vendor.describe_key(KeyId="nothing")
    with pytest.raises(vendor.exceptions.MalformedPolicyDocumentException):
        vendor.put_key_policy(KeyId=key, Policy="{}")
    with pytest.raises(vendor.exceptions.UnsupportedOperationException):
        vendor.get_parameters_for_import(KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048")
    assert refused(vendor.generate_random, NumberOfBytes=1) == "UnsupportedOperationException"


def test_a_customers_alias_serves_the_vendor_follows_its_rotation_and_can_be_withdrawn(
    vendor: Any, customer: Any
) -> None:
    opened = {
        "Effect": "Allow",
        "Principal": {"AWS": VENDOR_ROOT},
        "Action": ["kms:Decrypt", "kms:GenerateDataKey*", "kms:DescribeKey"],
        "Resource": "*",
        "Condition": {"StringEquals": {"kms:CallerAccount": "111122223333"}},
    }
    keys = [customer.create_key(Policy=policy(opened))["KeyMetadata"]["Arn"] for _ in range(2)]
    customer.create_alias(AliasName="alias/byokms", TargetKeyId=keys[0])
    alias = "arn:aws:kms:eu-west-1:444455556666:alias/byokms"
    assert vendor.describe_key(KeyId=alias)["KeyMetadata"]["Arn"] == keys[0]
    old = vendor.generate_data_key(KeyId=alias, KeySpec="AES_256")

    customer.update_alias(AliasName="alias/byokms", TargetKeyId=keys[1])
    assert vendor.describe_key(KeyId=alias)["KeyMetadata"]["Arn"] == keys[1]
    assert vendor.generate_data_key(KeyId=alias, KeySpec="AES_256")["KeyId"] == keys[1]
    assert vendor.decrypt(CiphertextBlob=old["CiphertextBlob"])["Plaintext"] == old["Plaintext"]

    customer.put_key_policy(KeyId=keys[0], Policy=policy())
    assert refused(vendor.decrypt, CiphertextBlob=old["CiphertextBlob"]) == "AccessDeniedException"
    assert vendor.generate_data_key(KeyId=alias, KeySpec="AES_256")["KeyId"] == keys[1]
    customer.delete_alias(AliasName="alias/byokms")
    assert refused(vendor.describe_key, KeyId=alias) == "NotFoundException"
    assert refused(vendor.get_key_policy, KeyId=keys[1]) == "AccessDeniedException"


def test_elastic_uses_a_key_through_the_path_of_its_organization(server: Server, vendor: Any, customer: Any) -> None:
    elastic = server.client("ELASTIC")
    through_path = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey", "kms:GetKeyRotationStatus"],
        "Resource": "*",
        "Condition": {"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": [f"{ORG_PATH}*"]}},
    }
    key = customer.create_key(Policy=policy(through_path))["KeyMetadata"]["Arn"]
    assert elastic.generate_data_key(KeyId=key, KeySpec="AES_256")["KeyId"] == key
    assert elastic.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"] is False
    assert refused(vendor.generate_data_key, KeyId=key, KeySpec="AES_256") == "AccessDeniedException"


def test_an_unknown_caller_gets_no_further(server: Server) -> None:
    assert refused(server.client("NOBODY").list_keys) == "UnrecognizedClientException"


def test_the_sdk_pages_through_keys_and_aliases(customer: Any) -> None:
    made = {customer.create_key()["KeyMetadata"]["KeyId"] for _ in range(3)}
    pages = customer.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2})
    listed = [key["KeyId"] for page in pages for key in page["Keys"]]
    assert made <= set(listed)
    assert len(listed) == len(set(listed))


def test_many_calls_at_once_are_all_answered(vendor: Any) -> None:
    key = vendor.create_key()["KeyMetadata"]["Arn"]

    def round_trip(number: int) -> bytes:
        blob = vendor.encrypt(KeyId=key, Plaintext=str(number).encode())["CiphertextBlob"]
        return vendor.decrypt(CiphertextBlob=blob)["Plaintext"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(round_trip, range(100))) == [str(n).encode() for n in range(100)]


def test_acknowledged_material_survives_a_kill(tmp_path: Path) -> None:
    server = Server(tmp_path)
    kms = server.client("VENDOR")
    key = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["Arn"]
    bring(kms, key, os.urandom(32))
    blob = kms.encrypt(KeyId=key, Plaintext=b"kept")["CiphertextBlob"]
    server.kill()
    server = Server(tmp_path)
    assert server.client("VENDOR").decrypt(CiphertextBlob=blob)["Plaintext"] == b"kept"
    server.stop()


def test_the_server_needs_nothing_but_the_emulators_environment() -> None:
    script = "import sys, sandbox.aws.kms; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=TREE, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"boto3", "pulumi", "pydantic", "engine", "components", "stacks", "migrate"} & set(loaded)
