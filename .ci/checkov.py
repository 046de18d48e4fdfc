"""Run checkov on the synthesized stacks of every environment, and hold what it finds against the written exceptions.

What operators may choose is looked at too, because theirs are held against the same exceptions before they are planned.

checkov can pass having checked nothing, so this fails unless it read every stack without a parsing error and passed
something. Inline skips do not survive a synthesis; an exception is a (check, resources, reason) in
checkov-exceptions.toml instead, and one that nothing needs any more is an error.

With `--stacks DIR` it looks at what is there, as a pipeline does before it plans: not every exception is needed then.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
EXCEPTIONS = HERE / "checkov-exceptions.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """A check that some resources do not have to pass. `resources` are patterns over `<part>/<path of construct>`."""

    check: str
    resources: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A check that a resource did not pass."""

    check: str
    name: str
    stack: str
    resource: str

    def __str__(self) -> str:
        return f"{self.check} {self.stack}: {self.resource}: {self.name}"


def read_exceptions(text: str) -> list[Exemption]:
    """The written exceptions; one without a reason is an error."""
    exemptions = []
    for entry in tomllib.loads(text)["exception"]:
        if set(entry) != {"check", "resources", "reason"} or len(entry["reason"].split()) < 5:
            raise SystemExit(f"checkov: an exception needs check, resources and a reason in a sentence, got {entry}")
        exemptions.append(Exemption(check=entry["check"], resources=tuple(entry["resources"]), reason=entry["reason"]))
    return exemptions


def failures(report: dict[str, Any], stacks: Path) -> list[Failure]:
    """What checkov found, with the construct paths that the stacks' own metadata tell."""
    paths = {folder.name: _paths(folder / "cdk.tf.json") for folder in stacks.iterdir()}
    found = []
    for item in report["results"]["failed_checks"]:
        stack = Path(item["file_path"]).parent.name
        unique = item["resource"].split(".")[-1]
        found.append(
            Failure(
                check=item["check_id"],
                name=item["check_name"],
                stack=stack,
                resource=f"{stack.rpartition('-')[2]}/{paths[stack][unique]}",
            )
        )
    return found


def judge(
    found: list[Failure], summary: dict[str, Any], exemptions: list[Exemption], *, whole: bool = True
) -> list[str]:
    """Everything that is wrong; empty when nothing is. Where these are not the `whole`, an exception may be idle."""
    problems = []
    if summary["parsing_errors"] != 0:
        problems.append(f"{summary['parsing_errors']} stacks could not be read, so nothing in them was checked")
    if summary["passed"] == 0:
        problems.append("no check passed, so nothing was checked")
    patterns = [(item.check, pattern) for item in exemptions for pattern in item.resources]
    used = set()
    for failure in found:
        matching = {
            (check, pattern)
            for check, pattern in patterns
            if check == failure.check and fnmatch.fnmatchcase(failure.resource, pattern)
        }
        used |= matching
        if not matching:
            problems.append(str(failure))
    problems += [f"the exception {check} for {pattern} is not needed: remove it" for check, pattern in patterns
                 if whole and (check, pattern) not in used]  # fmt: skip
    return problems


def run(stacks: Path) -> dict[str, Any]:
    """checkov's report on the stacks, from an environment of its own and off the network."""
    from relight_drill.tools import python_of

    command = [str(python_of("checkov")), "-P", "-m", "checkov.main", "--directory", str(stacks)]
    command += ["--framework", "terraform_json", "--skip-download", "--quiet", "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=stacks)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"checkov: exit code {done.returncode} and no report\n{done.stdout}{done.stderr}") from None
    if not isinstance(report, dict) or "results" not in report:
        raise SystemExit(f"checkov: it found nothing to check in {stacks}: {done.stdout.strip()}")
    return report


def synthesize(folder: Path) -> Path:
    """The stacks of every environment, example and choice of an operator, around a stand-in for the bundle."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from infra.variants import variations

    from relight.config import MemoryStore
    from relight_stacks import app
    from relight_stacks.bundles import Bundles
    from relight_stacks.loading import examples_folder, load_environments

    bundle = folder / "bundle.zip"
    bundle.write_bytes(b"checkov reads no code")
    bundles = dict.fromkeys(MemoryStore, Bundles(region=bundle, providers=bundle))
    environments = [*load_environments(), *load_environments(examples_folder()), *variations()]
    return app.synthesize(environments, bundles=bundles, output=folder / "cdktf.out") / "stacks"


def stacks_in(folder: Path) -> Path:
    """Where the stacks are: what a synthesis wrote them into is taken too, as by what plans them."""
    folder = folder.absolute()
    return folder / "stacks" if (folder / "manifest.json").is_file() else folder


def _paths(stack: Path) -> dict[str, str]:
    """The construct path of each resource by its address's last part."""
    document = json.loads(stack.read_text())
    metadata = [body["//"]["metadata"] for kind in document["resource"].values() for body in kind.values()]
    return {item["uniqueId"]: item["path"].partition("/")[2] for item in metadata}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -P .ci/checkov.py", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--stacks", type=Path, metavar="DIR", help="what a synthesis wrote (default: all, now)")
    given: Path | None = parser.parse_args().stacks
    with tempfile.TemporaryDirectory() as scratch:
        stacks = stacks_in(given) if given else synthesize(Path(scratch))
        report = run(stacks)
        found = failures(report, stacks)
    problems = judge(found, report["summary"], read_exceptions(EXCEPTIONS.read_text()), whole=given is None)
    for problem in problems:
        print(f"checkov: {problem}", file=sys.stderr)
    summary = report["summary"]
    print(f"checkov {summary['checkov_version']}: {summary['passed']} passed, {len(found)} excepted with a reason"
          if not problems else f"checkov: {len(problems)} problems")  # fmt: skip
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
