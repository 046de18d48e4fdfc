"""The pipelines ask for no more than they need, run what exists, and deploy nothing that nobody approved.

So do the commands of docs/pipelines.md, which are the same for other systems.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest
import yaml
from botocore import xform_name
from synthesis import ROOT

from relight_cli.main import parser as relight_parser
from relight_constructs.rehearsal_machine import whole_s
from relight_stacks.deploy_policy import May

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

FOLDER = ROOT / ".github" / "workflows"
NAMES = ("check", "deploy", "game-day", "rehearse")
# What a job may be given beyond reading the repository, and which may.
WRITES = {
    ("deploy", "plan"): {"id-token", "pull-requests"},
    ("deploy", "apply"): {"id-token"},
    ("rehearse", "rehearse"): {"id-token"},
    ("game-day", "remind"): {"issues"},
}
CREDENTIALS = "aws-actions/configure-aws-credentials"
# Who acts for us, by who makes it: GitHub, AWS, and whoever makes Terraform.
TRUSTED = {"actions", "aws-actions", "hashicorp"}
# What GitHub's machines have by themselves, and docs/pipelines.md expects to be there.
TOOLS = {"cat", "curl", "date", "echo", "fi", "gh", "if", "mkdir", "tee", "then", "npx", "terraform"}
# What a variable is, where it is not an environment's name.
VALUES = {"$TIER": "internal"}
GH = {("pr", "comment"), ("api",), ("issue", "create")}


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each workflow's name."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def workflow(name: str) -> dict[str, Any]:
    """It, with every scalar as text: YAML would make `on` true."""
    found: dict[str, Any] = yaml.load((FOLDER / f"{name}.yml").read_text(), Loader=yaml.BaseLoader)
    return found


def read(name: str) -> dict[str, Any]:
    """One of them by its name."""
    found: dict[str, Any] = yaml.load((FOLDER / f"{name}.yml").read_text(), Loader=yaml.BaseLoader)
    return found


def steps(workflow: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every step with its job's name."""
    for job, body in workflow["jobs"].items():
        for step in body["steps"]:
            yield job, step


def test_these_are_all() -> None:
    """And each is named as its file is."""
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(NAMES)
    assert {read(name)["name"] for name in NAMES} == set(NAMES)


def test_permissions_are_least(name: str, workflow: dict[str, Any]) -> None:
    """None for the workflow, reading for each job, and writing only where something is written."""
    assert workflow["permissions"] == {}
    for job, body in workflow["jobs"].items():
        written = {what for what, how in body["permissions"].items() if how == "write"}
        assert written == WRITES.get((name, job), set()), job
        assert set(body["permissions"]) - written == {"contents"}, job
        assert ("id-token" in written) == any(CREDENTIALS in step.get("uses", "") for step in body["steps"])


def test_actions_are_pinned_by_commit() -> None:
    """With their version beside it, and the same everywhere."""
    pins: dict[str, set[str]] = {}
    for path in FOLDER.iterdir():
        for line in path.read_text().splitlines():
            if "uses:" in line:
                found = re.fullmatch(r"\s*(?:- )?uses: ([\w-]+)/([\w-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line)
                assert found, line
                assert found[1] in TRUSTED, line
                pins.setdefault(f"{found[1]}/{found[2]}", set()).add(f"{found[3]} {found[4]}")
    assert len(pins) == 6
    assert all(len(found) == 1 for found in pins.values()), pins


def test_no_key_is_kept(name: str, workflow: dict[str, Any]) -> None:
    """AWS is reached by a role that is taken through OIDC, in an environment of GitHub's that says who may."""
    text = (FOLDER / f"{name}.yml").read_text()
    assert "secrets." not in text
    assert "aws-access-key-id" not in text
    for job, body in workflow["jobs"].items():
        for step in body["steps"]:
            if CREDENTIALS in step.get("uses", ""):
                assert step["with"]["role-to-assume"] == "${{ vars.AWS_ROLE }}"
                assert body["environment"].startswith("${{ matrix.environment }}"), job
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] == "false"


def test_every_job_ends(workflow: dict[str, Any]) -> None:
    """Within a time, and on a named version of the machine."""
    for job, body in workflow["jobs"].items():
        assert 0 < int(body["timeout-minutes"]) <= (330 if workflow["name"] == "rehearse" else 180), job
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", body["runs-on"]), job
    assert workflow["defaults"]["run"]["shell"].startswith("bash"), "without it a pipe's failure is not one"


def test_a_rehearsal_is_waited_for_as_long_as_it_may_take() -> None:
    """The job, its credentials, and the role that gives them as docs/pipelines.md makes it, last that long."""
    job = yaml.safe_load((FOLDER / "rehearse.yml").read_text())["jobs"]["rehearse"]
    (given,) = [step["with"]["role-duration-seconds"] for step in job["steps"] if CREDENTIALS in step.get("uses", "")]
    assert given == job["timeout-minutes"] * 60 > whole_s(large=True) + 600, "setting up takes minutes too"
    assert f"`--max-session-duration {given}`" in (ROOT / "docs" / "pipelines.md").read_text()


def test_nothing_of_outside_is_run_as_code(workflow: dict[str, Any]) -> None:
    """What a person or a pull request names reaches a command as a variable, quoted."""
    for _, step in steps(workflow):
        assert "${{" not in step.get("run", "")
        for variable in re.findall(r"\$[A-Za-z_]\w*", step.get("run", "")):
            assert f'"{variable}"' in step["run"] or re.search(rf'"[^"\n]*\{variable}[^"\n]*"', step["run"]), variable


def test_a_deployment_is_checked_planned_and_approved() -> None:
    """In this order; nothing is applied from a pull request, or beside another deployment."""
    jobs = read("deploy")["jobs"]
    assert [jobs[job].get("needs") for job in ("synthesize", "plan", "apply")] == [None, "synthesize", "plan"]
    ran = [step["run"] for step in jobs["synthesize"]["steps"] if "run" in step]
    order = [
        next(i for i, run in enumerate(ran) if word in run) for word in ("env check", "relight_stacks.app", "checkov")
    ]
    assert order == sorted(order)
    assert jobs["plan"]["environment"] == "${{ matrix.environment }}-plan"
    assert jobs["apply"]["environment"] == "${{ matrix.environment }}"
    assert jobs["apply"]["if"] == "github.event_name != 'pull_request' && github.ref == 'refs/heads/main'"
    assert jobs["apply"]["concurrency"]["cancel-in-progress"] == "false"
    assert "head.repo.full_name == github.repository" in jobs["plan"]["if"], "a fork gets no role"
    made = {
        step["with"]["name"]: job for job, step in steps(read("deploy")) if "upload-artifact" in step.get("uses", "")
    }
    used = [step["with"]["name"] for job, step in steps(read("deploy")) if "download-artifact" in step.get("uses", "")]
    assert made == {"stacks-${{ matrix.environment }}": "synthesize", "plans-${{ matrix.environment }}": "plan"}
    assert sorted(used) == sorted(["stacks-${{ matrix.environment }}"] * 2 + ["plans-${{ matrix.environment }}"])
    # The provider's lock file is a hidden one.
    (plans,) = [step for _, step in steps(read("deploy")) if step.get("with", {}).get("path") == "plans"
                and "upload" in step["uses"]]  # fmt: skip
    assert plans["with"]["include-hidden-files"] == "true"


def test_a_deployment_follows_what_it_runs() -> None:
    """fails when a change of something that it runs, imports or reads would begin none."""
    on = read("deploy")["on"]
    paths = on["push"]["paths"]
    assert on["pull_request"]["paths"] == paths == sorted(paths)
    ran = [item for _, step in steps(read("deploy")) for command in commands(step.get("run", "")) for item in command]
    begins = [ROOT / item for item in ran if (ROOT / item).is_file() and "/" in item and not item.startswith(".venv")]
    begins += [_sources(item)[-1] for item in ran if item.startswith("relight_") and "." in item]
    # The verb that is run, which is imported by its name; what `scripts/deploy` hands over to.
    begins += [*_sources("relight_cli.main"), *_sources("relight_cli.env"), ROOT / "scripts" / "deploy.py"]
    names = {path.relative_to(ROOT).as_posix() for path in begins}
    assert {"scripts/setup.py", "scripts/deploy", ".ci/checkov.py", "stacks/relight_stacks/app.py"} <= names
    used = {path.relative_to(ROOT).as_posix() for path in _imported(begins)}
    assert {"src/relight/config.py", "src/relight_drill/tools.py", "constructs/relight_constructs/alarm.py"} <= used
    # What these read: pins and exceptions; and what functions run, other verbs, and which environments there are.
    used |= {"constraints.txt", "pyproject.toml", ".ci/checkov-exceptions.toml", ".github/workflows/deploy.yml"}
    used |= {"src/relight_drill/requirements/checkov.txt"}
    folders = ("lambdas", "src/relight", "src/relight_cli", "stacks")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    used |= {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    patterns = {path: re.compile(_as_regex(path)) for path in paths}
    assert [item for item in sorted(used) if not any(pattern.fullmatch(item) for pattern in patterns.values())] == []
    assert [path for path, pattern in patterns.items() if not any(map(pattern.fullmatch, used))] == []


def _as_regex(path: str) -> str:
    """A path's pattern, as GitHub reads one: a single star stays within its folder."""
    parts = re.split(r"(\*\*|\*)", path)
    return "".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)


def _imported(begins: list[Path]) -> set[Path]:
    """These and every module of the project that they import, at once or later, and so on."""
    found: set[Path] = set()
    left = list(begins)
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                left += [source for alias in node.names for source in _sources(alias.name)]
            elif isinstance(node, ast.ImportFrom) and node.module:
                left += [source for alias in node.names for source in _sources(f"{node.module}.{alias.name}")]
    return found


def _sources(module: str) -> list[Path]:
    """The files of a module of the project, its packages' first; none of a name that is not a module."""
    parts = module.split(".")
    found = []
    for end in range(1, len(parts) + 1):
        for root in ("src", "stacks", "constructs", "lambdas"):
            place = ROOT.joinpath(root, *parts[:end])
            found += [path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()]
    return found


def test_schedules() -> None:
    """A rehearsal every month, a game day every quarter."""
    (monthly,) = read("rehearse")["on"]["schedule"]
    (quarterly,) = read("game-day")["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \d+ \* \*", monthly["cron"])
    assert re.fullmatch(r"\d+ \d+ \d+ 1,4,7,10 \*", quarterly["cron"])
    assert read("game-day")["jobs"]["drill"]["strategy"]["matrix"]["tier"] == ["customer-facing", "internal", "batch"]


def test_every_line_is_shell(workflow: dict[str, Any]) -> None:
    """As bash reads it."""
    for _, step in steps(workflow):
        if "run" in step:
            done = subprocess.run(["bash", "-n"], input=step["run"], text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


def test_every_command_exists(workflow: dict[str, Any]) -> None:
    """With the options that it is given."""
    found = [command for _, step in steps(workflow) for command in commands(step.get("run", ""))]
    assert found
    for command in found:
        check(command)


def test_every_command_of_the_document_exists() -> None:
    """Those of AWS too: operation and options are what AWS has."""
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / "pipelines.md").read_text(), flags=re.DOTALL)
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    found = [command for line in lines for command in commands(line)]
    assert len(found) > 25
    for command in found:
        check(command)
    # What the workflows run, the document has.
    ran = {
        _verb(command) for name in NAMES for _, step in steps(read(name)) for command in commands(step.get("run", ""))
    }
    ours = {verb for verb in ran if "/" in verb.split()[0] or "-m" in verb}
    assert ours <= {_verb(command) for command in found} | {"./.ci/run", "./scripts/test tests/unit"}


def test_the_document_names_what_there_is() -> None:
    """Each workflow, each kind of role, and a trust that names one environment."""
    text = (ROOT / "docs" / "pipelines.md").read_text()
    for name in NAMES:
        assert f"(../.github/workflows/{name}.yml)" in text
    for may in May:
        assert f"--may {may} " in text
    (trust,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (statement,) = json.loads(trust)["Statement"]
    condition = statement["Condition"]["StringEquals"]
    assert condition["token.actions.githubusercontent.com:aud"] == "sts.amazonaws.com"
    assert "*" not in json.dumps(condition)
    used = {environment for name in NAMES for body in read(name)["jobs"].values()
            if (environment := body.get("environment"))}  # fmt: skip
    named = {f"`{item.replace('${{ matrix.environment }}', 'prod')}`" for item in used}
    assert all(f"| {item} |" in text for item in named), named


def test_the_folder_of_stacks_is_known_as_part_of_what_was_written(tmp_path: Path) -> None:
    """fails when what checks the stacks and what plans them must be told different folders."""
    written = _script("scripts/deploy.py").written
    (tmp_path / "manifest.json").touch()
    assert written(tmp_path) == written(tmp_path / "stacks") == tmp_path
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "manifest.json").touch()
    assert written(tmp_path / "stacks") == tmp_path / "stacks", "a synthesis was written into a folder of that name"


def test_a_comment_is_never_too_long() -> None:
    """GitHub refuses one of more than 65,536 characters; what does not fit is said to be missing."""
    script = _script("scripts/deploy.py")
    some = {"create": 1, "update": 0, "delete": 0, "outputs": 0}
    stacks = {f"prod-{part}": some for part in ("vault", "dns", "primary", "standby", "rehearsal")}
    texts = dict.fromkeys(stacks, "# aws_thing.it will be created\n" * 5_000) | {"prod-later": "Not planned: …"}
    shown = script.report("prod", stacks, texts)
    assert 40_000 < len(shown) < 65_536
    assert shown.count("characters more: run the plan to see them") == len(stacks)
    assert "| `prod-later` | waits" in shown
    # Nothing of a plan ends the block that it is shown in.
    shown = script.report("prod", {"prod-dns": some}, {"prod-dns": "```\n<script>"})
    assert shown.count("```") == 2


@pytest.mark.parametrize(
    "line",
    [
        "relight env policy prod --may wander",
        "relight bootstrap",
        "scripts/nothing",
        "scripts/deploy plan --environment prod",
        "aws iam create-roles --role-name a",
        "aws iam create-role --name a",
        ".venv/bin/python -P -m relight_stacks.app --enviroment prod",
        ".venv/bin/python -P .ci/checkov.py --folder x",
        "gh repo delete",
        "unheard-of",
    ],
)
def test_fails_when_a_command_does_not_exist(line: str) -> None:
    """The check itself notices."""
    with pytest.raises((AssertionError, SystemExit)):
        for command in commands(line):
            check(command)


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a script, their redirections and comments taken away."""
    text = re.sub(r"\\\n", " ", script)
    text = re.sub(r"\$\(date [^)]*\)", "20260401", text)
    for inner in re.findall(r"\$\((.*?)\)", text):
        yield from commands(inner)
    text = re.sub(r"\$\(.*?\)", "x", text)
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;{}<>&")
        lexer.whitespace_split = True
        command: list[str] = []
        for token in [*lexer, ";"]:
            if token in ("|", ";", "{", "}", "&&", "||"):
                if kept := _redirected(command):
                    yield kept
                command = []
            else:
                command.append(token)


def _redirected(command: list[str]) -> list[str]:
    ends = [i for i, token in enumerate(command) if token in (">", ">>", "<")]
    return command[: ends[0]] if ends else command


def _verb(command: list[str]) -> str:
    """What of a command says which one it is: no options and no values."""
    kept = []
    for token in command:
        if token.startswith("--"):
            break
        kept.append("prod" if token == "$NAME" else token)
    return " ".join(kept[:4])


def check(command: list[str]) -> None:
    """The command exists and takes these options."""
    tool, *arguments = [VALUES.get(item, "staging") if item.startswith("$") else item for item in command]
    if "=" in tool:
        tool, *arguments = ["cat"]
    if tool in (".venv/bin/relight", "relight"):
        relight_parser().parse_args(arguments)
    elif tool in (".venv/bin/python", "python3"):
        _python(arguments)
    elif tool == "scripts/deploy":
        _script("scripts/deploy.py").main_parser().parse_args(arguments)
    elif tool == "./scripts/drill":
        relight_parser().parse_args(["drill", *arguments])
    elif tool == "scripts/dr-smoke-test.sh":
        assert (ROOT / tool).is_file()
        relight_parser().parse_args(["smoke-test", *arguments])
    elif "/" in tool:
        assert (ROOT / tool).is_file(), tool
        assert (ROOT / tool).stat().st_mode & 0o100, f"{tool} cannot be run"
    elif tool == "aws":
        _aws(arguments)
    elif tool == "gh":
        assert tuple(arguments[:1]) in GH or tuple(arguments[:2]) in GH, arguments
    else:
        assert tool in TOOLS or tool == "[", tool


def _python(arguments: list[str]) -> None:
    rest = [item for item in arguments if item != "-P"]
    if rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), rest[1]
        known = [sys.executable, "-P", "-m", rest[1], "--help"]
    else:
        assert (ROOT / rest[0]).is_file(), rest[0]
        known = [sys.executable, "-P", rest[0], "--help"]
    options = [item for item in rest if item.startswith("--")]
    if options:
        shown = subprocess.run(known, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        assert all(re.search(rf"{option}\b", shown) for option in options), options


def _script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_script", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _aws(arguments: list[str]) -> None:
    service, operation, *rest = arguments
    model = botocore.session.get_session().get_service_model(service)
    found = {xform_name(name, "-"): name for name in model.operation_names}
    assert operation in found, f"{service} {operation}"
    shape = model.operation_model(found[operation]).input_shape
    assert shape is not None
    known = {f"--{xform_name(member, '-')}": member for member in shape.members}
    given = {item for item in rest if item.startswith("--")} - {"--region", "--query", "--output"}
    assert given <= set(known), given - set(known)
    needed = {option for option, member in known.items() if member in shape.required_members}
    assert needed <= given, needed - given
