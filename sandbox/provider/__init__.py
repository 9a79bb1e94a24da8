"""The sandbox's Pulumi providers: `aws`, `ec` and `elasticstack`, as one executable.

`python -m sandbox.provider aws` speaks Pulumi's ResourceProvider protocol. It offers only the resource
types that Keyshift's components use, refuses every property that the real SDK does not have, and keeps
what the real provider forces to be replaced.
"""
