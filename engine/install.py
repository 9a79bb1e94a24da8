"""Sets up a work tree: Python packages, emulators, the Pulumi engine, Elasticsearch, Azurite.

Runs on any Python ≥ 3.11 with its standard library, before there is an environment. Each step is
keyed by what goes into it and does nothing if that is done; it fills a folder beside its place and
moves it there whole, so that an interrupted set-up leaves nothing half made. Whatever is fetched
is pinned by hash: packages by their locks, Go modules by go.sum, Elasticsearch by SHA-512.

Exit codes: 0 done, 1 a step failed, 2 a tool is missing (its name and the command that installs it
are said).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engine import paths

PYTHON = "3.11"
"""setuptools 65.5, the last that pulumi-elasticstack runs with, does not import on Python 3.12."""

GO_MINIMUM = (1, 21)
"""From here on Go fetches the toolchain that go.mod asks for by itself."""

JAVA_MINIMUM = (17,)
NODE_MINIMUM = (20,)
INSTALLER_LIMIT = 180
"""Seconds for Pulumi's own installer. Where there is no way to it, it is refused in the first few."""

ENGINE_PACKAGE = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
VERSION_VARIABLE = "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version"
"""A CLI that does not know its version breaks the Automation API's version check."""

MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
ELASTICSEARCH_ARTIFACT = (
    f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{paths.ELASTICSEARCH_VERSION}:zip"
)
ELASTICSEARCH_SHA512 = (
    "bd600df798d23d2683c999e19299164a2b3af265bc09b43fb86e1f5fbc0ccb14"
    "e8b2ac12b36631d835bcabc0eda2a050e06696e9f9ac283a309be6a6612a8017"
)

HOST = "pulumi-language-python"
HOST_SCRIPT = """\
#!/bin/sh
# Keyshift's Python host: engine/language_host.py, run by the environment that this is called from.
exec "${0%/*}/python" -I -m engine.language_host "$@"
"""


class SetupError(Exception):
    """A step failed."""


class ToolMissingError(SetupError):
    """A tool is missing that cannot be installed without asking."""


@dataclass(frozen=True)
class Tool:
    """A program that must be there. `version` makes it print its version, `before` the version number."""

    name: str
    version: tuple[str, ...]
    before: str
    minimum: tuple[int, ...]
    apt: str
    brew: str

    @property
    def label(self) -> str:
        return f"{self.name} {dotted(self.minimum)} or newer"


GO = Tool("go", ("go", "version"), "go version go", GO_MINIMUM, "golang-go", "go")
JAVA = Tool("java", ("java", "-version"), 'version "', JAVA_MINIMUM, "default-jre-headless", "openjdk")
NODE = Tool("node", ("node", "--version"), "v", NODE_MINIMUM, "nodejs npm", "node")
MAVEN = Tool("mvn", ("mvn", "--version"), "Apache Maven ", (3,), "maven", "maven")


@dataclass
class Session:
    """One run of the set-up on one work tree."""

    tree: Path
    verbose: bool

    @property
    def venv(self) -> Path:
        return self.tree / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @cached_property
    def uv(self) -> Path:
        """Found when a step first needs it: asking for its version takes longer than a set-up with nothing to do."""
        return find_uv(self)


def say(step: str, text: str) -> None:
    print(f"  {step:<14}{text}", flush=True)


# Running other programs


def run(
    session: Session,
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    limit: float | None = None,
) -> None:
    """Runs `command`, quietly unless verbose. Raises SetupError with the end of its output."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd or session.tree,
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=None if session.verbose else subprocess.PIPE,
            stderr=None if session.verbose else subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"{words[0]} was stopped after {limit:.0f} s") from error
    except OSError as error:
        raise SetupError(f"{words[0]} could not be started: {error}") from error
    if done.returncode:
        last = "\n".join((done.stdout or "").splitlines()[-15:])
        raise SetupError(f"`{' '.join(words)}` ended with exit code {done.returncode}\n{last}".rstrip())


def version_of(command: Sequence[str | Path], before: str) -> tuple[int, ...] | None:
    """The dotted number that follows `before` in what `command` prints; None if it does not run or print it."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(re.escape(before) + r"(\d+(?:\.\d+)*)", done.stdout + done.stderr)
    return tuple(map(int, found[1].split("."))) if done.returncode == 0 and found else None


def require(session: Session, tool: Tool) -> None:
    """Makes sure that `tool` is there, with the system's packages where that takes no question.

    Raises ToolMissingError.
    """
    if enough(version_of(tool.version, tool.before), tool.minimum):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say(tool.name, f"installing {tool.apt} by apt-get")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            run(session, ["apt-get", "update", "-q"], env=quiet)
            run(session, ["apt-get", "install", "-q", "-y", "--no-install-recommends", tool.apt], env=quiet)
        except SetupError as error:
            raise ToolMissingError(f"{tool.label} is missing, and apt-get could not install it: {error}") from error
        if enough(version_of(tool.version, tool.before), tool.minimum):
            return
    command = f"brew install {tool.brew}" if sys.platform == "darwin" else f"sudo apt-get install {tool.apt}"
    raise ToolMissingError(f"{tool.label} is missing: install it with `{command}`, then run `make setup` again")


def enough(found: tuple[int, ...] | None, minimum: tuple[int, ...]) -> bool:
    return found is not None and found[: len(minimum)] >= minimum


def path_without(program: str) -> str:
    """PATH without the folders that hold `program`."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not os.access(Path(folder, program), os.X_OK))


# Making folders whole


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A folder to fill; it takes the place of `target` if the block ends well and is removed if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in target.parent.glob(f".{target.name}-*"):
        # Of a set-up that was killed: this one holds the lock.
        shutil.rmtree(abandoned, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    replaced = fresh.with_name(f"{fresh.name}-replaced")
    try:
        # mkdtemp shuts others out; Elasticsearch runs as another user.
        fresh.chmod(0o755)
        yield fresh
        if target.exists():
            target.rename(replaced)
        fresh.rename(target)
    finally:
        for leftover in (fresh, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def link(place: Path, target: Path) -> None:
    """Makes `place` a symbolic link to `target`, at once."""
    if place.is_symlink() and place.readlink() == target:
        return
    fresh = place.with_name(f".{place.name}-{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(place)


@contextmanager
def only_one() -> Iterator[None]:
    """Waits for another set-up on the same cache: both would build the same things."""
    paths.cache_dir().mkdir(parents=True, exist_ok=True)
    with (paths.cache_dir() / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting", "another set-up is using the cache")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Python: uv, the work tree's environment, the emulators'


def find_uv(session: Session) -> Path:
    """uv from PATH, else from a small environment of its own in the cache."""
    found = shutil.which("uv")
    if found and version_of([found, "--version"], "uv "):
        return Path(found)
    lock = session.tree / "requirements" / "uv.txt"
    home = paths.cache_dir() / "uv" / paths.content_key(lock)
    if not home.exists():
        say("uv", "installing it from its lock")
        with building(home) as fresh:
            run(session, [sys.executable, "-m", "venv", fresh])
            pip = [fresh / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
            run(session, [*pip, "install", "--quiet", "--require-hashes", "-r", lock])
    return home / "bin" / "uv"


def environment(session: Session, step: str, home: Path, lock: Path, *, data: Path | None = None) -> None:
    """Makes `home` a Python environment with exactly what `lock` pins.

    With `data` also this tree's packages, editable, and the distributions of that lock without what
    they depend on: only the files in them are wanted.
    """
    stamp = paths.content_key(
        *([lock, data] if data else [lock]), salt=f"{PYTHON} {distribution(session.tree) if data else ''}"
    )
    mark = home / "keyshift.lock"
    # An interpreter that was upgraded away leaves a dangling link.
    if (home / "bin" / "python").exists() and mark.is_file() and mark.read_text() == stamp:
        say(step, f"{lock.name} is installed")
        return
    say(step, f"installing {lock.name}")
    with building(home) as fresh:
        # Relocatable: the folder is moved when it is done.
        run(
            session, [session.uv, "venv", "--quiet", "--relocatable", "--python", PYTHON, "--prompt", "keyshift", fresh]
        )
        install = [session.uv, "pip", "install", "--quiet", "--python", fresh / "bin" / "python"]
        # The build of pulumi-elasticstack runs a `pulumi` that it finds, and fails on it.
        env = {**os.environ, "PATH": path_without("pulumi")}
        run(session, [*install, "--require-hashes", "--build-constraints", lock, "-r", lock], env=env)
        if data:
            run(session, [*install, "--require-hashes", "--no-deps", "--no-build-isolation", "-r", data], env=env)
            # compat: one path entry, so that a new package is seen, and no import hook slows every start.
            flags = ["--no-deps", "--no-build-isolation", "--config-setting", "editable_mode=compat"]
            run(session, [*install, *flags, "--editable", session.tree], env=env)
        (fresh / mark.name).write_text(stamp)


def distribution(tree: Path) -> str:
    """What an editable install of `tree` depends on: not the settings of linters and tests."""
    pyproject = tomllib.loads((tree / "pyproject.toml").read_text())
    setuptools = pyproject.get("tool", {}).get("setuptools")
    return json.dumps([str(tree), pyproject.get("build-system"), pyproject.get("project"), setuptools])


# The engine


def engine(session: Session) -> None:
    """Finds, fetches or builds the Pulumi CLI; links it into `.venv/bin`, with a Python host."""
    cli = engine_on_path(session) or official_engine() or built_engine()
    if cli is None:
        cli = install_official_engine(session) or build_engine(session)
    link(session.venv / "bin" / "pulumi", cli)
    place_host(session, cli)


def engine_on_path(session: Session) -> Path | None:
    """A `pulumi` of the user's own that is new enough."""
    own = {session.venv / "bin", paths.official_engine_home() / "bin", paths.built_engine_home()}
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        cli = Path(folder, "pulumi").absolute()
        if not os.access(cli, os.X_OK) or not cli.is_file() or {cli.parent, cli.resolve().parent} & own:
            continue
        found = version_of([cli, "version"], "v")
        if enough(found, wanted_version()):
            say("engine", f"Pulumi {dotted(found)} at {cli}")
            return cli
        say("engine", f"{cli} is left alone: {dotted(found)}, and {paths.PULUMI_VERSION} is needed")
    return None


def wanted_version() -> tuple[int, ...]:
    return tuple(map(int, paths.PULUMI_VERSION.split(".")))


def dotted(version: tuple[int, ...] | None) -> str:
    return ".".join(map(str, version)) if version else "no version"


def official_engine() -> Path | None:
    cli = paths.official_engine_home() / "bin" / "pulumi"
    if not cli.exists():
        return None
    say("engine", f"Pulumi {paths.PULUMI_VERSION}, a release")
    return cli


def built_engine() -> Path | None:
    cli = paths.built_engine_home() / "pulumi"
    if not cli.exists():
        return None
    say("engine", f"Pulumi {paths.PULUMI_VERSION}, built from its Go module")
    return cli


def install_official_engine(session: Session) -> Path | None:
    """Runs Pulumi's own installer. None where it is out of reach: many networks allow package registries only."""
    say("engine", f"fetching Pulumi {paths.PULUMI_VERSION} by its own installer")
    script = "import sys; from pulumi.automation import PulumiCommand; PulumiCommand.install(root=sys.argv[1])"
    try:
        with building(paths.official_engine_home()) as fresh:
            run(session, [session.python, "-c", script, fresh], limit=INSTALLER_LIMIT)
    except SetupError as error:
        say("engine", f"the installer is out of reach ({str(error).splitlines()[-1].strip()})")
        return None
    return official_engine()


def build_engine(session: Session) -> Path:
    """Builds the CLI from the module versions in `engine/go`. Raises SetupError or ToolMissingError."""
    require(session, GO)
    say("engine", f"building Pulumi {paths.PULUMI_VERSION} from its Go module; this takes some minutes, once")
    recipe = session.tree / "engine" / "go"
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
        "GOTOOLCHAIN": "auto",
        "GOWORK": "off",
    }
    stamp = f"-s -w -X {VERSION_VARIABLE}=v{paths.PULUMI_VERSION}"
    with building(paths.built_engine_home()) as fresh:
        cli = fresh / "pulumi"
        run(session, ["go", "build", "-ldflags", stamp, "-o", cli, ENGINE_PACKAGE], cwd=recipe, env=env)
        built = version_of([cli, "version"], "v")
        if built != wanted_version():
            raise SetupError(f"the engine was built but calls itself {dotted(built)}, not {paths.PULUMI_VERSION}")
    return paths.built_engine_home() / "pulumi"


def place_host(session: Session, cli: Path) -> None:
    """Sees to a Python language host: the engine's own, or ours where it came without.

    Ours lies beside a CLI that we built and is linked from `.venv/bin`, where PATH finds it: the
    engine warns at every command of a host that it finds on PATH alone.
    """
    place = session.venv / "bin" / HOST
    if any(is_official_host(folder / HOST) for folder in (cli.parent, cli.resolve().parent)):
        place.unlink(missing_ok=True)
        return
    beside = cli.parent if cli.parent == paths.built_engine_home() else session.venv / "bin"
    script = beside / HOST
    if not script.is_file() or script.read_text() != HOST_SCRIPT:
        fresh = script.with_name(f".{HOST}-{os.getpid()}")
        fresh.write_text(HOST_SCRIPT)
        fresh.chmod(0o755)
        fresh.replace(script)
    if script != place:
        link(place, script)


def is_official_host(host: Path) -> bool:
    """Whether `host` is there and is not our script, which works in the environment it was put into only."""
    if not host.exists():
        return False
    ours = HOST_SCRIPT.encode()
    with host.open("rb") as file:
        return file.read(len(ours)) != ours


# Elasticsearch


def elasticsearch(session: Session) -> None:
    """Fetches the node that the sandbox runs, through Maven, and unpacks it."""
    home = paths.elasticsearch_home()
    if home.exists():
        say("search", f"Elasticsearch {paths.ELASTICSEARCH_VERSION}")
        return
    require(session, JAVA)
    require(session, MAVEN)
    say("search", f"fetching Elasticsearch {paths.ELASTICSEARCH_VERSION} through Maven")
    with building(home) as fresh, tempfile.TemporaryDirectory() as download:
        target = f"-DoutputDirectory={download}"
        run(session, ["mvn", "-B", "-ntp", MAVEN_COPY, f"-Dartifact={ELASTICSEARCH_ARTIFACT}", target], cwd=fresh)
        archive = Path(download, f"elasticsearch-{paths.ELASTICSEARCH_VERSION}.zip")
        with archive.open("rb") as data:
            found = hashlib.file_digest(data, "sha512").hexdigest()
        if found != ELASTICSEARCH_SHA512:
            raise SetupError(f"{archive.name} is not the file that was reviewed: its SHA-512 is {found}")
        unpack(archive, fresh)


def unpack(archive: Path, target: Path) -> None:
    """Unpacks a zip with one top folder into `target`, with the files' modes, which zipfile drops."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            _, _, name = member.filename.partition("/")
            place = target / name
            if member.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, place.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            place.chmod(member.external_attr >> 16 & 0o777 or 0o644)


# Azurite


def azurite(session: Session) -> None:
    """Installs the storage emulator of the sandbox's Azure half from its lock.

    Without Node there is none and the rest works: what needs it says so.
    """
    home = paths.azurite_home()
    if home.exists():
        say("azurite", "the sandbox's Azure half has its storage")
        return
    if not enough(version_of(NODE.version, NODE.before), NODE.minimum) or shutil.which("npm") is None:
        command = f"brew install {NODE.brew}" if sys.platform == "darwin" else f"sudo apt-get install {NODE.apt}"
        say("azurite", f"left out: {NODE.label} is missing; for the Azure half, `{command}`, then `make setup` again")
        return
    say("azurite", "installing it from its lock")
    recipe = session.tree / "requirements" / "azurite"
    with building(home) as fresh:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(recipe / name, fresh / name)
        quiet = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
        run(session, ["npm", "ci", *quiet], cwd=fresh)


# All of it


def setup(session: Session) -> None:
    locks = session.tree / "requirements"
    with only_one():
        environment(session, "python", session.venv, locks / "dev.txt", data=locks / "data.txt")
        environment(session, "emulators", paths.emulator_home(), locks / "sandbox.txt")
        engine(session)
        elasticsearch(session)
        azurite(session)
    # A relative file backend is not made by the engine: it would make one in every folder it is called from.
    (session.tree / ".keyshift" / "pulumi").mkdir(parents=True, exist_ok=True)
    if session.verbose:
        say("tree", str(session.tree))
        say("engine", str((session.venv / "bin" / "pulumi").resolve()))
        say("emulators", str(paths.emulator_python()))
        say("search", str(paths.elasticsearch_home()))
        say("azurite", str(paths.azurite_home()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="engine.install", description="Sets up this work tree.")
    parser.add_argument("--verbose", action="store_true", help="show what the steps print, and where things are")
    options = parser.parse_args()
    try:
        setup(Session(tree=paths.TREE, verbose=options.verbose))
    except ToolMissingError as error:
        print(f"keyshift: {error}", file=sys.stderr)
        return 2
    except (SetupError, OSError) as error:
        print(f"keyshift: set-up failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("keyshift: set-up interrupted; the next one goes on where it was", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
