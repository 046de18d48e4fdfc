"""Starts the emulator with what a drill needs and ministack 1.5.33 lacks.

- Application Auto Scaling, which is in `emulator_scaling`.
- The name of a function's failure: ministack calls each `Runtime.HandlerError`, where Lambda says which class was
  raised, and that is what state machines try again by.
- How many tasks of a service run: ministack counts each as running as soon as it is asked for. Here those run that the
  player of ECS says it has started, in a tag of the service.
- A function's code lies unpacked before it is called, on AWS. ministack unpacks the zip for every worker, and for
  another after every failure: that takes a core 0.5 s for the bundle and 2.2 s for the one with the SDKs of LLM
  providers, and compiling what was just unpacked another 0.4 s. Here each zip is unpacked once, and a worker gets a
  link to it.
- Services that ministack does not serve are known by their names alone. At the first request to one it reads the model
  of every service of AWS and answers nobody meanwhile: that takes a core 3.4 s, in which leases run out.
- Tasks of an ECS service that can be called: here they are only entries, so what stands for one listens on loopback,
  and that is their address. They are healthy from the beginning.

A script for the interpreter of the emulator's own environment; imports nothing of the project.
"""

from __future__ import annotations

import hashlib
import runpy
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

UNNAMED = "Runtime.HandlerError"
# As `relight_drill.ecs` has it.
RUNNING_TAG = "relight-drill-running"


class SharedCode(zipfile.ZipFile):
    """A zip that is unpacked once for all who ask for the same content."""

    home: Path
    _unpacking = threading.Lock()

    def extractall(self, path: str | os.PathLike[str] | None = None, *_: object) -> None:
        """Make the empty folder `path` a link to what the zip holds."""
        assert path is not None, "code is unpacked where the worker looks for it"  # noqa: S101 - as ministack does
        assert self.filename is not None, "code is unpacked from a file"  # noqa: S101 - as above
        with open(self.filename, "rb") as stream:  # noqa: PTH123 - hashed without being read whole
            place = self.home / hashlib.file_digest(stream, "sha256").hexdigest()
        with self._unpacking:
            if not place.exists():
                part = place.with_suffix(".part")
                super().extractall(part)
                part.rename(place)
        Path(path).rmdir()
        Path(path).symlink_to(place)


def raised(log: str) -> str | None:
    """The class of the error in which a traceback ends; None where there is no traceback."""
    _, frame, rest = log.rpartition('\n  File "')
    said = [line for line in rest.splitlines()[1:] if not line.startswith(" ")] if frame else []
    return said[0].partition(":")[0].rpartition(".")[2] if said else None


def name_failures(lambda_svc: Any) -> None:
    """Let the failure of a function be called by the class of what was raised."""
    execute = lambda_svc._execute_function_warm

    def named(*arguments: Any) -> Any:
        result = execute(*arguments)
        if result.get("error") and result["body"].get("errorType") == UNNAMED:
            result["body"]["errorType"] = raised(result.get("log", "")) or UNNAMED
        return result

    lambda_svc._execute_function_warm = named


def count_what_runs(ecs: Any) -> None:
    """Let the player of ECS say how many tasks of a service run, where one looks after it."""
    shown = ecs._sanitize

    def counted(item: Any) -> Any:
        found = shown(item)
        if isinstance(item, dict) and "serviceArn" in item:
            said = {tag["key"]: tag["value"] for tag in ecs._tags.get(item["serviceArn"], ())}
            found["runningCount"] = int(said.get(RUNNING_TAG, found["runningCount"]))
        return found

    ecs._sanitize = counted


def give_addresses(ecs: Any) -> None:
    """Let tasks of services have an address, as those in a network have."""
    run = ecs._run_task

    def addressed(*arguments: Any) -> Any:
        result = run(*arguments)
        for task in ecs._tasks.values():
            details = [{"name": "privateIPv4Address", "value": "127.0.0.1"}]
            task["attachments"] = [{"type": "ElasticNetworkInterface", "status": "ATTACHED", "details": details}]
            task["healthStatus"] = "HEALTHY"
        return result

    ecs._run_task = addressed


def know_by_name(router: Any) -> None:
    """Let whether a request is for a service of AWS be told without the models of all of them."""
    from botocore.session import get_session

    router._KNOWN_AWS_SERVICE_NAMES = frozenset(get_session().get_available_services())


def main(home: Path) -> None:
    """Serve until a signal ends this; `home` is where code lies unpacked."""
    from ministack import app  # type: ignore[import-not-found]
    from ministack.core import iam_actions, lambda_runtime, responses, router  # type: ignore[import-not-found]
    from ministack.services import ecs, lambda_svc  # type: ignore[import-not-found]

    SharedCode.home = home
    home.mkdir(parents=True, exist_ok=True)
    errors = {"BadZipFile": zipfile.BadZipFile, "LargeFileError": zipfile.LargeZipFile}
    lambda_runtime.zipfile = SimpleNamespace(ZipFile=SharedCode, **errors)
    know_by_name(router)
    name_failures(lambda_svc)
    count_what_runs(ecs)
    give_addresses(ecs)
    # By its path: the names of its neighbours are also those of packages that the emulator imports.
    scaling = runpy.run_path(str(Path(__file__).with_name("emulator_scaling.py")))
    scaling["install"](app, iam_actions, responses)
    app.main()


if __name__ == "__main__":
    place = Path(sys.argv.pop())
    main(place)
