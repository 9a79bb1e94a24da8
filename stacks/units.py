"""What a layout says of its units, as every cloud's program needs it. Pure."""

from __future__ import annotations

from components.index import INDEX, READ_ALIAS
from components.routes import Route
from stacks.layout import Cloud, KeyState, Layout, Mode, Pipeline, PipelineState

CUSTOMERS = {Cloud.AWS: Mode.BYOKMS, Cloud.AZURE: Mode.BYOKV}
"""The mode in which a key lies with the customer."""
HOLDS_MATERIAL = frozenset({KeyState.ACTIVE, KeyState.ARCHIVED, KeyState.REVOKED})
INDEX_OUTPUT = {"index": INDEX, "read_alias": READ_ALIAS}


def labels(layout: Layout, unit: str, key: str | None) -> dict[str, str]:
    """Whose a unit is. Its mode is that of its key, which stays when the tenant's own mode changes."""
    mode = Mode.STANDARD
    if key is not None:
        mode = Mode.BYOK if layout.key(key).arn is None else CUSTOMERS[layout.cloud]
    return {
        "tenant": layout.tenant,
        "customer": layout.customer,
        "unit": unit,
        "mode": str(mode),
        "key": key or "vendor",
    }


def is_serving(layout: Layout, storage: str) -> bool:
    return layout.serves is not None and layout.serves.storage == storage


def pipeline_state(layout: Layout, unit: Pipeline) -> PipelineState:
    """While access is closed events wait: a worker that is refused would make dead letters of them."""
    is_closed = layout.gate.access == "closed" and unit.state is PipelineState.RUNNING
    return PipelineState.PAUSED if is_closed else unit.state


def takes_edits(layout: Layout, unit: Pipeline) -> bool:
    """A freeze takes in the last edits itself, and a search that does not serve has none.

    Closed access is no reason: what stops the worker stops the ticks, and the seal has one thing less to deny.
    """
    serves = layout.serves is not None and layout.serves.pipeline == unit.id
    return serves and layout.gate.jobs == "open" and unit.state is PipelineState.RUNNING


def routes(layout: Layout) -> list[Route]:
    return [
        Route(
            id=unit.id,
            storage=unit.storage,
            search=unit.search,
            is_attached=unit.state is not PipelineState.DETACHED,
            takes_edits=layout.serves is not None and layout.serves.pipeline == unit.id,
        )
        for unit in layout.pipelines
    ]
