"""Application Auto Scaling of the emulator, which has none of its own.

It keeps the bounds that are registered, and checks them as AWS does; nothing scales by itself here, because nothing
measures the load of a drill's agents. Whoever calls it is authorized by the emulator like every other caller.

For the interpreter of the emulator's own environment; imports nothing of the project, and gets the emulator's modules.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

SERVICE = "application-autoscaling"
KEY = ("ServiceNamespace", "ResourceId", "ScalableDimension")


def install(app: Any, iam_actions: Any, responses: Any) -> None:
    """Let the emulator serve it, and know what its calls are about."""
    app.SERVICE_HANDLERS[SERVICE] = Scaling(responses).handle
    iam_actions.SERVICE_TO_IAM_NAMESPACE[SERVICE] = SERVICE
    known = iam_actions.extract_resource_arn

    def extract(service: str, *request: Any) -> Any:
        return _resource(*request) if service == SERVICE else known(service, *request)

    iam_actions.extract_resource_arn = extract


def _resource(
    _method: str, _path: str, _headers: Any, body: bytes, _query: Any, region: str, account: str, *_: Any
) -> str:
    """A call that names a target is about it; one that lists them is about none."""
    said = json.loads(body or b"{}")
    return _arn(said, region, account) if said.keys() >= {*KEY} else "*"


def _arn(said: dict[str, Any], region: str, account: str) -> str:
    number = hashlib.sha256("/".join(said[name] for name in KEY).encode()).hexdigest()[:32]
    return f"arn:aws:{SERVICE}:{region}:{account}:scalable-target/{number}"


class RefusedError(Exception):
    """AWS's name for a refusal, and what is wrong."""


class Scaling:
    """The scalable targets of every account and region."""

    def __init__(self, responses: Any) -> None:
        self._responses = responses
        self._targets = responses.AccountRegionScopedDict()

    async def handle(self, _method: str, _path: str, headers: dict[str, str], body: bytes, _query: Any) -> Any:
        """Serve one call."""
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        calls = {"RegisterScalableTarget": self._register, "DescribeScalableTargets": self._describe}
        try:
            if operation not in calls:
                raise RefusedError("UnknownOperationException", f"the drill does not play {operation}")
            return self._responses.json_response(calls[operation](json.loads(body or b"{}")))
        except RefusedError as exc:
            return self._responses.error_response_json(*exc.args)

    def _register(self, said: dict[str, Any]) -> dict[str, Any]:
        """What is left out of a target that is there already stays as it was."""
        key = "/".join(said[name] for name in KEY)
        bounds = {name: said[name] for name in ("MinCapacity", "MaxCapacity") if name in said}
        target = {**self._targets.get(key, {}), **{name: said[name] for name in KEY}, **bounds}
        if not target.keys() >= {"MinCapacity", "MaxCapacity"}:
            raise RefusedError("ValidationException", f"{key} is new, and has no minimum or no maximum")
        least, most = target["MinCapacity"], target["MaxCapacity"]
        if not 0 <= least <= most:
            raise RefusedError("ValidationException", f"{key} cannot have at least {least} and at most {most}")
        target["ScalableTargetARN"] = _arn(said, self._responses.get_region(), self._responses.get_account_id())
        self._targets[key] = target
        return {"ScalableTargetARN": target["ScalableTargetARN"]}

    def _describe(self, said: dict[str, Any]) -> dict[str, Any]:
        ids, dimension = said.get("ResourceIds"), said.get("ScalableDimension")
        return {
            "ScalableTargets": [
                target
                for target in self._targets.values()
                if target["ServiceNamespace"] == said["ServiceNamespace"]
                and (not ids or target["ResourceId"] in ids)
                and dimension in (None, target["ScalableDimension"])
            ]
        }
