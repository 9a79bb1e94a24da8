"""Which customer a key belongs to: one key never serves two customers, also none that had it before.

A key is known here by the ARN behind it and by the alias that the customer gave. The tenants of one
customer may share both.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import sqlalchemy as sql

from components.vault import VaultKey
from migrate.errors import RefusedInput
from stacks.layout import Layout
from stacks.record import METADATA

KEY_OWNERS = sql.Table(
    "key_owners",
    METADATA,
    sql.Column("reference", sql.String, primary_key=True),  # an ARN of a key or of an alias
    sql.Column("customer", sql.String, nullable=False),
    sql.Column("tenant", sql.String, nullable=False),  # the first that used it
    sql.Column("at", sql.String, nullable=False),
)


def references(layout: Layout) -> set[str]:
    """The customer's keys that a layout names, and their vaults. One that we made for a single tenant is not among them."""
    named = {reference for key in layout.keys for reference in (key.arn, key.alias) if reference}
    return named | {VaultKey.parse(key.arn).vault_uri for key in layout.keys if key.arn and key.directory}


def owners(connection: sql.Connection, references: Iterable[str]) -> dict[str, str]:
    """Reference -> the customer whose key it is or was, also of a tenant that has ended. Reads only."""
    known = sql.select(KEY_OWNERS.c.reference, KEY_OWNERS.c.customer).where(
        KEY_OWNERS.c.reference.in_(sorted(references))
    )
    return {row.reference: row.customer for row in connection.execute(known)}


def refuse_foreign(connection: sql.Connection, layouts: Iterable[Layout], also: Iterable[str] = ()) -> None:
    """Raises RefusedInput for a layout with a key that is another customer's. Reads only.

    `also`: references that the layouts do not hold yet, and should.
    """
    for layout in layouts:
        held = owners(connection, {*references(layout), *also})
        for reference in sorted(reference for reference, customer in held.items() if customer != layout.customer):
            # Whose it is, is nothing that this customer's operator needs to hear of another customer.
            raise RefusedInput(
                f"tenant {layout.tenant} of {layout.customer} should use {reference}, which is or was another "
                "customer's key; one key never serves two customers, and nothing was changed",
                hint=f"{layout.customer} makes a key of their own: keyshift key policy {layout.tenant}",
                code="key-of-another-customer",
            )


def bind(connection: sql.Connection, layout: Layout) -> None:
    """Notes a layout's keys as its customer's, in the caller's transaction. Raises RefusedInput as above."""
    for reference in sorted(references(layout)):
        is_known = sql.exists().where(KEY_OWNERS.c.reference == reference)
        values = (reference, layout.customer, layout.tenant, datetime.now(UTC).isoformat())
        row = sql.select(*(sql.literal(value) for value in values)).where(~is_known)
        connection.execute(KEY_OWNERS.insert().from_select(["reference", "customer", "tenant", "at"], row))
    refuse_foreign(connection, [layout])
