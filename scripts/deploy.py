"""Plan an environment's stacks, and apply exactly what somebody approved of a plan.

    scripts/deploy plan  --environment NAME --stacks cdktf.out --out plans
    scripts/deploy apply --environment NAME --stacks cdktf.out --approved plans

Needs Python 3.11, Terraform 1.11 and credentials; nothing of this project is imported, so who applies installs nothing.

`plan` changes nothing and takes no lock. It writes `plan.md` for people, and `approved.json`, which says of each stack
what its plan would do, as a digest: no plan is kept, because one holds the whole state. `apply` plans each stack again
under the lock, refuses it when the digest is another, and applies it else.

A stack whose dependencies are not there yet is not planned: its plan would fail. That is so when an environment is
deployed for the first time, and each run then gets one step further. With `--only`, nothing but that stack is looked
at: so a standby is deployed while the primary's region, and the state that is there, cannot be reached.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

DONE, FAILED = 0, 1
# GitHub takes 65,536 characters in a comment.
LONGEST = 60_000
PLAN = "relight.tfplan"
APPROVED = "approved.json"
LOCK = ".terraform.lock.hcl"
# Of a change: what is done to what. The rest of a plan is the state as it is.
FIELDS = ("address", "deposed", "change")
# What tells one resource from another that is called the same in the state.
IDENTITY = ("arn", "id")
COUNTS = ("create", "update", "delete", "outputs")
QUIET = (["no-op"], ["read"])


class Refused(Exception):  # noqa: N818 - it is an answer
    """Something is not as it should be; the text says what to do."""


def say(text: str) -> None:
    """Talk, on stderr."""
    print(text, file=sys.stderr, flush=True)


def terraform(folder: Path, *arguments: str, shown: bool = False) -> str:
    """Run it on one stack; what it printed, unless that is `shown`."""
    done = subprocess.run(
        ["terraform", f"-chdir={folder}", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=None if shown else subprocess.PIPE,
        stderr=None if shown else subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        raise Refused(f"terraform {arguments[0]} failed in {folder.name}: {(done.stderr or 'see above').strip()}")
    return done.stdout or ""


def written(given: Path) -> Path:
    """The folder that a synthesis wrote into; its folder of stacks is taken too, as by what checks them."""
    inside = given.name == "stacks" and not (given / "manifest.json").is_file()
    return given.parent if inside else given


def ordered(output: Path, environment: str, only: list[str]) -> dict[str, dict[str, Any]]:
    """The environment's stacks by their names, each after those that it depends on; or `only` these."""
    manifest = output / "manifest.json"
    if not manifest.is_file():
        raise Refused(f"{manifest} is not there; synthesize first: python -P -m relight_stacks.app --output {output}")
    known = json.loads(manifest.read_text())["stacks"]
    left = {name: about for name, about in sorted(known.items()) if name.rpartition("-")[0] == environment}
    if not left:
        raise Refused(f"{output} has no stack of {environment}; synthesize it with --environment {environment}")
    if unknown := sorted(set(only) - set(left)):
        raise Refused(f"{environment} has no stack {', '.join(unknown)}; use some of {', '.join(left)}")
    if only:
        left = {name: about | {"dependencies": []} for name, about in left.items() if name in only}
    found: dict[str, dict[str, Any]] = {}
    while left:
        ready = [name for name, about in left.items() if not set(about["dependencies"]) & set(left)]
        if not ready:
            raise Refused(f"these stacks depend on one another: {', '.join(left)}")
        found |= {name: left.pop(name) for name in ready}
    return found


def planned(folder: Path, *lock: str) -> dict[str, Any]:
    """What applying the stack would do: its digest, and how much."""
    terraform(folder, "plan", "-input=false", *lock, f"-out={PLAN}")
    plan = json.loads(terraform(folder, "show", "-json", PLAN))
    resources = [item for item in plan.get("resource_changes", []) if item["change"]["actions"] not in QUIET]
    outputs = {name: item for name, item in plan.get("output_changes", {}).items() if item["actions"] not in QUIET}
    what = [
        {field: item[field] for field in FIELDS if field in item} | {"change": changed(item["change"])}
        for item in resources
    ]
    text = json.dumps({"changes": what, "outputs": outputs}, sort_keys=True)
    actions = [action for item in resources for action in item["change"]["actions"]]
    return {
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "create": actions.count("create"),
        "update": actions.count("update"),
        "delete": actions.count("delete"),
        "outputs": len(outputs),
    }


def changed(change: dict[str, Any]) -> dict[str, Any]:
    """A resource's change, without what moves by itself and is not changed: until when a database can be restored, how
    many tasks a service has.

    That is what is equal before and after, and of what is replaced or removed what it was, but for which one it is.
    """
    before, after = change.get("before"), change.get("after")
    if not isinstance(before, dict):
        return change
    which = {name: before[name] for name in IDENTITY if name in before}
    if not isinstance(after, dict):
        return change | {"before": which or before}
    unknown = change.get("after_unknown") or {}
    same = {name for name in before if name in after and before[name] == after[name]}
    lost = {name for name in before if unknown.get(name) is True}
    return change | {
        "before": {name: value for name, value in before.items() if name not in same | lost} | which,
        "after": {name: value for name, value in after.items() if name not in same},
    }


def does_anything(stack: dict[str, Any]) -> bool:
    """Whether there is anything to do."""
    return any(stack[name] for name in COUNTS)


def plan(environment: str, output: Path, out: Path, *, only: list[str]) -> int:
    """Plan each stack that can be, and write down what was found."""
    stacks = ordered(output, environment, only)
    out.mkdir(parents=True, exist_ok=True)
    approved: dict[str, Any] = {}
    texts: dict[str, str] = {}
    there: set[str] = set()
    for name, about in stacks.items():
        missing = [item for item in about["dependencies"] if item not in there]
        if missing:
            say(f"{name}: waits for {', '.join(missing)}")
            texts[name] = f"Not planned: {', '.join(missing)} is not deployed yet. Run this again once it is."
            continue
        folder = output / about["workingDirectory"]
        say(f"{name}: planning ...")
        terraform(folder, "init", "-input=false", "-reconfigure")
        if json.loads(terraform(folder, "show", "-json")).get("values"):
            there.add(name)
        approved[name] = planned(folder, "-lock=false")
        texts[name] = terraform(folder, "show", "-no-color", PLAN).strip()
        (folder / PLAN).unlink()
        if (folder / LOCK).is_file():
            shutil.copyfile(folder / LOCK, out / f"{name}{LOCK}")
    (out / APPROVED).write_text(json.dumps({"environment": environment, "stacks": approved}, indent=2) + "\n")
    (out / "plan.md").write_text(report(environment, approved, texts))
    return DONE


def report(environment: str, approved: dict[str, Any], texts: dict[str, str]) -> str:
    """The plans for people, as Markdown that fits into a comment."""
    lines = [f"### Plan of `{environment}`", "", "| stack | create | update | delete |", "| --- | --- | --- | --- |"]
    for name in texts:
        found = approved.get(name)
        cells = [str(found[key]) for key in ("create", "update", "delete")] if found else ["waits", "", ""]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    head = "\n".join(lines) + "\n"
    shown = [name for name in texts if name not in approved or does_anything(approved[name])]
    room = (LONGEST - len(head)) // max(1, len(shown)) - 200
    for name in shown:
        text = texts[name].replace("```", "'''")
        if len(text) > room:
            text = f"{text[:room]}\n… and {len(text) - room} characters more: run the plan to see them"
        head += f"\n<details><summary><code>{name}</code></summary>\n\n```\n{text}\n```\n\n</details>\n"
    return head


def approval(path: Path, environment: str) -> dict[str, dict[str, Any]]:
    """What was approved of the environment, by stack."""
    try:
        found = json.loads(path.read_text())
        of = found["environment"]
        stacks = {name: {key: stack[key] for key in ("digest", *COUNTS)} for name, stack in found["stacks"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
        raise Refused(
            f"{path} is not what a plan writes ({type(exc).__name__}); write it: scripts/deploy plan --environment"
            f" {environment} --stacks DIR --out {path.parent}"
        ) from exc
    if of != environment:
        raise Refused(f"what was approved is of {of}, not of {environment}; plan {environment}")
    return stacks


def apply(environment: str, output: Path, approved: Path, *, only: list[str], wait: str) -> int:
    """Apply what was approved, stack by stack; the first that would do anything else ends it."""
    wanted = approval(approved / APPROVED, environment)
    stacks = ordered(output, environment, only)
    lock = f"-lock-timeout={wait}"
    for name, about in stacks.items():
        if name not in wanted:
            say(f"{name}: not planned; plan again, now that what it depends on is there")
            continue
        if not does_anything(wanted[name]):
            say(f"{name}: nothing to do")
            continue
        folder = output / about["workingDirectory"]
        init = ["init", "-input=false", "-reconfigure"]
        if (pinned := approved / f"{name}{LOCK}").is_file():
            # The very provider that made the plan, by its hash.
            shutil.copyfile(pinned, folder / LOCK)
            init.append("-lockfile=readonly")
        terraform(folder, *init)
        found = planned(folder, lock)
        if found["digest"] != wanted[name]["digest"]:
            (folder / PLAN).unlink()
            raise Refused(f"{name}: applying it would do something else than what was approved; plan again")
        say(f"{name}: applying ...")
        terraform(folder, "apply", "-input=false", lock, PLAN, shown=True)
        (folder / PLAN).unlink()
    return DONE


def main_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="scripts/deploy", description=(__doc__ or "").partition("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="plan|apply")
    for name, folder, help_ in (
        ("plan", "--out", "write plan.md and approved.json there"),
        ("apply", "--approved", "the folder that the plan wrote"),
    ):
        verb = verbs.add_parser(name)
        verb.add_argument("--environment", required=True, metavar="NAME", help="an environment file's name")
        verb.add_argument("--stacks", required=True, type=Path, metavar="DIR", help="what the synthesis wrote")
        verb.add_argument(folder, required=True, type=Path, metavar="DIR", dest="folder", help=help_)
        verb.add_argument("--only", action="append", default=[], metavar="STACK", help="this stack; may be repeated")
    verbs.choices["apply"].add_argument(
        "--wait", default="5m", metavar="TIME", help="how long for somebody else's lock (default: %(default)s)"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = main_parser().parse_args(arguments)
    output = written(options.stacks.absolute())
    try:
        if options.verb == "plan":
            return plan(options.environment, output, options.folder, only=options.only)
        return apply(options.environment, output, options.folder, only=options.only, wait=options.wait)
    except Refused as exc:
        say(f"deploy: {exc}")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
