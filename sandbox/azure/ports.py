"""Ports, each chosen once and kept: a vault's address is a part of what programs remember."""

from __future__ import annotations

import random
import socket

from sandbox.azure.store import Store

HOST = "127.0.0.1"
# As the supervisor's: below what systems give to outgoing connections.
PORTS = range(20000, 30000)


class PortsTakenError(Exception):
    """Another program has a port of this sandbox."""


def free_port(store: Store) -> int:
    """A port that nobody has now and that is nobody's here. It is remembered."""
    with store.alone():
        taken = {document["port"] for _, document in store.all("port")}
        for port in random.sample(PORTS, len(PORTS)):
            if port not in taken and is_free(port):
                store.put("port", str(port), {"port": port})
                return port
    raise PortsTakenError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
