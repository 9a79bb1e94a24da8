"""A small AWS KMS: what AWS KMS refuses, this refuses.

Encryption is real (AES-256-GCM under the key's material), imports are real (RSA-OAEP), and a key
whose material is deleted is really lost. `refusals.py` is the one table of errors, each with the
AWS document it was taken from.

Departures from AWS, all of them stated:

- The SQLite file in the state folder plays the HSM: key material lies in it in clear. It is a
  sandbox; keep nothing in it that matters. Deleted material is overwritten on disk.
- There is no cache and no propagation: a change holds at the next call. Real KMS is eventually
  consistent, usually within seconds, sometimes minutes (Developer Guide,
  programming-eventual-consistency), so times measured here prove a procedure, never a bound.
- Symmetric keys in one region only; no grants, no AWS managed keys (`alias/aws/...`), no custom
  key stores, no multi-Region keys. Asking for them is an error, never a silent success.
"""

from sandbox.aws.kms.app import kms_app
from sandbox.aws.kms.faults import set_faults
from sandbox.aws.kms.refusals import KmsError
from sandbox.aws.kms.server import Kms

__all__ = ["Kms", "KmsError", "kms_app", "set_faults"]
