"""What errors of the libraries below us mean to an operator: one place, so that no command ends in a traceback."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Callable
from typing import Any

import elastic_transport
from botocore import exceptions as boto
from elasticsearch import ApiError
from pulumi.automation.errors import CommandError, InvalidVersionError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from migrate import aws
from migrate.errors import CloudError, KeyshiftError, RefusedInput
from migrate.redaction import redact_text
from migrate.stack import diagnostics
from stacks.errors import StackRefused

AGAIN = "then run the same command again"
_AGAIN = re.compile(r"\brun (?:the same command|this|it) again\b")


def understood(error: Exception) -> KeyshiftError | None:
    """The error in an operator's words; None for one that only a programmer can do something about."""
    if isinstance(error, KeyshiftError):
        return error
    return next((explain(error) for kinds, explain in _EXPLAINED if isinstance(error, kinds)), None)


def explained(error: Exception) -> KeyshiftError:
    """The same, with a last word for what is not understood."""
    found = understood(error)
    if found is not None:
        return found
    return KeyshiftError(
        f"{type(error).__name__}, which Keyshift does not expect: {_text(error) or 'no text'}",
        hint="run it again with KEYSHIFT_LOG=DEBUG to see where it comes from",
        code="unexpected",
    )


def going_on(hint: str, tenant: str) -> str:
    """A hint of an operation that has begun: its command would be refused now, a resume goes on with it."""
    return _AGAIN.sub(f"keyshift resume {tenant}", hint)


def _text(error: object) -> str:
    """A library's text on one line, with what looks like a secret masked."""
    return redact_text(" ".join(str(error).split())).rstrip(".")


def _unreachable(error: Any) -> KeyshiftError:
    return CloudError(
        f"AWS cannot be reached: {_text(error)}",
        cloud_code="unreachable",
        hint=f"see that the network is up and, where AWS_ENDPOINT_URL is set, that something answers there, {AGAIN}",
        code="unreachable",
    )


def _no_credentials(error: Any) -> KeyshiftError:
    return CloudError(
        f"AWS was not asked, for want of credentials or a region: {_text(error)}",
        hint=f"set AWS_PROFILE and AWS_REGION (aws sts get-caller-identity shows who you are), {AGAIN}",
        code="credentials",
    )


def _aws_refusal(error: Any) -> KeyshiftError:
    return aws.explained(error, f"calling {error.operation_name}")


def _aws_client(error: Any) -> KeyshiftError:
    return CloudError(f"the AWS client gave up: {_text(error)}", hint=f"see the AWS settings of this shell, {AGAIN}")


def _search_unreachable(error: Any) -> KeyshiftError:
    return CloudError(
        f"the search deployment cannot be reached: {_text(error)}",
        cloud_code="unreachable",
        hint=f"see that it runs and that its traffic filter lets this machine in, {AGAIN}",
        code="unreachable",
    )


def _search_refusal(error: Any) -> KeyshiftError:
    return CloudError(
        f"the search answered {error.status_code} ({_text(error.message)})",
        cloud_code=str(error.status_code),
        hint=f"mend what it names, {AGAIN}",
    )


def _database(error: Any) -> KeyshiftError:
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    if isinstance(said, sqlite3.OperationalError) and "disk" in str(said):
        return _state_file(said)
    return KeyshiftError(
        f"the record database cannot be used: {_text(said)}",
        hint=f"see that it answers and that KEYSHIFT_DATABASE_URL, where it is set, names it, {AGAIN}",
        code="database",
    )


def _state_file(error: Any) -> KeyshiftError:
    return KeyshiftError(
        f"a state file of the tenant cannot be used: {_text(error)}",
        hint=f"see that the disk is not full and that .keyshift belongs to you, {AGAIN}",
        code="state-file",
    )


def _engine(error: Any) -> KeyshiftError:
    text = redact_text(diagnostics(str(error)))
    if "passphrase" in text.lower():
        return RefusedInput(
            f"pulumi cannot open the stack's secrets: {text}",
            hint=f"set PULUMI_CONFIG_PASSPHRASE_FILE or PULUMI_CONFIG_PASSPHRASE, {AGAIN}",
            code="passphrase",
        )
    if "byok" in text.lower():  # Elastic's word for a customer's key; its error codes are in no public document
        return KeyshiftError(
            f"Elastic refused the customer's key: {text}",
            hint="the key's policy has to hold the statement ElasticKeyAccess as keyshift key policy prints it; "
            "then keyshift resume",
            code="key-refused-by-elastic",
        )
    return KeyshiftError(f"pulumi failed: {text}", hint=f"mend that, {AGAIN}", code="engine")


def _no_engine(error: Any) -> KeyshiftError:
    return KeyshiftError(
        f"the pulumi command cannot be used: {_text(error)}",
        hint=f"make setup puts a fitting one into .venv/bin; or put Pulumi's own on PATH, {AGAIN}",
        code="no-engine",
    )


def _program_refusal(error: Any) -> KeyshiftError:
    return RefusedInput(error.message, hint=error.hint, code="stack-refused")


def _system(error: Any) -> KeyshiftError:
    """What the operating system refused; a missing `pulumi` shows itself here too."""
    if isinstance(error, FileNotFoundError) and error.filename and str(error.filename).endswith("pulumi"):
        return _no_engine(error)
    where = f"{error.filename}: " if error.filename else ""
    return KeyshiftError(f"{where}{error.strerror or _text(error)}", hint=f"mend that, {AGAIN}", code="system")


_Kinds = type[Exception] | tuple[type[Exception], ...]
_EXPLAINED: tuple[tuple[_Kinds, Callable[[Any], KeyshiftError]], ...] = (
    ((boto.ConnectionError, boto.HTTPClientError), _unreachable),
    (
        (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.ProfileNotFound,
            boto.NoRegionError,
        ),
        _no_credentials,
    ),
    (boto.ClientError, _aws_refusal),
    (boto.BotoCoreError, _aws_client),
    (ApiError, _search_refusal),
    (elastic_transport.TransportError, _search_unreachable),
    (SQLAlchemyError, _database),
    (sqlite3.Error, _state_file),
    (CommandError, _engine),
    ((InvalidVersionError, subprocess.CalledProcessError), _no_engine),
    (StackRefused, _program_refusal),
    (OSError, _system),
)
"""In this order: a more general kind comes after its own kinds."""
