"""What docs/providers.md says: its code runs, its tables are the defaults, its links lead somewhere."""

from __future__ import annotations
import __future__

import asyncio
import dataclasses
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from relight.providers import open as opening
from relight.providers.prompts import Prompt, Prompts
from relight.providers.spec import Api, ProviderLimits, ProviderSpec, check_specs, provider_key
from relight.tasks.waiting import wake_on_close
from relight_drill.llm import PlayedAnthropic, PlayedOpenAI, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relight.providers.port import Provider

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "providers.md"
TEXT = GUIDE.read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


class Run:
    """A life of a task whose steps are not stored."""

    def __init__(self, **payload: str) -> None:
        self.task = SimpleNamespace(id="t", payload=payload)
        self.effects: list[Any] = []

    def run(self, name: str, fn: Callable[[], Any]) -> Any:
        return fn()

    def effect(self, tool: object, request: Any) -> None:
        self.effects.append(request)


@pytest.fixture
def cloud() -> Iterator[PlayedAnthropic]:
    with PlayedAnthropic() as played:
        yield played


@pytest.fixture
def local() -> Iterator[PlayedOpenAI]:
    with PlayedOpenAI(compatible=True) as played:
        yield played


@pytest.fixture
def guide(
    cloud: PlayedAnthropic, local: PlayedOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The names that the guide's code has in the end, run from its top against played providers."""
    real = opening.open_provider

    def played(spec: ProviderSpec, key: str = "") -> Provider:
        base_url = cloud.base_url if spec.api is Api.ANTHROPIC else local.base_url
        return real(dataclasses.replace(spec, base_url=base_url), key)

    monkeypatch.setattr(opening, "open_provider", played)
    monkeypatch.chdir(tmp_path)
    Path("prompts.toml").write_text(blocks("toml")[1], "utf-8")
    names: dict[str, Any] = {
        "region": Mock(),
        "prompts": None,
        "key": cloud.key,
        "agent": SimpleNamespace(careful=False),
        "mail": object(),
        "READER": "you@home.example",
        "ledger": Mock(wake=Mock(return_value=0)),
        "wake_on_close": wake_on_close,
        "Path": Path,
        "Prompt": Prompt,
        "Prompts": Prompts,
    }
    for code in blocks("python"):
        if "async_router = AsyncRouter(providers" in code:
            names["providers"] = [
                names["open_provider"](names["CLOUD"], cloud.key),
                names["open_provider"](names["LOCAL"]),
            ]
        exec(compile(code, str(GUIDE), "exec", __future__.annotations.compiler_flag), names)
    yield names
    names["router"].close()


def test_the_guides_code_runs(guide: dict[str, Any], cloud: PlayedAnthropic, local: PlayedOpenAI) -> None:
    """fails when the guide shows what the library has not, or does not do."""
    assert guide["shown"] == guide["answer"].text == "You said: Tell me a story."
    run = Run(topic="json", claim="c")
    assert guide["report"](run) == {"text": "You said: Write a report on json."}
    assert run.effects[0]["body"] == "You said: Write a report on json."
    assert guide["judge_claim"](run)["text"].startswith("You said: Is this claim justified?")
    assert guide["prompts"].render(guide["request"].system, provider="local").startswith("Topic: json. Reply with JSON")
    assert local.asked == []


def test_the_guides_hook_is_called(guide: dict[str, Any], cloud: PlayedAnthropic, local: PlayedOpenAI) -> None:
    """A degraded answer is one, and the agent is told once, and once more when it is over."""

    class AsyncRun(Run):
        async def run(self, name: str, fn: Callable[[], Any]) -> Any:
            return await fn()

    async def scenario() -> None:
        cloud.trouble = Trouble.SERVER_ERROR
        await guide["report_async"](AsyncRun(topic="json"))
        assert guide["agent"].careful
        cloud.trouble = None
        await guide["report_async"](AsyncRun(topic="json"))
        assert not guide["agent"].careful
        await guide["async_router"].close()

    asyncio.run(scenario())
    assert len(local.bill) == 1


def test_the_guides_providers_are_providers() -> None:
    """The TOML is what the settings take."""
    tables = tomllib.loads(blocks("toml")[0])["providers"]
    check_specs([ProviderSpec(**{**table, "api": Api(table["api"])}) for table in tables])


@pytest.mark.parametrize("kind", [ProviderSpec, ProviderLimits], ids=lambda kind: kind.__name__)
def test_the_tables_are_the_defaults(kind: type) -> None:
    """fails when a limit has another default than the guide says, or is not there."""
    told: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`[^|]*) \| ([^| ]*) \|", TEXT, re.MULTILINE):
        told |= dict.fromkeys(re.findall(r"`(\w+)`", names), default)
    real = {item.name: item.default for item in dataclasses.fields(kind) if item.name in told}
    assert {name: str(default).lower().removesuffix(".0") for name, default in real.items()} == {
        name: told[name] for name in real
    }
    if kind is ProviderLimits:
        assert [*real] != []
        assert {item.name for item in dataclasses.fields(kind)} == {*real}


def test_what_the_guide_names_is_there() -> None:
    """Its links lead to files; what a task waits for is called as it says."""
    assert f"`{provider_key('anthropic')}`" in TEXT
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (GUIDE.parent / link).exists(), link
