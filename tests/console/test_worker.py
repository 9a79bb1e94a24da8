"""Orders outlive who took them and who does them: the API, the worker, the order's own process."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable

import httpx
import pytest
from conftest import Running

from console.orders import FAILED, Order

LIMIT_SECONDS = 120.0


def wait_for(what: Callable[[], object], why: str) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while not what():
        assert time.monotonic() < until, why
        threading.Event().wait(0.1)


def ask(running: Running, tenant: str, body: dict, who: str = "ada") -> Order:
    headers = {"Idempotency-Key": secrets.token_hex(8), "If-Match": "*"}
    with running.client(who) as client:
        answer = client.post(f"/api/v1/tenants/{tenant}/operations", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    return running.orders.get(answer.json()["id"])


def test_an_order_taken_before_the_api_died_is_done_by_the_worker(running: Running) -> None:
    order = ask(running, "acme-two", {"kind": "check"})
    running.kill("api")
    assert running.orders.get(order.id).state == "queued"
    running.start("worker")
    wait_for(lambda: running.orders.get(order.id).ended_at, "the worker has to do it without any API")
    ended = running.orders.get(order.id)
    # There are no verdicts to check, which is a refusal in the command line's own words.
    assert ended.state == "refused"
    assert ended.said is not None
    assert "no verdicts yet" in ended.said["message"]
    running.start("api")
    running.ready()
    with running.client("ada") as client:
        assert client.get(f"/api/v1/tenants/acme-two/operations/{order.id}").json()["state"] == "refused"


@pytest.mark.parametrize("how", ["killed", pytest.param("told to stop", marks=pytest.mark.every)])
def test_an_order_whose_worker_ended_is_done_by_the_next_one(running: Running, how: str) -> None:
    if "worker" not in running.processes:
        running.start("worker")
    order = ask(running, "acme-two", {"kind": "check"})
    wait_for(lambda: running.orders.get(order.id).state != "queued", "the worker has to begin it")
    if how == "killed":
        running.kill("worker")
    else:
        running.stop("worker")
    running.start("worker")
    wait_for(lambda: running.orders.get(order.id).ended_at, "what a dead worker held has to go to the next one")
    events = [name for _, name, _ in running.orders.events(order.id, 0)]
    assert events.count("end") == 1, "it may be tried again, it ends once"


@pytest.mark.every
def test_of_two_workers_under_one_id_one_is_refused(running: Running) -> None:
    if "worker" not in running.processes:
        running.start("worker")
    both = [running.processes["worker"], running.house.start_worker(running.given)]
    wait_for(lambda: any(one.poll() is not None for one in both), "both would take the same work for their own")
    ended = next(one for one in both if one.poll() is not None)
    assert ended.returncode == 2
    assert "runs already" in (running.house.folder / "logs" / "worker.log").read_text()
    running.processes["worker"] = next(one for one in both if one is not ended)
    running.house.children.remove(ended)
    order = ask(running, "acme-two", {"kind": "check"})
    wait_for(lambda: running.orders.get(order.id).ended_at, "the other one goes on working")


def test_who_follows_goes_on_where_they_were_when_the_api_comes_back(running: Running) -> None:
    """The test plays the order's process; the reader is cut off and comes back with the last number it has."""
    headers = {"Idempotency-Key": secrets.token_hex(8), "If-Match": "*"}
    if "worker" in running.processes:
        running.kill("worker")
    with running.client("grace") as client:
        answer = client.post("/api/v1/tenants/globex-one/plans", json={"of": "enable", "mode": "byok"}, headers=headers)
    order, orders = answer.json()["id"], running.orders
    orders.start(order)
    heard: list[int] = []
    ended = threading.Event()

    def follow() -> None:
        url = f"/api/v1/tenants/globex-one/operations/{order}/events"
        while not ended.is_set():
            last = {"Last-Event-ID": str(heard[-1])} if heard else {}
            try:
                with running.client("grace") as client, client.stream("GET", url, headers=last) as stream:
                    for line in stream.iter_lines():
                        if line.startswith("id: "):
                            heard.append(int(line[4:]))
                        if line == "event: end":
                            ended.set()
            except httpx.HTTPError:
                ended.wait(0.1)

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    for number in range(10):
        orders.tell(order, "progress", {"objects": number})
    wait_for(lambda: len(heard) >= 5, "the reader has to hear something before the API dies")
    running.kill("api")
    for number in range(10, 20):
        orders.tell(order, "progress", {"objects": number})
    running.start("api")
    running.ready()
    for number in range(20, 30):
        orders.tell(order, "progress", {"objects": number})
    orders.end(order, FAILED, said={"code": "x", "message": "played", "hint": None})
    reader.join(LIMIT_SECONDS)
    assert heard == list(range(1, len(orders.events(order, 0)) + 1)), "none lost, none twice, none out of order"
    assert len(heard) == 33


def test_two_hundred_clients_follow_one_operation_over_http(running: Running) -> None:
    headers = {"Idempotency-Key": secrets.token_hex(8), "If-Match": "*"}
    with running.client("grace") as client:
        answer = client.post("/api/v1/tenants/globex-one/plans", json={"of": "enable", "mode": "byok"}, headers=headers)
    order, orders = answer.json()["id"], running.orders
    orders.start(order)
    heard: list[list[int]] = [[] for _ in range(200)]
    url = f"{running.url}/api/v1/tenants/globex-one/operations/{order}/events"
    authorization = {"authorization": f"Bearer {running.token('grace')}"}

    async def one(client: httpx.AsyncClient, numbers: list[int]) -> None:
        async with client.stream("GET", url, headers=authorization) as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                if line.startswith("id: "):
                    numbers.append(int(line[4:]))

    async def everybody() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=LIMIT_SECONDS) as client:
            tasks = [asyncio.create_task(one(client, numbers)) for numbers in heard]
            until = time.monotonic() + LIMIT_SECONDS
            while not all(heard) and time.monotonic() < until:
                await asyncio.sleep(0.05)
            assert all(heard), "every client has to be let in"
            for number in range(20):
                await asyncio.to_thread(orders.tell, order, "progress", {"objects": number})
            await asyncio.to_thread(orders.end, order, FAILED)
            await asyncio.gather(*tasks)

    asyncio.run(everybody())
    expected = [number for number, _, _ in orders.events(order, 0)]
    assert all(numbers == expected for numbers in heard)
