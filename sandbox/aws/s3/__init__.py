"""The gate: S3 as AWS behaves, on top of ministack's storage.

`table.py` is the list of calls that pass; `gate.py` is the way of a request; the other files are
named after what they do. Objects under SSE-KMS are sealed with a data key from KMS for each write
and opened with Decrypt at each read, always as the caller.

Departures from AWS, all of them stated:

- Nothing is eventually consistent: a policy, a role, versioning, a disabled key holds at the next
  call. Times measured here prove a procedure, never a bound.
- Objects under SSE-S3 lie on disk in clear; only SSE-KMS objects are sealed.
- A bucket key changes the encryption context, but KMS is still asked for every object: no cached
  key outlives a revocation, which in AWS it may.
- Whether a plain HEAD works under a dead key is not documented; here it does.
- `aws:SecureTransport` is true on the loopback's HTTP, `aws:SourceIp` is 127.0.0.1.
- Policy variables (`${…}`), NotPrincipal and NotResource are refused in bucket policies; in IAM
  policies a resource with a variable never matches.
- A role that was deleted and made again keeps what policies grant to its ARN.
- Lifecycle rules are kept but never run. ACLs can be read on buckets, never set.
- Anonymous requests are refused even where a bucket would be public.
- Objects are written to disk at once; bucket configurations, users and queues at a clean stop
  only, so killing the process loses changes to those.
"""
