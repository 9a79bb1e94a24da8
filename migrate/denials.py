"""What a seal denies by direct calls, and how each denial is undone. Nothing is created here, and nothing deleted.

Policies get the one statement that the layout with closed access has too, credentials lose their rights
and keep their secrets, event sources stop, keys are disabled. Each denial can be carried out twice, and
undoing it leads exactly to where it began.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import Any

import boto3
from botocore.exceptions import ClientError
from elasticsearch import ApiError, Elasticsearch

from components import naming
from components.aws import closed
from components.index import API_KEYS, CLOSED, READER_ROLE, api_key
from migrate import aws, failures
from migrate.copy.s3 import Side, StorageRef, prepare
from migrate.errors import CloudError
from migrate.index.client import from_secret
from stacks.layout import Key, KeyState, Layout, Pipeline, PipelineState, StorageKind

SEARCH_SECONDS = 10
"""A search that does not answer must not hold up the other denials for long."""
IN_USE = frozenset({KeyState.ACTIVE, KeyState.ARCHIVED})
ABSENT = frozenset({"NoSuchBucket", "NoSuchEntity", "NotFoundException", "ResourceNotFoundException"})
DENIED, BEFORE, NOTHING_THERE, FAILED = "denied", "denied before", "nothing there", "FAILED"
LOCKED = "locked by its lost key"
"""A search that refuses everybody, us too: its credentials keep their rights until its key is back."""
UNDONE, OPEN_BEFORE = "opened", "open before"


@dataclass(frozen=True)
class Estate:
    """A tenant's resources by their names alone: a seal needs no engine and no stack to find them.

    `key_arns` asks for the ARNs of the tenant's keys, which only the stack knows.
    """

    layout: Layout
    account: str
    operator: boto3.Session
    key_arns: Callable[[], Mapping[str, str]]
    _clients: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False, compare=False)

    def client(self, service: str, role: str | None = None) -> Any:
        """A shared client, as whoever runs the command or as one of the tenant's roles."""
        if (service, role or "") not in self._clients:
            session = self.operator
            if role is not None:
                session = aws.assume(self.role_arn(role), f"keyshift-{role}", session=self.operator)
            made = aws.client(session, service)
            self._clients[service, role or ""] = prepare(made) if service == "s3" else made
        return self._clients[service, role or ""]

    def role_arn(self, audience: str) -> str:
        return naming.arn("iam", f"role/{naming.role(self.layout.tenant, audience)}", account=self.account)

    def storage(self, id: str) -> StorageRef:
        layout = self.layout
        if layout.storage(id).kind is StorageKind.SHARED:
            bucket = naming.shared_bucket(stamp=layout.stamp, account=self.account, region=layout.region)
            return StorageRef(bucket, naming.shared_prefix(layout.tenant))
        bucket = naming.dedicated_bucket(tenant=layout.tenant, storage=id, account=self.account, region=layout.region)
        return StorageRef(bucket, "")

    def side(self, id: str, role: str) -> Side:
        return Side(self.client("s3", role), self.storage(id))

    def search(self, id: str, audience: str = "admin") -> Elasticsearch:
        """A client with the credentials of an audience, read by the runner: nobody denies the runner."""
        name = naming.secret(self.layout.tenant, id, audience)
        if ("search", name) not in self._clients:
            made = from_secret(self.client("secretsmanager", "runner"), name)
            self._clients["search", name] = made.options(request_timeout=SEARCH_SECONDS, max_retries=0)
        return self._clients["search", name]

    @property
    def keys_in_use(self) -> list[Key]:
        """Imported keys of our account under which something may lie; one of the customer's account is the customer's."""
        return [key for key in self.layout.keys if key.arn is None and key.state in IN_USE]

    @property
    def keys_to_read(self) -> list[Key]:
        """Keys without which something cannot be read, the customer's own too."""
        return [key for key in self.layout.keys if key.state in IN_USE]

    @cached_property
    def _arns(self) -> Mapping[str, str]:
        return self.key_arns()

    def key_arn(self, id: str) -> str:
        return self.layout.key(id).arn or self._arns[id]


@dataclass(frozen=True)
class Denial:
    """One thing that is closed. `deny` and `undo` say in a word what they found or did."""

    id: str
    what: str
    deny: Callable[[], str]
    undo: Callable[[], str]


@dataclass(frozen=True)
class Done:
    """What became of one denial, or of undoing it. `because` is set if it failed."""

    id: str
    what: str
    came_to: str
    because: str = ""

    @property
    def failed(self) -> bool:
        return self.came_to == FAILED

    @property
    def holds(self) -> bool:
        """Whether it stays denied by itself, whatever becomes of the keys."""
        return self.came_to not in {FAILED, LOCKED}


def data_denials(estate: Estate) -> list[Denial]:
    """Everything but the keys: what has to be closed while it can still be reached."""
    layout = estate.layout
    return [
        *(_bucket(estate, unit.id) for unit in layout.storages if unit.kind is StorageKind.DEDICATED),
        *(_role(estate, audience) for audience in ("archive", "pipeline")),
        *(_search(estate, unit.id) for unit in layout.searches),
        *(_pipeline(estate, unit) for unit in layout.pipelines),
    ]


def key_denials(estate: Estate) -> list[Denial]:
    """The customer's keys in our account. After all else: Elastic locks a search whose key is disabled."""
    return [_key(estate, key.id) for key in estate.keys_in_use]


def carry_out(denials: list[Denial], act: Callable[[Denial], str]) -> list[Done]:
    """All of them at once; one that fails does not stop the others."""

    def done(denial: Denial) -> Done:
        try:
            return Done(denial.id, denial.what, act(denial))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other doors have to be closed
            return Done(denial.id, denial.what, FAILED, failures.explained(error).message)

    if not denials:
        return []
    with ThreadPoolExecutor(len(denials), thread_name_prefix="deny") as pool:
        return list(pool.map(done, denials))


# one kind each --------------------------------------------------------------------------------


def _bucket(estate: Estate, storage: str) -> Denial:
    s3, bucket = estate.client("s3"), estate.storage(storage).bucket
    statement = closed.bucket_statement(bucket, estate.role_arn("runner"))

    def change(to: Callable[[Mapping[str, Any]], dict[str, Any]], did: str, before: str) -> str:
        try:
            held = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
        except ClientError as error:
            if aws.code_of(error) != "NoSuchBucketPolicy":
                raise
            held = {"Version": "2012-10-17", "Statement": []}
        wanted = to(held)
        if wanted == held:
            return before
        s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(wanted, sort_keys=True))
        return did

    return _if_there(
        Denial(
            f"bucket {storage}",
            f"objects of {bucket}, to all but the runner",
            lambda: change(lambda held: closed.merged(held, statement), DENIED, BEFORE),
            lambda: change(lambda held: closed.without(held, closed.SEALED), UNDONE, OPEN_BEFORE),
        )
    )


def _role(estate: Estate, audience: str) -> Denial:
    iam, role = estate.client("iam"), naming.role(estate.layout.tenant, audience)

    def change(to: Callable[[Mapping[str, Any]], dict[str, Any]], did: str, before: str) -> str:
        held = iam.get_role_policy(RoleName=role, PolicyName=closed.ROLE_POLICY)["PolicyDocument"]
        held = json.loads(held) if isinstance(held, str) else held
        wanted = to(held)
        if wanted == held:
            return before
        iam.put_role_policy(
            RoleName=role, PolicyName=closed.ROLE_POLICY, PolicyDocument=json.dumps(wanted, sort_keys=True)
        )
        return did

    return _if_there(
        Denial(
            f"role {audience}",
            f"everything to {role}, so the shared storage too",
            lambda: change(lambda held: closed.merged(held, closed.role_statement()), DENIED, BEFORE),
            lambda: change(lambda held: closed.without(held, closed.ACCESS_IS_CLOSED), UNDONE, OPEN_BEFORE),
        )
    )


def _search(estate: Estate, search: str) -> Denial:
    """The credentials stay the same and lose their rights: new ones would have to be handed out again."""
    estate.client("secretsmanager", "runner")  # made here, because making a client is not for several threads

    def give(rights: Callable[[str], Mapping[str, Any]], reader: Mapping[str, Any], did: str, before: str) -> str:
        client = estate.search(search)
        changed = [
            client.security.update_api_key(id=id, role_descriptors={audience: dict(rights(audience))})["updated"]
            for audience in API_KEYS
            for id in _live_keys(client, audience)
        ]
        roles = client.options(ignore_status=404).security.get_role(name=READER_ROLE).body
        if READER_ROLE in roles:
            # Not with `transient_metadata` and the like, which a role shows but does not take.
            held = roles[READER_ROLE]
            changed.append(bool(held.get("indices")) != bool(reader["indices"]))
            client.security.put_role(name=READER_ROLE, **dict(reader), metadata=held.get("metadata", {}))
        return did if any(changed) else before

    def take_away() -> str:
        try:
            return give(lambda _: CLOSED, CLOSED, DENIED, BEFORE)
        except ApiError as error:
            if is_locked(error):
                return LOCKED
            raise

    return _if_there(
        Denial(
            f"search {search}",
            f"the credentials of {naming.deployment(estate.layout.tenant, search)}",
            take_away,
            lambda: give(lambda audience: API_KEYS[audience], API_KEYS["archive"], UNDONE, OPEN_BEFORE),
        )
    )


def is_locked(error: ApiError) -> bool:
    """Whether a deployment refuses because Elastic has lost its key."""
    return error.meta.status == HTTPStatus.SERVICE_UNAVAILABLE and "locked" in str(error)


def _live_keys(client: Elasticsearch, audience: str) -> Iterator[str]:
    for key in client.security.get_api_key(name=api_key(audience))["api_keys"]:
        if not key["invalidated"]:
            yield key["id"]


def _pipeline(estate: Estate, unit: Pipeline) -> Denial:
    """Its events stay in the queue: a worker that is refused would make dead letters of them."""
    function, lambda_ = naming.pipeline(estate.layout.tenant, unit.id), estate.client("lambda")

    def enable(wanted: bool, did: str, before: str) -> str:
        mappings = lambda_.list_event_source_mappings(FunctionName=function)["EventSourceMappings"]
        if not mappings:
            return NOTHING_THERE
        moving = [one for one in mappings if (one["State"] in {"Enabled", "Enabling"}) is not wanted]
        for mapping in moving:
            lambda_.update_event_source_mapping(UUID=mapping["UUID"], Enabled=wanted)
        return did if moving else before

    return _if_there(
        Denial(
            f"pipeline {unit.id}",
            f"events to {function}; they wait in its queue",
            lambda: enable(False, DENIED, BEFORE),
            lambda: enable(unit.state is PipelineState.RUNNING, UNDONE, OPEN_BEFORE),
        )
    )


def _key(estate: Estate, key: str) -> Denial:
    kms = estate.client("kms")

    def state() -> str:
        return kms.describe_key(KeyId=estate.key_arn(key))["KeyMetadata"]["KeyState"]

    def disable() -> str:
        if state() != "Enabled":
            return BEFORE  # disabled, without material or about to be deleted: nobody reads with it
        kms.disable_key(KeyId=estate.key_arn(key))
        return DENIED

    def enable() -> str:
        if state() == "Enabled":
            return OPEN_BEFORE
        kms.enable_key(KeyId=estate.key_arn(key))
        return UNDONE

    return _if_there(Denial(f"key {key}", f"every use of {key}, by DisableKey", disable, enable))


def _if_there(denial: Denial) -> Denial:
    """What does not exist, because an update was cut off before it made it, lets nobody in."""

    def or_nothing(act: Callable[[], str]) -> Callable[[], str]:
        def acted() -> str:
            try:
                return act()
            except (ClientError, CloudError) as error:
                code = aws.code_of(error) or getattr(error, "cloud_code", "")
                if code in ABSENT:
                    return NOTHING_THERE
                raise

        return acted

    return Denial(denial.id, denial.what, or_nothing(denial.deny), or_nothing(denial.undo))
