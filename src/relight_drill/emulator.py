"""AWS of the drill: one ministack process on loopback that serves every region, with IAM enforced."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import botocore.session
from botocore.config import Config

from relight_drill.processes import DrillError, Process, ProcessGroup, free_port, wait_until
from relight_drill.tools import python_of

SERVICES = (
    *("s3", "kms", "iam", "sts", "lambda", "events", "scheduler", "states", "secretsmanager", "sns", "sqs", "ecs"),
    *("logs", "monitoring", "route53", "ec2"),
)
SECRET_KEY = "test"  # noqa: S105 - the emulator's own, and it listens on loopback only
LONGEST_CALL_S = 900  # Lambda's own limit
_MAIN = Path(__file__).with_name("emulator_main.py")


class Emulator:
    """The emulator, its data and its functions' workers, all inside `folder` and all gone when it stops."""

    def __init__(
        self, group: ProcessGroup, folder: Path, *, account: str = "000000000000", port: int | None = None
    ) -> None:
        self._group = group
        self._process: Process | None = None
        self._clients: dict[tuple[str, str], Any] = {}
        self._making = threading.Lock()
        # One session for every region: reading a service's model is what a client costs.
        self._session: Any = boto3.Session(
            aws_access_key_id=account, aws_secret_access_key=SECRET_KEY, botocore_session=_apart()
        )
        self.folder = folder
        self.account = account
        self.port = port or free_port()
        self.log_path = folder / "emulator.log"

    @property
    def url(self) -> str:
        """Its endpoint; only the gate and root clients use it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> Process:
        """The running emulator, whose children are the functions' workers."""
        if self._process is None:
            raise DrillError("the emulator is not running", hint="start it first")
        return self._process

    async def start(self, python: Path | None = None) -> None:
        """Start it and wait until it answers. `python` is its environment's interpreter, made now if not given."""
        scratch = self.folder / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        self._process = self._group.start(
            "emulator",
            [python or python_of("emulator", group=self._group), "-P", _MAIN, scratch / "code"],
            log_path=self.log_path,
            # The functions' workers inherit this: nothing of the drill's own environment may leak into them.
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "HOME": str(scratch),
                "TMPDIR": str(scratch),
                "STATE_DIR": str(scratch / "state"),
                "S3_DATA_DIR": str(scratch / "s3"),
                "BIND_HOST": "127.0.0.1",
                "MINISTACK_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(self.port),
                "MINISTACK_ACCOUNT_ID": self.account,
                "AUTH": "true",
                "SERVICES": ",".join(SERVICES),
                "SFTP_ENABLED": "0",
                "IOT_MTLS_ENABLED": "0",
                "LAMBDA_EXECUTOR": "local",
                "PYTHONUNBUFFERED": "1",
            },
            cwd=scratch,
        )
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:

            async def answers() -> bool:
                try:
                    async with session.get(f"{self.url}/_ministack/health") as response:
                        return response.status == 200
                except (aiohttp.ClientError, TimeoutError):
                    return False

            await wait_until(answers, what="the emulator to answer", timeout_s=60, process=self._process)

    def client(self, service: str, region: str) -> Any:
        """A boto3 client with every right, straight to the emulator and past every gate; made once, safe in threads."""
        with self._making:
            if (service, region) not in self._clients:
                self._clients[service, region] = self._make_client(service, region)
            return self._clients[service, region]

    def _make_client(self, service: str, region: str) -> Any:
        # Who gives up on a slow function calls it again, and it runs twice, or has the second call refused.
        config = Config(
            connect_timeout=3,
            read_timeout=LONGEST_CALL_S if service == "lambda" else 30,
            retries={"mode": "standard", "total_max_attempts": 3},
            signature_version="s3v4" if service == "s3" else None,
            s3={"addressing_style": "path"},
            max_pool_connections=20,
            proxies={},
        )
        client = self._session.client(service, region_name=region, endpoint_url=self.url, config=config)
        # Bucket policies that ask for TLS are for callers; the emulator believes this header.
        client.meta.events.register("before-sign", _over_tls)
        return client

    async def stop(self) -> None:
        """End it together with every function's worker."""
        if self._process is not None:
            self._process.send(signal.SIGKILL, tree=True)
            await self._process.wait_exit(timeout_s=10)
            self._process = None


def _apart() -> botocore.session.Session:
    """A session that looks at no profile and no file of the user's."""
    nothing = {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}
    return botocore.session.Session(session_vars={name: (None, [], value, None) for name, value in nothing.items()})


def _over_tls(request: Any, **_: Any) -> None:
    request.headers["X-Forwarded-Proto"] = "https"
