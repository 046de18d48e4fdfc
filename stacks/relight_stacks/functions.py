"""The Lambda functions of a region: each with the region's settings, key and network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import AssetType, TerraformAsset
from relight_constructs.bundle import content_hash
from relight_constructs.function import Function
from relight_constructs.props import Code, FunctionProps, ScheduleProps
from relight_constructs.timeouts import LONGEST_S as LONGEST_S
from relight_constructs.triggers import Schedule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from relight.config import Settings
    from relight_constructs.deadletters import DeadLetters
    from relight_constructs.key import Key
    from relight_constructs.props import Attachment
    from relight_stacks.stack import HomeStack


def code_of(stack: HomeStack, id_: str, bundle: Path) -> Code:
    """The zip, which is put beside the stack's JSON."""
    asset = TerraformAsset(stack, id_, path=str(bundle), type=AssetType.FILE)
    return Code(path=asset.path, sha256=content_hash(bundle))


class Functions:
    """Makes the functions of one stack, and the schedules that call them."""

    def __init__(
        self,
        stack: HomeStack,
        *,
        settings: Settings,
        key: Key,
        dead_letters: DeadLetters,
        attachment: Attachment,
        bundle: Path,
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._key = key
        self._dead_letters = dead_letters
        self._attachment = attachment
        self.bundle = code_of(stack, "bundle", bundle)

    def make(
        self,
        verb: str,
        *,
        timeout_s: int,
        networked: bool,
        at_once: int | None = None,
        dropped_after_s: int | None = None,
        code: Code | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Function:
        """Add the function that does `verb`; `networked` when it talks to the region's own servers, or must see what
        the agent sees. With `dropped_after_s` a call that has waited for so long is dropped. `code` is the region's own
        bundle unless given, `more` are variables of its own."""
        return Function(
            self._stack,
            verb,
            FunctionProps(
                place=self._stack.home,
                name=self._stack.names.function(verb),
                verb=verb,
                code=code or self.bundle,
                environment={**self._settings.to_env(), **(more or {})},
                timeout_s=timeout_s,
                logs_key=self._key,
                dead_letters=self._dead_letters,
                network=self._attachment if networked else None,
                at_once=at_once,
                dropped_after_s=dropped_after_s,
            ),
        )

    def schedule(self, function: Function, *, rate: str, late_s: int) -> None:
        """Call `function` at `rate`."""
        verb = function.node.id
        Schedule(
            self._stack,
            f"{verb}-schedule",
            ScheduleProps(
                place=self._stack.home,
                name=self._stack.names.schedule(verb),
                rate=rate,
                function=function,
                late_s=late_s,
                dead_letters=self._dead_letters,
            ),
        )
