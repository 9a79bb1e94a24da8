"""Elastic Cloud, locally: its deployments API, and one real Elasticsearch process a deployment.

Runs in the repository's own environment: standard library, httpx, orjson, pydantic and boto3, which
the product already needs; no ASGI server is involved. Every server binds 127.0.0.1 only.

What is real: Elasticsearch 8.19.0 itself, the KMS calls made with the customer's key, the lock when
that key is lost. What stands in: the deployments API, and the security API with its enforcement,
because this distribution cannot build the `.security` index.

Not encrypted: the data directory. Elastic Cloud encrypts it with a data key that the customer's key
wraps. The sandbox makes and keeps such a wrapped data key and needs KMS to unwrap it before the node
may start, but does not encrypt files with it. A lock is enforced by stopping the node and refusing
every request, so a lost key closes the door; it does not scramble what is behind it.

| file | what it holds |
|---|---|
| `cloud_api.py`, `wanted.py`, `shapes.py` | Elastic Cloud's deployments API: its calls, what they ask, what they show |
| `deployment.py` | one deployment: keeps its node running, locks it when the key is lost |
| `customer_key.py` | what Elastic does with a customer's KMS key |
| `node.py`, `launch.py`, `housing.py` | one Elasticsearch process: its life, its command, its place |
| `front.py` | what a deployment's URL answers: authentication, privileges, then the node |
| `actions.py`, `privileges.py`, `bulk.py` | which privilege a request needs, and who has it |
| `security_api.py`, `credentials.py` | `/_security`: API keys and roles |
| `traffic_filter.py` | IP filters of a deployment |
| `record.py` | what is kept between runs |
| `web.py` | the HTTP server |
"""
