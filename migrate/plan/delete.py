"""Delete: the end of a tenant. Everything listed, purged under that list, proven gone, then the stack itself."""

from __future__ import annotations

from migrate.operations import Move, Phase, Request
from migrate.plan.parts import checked, prove_empty, purge_search, without
from stacks.layout import Dropped, Gate, Layout, PipelineState


def delete(request: Request, layout: Layout) -> list[Phase]:
    """Until the purge begins it can be aborted. A tenant that never served has only its keys to lose.

    A tenant that nobody can read any more (`request.ended`) stays sealed all the way.
    """
    verdict = {name: f"{request.operation}-{name}" for name in ("inventory", "purge")}
    if layout.serves is None:
        verdict = dict.fromkeys(verdict, verdict["inventory"])
    access = "closed" if request.ended else "open"
    gate = Gate(jobs="closed", access=access, search_cutoff=request.cutoff, reason=f"{request.operation}: deletion")
    frozen = layout.model_copy(update={"gate": gate})
    freed = frozen.model_copy(
        update={
            "serves": None,
            "keys": tuple(k.model_copy(update={"release": verdict["inventory"]}) for k in layout.keys),
            "storages": tuple(s.model_copy(update={"release": verdict["inventory"]}) for s in layout.storages),
            "searches": tuple(e.model_copy(update={"release": verdict["inventory"]}) for e in layout.searches),
            "pipelines": tuple(p.model_copy(update={"state": PipelineState.DETACHED}) for p in layout.pipelines),
        }
    )
    units = (*layout.storages, *layout.searches, *layout.pipelines, *layout.keys)
    gone = without(freed, *(Dropped(id=unit.id, verdict=verdict["purge"]) for unit in units)).model_copy(
        update={"keys": (), "gate": Gate(jobs="closed", access=access, reason=f"{request.operation}: deleted")}
    )
    serves = layout.serves
    listed = Move(
        kind="inventory",
        title="list all that there is to delete" if serves else "note that nothing was ever archived",
        storage=serves.storage if serves else None,
        pipeline=serves.pipeline if serves else None,
        verdict=verdict["inventory"],
    )
    purges = (
        (
            Move(
                kind="purge-storage",
                title=f"delete the listed versions from {serves.storage}",
                storage=serves.storage,
                target=serves.storage,
                verdict=verdict["inventory"],
            ),
            purge_search(serves.search, verdict["inventory"]),
            prove_empty(serves.storage, serves.search, verdict["purge"]),
        )
        if serves
        else ()
    )
    return [
        Phase(name="freeze", title="close the gate; list everything", layout=checked(frozen), moves=(listed,)),
        Phase(name="purge", title="purge storage and search", layout=checked(freed), moves=purges, reversible=False),
        Phase(
            name="drop",
            title=f"drop {', '.join(unit.id for unit in units)}; schedule the deletion of keys that are ours",
            layout=checked(gone),
            reversible=False,
            moves=(Move(kind="remove-stack", title=f"remove the stack of {layout.tenant}"),),
        ),
    ]
