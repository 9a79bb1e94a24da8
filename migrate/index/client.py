"""Clients of a search deployment, with credentials from Secrets Manager and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from elasticsearch import Elasticsearch

from migrate.copy.s3 import called

REQUEST_SECONDS = 60
CONNECTIONS = 8


def from_secret(secrets: Any, name: str) -> Elasticsearch:
    """A client with the endpoint and the credentials of the secret `name` (user and password, or an API key).

    429 is not repeated here: whoever sends much backs off by itself.
    """
    answer = called(f"reading the secret {name}", secrets.get_secret_value, SecretId=name)
    return connect(json.loads(answer["SecretString"]))


def connect(secret: Mapping[str, str]) -> Elasticsearch:
    """A client from a secret's content: `endpoint`, and `api_key` (encoded) or `username` and `password`."""
    credentials: dict[str, Any] = {}
    if "api_key" in secret:
        credentials["api_key"] = secret["api_key"]
    elif "username" in secret:
        credentials["basic_auth"] = (secret["username"], secret["password"])
    return Elasticsearch(
        secret["endpoint"],
        request_timeout=REQUEST_SECONDS,
        connections_per_node=CONNECTIONS,
        max_retries=3,
        retry_on_status=(502, 503, 504),
        retry_on_timeout=True,
        http_compress=False,
        **credentials,
    )
