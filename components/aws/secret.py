"""What a secret gets: Secrets Manager, under AWS's own key."""

from __future__ import annotations

import pulumi
import pulumi_aws as aws


def keep_secret(logical: str, name: str, value: pulumi.Output[str], opts: pulumi.ResourceOptions) -> None:
    """A secret of that logical and physical name."""
    secret = aws.secretsmanager.Secret(
        logical,
        name=name,
        # Nothing to recover once the deployment is gone; a kept one would block the name of a new tenant.
        recovery_window_in_days=0,
        opts=opts,
    )
    aws.secretsmanager.SecretVersion(f"{logical}-version", secret_id=secret.id, secret_string=value, opts=opts)
