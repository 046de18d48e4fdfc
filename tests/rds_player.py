"""A small RDS on loopback that speaks its real query protocol: databases change their state as slowly as a test says.

moto promotes at once, knows no replica of another region and no state that refuses a promotion, so it cannot stand in.
Requests are read and answers written by botocore's own description of the service: an operation or a parameter that RDS
does not have is refused, and so is one that this player does not play.
"""

# ruff: noqa: N802, N803 - operations and parameters have RDS's own names
from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import botocore.session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMESPACE = "http://rds.amazonaws.com/doc/2014-10-31/"


class RefusedError(Exception):
    """An error of RDS: its code, and its HTTP status."""

    def __init__(self, code: str, status: int = 400, message: str = "as the player was told") -> None:
        super().__init__(message)
        self.code, self.status = code, status


@dataclass
class PlayedInstance:
    """An RDS instance. `then` are the states that it goes through, one at each look at it."""

    id: str
    status: str = "available"
    source: str = ""
    host: str = "db.example"
    then: list[Callable[[PlayedInstance], None]] = field(default_factory=list)


@dataclass
class RdsPlayer:
    """What there is, and what was asked: `calls` are (operation, parameters) in their order."""

    region: str = "us-west-2"
    account: str = "000000000000"
    instances: dict[str, PlayedInstance] = field(default_factory=dict)
    members: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)
    """Of each global database: the ARNs of its clusters, and which of them takes writes."""
    backups: list[dict[str, Any]] = field(default_factory=list)
    refuse: dict[str, list[RefusedError]] = field(default_factory=dict)
    """What the next calls of an operation are refused with."""
    on_promote: Callable[[PlayedInstance], None] = lambda _: None
    on_detach: Callable[[], None] = lambda: None
    on_restore: Callable[[PlayedInstance], None] = lambda _: None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """The parameters of each call of it."""
        return [parameters for name, parameters in self.calls if name == operation]

    def answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((operation, parameters))
        if self.refuse.get(operation):
            raise self.refuse[operation].pop(0)
        return dict(getattr(self, f"_{operation}")(**parameters))

    def _DescribeDBInstances(self, DBInstanceIdentifier: str) -> dict[str, Any]:
        found = self._found(DBInstanceIdentifier)
        if found.then:
            found.then.pop(0)(found)
        answer: dict[str, Any] = {"DBInstanceIdentifier": found.id, "DBInstanceStatus": found.status}
        if found.source:
            answer["ReadReplicaSourceDBInstanceIdentifier"] = found.source
        if found.host:
            answer["Endpoint"] = {"Address": found.host, "Port": 5432}
        return {"DBInstances": [answer]}

    def _PromoteReadReplica(self, DBInstanceIdentifier: str, BackupRetentionPeriod: int) -> dict[str, Any]:
        found = self._found(DBInstanceIdentifier)
        if not found.source or found.status != "available":
            raise RefusedError("InvalidDBInstanceState")
        found.status = "modifying"
        self.on_promote(found)
        return {"DBInstance": {"DBInstanceIdentifier": found.id, "DBInstanceStatus": found.status}}

    def _DescribeGlobalClusters(self, GlobalClusterIdentifier: str) -> dict[str, Any]:
        if GlobalClusterIdentifier not in self.members:
            raise RefusedError("GlobalClusterNotFoundFault", 404)
        members = [{"DBClusterArn": arn, "IsWriter": writes} for arn, writes in self.members[GlobalClusterIdentifier]]
        found = {"GlobalClusterIdentifier": GlobalClusterIdentifier, "GlobalClusterMembers": members}
        return {"GlobalClusters": [found]}

    def _RemoveFromGlobalCluster(
        self,
        GlobalClusterIdentifier: str,
        DbClusterIdentifier: str,
    ) -> dict[str, Any]:
        members = self.members[GlobalClusterIdentifier]
        if (DbClusterIdentifier, False) not in members:
            raise RefusedError("DBClusterNotFoundFault", 404)
        members.remove((DbClusterIdentifier, False))
        self.on_detach()
        return {"GlobalCluster": {"GlobalClusterIdentifier": GlobalClusterIdentifier}}

    def _DescribeDBInstanceAutomatedBackups(self, DBInstanceIdentifier: str) -> dict[str, Any]:
        return {
            "DBInstanceAutomatedBackups": [
                item for item in self.backups if item["DBInstanceIdentifier"] == DBInstanceIdentifier
            ]
        }

    def _RestoreDBInstanceToPointInTime(
        self,
        SourceDBInstanceAutomatedBackupsArn: str,
        TargetDBInstanceIdentifier: str,
        **_: Any,
    ) -> dict[str, Any]:
        if TargetDBInstanceIdentifier in self.instances:
            raise RefusedError("DBInstanceAlreadyExists")
        if SourceDBInstanceAutomatedBackupsArn not in [item["DBInstanceAutomatedBackupsArn"] for item in self.backups]:
            raise RefusedError("DBInstanceAutomatedBackupNotFound", 404)
        made = PlayedInstance(id=TargetDBInstanceIdentifier, status="creating", host="")
        self.instances[made.id] = made
        self.on_restore(made)
        return {"DBInstance": {"DBInstanceIdentifier": made.id, "DBInstanceStatus": made.status}}

    def _found(self, id_: str) -> PlayedInstance:
        if id_ not in self.instances:
            raise RefusedError("DBInstanceNotFound", 404)
        return self.instances[id_]


class _Wire:
    """The query protocol, as botocore describes it."""

    @cached_property
    def _service(self) -> Any:
        return botocore.session.get_session().get_service_model("rds")

    def read(self, body: str) -> tuple[str, dict[str, Any]]:
        sent = dict(parse_qsl(body))
        operation = sent.pop("Action")
        sent.pop("Version")
        shape = self._service.operation_model(operation).input_shape
        return operation, self._structure(shape, sent)

    def _structure(self, shape: Any, sent: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in sent.items():
            name, _, rest = key.partition(".")
            if name not in shape.members:
                raise RefusedError("InvalidParameterCombination", message=f"there is no {name}")
            member = shape.members[name]
            if rest:
                found.setdefault(name, []).append(value)
            else:
                convert = {"integer": int, "boolean": lambda text: text == "true"}.get(member.type_name, str)
                found[name] = convert(value)  # type: ignore[operator]
        return found

    def written(self, operation: str, answer: dict[str, Any]) -> str:
        model = self._service.operation_model(operation)
        inner = self._xml(model.output_shape, answer)
        result = f"<{operation}Result>{inner}</{operation}Result>"
        return f'<{operation}Response xmlns="{NAMESPACE}">{result}</{operation}Response>'

    def _xml(self, shape: Any, value: Any) -> str:
        if shape.type_name == "structure":
            unknown = set(value) - set(shape.members)
            assert not unknown, f"RDS answers no {unknown}"
            return "".join(f"<{key}>{self._xml(shape.members[key], item)}</{key}>" for key, item in value.items())
        if shape.type_name == "list":
            name = shape.member.serialization.get("name", "member")
            return "".join(f"<{name}>{self._xml(shape.member, item)}</{name}>" for item in value)
        if isinstance(value, bool):
            return str(value).lower()
        return escape(value.isoformat() if isinstance(value, datetime) else str(value))


@contextmanager
def playing(player: RdsPlayer) -> Iterator[str]:
    """Its address."""
    wire, lock = _Wire(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            assert f"/{player.region}/rds/" in self.headers["Authorization"], "signed for the player's region"
            status = 200
            with lock:
                try:
                    operation, parameters = wire.read(body)
                    text = wire.written(operation, player.answer(operation, parameters))
                except RefusedError as exc:
                    status = exc.status
                    error = f"<Type>Sender</Type><Code>{exc.code}</Code><Message>{escape(str(exc))}</Message>"
                    text = f'<ErrorResponse xmlns="{NAMESPACE}"><Error>{error}</Error></ErrorResponse>'
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
