"""What a search still holds of a tenant: its index, and the snapshots that its vendor keeps.

Elastic Cloud snapshots every deployment into the repository `found-snapshots`, by itself; the data of a
deleted index goes on living there. A repository of any other name is the customer's or the vendor's own
making and may be shared: nothing in it is deleted here, but what it holds is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from elasticsearch import ApiError, Elasticsearch, NotFoundError

from migrate.errors import VerificationFailed
from migrate.index.aliases import delete_index
from migrate.index.scan import search_errors

MANAGED = "found-snapshots"
_NOT_OFFERED = frozenset({400, 404, 405, 501})
"""How a node without snapshots answers. A 403 is none of them: it means that we were not let look."""


@dataclass(frozen=True)
class Snapshots:
    """`asked` is False where the deployment offers none; `answer` is then what it said."""

    asked: bool
    answer: str
    repositories: tuple[str, ...] = ()
    holding: tuple[tuple[str, str], ...] = ()

    @property
    def fact(self) -> str:
        """One sentence for a verdict: never silence."""
        if not self.asked:
            return f"snapshots are not offered by this deployment: {self.answer}"
        where = ", ".join(self.repositories) or "none"
        return f"{len(self.holding)} snapshots hold it; repositories: {where}"


def snapshots_of(search: Elasticsearch, index: str) -> Snapshots:
    """(repository, snapshot) of every snapshot that holds the index. Raises CloudError if it may not look."""
    try:
        found = search.snapshot.get_repository()
    except ApiError as error:
        if error.status_code not in _NOT_OFFERED:
            with search_errors("asking for the repositories of snapshots"):
                raise
        return Snapshots(asked=False, answer=f"{error.status_code} ({error.message})")
    repositories = tuple(sorted(found.body))
    return Snapshots(True, "", repositories, tuple(_holding(search, index, repositories)))


def _holding(search: Elasticsearch, index: str, repositories: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for repository in repositories:
        with search_errors(f"listing the snapshots in {repository}"):
            listed = search.snapshot.get(repository=repository, snapshot="_all")
        for snapshot in listed["snapshots"]:
            if index in snapshot.get("indices", ()):
                yield repository, snapshot["snapshot"]


def purge_index(search: Elasticsearch, index: str) -> int:
    """Delete the index, then the vendor's snapshots of it: a snapshot of later cannot hold it any more.

    Returns how many snapshots went.
    """
    delete_index(search, index)
    gone = 0
    for repository, name in snapshots_of(search, index).holding:
        if repository != MANAGED:
            continue
        with search_errors(f"deleting the snapshot {name} in {repository}"):
            try:
                search.snapshot.delete(repository=repository, snapshot=name)
            except NotFoundError:
                continue  # it has just expired by itself
        gone += 1
    return gone


def prove_index_gone(search: Elasticsearch, index: str) -> Snapshots:
    """Raise VerificationFailed unless neither the index nor a snapshot of it is left."""
    with search_errors(f"looking for {index}"):
        is_there = bool(search.indices.exists(index=index))
    snapshots = snapshots_of(search, index)
    if is_there or snapshots.holding:
        shown = ", ".join(f"{repository}/{name}" for repository, name in snapshots.holding[:3])
        raise VerificationFailed(
            f"the search is not empty: the index {index} is {'still there' if is_there else 'gone'},"
            f" {len(snapshots.holding)} snapshots of it are left{f': {shown}' if shown else ''}",
            hint=f"what lies in another repository than {MANAGED} was made by hand; delete it there, then run this again",
            code="not-empty",
        )
    return snapshots


def purge_indices(search: Elasticsearch, indices: Iterable[str]) -> int:
    """As `purge_index`, for several; how many snapshots went in all."""
    return sum(purge_index(search, index) for index in indices)


def prove_indices_gone(search: Elasticsearch, indices: Sequence[str]) -> Snapshots:
    """As `prove_index_gone`, for several: what it returns holds for each."""
    return [prove_index_gone(search, index) for index in indices][-1]
