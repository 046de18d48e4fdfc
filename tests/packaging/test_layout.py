"""The arrangement of the folders that the imports depend on, and what a wheel holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[2]

# What a function or a worker never imports.
HEAVY = ("cdktf", "jsii", "constructs", "numpy", "rich", "relight_constructs", "relight_drill")


def test_constructs_is_a_source_root_and_never_a_package() -> None:
    """cdktf imports a package of the name `constructs`: an `__init__.py` in our folder would take its place."""
    assert not (ROOT / "constructs" / "__init__.py").exists()
    assert [path.name for path in (ROOT / "constructs").iterdir() if path.is_dir()] == ["relight_constructs"]


@pytest.mark.parametrize("root", ["src", "lambdas", "constructs", "stacks"])
def test_a_source_root_holds_typed_packages_only(root: str) -> None:
    """Each package has an `__init__.py` and says that it is typed."""
    for package in (path for path in (ROOT / root).iterdir() if path.is_dir() and path.name != "__pycache__"):
        assert (package / "__init__.py").is_file(), package
        assert (package / "py.typed").is_file(), package


def test_cdktfs_own_constructs_is_found_from_the_root_of_the_project() -> None:
    """With the project's root on the path, as `python -m` puts it there, `import constructs` is still cdktf's."""
    code = "import constructs; print(constructs.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "site-packages" in done.stdout


def pins(path: Path) -> dict[str, str]:
    """Each pin with its hashes; for which platforms it is needed depends on what else is."""
    found = {}
    for block in re.split(r"\n(?=\S)", path.read_text()):
        match = re.match(r"([A-Za-z0-9._-]+)==", block)
        if match:
            found[match[1]] = re.sub(r" ; [^\\\n]*", " ", block).strip()
    return found


@pytest.mark.parametrize("extra", ["", "-qdrant", "-providers"])
def test_a_bundle_is_made_from_the_project_s_own_pins(extra: str) -> None:
    """Fails when scripts/lock was run for one of the files only."""
    ours = pins(ROOT / "constraints.txt")
    bundled = pins(ROOT / "constructs" / "relight_constructs" / f"bundle-requirements{extra}.txt")
    assert {"boto3", "nats-py", "psycopg2-binary"} <= set(bundled)
    for name, pin in bundled.items():
        assert ours[name] == pin


@pytest.mark.parametrize("module", ["relight.config", "relight_lambdas.sentinel", "relight_lambdas.replay"])
def test_the_runtime_imports_nothing_heavy(module: str) -> None:
    """A function and a worker start neither node nor numpy."""
    code = f"import sys, {module}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, unpacked."""
    built = tmp_path_factory.mktemp("wheel")
    command = [find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(built), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (path,) = built.glob("*.whl")
    unpacked = built / "unpacked"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_the_wheel_holds_what_is_read_at_run_time(wheel: Path) -> None:
    """Every file of every package that git knows is in the wheel: environments, SQL, requirements, type markers."""
    listed = subprocess.run(
        ["git", "ls-files", "src", "lambdas", "constructs", "stacks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name.partition("/")[2] for name in listed.stdout.splitlines()]
    assert "relight_stacks/environments/demo.toml" in names
    assert [name for name in names if not (wheel / name).is_file()] == []


def test_a_bundle_is_made_from_an_installed_wheel_too(wheel: Path) -> None:
    """Without a checkout the sources come from the installed packages, and so do the pins and the environments."""
    code = (
        "from relight_constructs import bundle; from relight_stacks.loading import load_named;"
        "import relight_constructs; print(relight_constructs.__file__);"
        "names = [name for name, _ in bundle._sources()]; assert 'relight/config.py' in names; load_named('demo');"
        "assert b'boto3==' in bundle._requirements()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=True,
        cwd=wheel,
    )
    assert done.stdout.startswith(str(wheel))
