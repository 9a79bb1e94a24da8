"""The way back from an operation that has not cut over."""

from __future__ import annotations

from migrate.errors import RefusedInput
from migrate.operations import Move, Phase, Request
from migrate.plan.parts import checked, prove_empty, purge_search, released, watched, without
from migrate.plan.rotate import abort_rotation
from stacks.layout import Dropped, Gate, Layout, PipelineState


def abort(request: Request, layout: Layout) -> list[Phase]:
    """Back to what served all along, from whatever layout an operation before its cut-over has reached.

    Jobs and searches are let in first: the source has been whole throughout. A key that is not used any more stays,
    as after `key request`: the next operation takes it.
    """
    if layout.serves is None:
        raise RefusedInput(
            f"tenant {layout.tenant} serves nothing yet, so there is nothing to go back to",
            hint=f"keyshift resume {layout.tenant}",
            code="serves-nothing",
        )
    if (back := abort_rotation(request, layout)) is not None:
        return back
    serves, verdict = layout.serves, {name: f"{request.operation}-{name}" for name in ("untouched", "purge")}
    reopened = layout.model_copy(
        update={
            "gate": Gate(),
            "storages": watched(layout.storages, serves.storage, is_watched=False),
            "pipelines": tuple(
                p.model_copy(
                    update={"state": PipelineState.RUNNING if p.id == serves.pipeline else PipelineState.DETACHED}
                )
                for p in layout.pipelines
            ),
        }
    )
    made = {u.id for u in (*layout.storages, *layout.searches, *layout.pipelines)} - set(serves.model_dump().values())
    storage = next((u.id for u in layout.storages if u.id in made), None)
    search = next((u.id for u in layout.searches if u.id in made), None)
    open_search = Move(kind="open-search", title=f"show all of {serves.search}", search=serves.search)
    reopen = Phase(
        name="reopen",
        title=f"serve {serves.storage} and {serves.search} as before; open the gate",
        layout=checked(reopened),
        moves=(open_search,),
        reversible=False,
    )
    if storage is None or search is None:
        return [reopen]
    freed = reopened.model_copy(
        update={
            "storages": released(reopened.storages, storage, verdict["untouched"]),
            "searches": released(reopened.searches, search, verdict["untouched"]),
        }
    )
    dropped = without(freed, *(Dropped(id=id, verdict=verdict["purge"]) for id in sorted(made)))
    between = {"storage": serves.storage, "target": storage}
    return [
        reopen.model_copy(
            update={
                "moves": (
                    open_search,
                    Move(
                        kind="prove-untouched",
                        title=f"prove that {serves.storage} still holds all that was copied to {storage}",
                        verdict=verdict["untouched"],
                        **between,
                    ),
                )
            }
        ),
        Phase(
            name="purge",
            title=f"purge {storage} and {search}",
            layout=checked(freed),
            moves=(
                Move(
                    kind="purge-target",
                    title=f"delete what was copied to {storage}",
                    verdict=verdict["untouched"],
                    **between,
                ),
                purge_search(search, verdict["untouched"]),
                prove_empty(storage, search, verdict["purge"]),
            ),
            reversible=False,
        ),
        Phase(name="drop", title=f"drop {', '.join(sorted(made))}", layout=checked(dropped), reversible=False),
    ]
