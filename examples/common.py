"""What both agents share: where their servers are, the lease of an only region, and how to die on demand."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.mail import Mail
from examples.web import SPEC
from relight.adapters import postgres
from relight.errors import ConfigError, RelightError
from relight.memory.api import Applier
from relight.tasks.effects import EffectStatus

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from relight.memory.store import VectorStore
    from relight.tasks.effects import Effects

PREFIX = "EXAMPLE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an agent's servers are, and how patient it is.

    A process gets it in its environment, because the addresses hold passwords. `claim_s` is how long the task of a
    worker that died waits for another, and more than twice `mail_s`; who lives renews its claim.
    """

    folder: Path
    state_dsn: str
    memory_dsn: str
    smtp_port: int
    imap_port: int = 0
    cloud_port: int = 0
    local_port: int = 0
    queue_url: str = ""
    environment: str = "hermes"
    claim_s: float = 12.0
    mail_s: float = 5.0
    begin_within_s: float = 10.0
    crash_after: str = ""

    def to_env(self) -> dict[str, str]:
        """Environment variables that `from_env` reads."""
        return {f"{PREFIX}{name.upper()}": str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_env(cls) -> Place:
        """The place that the environment describes."""
        kinds: dict[str, Callable[[str], Any]] = {"folder": Path}
        kinds |= dict.fromkeys(("smtp_port", "imap_port", "cloud_port", "local_port"), int)
        kinds |= dict.fromkeys(("claim_s", "mail_s", "begin_within_s"), float)
        found = {name: os.environ[key] for name in cls.__slots__ if (key := f"{PREFIX}{name.upper()}") in os.environ}
        if "state_dsn" not in found:
            raise ConfigError(f"{PREFIX}STATE_DSN is not set", hint="start the example by its `run`")
        return cls(**{name: kinds.get(name, str)(text) for name, text in found.items()})

    def mail(self) -> Mail:
        """The tool that sends the reports."""
        imap = ("127.0.0.1", self.imap_port) if self.imap_port else None
        return _MortalMail(self, smtp=("127.0.0.1", self.smtp_port), imap=imap, timeout_s=self.mail_s)

    def crash(self, step: str) -> None:
        """Die as by a power cut when this is the step that the user named; once a run, whoever comes there first."""
        if self.crash_after != step:
            return
        try:
            (self.folder / "crashed").touch(exist_ok=False)
        except FileExistsError:
            return
        say(f"  {step}: done. Killing myself (SIGKILL).")
        os.kill(os.getpid(), signal.SIGKILL)


class _MortalMail(Mail):
    """Dies, where the user asked for that, when the mail is out and nobody has written it down."""

    def __init__(self, place: Place, **named: Any) -> None:
        super().__init__(**named)
        self._place = place

    def send(self, request: dict[str, str], *, key: str) -> dict[str, str]:
        answer = super().send(request, key=key)
        self._place.crash("sending")
        return answer


class OnlyRegion:
    """The lease of an agent that has one region, no standby, and nobody who could relieve it.

    Where Relight is deployed, `Region.from_env().lease_keeper()` holds the real lease, and its epoch.
    """

    epoch = 1

    def check(self, for_s: float = 0.0) -> None:
        """It does not run out."""


def apply_journal(store: VectorStore, state_dsn: str) -> None:
    """Bring the vector store up to the journal. A search is right without it, and gets slower."""
    with closing(postgres.connect(state_dsn)) as state:
        Applier(store=store, spec=SPEC, state=state).catch_up()


def add_effects(parser: argparse.ArgumentParser) -> None:
    """Options as those of `relight effects resolve`."""
    parser.add_argument("--happened", metavar="KEY", help="you found out: that unknown effect did happen")
    parser.add_argument("--did-not-happen", metavar="KEY", help="you found out: it did not, and may be sent again")


def resolve(effects: Effects, args: argparse.Namespace) -> None:
    """Record what a person found out; the task goes on."""
    for key, happened in ((args.happened, True), (args.did_not_happen, False)):
        if key:
            effects.resolve(effects.named(key), happened=happened, who="the user")


def show_unknown(effects: Effects) -> None:
    """List what waits for a person, as `relight effects list` does."""
    for effect in effects.list([EffectStatus.UNKNOWN]):
        key = effect.key[:12]
        say(f"{effect.tool} {key} to {effect.request['to']} may or may not have happened: {effect.error}")
        say(f"  look whether it arrived, then: run --happened {key}, or: run --did-not-happen {key}")


@contextmanager
def plainly() -> Iterator[None]:
    """End the process with one line instead of a traceback when a server is gone, and quietly on Ctrl-C."""
    try:
        yield
    except RelightError as exc:
        raise SystemExit(str(exc)) from exc
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def log_to(path: Path) -> None:
    """What the library has to say goes into a file, for who wants to know."""
    logging.basicConfig(filename=path, format="%(asctime)s %(process)d %(levelname)s %(message)s")


def say(text: str) -> None:
    """Tell the user, at once."""
    print(text, flush=True)
