"""A rotation in the customer's own account: pause at once, wait for their word, then move what has to be moved.

Two operations. `rotate` closes the gate, points the bucket to the new key and waits; it can be overtaken by the next
rotation. `confirm` goes on from the layout that was reached. Neither can be aborted: only the customer could go back.
"""

from __future__ import annotations

from migrate.errors import RefusedInput
from migrate.operations import Phase, Request, Wait
from migrate.plan.blue_green import Goal, blue_green
from migrate.plan.parts import activated, archived, checked, fit_wait, usable_wait, with_key
from migrate.plan.rotate import rebuild_search
from stacks.layout import Gate, Key, KeyState, Layout, Serves

IN_USE = frozenset({KeyState.PENDING, KeyState.ACTIVE})


def pause(request: Request, layout: Layout) -> list[Phase]:
    """To the layout in which Archive is paused and what is written next comes under the new key.

    `request.key` is the key that the alias leads to now: `active` if it was found fit, else `pending`, and then the
    bucket stays with the old one until it is. A known id means the key of that id, with the material of now.
    """
    serves, key = _serving(layout), _named(request, layout)
    old = _default_key(layout, serves)
    is_moved = key.id != old.id
    is_quiet = layout.on_rotation.pause == "alias" and layout.gate.jobs == "open" and not request.is_barred
    if not is_moved and is_quiet:
        noted = checked(with_key(layout, key))
        return [
            Phase(name="follow", title=f"note the new material of {key.id}", layout=noted),
            *_rebuilt(request, noted),
        ]

    held = with_key(layout, key).model_copy(update={"gate": _paused(request, layout, old, key)})
    redirected = _with_default_key(activated(held, key.id), serves, key.id)
    confirmed = (confirm_wait(layout),)
    if not is_moved:
        what = "the alias leads to a key that cannot be taken" if request.is_barred else f"{key.id} was rotated"
        title = f"pause Archive: {what}"
        return [Phase(name="pause", title=title, layout=checked(held), waits=confirmed, reversible=False)]
    if key.state is KeyState.ACTIVE:
        title = f"pause Archive; new data goes under {key.id}"
        return [Phase(name="pause", title=title, layout=checked(redirected), waits=confirmed, reversible=False)]
    fit = redirected.model_copy(update={"gate": _paused(request, layout, old, activated(held, key.id).key(key.id))})
    return [
        Phase(
            name="pause",
            title=f"pause Archive; {key.id} cannot be used, so all stays under {old.id}",
            layout=checked(held),
            waits=(fit_wait(layout, key.id),),
            reversible=False,
        ),
        Phase(
            name="redirect",
            title=f"new data goes under {key.id}",
            layout=checked(fit),
            waits=confirmed,
            reversible=False,
        ),
    ]


def confirm(request: Request, layout: Layout) -> list[Phase]:
    """Lets jobs in again. Whatever may lie under another key than the bucket's moves to a new storage under it.

    That is so wherever another key was in use: also where the alias went there and back, a write that was under way
    may have landed under it. In place it could not: another account's key is not taken by UpdateObjectEncryption, and
    a version that is copied onto itself would become the current one. Where nothing has to move the search alone is
    made anew, if the customer wants it.
    """
    serves = _serving(layout)
    key = _default_key(layout, serves).id
    opened = layout.model_copy(update={"gate": Gate()})
    older = [k.id for k in layout.keys if k.id != key and k.alias is not None and k.state is KeyState.ACTIVE]
    if not older:
        title = f"open the gate; all lies under {key}"
        whole = checked(_without_older(opened, key))
        rebuilt = [p.model_copy(update={"reversible": False}) for p in _rebuilt(request, whole)]
        return [Phase(name="open", title=title, layout=whole, reversible=False), *rebuilt]
    phases = [
        p.model_copy(update={"reversible": False}) for p in blue_green(request, opened, Goal(mode=layout.mode, key=key))
    ]
    waits = tuple(usable_wait(layout, one) for one in (*older, key))
    last = phases[-1].model_copy(update={"layout": checked(_without_older(phases[-1].layout, key))})
    return [phases[0].model_copy(update={"waits": waits}), *phases[1:-1], last]


def _rebuilt(request: Request, layout: Layout) -> list[Phase]:
    """A new search under the key whose ARN has stayed, where the customer wants one: its data keys are all new then."""
    return rebuild_search(request, layout) if layout.on_rotation.rebuilds_search else []


def confirm_wait(layout: Layout) -> Wait:
    return Wait(
        kind="confirmed", subject=layout.tenant, person=True, reason="the customer's confirmation of the rotation"
    )


def _serving(layout: Layout) -> Serves:
    if layout.serves is None:
        raise RefusedInput(
            f"tenant {layout.tenant} serves nothing yet, so nothing can have been rotated",
            hint=f"keyshift tenant show {layout.tenant}",
            code="serves-nothing",
        )
    return layout.serves


def _named(request: Request, layout: Layout) -> Key:
    if request.key is None or request.key.alias is None:
        raise RefusedInput(
            f"tenant {layout.tenant} has no key of its customer's own account that could have been rotated",
            hint=f"keyshift key list {layout.tenant}",
            code="no-customer-key",
        )
    return request.key


def _default_key(layout: Layout, serves: Serves) -> Key:
    """The key under which new objects come now."""
    id = layout.storage(serves.storage).key
    if id is None or layout.key(id).alias is None:
        raise RefusedInput(
            f"tenant {layout.tenant} is not under a key of its customer's own account",
            hint=f"keyshift key list {layout.tenant}",
            code="no-customer-key",
        )
    return layout.key(id)


def _with_default_key(layout: Layout, serves: Serves, key: str) -> Layout:
    storages = tuple(u.model_copy(update={"key": key}) if u.id == serves.storage else u for u in layout.storages)
    return layout.model_copy(update={"storages": storages})


def _without_older(layout: Layout, key: str) -> Layout:
    """Every other key of the customer's account is put away, also one that they moved away from before it was used."""
    for one in layout.keys:
        if one.id != key and one.alias is not None and one.state in IN_USE:
            layout = archived(layout, one.id)
    return layout


def _paused(request: Request, layout: Layout, old: Key, key: Key) -> Gate:
    reason = f"{request.operation}: the customer has rotated their key"
    return Gate(jobs="closed", reason=reason, warnings=_warnings(request, layout, old, key))


def _warnings(request: Request, layout: Layout, old: Key, key: Key) -> tuple[str, ...]:
    """What Archive and the Console show until the customer has confirmed."""
    until = "nothing is archived until the customer confirms"
    if request.is_barred:
        return (f"{key.alias} of {layout.customer} leads to a key that cannot be taken: all stays under {old.arn}",)
    if key.id == old.id:
        return (f"the key {key.arn} of {layout.customer} was rotated: {until}",)
    keep = f"the customer must keep {old.arn} enabled until the move has ended: what was archived lies under it"
    if key.state is KeyState.ACTIVE:
        return (f"{key.alias} of {layout.customer} leads to another key, {key.arn}: {until}", keep)
    missing = f"{key.alias} of {layout.customer} leads to {key.arn}, which cannot be used: all stays under {old.arn}"
    return (missing, keep)
