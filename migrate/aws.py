"""AWS sessions and clients: who we are, and how patient a client is.

Nothing here knows an endpoint: boto3 reads the standard environment. Clients are thread-safe and
shared by the threads of a move; sessions are not (boto3 guide, "Multithreading with clients").
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import DeferredRefreshableCredentials
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.utils import parse_timestamp

from migrate.errors import CloudError, KeyUnavailable
from migrate.outage import UNREADABLE

SESSION_SECONDS = 3600
USER_AGENT = f"keyshift Boto3/{boto3.__version__}"
"""Said once: botocore puts its own together anew for each request, a tenth of what a HEAD costs here."""


def operator(region: str | None = None) -> boto3.Session:
    """The session of whoever runs the command: profile, environment or instance role, as boto3 finds it."""
    return boto3.Session(botocore_session=_session(), region_name=region)


def assume(
    role_arn: str, session_name: str, *, session: boto3.Session, seconds: int = SESSION_SECONDS
) -> boto3.Session:
    """A session of `role_arn` that renews its credentials by itself, however long a move lasts.

    The role is assumed at the first call made with the session, not here.
    """
    credentials = DeferredRefreshableCredentials(
        refresh_using=_assuming(session, role_arn, session_name, seconds), method="sts-assume-role"
    )
    inner = _session()
    # botocore offers no public way to give a session credentials that renew themselves.
    setattr(inner, "_credentials", credentials)  # noqa: B010
    return boto3.Session(botocore_session=inner, region_name=session.region_name)


def _session() -> botocore.session.Session:
    """Sessions share what botocore has read of its data files: each would read a megabyte of endpoints anew."""
    made = botocore.session.get_session()
    made.register_component("data_loader", _loader())
    return made


class _SharedLoader(Loader):
    @property
    def search_paths(self) -> list[str]:
        """A copy: each boto3 session adds the folder of its resources, which we do not use, to the list that it gets."""
        return list(super().search_paths)


@cache
def _loader() -> Loader:
    extra = botocore.session.get_session().get_config_variable("data_path")
    return _SharedLoader(extra_search_paths=extra.split(os.pathsep) if extra else None)


def _assuming(session: boto3.Session, role_arn: str, session_name: str, seconds: int) -> Callable[[], dict[str, str]]:
    def refresh() -> dict[str, str]:
        sts = client(session, "sts", pool=1)
        issued = sts.assume_role(RoleArn=role_arn, RoleSessionName=session_name, DurationSeconds=seconds)["Credentials"]
        return {
            "access_key": issued["AccessKeyId"],
            "secret_key": issued["SecretAccessKey"],
            "token": issued["SessionToken"],
            "expiry_time": issued["Expiration"].isoformat(),
        }

    return refresh


def client(session: boto3.Session, service: str, *, pool: int = 16) -> Any:
    """A client for `service` with `pool` connections: at least as many as the threads that will share it."""
    config = Config(
        retries={"mode": "standard", "max_attempts": 4},
        max_pool_connections=pool,
        tcp_keepalive=True,
        connect_timeout=10,
        read_timeout=120,
        signature_version="s3v4" if service == "s3" else None,
        user_agent=USER_AGENT,
    )
    any_session: Any = session  # the stubs know one overload a service, and not the session within
    parsers = any_session._session.get_component("response_parser_factory")  # noqa: SLF001 - boto3 has no other way
    parsers.set_parser_defaults(timestamp_parser=_instant)
    return any_session.client(service, config=config)


def _instant(value: Any) -> datetime:
    """Both forms that S3 writes, by the standard library: botocore's parser guesses, at a fifth of a HEAD's cost."""
    if isinstance(value, str):
        try:
            return parsedate_to_datetime(value) if value[3:4] == "," else datetime.fromisoformat(value)
        except ValueError:
            pass
    return parse_timestamp(value)


def code_of(error: BaseException) -> str:
    """AWS's own code of a failed call, or "" for an error that is not AWS's."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: BaseException) -> int:
    """The HTTP status of a failed call, or 0. A HEAD has nothing else: its errors carry no body."""
    return (
        int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if isinstance(error, ClientError)
        else 0
    )


def is_about_a_key(error: BaseException) -> bool:
    """True if S3 refused because of the object's KMS key: a `KMS.` code, or a denial that names a kms action."""
    if not isinstance(error, ClientError):
        return False
    said = str(error.response.get("Error", {}).get("Message", ""))
    code = code_of(error)
    return code.startswith("KMS.") or (code == "AccessDenied" and ("kms:" in said or "customer master key" in said))


def is_about_the_clock(error: BaseException) -> bool:
    """True if AWS refused a request whose time stamp is too far from its own clock.

    S3 has a code for it; the others refuse the signature and say why (IAM User Guide, "Troubleshoot Signature
    Version 4 requests").
    """
    said = str(error.response.get("Error", {}).get("Message", "")) if isinstance(error, ClientError) else ""
    return code_of(error) == "RequestTimeTooSkewed" or said.startswith(
        ("Signature expired", "Signature not yet current")
    )


def is_unreadable(error: BaseException) -> bool:
    """True if an error came without its words: an answer that broke off. Only a HEAD's never has any."""
    return code_of(error).isdigit() and isinstance(error, ClientError) and not error.operation_name.startswith("Head")


def explained(error: ClientError, doing: str) -> CloudError:
    """AWS's refusal as one sentence of ours: what was being done, and what AWS said."""
    code = code_of(error)
    said = str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
    text = f"{doing}: AWS answered {code} ({said})"
    if is_about_a_key(error):
        return KeyUnavailable(text, cloud_code=code, hint="see the state and the policy of the key before a retry")
    if is_about_the_clock(error):
        hint = "set this machine's clock (timedatectl, chronyc tracking), then run the same command again"
        return CloudError(text, cloud_code=code, hint=hint, code="clock")
    if is_unreadable(error):
        return CloudError(
            f"{text}; the rest of its answer was lost", cloud_code=UNREADABLE, hint="run the same command again"
        )
    return CloudError(text, cloud_code=code, hint="mend what AWS names, then run the same command again")
