"""A bundle is the same bytes every time, holds what the handlers need, and works with nothing else on the path."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from relight.config import MemoryStore
from relight_constructs import bundle as bundles
from relight_constructs.bundle import LAMBDA, SERVICES, Target, build_bundle, host_target

ROOT = Path(__file__).resolve().parents[2]
CALLED = re.compile(r"""(?:\.aws|client)\(\s*["']([a-z0-9-]+)["']""")

# Lambda's own limit, unpacked, is 250 MB; ours is what keeps a cold start short.
LARGEST_MB = 40
UPLOAD_MB = 50
UNPACKED_MB = 250
# Measured 0.5 s on two cores with nothing compiled; a handler that pulls in something heavy takes seconds.
IMPORT_BUDGET_S = 1.5
# With both SDKs, and nothing compiled; measured 3 s.
SDK_BUDGET_S = 10.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that nothing has been built into."""
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def bundle(cache: Path) -> Path:
    """The bundle for this machine."""
    return build_bundle(host_target(), cache)


@pytest.fixture(scope="module")
def lambda_bundle(cache: Path) -> Path:
    """The bundle for Lambda."""
    return build_bundle(LAMBDA, cache)


@pytest.mark.parametrize("target", [host_target(), LAMBDA], ids=["host", "lambda"])
def test_built_twice_is_byte_identical(
    target: Target, bundle: Path, lambda_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second build, from nothing and with another umask and time zone, makes the same name and the same bytes."""
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    before = os.umask(0o077)
    try:
        again = build_bundle(target, tmp_path)
    finally:
        os.umask(before)
    first = bundle if target == host_target() else lambda_bundle
    assert again.name == first.name
    assert again.read_bytes() == first.read_bytes()


def test_a_second_call_does_nothing(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is not installed, read or written again."""

    def refuse(*_: object) -> None:
        raise AssertionError("it was built again")

    monkeypatch.setattr(bundles, "_install", refuse)
    monkeypatch.setattr(bundles, "_write", refuse)
    stamp = bundle.stat().st_mtime_ns
    assert build_bundle(host_target(), cache) == bundle
    assert bundle.stat().st_mtime_ns == stamp


def test_a_cache_may_be_named_relatively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    """The path that comes back works from any folder."""
    monkeypatch.chdir(tmp_path)
    built = build_bundle(host_target(), Path("cache"))
    monkeypatch.chdir("/")
    assert built.read_bytes() == bundle.read_bytes()


def names_of(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_entries_carry_nothing_of_this_machine(bundle: Path, lambda_bundle: Path) -> None:
    """Sorted names, one time, one mode, and no file that differs between two installations."""
    for path in (bundle, lambda_bundle):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
        assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
        for entry in entries:
            assert not re.search(
                r"(^|/)(__pycache__|bin)/|\.pyc$|/(RECORD|INSTALLER|direct_url\.json)$", entry.filename
            )


def test_a_bundle_holds_the_runtime_and_the_handlers_only(bundle: Path) -> None:
    """Neither the drill, nor the CLI, nor anything that imports cdktf is deployed."""
    tops = {name.split("/")[0] for name in names_of(bundle)}
    assert {"relight", "relight_lambdas", "boto3", "botocore", "psycopg2", "nats"} <= tops
    assert not {name for name in tops if name.startswith(("relight_", "cdktf", "jsii"))} - {"relight_lambdas"}


def test_every_source_file_is_in_it(bundle: Path) -> None:
    """SQL and other data beside the modules come along."""
    names = set(names_of(bundle))
    for folder in (ROOT / "src" / "relight", ROOT / "lambdas" / "relight_lambdas"):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{folder.name}/{path.relative_to(folder).as_posix()}" in names


def test_only_the_services_that_are_called_are_defined(bundle: Path) -> None:
    """Fails when a service is called whose definition is not in the bundle, and when one is there for nothing."""
    defined = {name.split("/")[2] for name in names_of(bundle) if re.match(r"botocore/data/[^/]+/", name)}
    assert defined == set(SERVICES)
    called = set()
    for folder in (ROOT / "src" / "relight", ROOT / "lambdas"):
        for path in folder.rglob("*.py"):
            called.update(CALLED.findall(path.read_text()))
    # A role is taken on with sts before any other call, by botocore itself.
    assert called | {"sts"} == set(SERVICES)


def test_the_lambda_bundle_is_for_arm_and_python_313(lambda_bundle: Path) -> None:
    """Each compiled module is for the target, and the newest psycopg2 was not traded for an older platform's."""
    names = names_of(lambda_bundle)
    compiled = [name for name in names if re.search(r"\.so(\.|$)", name) and name.startswith("psycopg2/")]
    assert compiled
    assert all("cpython-313-aarch64-linux-gnu" in name for name in compiled)
    pinned = re.search(r"^psycopg2-binary==(\S+)", bundles._requirements().decode(), re.M)
    assert pinned is not None
    assert any(name.startswith(f"psycopg2_binary-{pinned[1]}.dist-info/") for name in names)


def test_a_bundle_is_small(bundle: Path, lambda_bundle: Path) -> None:
    """Entries are stored, so the zip's size is what is unpacked."""
    for path in (bundle, lambda_bundle):
        assert path.stat().st_size < LARGEST_MB * 1_000_000


@pytest.fixture(scope="module")
def unpacked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle as Lambda lays it out."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


def isolated(unpacked: Path, code: str) -> str:
    """Run `code` in an interpreter that sees the bundle and the standard library, and nothing else."""
    code = f"import sys; sys.path.append({str(unpacked)!r})\n{code}"
    # Lambda's folder cannot be written, so nothing there is compiled beforehand.
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=unpacked)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bundle_with_qdrants_client_fits_and_works(tmp_path: Path) -> None:
    """fails when Lambda would not take it without a bucket, or unpacked, or when the client needs more than it has."""
    path = build_bundle(host_target(), tmp_path, store=MemoryStore.QDRANT)
    assert path.stat().st_size < UPLOAD_MB * 1_000_000
    with zipfile.ZipFile(path) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) < UNPACKED_MB * 1_000_000
        archive.extractall(tmp_path / "unpacked")
    isolated(
        tmp_path / "unpacked",
        """
from relight.errors import UnavailableError
from relight.memory.qdrant import QdrantStore
import relight_lambdas.hydrate
try:
    QdrantStore("http://127.0.0.1:1").version()
except UnavailableError:
    pass
""",
    )


@pytest.fixture(scope="module")
def providers_bundle(cache: Path) -> Path:
    """The bundle with the SDKs of LLM providers, for this machine."""
    return build_bundle(host_target(), cache, providers=True)


@pytest.fixture(scope="module")
def unpacked_providers(providers_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That bundle as Lambda lays it out."""
    folder = tmp_path_factory.mktemp("unpacked-providers")
    with zipfile.ZipFile(providers_bundle) as archive:
        archive.extractall(folder)
    return folder


def test_the_bundle_with_the_sdks_is_byte_identical_too(providers_bundle: Path, tmp_path: Path) -> None:
    """A second build on one machine, from nothing, makes the same name and the same bytes."""
    again = build_bundle(host_target(), tmp_path, providers=True)
    assert again.name == providers_bundle.name
    assert again.read_bytes() == providers_bundle.read_bytes()


@pytest.mark.parametrize("target", [host_target(), LAMBDA], ids=["host", "lambda"])
def test_the_bundle_with_the_sdks_fits(target: Target, cache: Path) -> None:
    """fails when Lambda would not take it without a bucket, or unpacked. Measured for Lambda: 17 MB, and 54 MB."""
    path = build_bundle(target, cache, providers=True)
    assert path.stat().st_size < UPLOAD_MB * 1_000_000
    with zipfile.ZipFile(path) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) < UNPACKED_MB * 1_000_000


def test_the_sdks_are_in_no_other_bundle(bundle: Path, providers_bundle: Path) -> None:
    """No function of a recovery carries them."""
    sdks = {"anthropic", "openai", "pydantic"}
    assert sdks <= {name.split("/")[0] for name in names_of(providers_bundle)}
    assert not sdks & {name.split("/")[0] for name in names_of(bundle)}


CHECKED = """
import json, sys, time
from functools import partial
from types import SimpleNamespace
import asyncio
from relight.config import Connections
from relight.providers.opening import open_one
from relight.providers.readiness import check_providers
from relight.providers.spec import Api, ProviderSpec
import relight_lambdas.providers
address = "http://127.0.0.1:1"
specs = [
    ProviderSpec(name="a", api=Api.ANTHROPIC, model="m", base_url=address, unlisted=True),
    ProviderSpec(name="b", api=Api.OPENAI, model="m", base_url=address, unlisted=True),
    ProviderSpec(name="c", api=Api.COMPATIBLE, model="m", base_url=address, keyless=True),
]
keys = Connections(state_dsn="a", memory_dsn="b", queue_url="c", provider_keys={"a": "k", "b": "k"})
settings = SimpleNamespace(provider_keys_secret="", secret_with_provider_keys="s")
found = asyncio.run(check_providers(specs, open_=partial(open_one, connections=keys, settings=settings), timeout_s=5))
outside = [m.__file__ for m in sys.modules.values() if "site-packages" in (getattr(m, "__file__", None) or "")]
assert not outside, outside
print(json.dumps([[item.fault for item in found], time.process_time()]))
"""


def test_the_function_that_asks_providers_works_with_its_bundle_alone(unpacked_providers: Path) -> None:
    """fails when an SDK needs something that is not there; what is refused is the connection, as nobody listens. It is
    ready to ask within seconds of the processor, of a function that has a minute."""
    faults, took_s = json.loads(isolated(unpacked_providers, CHECKED))
    assert faults == ["connection_refused"] * 3
    assert took_s < SDK_BUDGET_S


def test_without_its_bundle_it_says_what_is_missing(unpacked: Path) -> None:
    """fails when the SDKs are not there: each provider is told apart, and nothing raises."""
    faults, _ = json.loads(isolated(unpacked, CHECKED))
    assert faults == ["not_configured"] * 3


# What Lambda calls, and the entry point of an ECS task.
ENTRIES = sorted(path.stem for path in (ROOT / "lambdas" / "relight_lambdas").glob("[a-z]*.py"))
HANDLERS = [name for name in ENTRIES if name != "task"]


def test_every_handler_works_with_nothing_else_on_the_path(unpacked: Path) -> None:
    """An isolated interpreter without site-packages imports each handler, and makes each client, from the bundle."""
    assert HANDLERS
    isolated(
        unpacked,
        f"""
import importlib, boto3, psycopg2, nats
for name in {HANDLERS!r}:
    assert callable(importlib.import_module("relight_lambdas." + name).handler), name
for service in {SERVICES!r}:
    boto3.client(service, region_name="us-west-2", aws_access_key_id="a", aws_secret_access_key="b")
outside = [m.__file__ for m in sys.modules.values() if "site-packages" in (getattr(m, "__file__", None) or "")]
assert not outside, outside
""",
    )


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_cold_start_imports_quickly(unpacked: Path, handler: str) -> None:
    """What a function imports before it can answer stays within its budget of the processor, in the best of three."""
    code = f"import relight_lambdas.{handler}, time; print(time.process_time())"
    assert min(float(isolated(unpacked, code)) for _ in range(3)) < IMPORT_BUDGET_S


def test_the_newest_bundles_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier bundles of a target are removed, all but the few that another process may still be running."""
    monkeypatch.setattr(bundles, "_install", lambda _target, _requirements, folder: folder.mkdir())
    for attempt in range(8):
        monkeypatch.setattr(bundles, "_sources", lambda attempt=attempt: [("relight/a.py", str(attempt).encode())])
        newest = build_bundle(host_target(), tmp_path)
    left = list(tmp_path.glob("*.zip"))
    assert newest in left
    assert len(left) == bundles._KEPT_BUNDLES


def test_fails_when_the_dependencies_cannot_be_had(tmp_path: Path) -> None:
    """The error says what could not be installed and what to try, and nothing half-made is left behind."""
    from relight.errors import UnavailableError

    with pytest.raises(UnavailableError, match="could not be installed"):
        build_bundle(Target(platform="aarch64-unknown-linux-gnu", python="2.7"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
