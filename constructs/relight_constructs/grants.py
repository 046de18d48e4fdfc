"""What a construct needs of others, so that it can be composed with anybody's: each is one grant. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from relight_constructs.policies import Grantee


class Readable(Protocol):
    """Something to read, such as a secret."""

    def grant_read(self, grantee: Grantee) -> None:
        """Read it."""
        ...


class Scalable(Protocol):
    """Something that a recovery scales, such as an ECS service."""

    def grant_scale(self, grantee: Grantee) -> None:
        """Change and watch how many run."""
        ...


class Startable(Protocol):
    """A service whose tasks start. `cluster_arn` and `name` are what its events name it by."""

    @property
    def cluster_arn(self) -> str:
        """Its cluster."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...


class Invocable(Protocol):
    """Something that a schedule calls: a function, or a state machine. `verb` names what it does."""

    @property
    def arn(self) -> str:
        """Its ARN."""
        ...

    @property
    def verb(self) -> str:
        """What it does, in a word that names roles."""
        ...

    def grant_invoke(self, grantee: Grantee) -> None:
        """Call it."""
        ...


class Tellable(Protocol):
    """A topic that people are told by."""

    @property
    def arn(self) -> str:
        """Its ARN."""
        ...
