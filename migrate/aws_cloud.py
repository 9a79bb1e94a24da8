"""AWS, as a move needs it: S3, SQS, KMS, Secrets Manager and Lambda behind `migrate.cloud.Cloud`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from components.audiences import PIPELINE, WRITERS
from migrate import aws
from migrate.cloud import Role, WorkerProbe
from migrate.copy import engine, preflight
from migrate.copy.preflight import Preflight
from migrate.copy.s3 import Side, StorageRef, called, in_s3, prepare
from migrate.copy.store import Store
from migrate.copy.tags import TagQueue
from migrate.copy.transfer import CopyPass, Transfer
from migrate.errors import CloudError
from migrate.freeze import REFUSED_WITHIN_SECONDS
from migrate.live import Live
from migrate.outage import passes_by_itself
from migrate.progress import Report
from migrate.queues import Pipe, SqsQueues
from migrate.rekey import moves as rekeying
from migrate.rekey.engine import Left, left_under

if TYPE_CHECKING:
    from migrate.moves import Moves
    from migrate.operations import Move


class AwsCloud:
    refused_within = REFUSED_WITHIN_SECONDS

    def __init__(self, live: Live) -> None:
        self._live = live

    @cached_property
    def queues(self) -> SqsQueues:
        return SqsQueues(self._live.client("runner", "sqs"))

    def store(self, id: str, role: Role) -> Side:
        unit = self._live.outputs["storages"][id]
        return Side(self._live.client(role, "s3"), StorageRef(unit["bucket"], unit["prefix"], unit["key_arn"]))

    def secret(self, name: str, role: Role) -> Mapping[str, str]:
        secrets = self._live.client(role, "secretsmanager")
        answer = called(f"reading the secret {name}", secrets.get_secret_value, SecretId=name)
        return json.loads(answer["SecretString"])

    def pipe(self, id: str) -> Pipe:
        made = self._live.outputs["pipelines"][id]
        return Pipe(id=id, queue_url=made["queue_url"], dead_letters_url=made["dlq_url"])

    def tag_queue(self, storage: str) -> TagQueue | None:
        url = self._live.outputs["storages"][storage].get("tag_queue_url")
        place = self.store(storage, "runner").storage
        return TagQueue(self._live.client("runner", "sqs"), url, place) if url else None

    def writers(self, storage: str) -> dict[str, Store]:
        return {role: self._live.storage(storage, role) for role in WRITERS if role != PIPELINE}

    def workers(self, pipelines: list[str]) -> dict[str, WorkerProbe]:
        """Nobody but Lambda may take the role of a worker."""
        return {id: partial(self._refusals_of_worker, id) for id in pipelines}

    def _refusals_of_worker(self, pipeline: str, key: str) -> dict[str, str]:
        name = self._live.outputs["pipelines"][pipeline]["function_name"]
        answer = called(
            f"asking {name} to write",
            aws.client(self._live.operator, "lambda").invoke,
            FunctionName=name,
            Payload=json.dumps({"probe": key}).encode(),
        )
        said = answer["Payload"].read()
        if "FunctionError" in answer:
            raise CloudError(f"{name} could not tell whether it may write: {said[:300]!r}", hint="see its log")
        return json.loads(said)

    def key_id(self, key: str) -> str:
        return self._live.key_arn(key)

    def key_refusal(self, key: str) -> str:
        """DescribeKey alone would not show a missing right."""
        try:
            self._live.client("runner", "kms").generate_data_key(KeyId=self.key_id(key), KeySpec="AES_256")
        except ClientError as error:
            failed = aws.explained(error, f"trying the key {key}")
            if passes_by_itself(failed) or failed.code == "clock":
                raise failed from error
            return f"{aws.code_of(error)} ({error.response.get('Error', {}).get('Message', '').rstrip('.')})"
        return ""

    def survey(self, source: Any, place: str, report: Report) -> Preflight:
        return preflight.survey(source, place, report)

    def copy_pass(self, transfer: Transfer[Any], report: Report) -> CopyPass:
        return engine.copy_pass(transfer, report)

    def tidy(self, transfer: Transfer[Any]) -> None:
        engine.tidy(transfer)

    def in_place(self, moves: Moves) -> dict[str, Callable[[Move], dict[str, Any]]]:
        return {"rekey": partial(rekeying.rekey, moves), "drain": partial(rekeying.drain_old, moves)}

    def left_under(self, storage: str, old: str, report: Report) -> Left:
        return left_under(in_s3(self._live.storage(storage)), old, report)

    def as_operator(self, place: Any) -> Store:
        return Side(prepare(aws.client(self._live.operator, "s3")), place)

    def encryption(self, storage: str) -> tuple[str, str | None]:
        bucket = self._live.outputs["storages"][storage]["bucket"]
        rules = self._live.client("runner", "s3").get_bucket_encryption(Bucket=bucket)
        rule = rules["ServerSideEncryptionConfiguration"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]
        return bucket, rule.get("KMSMasterKeyID")
