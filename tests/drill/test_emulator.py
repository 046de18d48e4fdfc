"""The emulator and the tools' environments: on loopback only, enforced, and gone when they are stopped."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import zipfile
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from relight_drill import emulator_main
from relight_drill.emulator import Emulator
from relight_drill.emulator_main import raised
from relight_drill.processes import DrillError, ProcessGroup
from relight_drill.tools import python_of
from relight_drill.wire import workers

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.servers

REGION = "us-west-2"


def test_a_tools_environment_is_made_once(tmp_path: Path) -> None:
    """The first call makes it from the hashed pins and says so, the second does nothing, half a one is made anew."""
    said: list[str] = []
    python = python_of("emulator", base=tmp_path, say=said.append)
    found = subprocess.run(
        [python, "-I", "-c", "import importlib.metadata as m; print(m.version('ministack'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "1.5.33"
    assert python_of("emulator", base=tmp_path, say=said.append) == python
    assert len(said) == 1
    stamp = python.parent.parent / "complete"
    stamp.unlink()
    python.unlink()
    assert python_of("emulator", base=tmp_path, say=said.append) == python
    assert python.exists()
    assert stamp.exists()
    assert len(said) == 2


def test_an_unknown_tool_is_named() -> None:
    """fails when a tool has no pins, and the error says which tools there are."""
    with pytest.raises(DrillError, match=r"no tool 'moto'; the tools are checkov, emulator"):
        python_of("moto")


def zipped(handler: str) -> bytes:
    """A function's code."""
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("handler.py", handler)
    return code.getvalue()


def create(emulator: Emulator, handler: str) -> Any:
    """Create the function `f` of this code; the client that did."""
    iam, lambdas = emulator.client("iam", REGION), emulator.client("lambda", REGION)
    trusted = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [trusted]})
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=policy)["Role"]["Arn"]
    lambdas.create_function(
        FunctionName="f",
        Runtime="python3.13",
        Role=role,
        Handler="handler.handler",
        Timeout=300,
        Code={"ZipFile": zipped(handler)},
    )
    return lambdas


def test_functions_die_with_the_emulator_in_the_middle_of_a_call(server_group: ProcessGroup, server_dir: Path) -> None:
    """Stopping leaves no worker behind, not even one that is busy, and nothing listens beyond loopback."""

    async def scenario() -> None:
        emulator = Emulator(server_group, server_dir / "stopped")
        await emulator.start()
        try:
            lambdas = create(emulator, "import time\ndef handler(event, context):\n    time.sleep(event['for'])\n")
            await asyncio.to_thread(lambdas.invoke, FunctionName="f", Payload='{"for": 0}')
            lambdas.invoke(FunctionName="f", InvocationType="Event", Payload='{"for": 200}')
            busy = workers(emulator, REGION)
            assert busy
            assert not workers(emulator, "us-east-1")
            listening = [
                connection.laddr.ip
                for connection in psutil.Process(emulator.process.pid).net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
            assert set(listening) == {"127.0.0.1"}
        finally:
            await emulator.stop()
        assert not [worker for worker in busy if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
        with pytest.raises(DrillError, match="not running"):
            _ = emulator.process

    asyncio.run(scenario())


# Where its code lies, and which process it is; or a failure.
WHERE = """
import os
def handler(event, context):
    if event:
        raise ValueError(event)
    return [os.path.realpath(__file__), os.getpid(), len(os.listdir(os.path.dirname(os.path.realpath(__file__))))]
"""


def test_workers_share_the_code_of_their_function(server_group: ProcessGroup, server_dir: Path) -> None:
    """A worker that comes after a failure finds its code unpacked and compiled; new code lies elsewhere."""

    async def scenario() -> list[Any]:
        emulator = Emulator(server_group, server_dir / "shared")
        await emulator.start()

        def call(lambdas: Any, event: str) -> Any:
            return json.loads(lambdas.invoke(FunctionName="f", Payload=event)["Payload"].read())

        try:
            lambdas = create(emulator, WHERE)
            first = await asyncio.to_thread(call, lambdas, "{}")
            failed = await asyncio.to_thread(call, lambdas, '{"fail": 1}')
            second = await asyncio.to_thread(call, lambdas, "{}")
            lambdas.update_function_code(FunctionName="f", ZipFile=zipped(WHERE + "# new"))
            third = await asyncio.to_thread(call, lambdas, "{}")
            return [first, failed, second, third]
        finally:
            await emulator.stop()

    (place, worker, files), failed, (again, other, as_many), (elsewhere, *_) = asyncio.run(scenario())
    assert "'fail': 1" in failed["errorMessage"]
    assert failed["errorType"] == "ValueError"
    assert worker != other
    assert place == again != elsewhere
    assert files == as_many == 2


CHAINED = """Traceback (most recent call last):
  File "handler.py", line 3, in handler
    one()
KeyError: 'first'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "handler.py", line 5, in handler
    raise UnavailableError(said)
relight.errors.UnavailableError: no answer
Is the server running: there?
"""


@pytest.mark.parametrize(
    ("log", "name"),
    [(CHAINED, "UnavailableError"), ("one\n" + CHAINED, "UnavailableError"), ("Worker process died", None), ("", None)],
)
def test_a_failure_is_called_by_what_was_raised_last(log: str, name: str | None) -> None:
    """fails when a state machine would not try again what it tries again on AWS, or would what it does not."""
    assert raised(log) == name


def test_a_function_that_takes_its_time_is_called_once(server_group: ProcessGroup, server_dir: Path) -> None:
    """fails when a client gives up before Lambda would, and calls again: it would run twice, or be refused."""
    client = Emulator(server_group, server_dir / "slow").client("lambda", REGION)
    assert client.meta.config.read_timeout >= 900


ASKED = """
import runpy, sys
from botocore.session import Session
from ministack.core import router

main = runpy.run_path(sys.argv[1])
main["know_by_name"](router)
Session.get_service_model = None
print([router._is_aws_service_name(name) for name in ("application-autoscaling", "glacier", "nothing")])
"""


def test_a_service_is_known_without_the_models_of_all() -> None:
    """fails when the first request for what the emulator does not serve stops it for seconds: leases run out."""
    said = subprocess.run(
        [python_of("emulator"), "-P", "-c", ASKED, emulator_main.__file__], capture_output=True, text=True, check=False
    )
    assert (said.stdout, said.stderr) == ("[True, True, False]\n", "")


def test_the_drills_own_environment_stays_out_of_functions(
    monkeypatch: pytest.MonkeyPatch, server_group: ProcessGroup, server_dir: Path
) -> None:
    """A variable of the drill's process is not seen by the emulator, so by no function, nor by the drill's clients."""
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    async def scenario() -> dict[str, str]:
        own = Emulator(server_group, server_dir / "clean")
        await own.start()
        try:
            identity = await asyncio.to_thread(own.client("sts", REGION).get_caller_identity)
            assert identity["Arn"] == "arn:aws:iam::000000000000:root"
            return dict(psutil.Process(own.process.pid).environ())
        finally:
            await own.stop()

    environment = asyncio.run(scenario())
    assert "AWS_PROFILE" not in environment
    assert environment["AUTH"] == "true"
    assert environment["TMPDIR"].startswith(str(server_dir))
