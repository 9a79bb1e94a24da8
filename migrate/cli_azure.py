"""Verbs about keys in Azure Key Vault, the customer's part."""

from __future__ import annotations

from pathlib import Path

from migrate import show, tenants
from migrate.keys import byok
from migrate.terminal import out, printed


def key_wrap(
    kek: Path, output: Path, key: Path | None, keep: Path | None, *, only_openssl: bool, as_json: bool
) -> None:
    """Wraps an RSA private key into a `.byok` file."""
    output = output.with_name(byok.WRAPPED_FILE) if output == Path("wrapped-key.bin") else output
    if only_openssl:
        named = byok.KeyExchangeKey.read(tenants.read(kek))
        out.print("\n".join(byok.openssl_lines(named, kek, output)), markup=False)
        return
    printed(tenants.wrap_key_for_azure(kek, output, key, keep), as_json, show.wrapped)
