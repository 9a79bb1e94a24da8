"""The command that starts one Elasticsearch node, and the message that it reads first.

Elasticsearch's own launcher is a second JVM (100 MB, about three seconds) that makes a keystore,
reads `elasticsearch.yml`, and then starts the server, writing `ServerArgs` to its standard input.
The sandbox writes that message itself. The layout of the message is `ServerArgs.writeTo` with
`KeyStoreWrapper` and `Settings` of Elasticsearch 8.19.0; another version may differ.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

VERSION = "8.19.0"
READY = b"\x18"  # the server writes it to standard error once it serves (BootstrapInfo.SERVER_READY_MARKER)
STOP = b"\x1b"  # written to its standard input, it ends cleanly (BootstrapInfo.SERVER_SHUTDOWN_MARKER)

_HEAP = "256m"
_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


class JavaMissingError(Exception):
    """No Java was found: set ES_JAVA_HOME, or put java (17 or newer) on PATH."""


def java() -> str:
    """The Java to run: ES_JAVA_HOME, JAVA_HOME, then PATH. The distribution brings none of its own."""
    for variable in ("ES_JAVA_HOME", "JAVA_HOME"):
        if home := os.environ.get(variable):
            return str(Path(home) / "bin" / "java")
    found = shutil.which("java")
    if found is None:
        raise JavaMissingError("Elasticsearch needs Java 17 or newer: set ES_JAVA_HOME, or put java on PATH")
    return str(Path(found).resolve())


def logging_config() -> str:
    """`log4j2.properties`: everything to standard output, which the sandbox sends to a file."""
    return _LOGGING


def environment(folder: Path) -> dict[str, str]:
    temporary = str(folder / "tmp")
    # Without a UTF-8 locale Java cannot open a path with other than ASCII letters.
    return {"ES_TMPDIR": temporary, "LIBFFI_TMPDIR": temporary, "TMPDIR": temporary, "LC_ALL": "C.UTF-8"}


def command(home: Path, folder: Path) -> list[str]:
    """The JVM's command line: what the launcher would pass, but for a small node that starts fast.

    The serial collector instead of G1 saves 90 MB and 0.4 s; C1 only, because a node lives for minutes.
    """
    bridge = f"lib/entitlement-bridge/elasticsearch-entitlement-bridge-{VERSION}.jar"
    bridge_users = "org.elasticsearch.entitlement,java.logging,java.net.http,java.naming,jdk.net"
    return [
        java(),
        f"-Xms{_HEAP}",
        f"-Xmx{_HEAP}",
        "-Xss1m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:MaxDirectMemorySize=128m",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-OmitStackTraceInFastThrow",
        f"-XX:ErrorFile={folder / 'logs' / 'hs_err_pid%p.log'}",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        "-Djava.awt.headless=true",
        "-Dfile.encoding=UTF-8",
        "-Des.networkaddress.cache.ttl=60",
        "-Des.networkaddress.cache.negative.ttl=10",
        "-Des.distribution.type=zip",
        "-Djna.nosys=true",
        "-Dio.netty.noUnsafe=true",
        "-Dio.netty.noKeySetOptimization=true",
        "-Dio.netty.recycler.maxCapacityPerThread=0",
        "-Dlog4j.shutdownHookEnabled=false",
        "-Dlog4j2.disable.jmx=true",
        "-Dlog4j2.formatMsgNoLookups=true",
        "-Des.entitlements.enabled=true",
        "-XX:+EnableDynamicAgentLoading",
        "-Djdk.attach.allowAttachSelf=true",
        f"--patch-module=java.base={bridge}",
        f"--add-exports=java.base/org.elasticsearch.entitlement.bridge={bridge_users}",
        "--module-path",
        str(home / "lib"),
        "--add-modules=jdk.net",
        "--add-modules=jdk.management.agent",
        "--add-modules=ALL-MODULE-PATH",
        "-m",
        "org.elasticsearch.server/org.elasticsearch.bootstrap.Elasticsearch",
    ]


def settings(home: Path, folder: Path, *, cluster: str, port: int) -> dict[str, str]:
    """What `elasticsearch.yml` would hold. Security is the front's; the node answers loopback only."""
    return {
        "path.home": str(home),
        "path.data": str(folder / "data"),
        "path.logs": str(folder / "logs"),
        "cluster.name": cluster,
        "node.name": "instance-0000000000",
        "discovery.type": "single-node",
        "http.host": "127.0.0.1",
        "http.port": str(port),
        "transport.host": "127.0.0.1",
        "transport.port": "0",
        "xpack.security.enabled": "false",
        # Counting real heap use presumes G1, which collects before the breaker refuses (G1OverLimitStrategy);
        # with another collector mere garbage trips it. Bulks are bounded by the indexing pressure all the same.
        "indices.breaker.total.use_real_memory": "false",
        # A laptop's disk is often fuller than the flood stage allows.
        "cluster.routing.allocation.disk.threshold_enabled": "false",
    }


def first_message(settings: Mapping[str, str], folder: Path) -> bytes:
    """`ServerArgs` as the server reads it: not a daemon, not quiet, no pid file, an empty keystore."""
    keystore_format, no, absent = struct.pack(">i", 4), b"\x00", b"\x00"
    is_string = b"\x00"
    return b"".join(
        [
            no,  # daemonize
            no,  # quiet
            absent,  # pidFile
            _string("org.elasticsearch.common.settings.KeyStoreWrapper"),
            keystore_format + no + absent + _count(0) + no,  # hasPassword, dataBytes, entries, closed
            _count(len(settings)),
            *(_string(name) + is_string + _string(value) for name, value in settings.items()),
            _string(str(folder / "config")),
            _string(str(folder / "logs")),
        ]
    )


def _count(number: int) -> bytes:
    """StreamOutput.writeVInt: seven bits a byte, lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _string(text: str) -> bytes:
    """StreamOutput.writeString: the count of UTF-16 units, then each unit as one to three bytes."""
    utf16 = text.encode("utf-16-le")
    units = [chr(unit) for (unit,) in struct.iter_unpack("<H", utf16)]
    return _count(len(units)) + "".join(units).encode("utf-8", "surrogatepass")
