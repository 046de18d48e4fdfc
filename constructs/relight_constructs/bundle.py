"""Reproducible zips of what the functions run: the project's own packages and what they need, for one target.

Pure Python and uv; nothing here starts node. The zip is built here rather than by cdktf's archive asset, whose bytes
change with a `touch` and whose hash does not change with a rename. Names are sorted, times and modes fixed, and entries
stored rather than compressed, because compressors differ between machines and a bundle must not. Only what Lambda would
not take stored is compressed: the bundles with Qdrant's client and with the SDKs of LLM providers, of which two
machines may make two that do the same.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path
from typing import TYPE_CHECKING

from relight.config import MemoryStore
from relight.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

# What goes in of the project; the drill, the CLI, the constructs and the stacks never do.
PACKAGES = ("relight", "relight_lambdas")

# The AWS services that the handlers call, by their botocore names; the definitions of all others are 95 % of botocore.
SERVICES = (
    *("application-autoscaling", "autoscaling", "cloudwatch", "ecs", "eks", "kms", "rds", "s3", "secretsmanager"),
    *("sns", "stepfunctions", "sts"),
)

REQUIREMENTS = "bundle-requirements.txt"
# Qdrant's client brings numpy and gRPC; the others' drivers are what all functions need anyway.
REQUIREMENTS_OF = {MemoryStore.QDRANT: "bundle-requirements-qdrant.txt"}
# The SDKs of LLM providers, for the one function that calls them: no recovery waits for them to be loaded.
PROVIDERS_REQUIREMENTS = "bundle-requirements-providers.txt"

# Made by the installer, different from one installation to the next, and read by nobody at run time.
_LEFT_OUT_FOLDERS = frozenset({"__pycache__", "bin", "examples"})
_LEFT_OUT_FILES = frozenset(
    {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", ".lock", ".gitignore"}
)

# A change of how bundles are made makes new ones.
_RECIPE = "2"
# Of one target, the newest ones: another process may still be running an earlier one.
_KEPT_BUNDLES = 5
# Lambda takes a zip of 50 MB without a bucket in between.
_LARGEST_STORED = 45_000_000
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a bundle is to run: uv's name of a platform, or None for this machine, and a Python version."""

    platform: str | None
    python: str


# psycopg2-binary's newest wheel for arm64 is a manylinux_2_28 one; asking for an older platform silently gets an older
# release. Lambda's runtimes from Python 3.12 on can load it.
LAMBDA = Target(platform="aarch64-manylinux_2_28", python="3.13")


def host_target() -> Target:
    """This machine and this interpreter."""
    return Target(platform=None, python=f"{sys.version_info.major}.{sys.version_info.minor}")


def build_bundle(
    target: Target, cache_dir: Path, *, store: MemoryStore = MemoryStore.PGVECTOR, providers: bool = False
) -> Path:
    """The zip for `target` with the driver of `store`, or with the SDKs of LLM `providers` instead, built into
    `cache_dir` unless the same one is there already.

    Its name holds a hash of everything that goes into it. Raises UnavailableError when the dependencies cannot be had.
    """
    cache_dir = cache_dir.absolute()
    cache_dir.mkdir(parents=True, exist_ok=True)
    sources = dict(_sources())
    requirements = _requirements(store, providers=providers)
    label = f"{target.platform or sysconfig.get_platform()}-py{target.python}"
    dependencies_id = _digest(label.encode(), requirements, " ".join(SERVICES).encode())
    content = [part for name in sorted(sources) for part in (name.encode(), sources[name])]
    bundle_id = _digest(dependencies_id.encode(), *content)
    bundle = cache_dir / f"relight-{label}-{bundle_id}.zip"
    if bundle.is_file():
        return bundle
    with one_at_a_time(cache_dir / "lock"):
        dependencies = cache_dir / f"dependencies-{label}-{dependencies_id}"
        if not dependencies.is_dir():
            _install(target, requirements, dependencies)
        entries = sources | {name: path.read_bytes() for name, path in _kept(dependencies)}
        _write(bundle, entries)
        earlier = sorted(cache_dir.glob(f"relight-{label}-*.zip"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in earlier[_KEPT_BUNDLES:]:
            path.unlink()
    return bundle


def content_hash(path: Path) -> str:
    """The base64 SHA-256 by which Lambda tells that a function's code has changed."""
    return base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()


def _requirements(store: MemoryStore = MemoryStore.PGVECTOR, *, providers: bool = False) -> bytes:
    name = PROVIDERS_REQUIREMENTS if providers else REQUIREMENTS_OF.get(store, REQUIREMENTS)
    return (resources.files("relight_constructs") / name).read_bytes()


def _sources() -> Iterator[tuple[str, bytes]]:
    """The project's packages as they are imported here: from a checkout, or from an installed wheel."""
    for package in PACKAGES:
        spec = util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"the package {package} is not installed", hint="install the project: pip install -e .")
        folder = Path(next(iter(spec.submodule_search_locations)))
        for name, path in _kept(folder):
            yield f"{package}/{name}", path.read_bytes()


def _kept(folder: Path) -> Iterator[tuple[str, Path]]:
    """What of `folder` goes into a bundle, by its name inside it."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and not _left_out(name):
            yield name.as_posix(), path


def _left_out(name: Path) -> bool:
    if _LEFT_OUT_FOLDERS.intersection(name.parts[:-1]) or name.name in _LEFT_OUT_FILES or name.suffix == ".pyc":
        return True
    # botocore/data/<service>/…, and boto3/data/<service>/…; the files beside the folders serve all services.
    is_definition = len(name.parts) > 3 and name.parts[:2] in {("botocore", "data"), ("boto3", "data")}
    return is_definition and name.parts[2] not in SERVICES


def _install(target: Target, requirements: bytes, folder: Path) -> None:
    from uv import find_uv_bin

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        listed = Path(scratch) / REQUIREMENTS
        listed.write_bytes(requirements)
        installed = Path(scratch) / "installed"
        command = [find_uv_bin(), "pip", "install", "--quiet", "--target", str(installed), "--python", sys.executable]
        command += ["--only-binary", ":all:", "--require-hashes", "--no-deps", "--requirement", str(listed)]
        if target.platform is not None:
            command += ["--python-platform", target.platform, "--python-version", target.python]
        # Run beside no project, whose uv settings could change what goes in.
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
        if done.returncode != 0:
            raise UnavailableError(
                f"the functions' dependencies for {target.platform or 'this machine'} could not be installed: "
                f"{done.stderr.strip()}",
                hint="check the connection to the package index and try again",
            )
        shutil.move(installed, folder)


def _write(bundle: Path, entries: dict[str, bytes]) -> None:
    handle, scratch = tempfile.mkstemp(dir=bundle.parent, suffix=".part")
    large = sum(map(len, entries.values())) > _LARGEST_STORED
    try:
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
            for name in sorted(entries):
                entry = zipfile.ZipInfo(name, _TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED if large else zipfile.ZIP_STORED
                entry.create_system = 3  # Unix, so that the mode is read
                entry.external_attr = _MODE
                archive.writestr(entry, entries[name])
        Path(scratch).chmod(0o644)
        Path(scratch).replace(bundle)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process holds the file `path`, and hold it."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256(_RECIPE.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]
