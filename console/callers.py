"""Who calls: their role, the customer they belong to, how they signed in. And what each role may do."""

from __future__ import annotations

import time
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Role(StrEnum):
    CUSTOMER_ADMIN = "customer-admin"
    CUSTOMER_VIEWER = "customer-viewer"
    VENDOR_OPERATOR = "vendor-operator"


class Right(StrEnum):
    """What a call needs. `read`: look. `data`: see what is archived. `run`: go on with, plan, check. `own`: decide
    about keys and the move to them.
    """

    READ = "read"
    DATA = "data"
    RUN = "run"
    OWN = "own"


RIGHTS: dict[Role, frozenset[Right]] = {
    Role.CUSTOMER_ADMIN: frozenset(Right),
    Role.CUSTOMER_VIEWER: frozenset({Right.READ, Right.DATA}),
    # The vendor sees to it that an operation goes on; a customer's keys and data are the customer's alone.
    Role.VENDOR_OPERATOR: frozenset({Right.READ, Right.RUN}),
}


class Caller(BaseModel):
    """A person or a program whose token the issuer has signed.

    `customer` is None for the vendor's own, who are bound to none. `auth_time`: when they proved who they are, in
    seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    name: str
    role: Role
    customer: str | None
    email: str | None = None
    auth_time: float

    def may(self, right: Right) -> bool:
        return right in RIGHTS[self.role]

    def sees(self, customer: str) -> bool:
        """Whether what belongs to `customer` exists for this caller."""
        return self.role is Role.VENDOR_OPERATOR or self.customer == customer

    def is_fresh(self, seconds: float) -> bool:
        return time.time() - self.auth_time <= seconds

    @property
    def id(self) -> str:
        """Told apart over customers: issuers may reuse a subject in two of them."""
        return f"{self.customer or '-'}/{self.subject}"
