"""PostgreSQL through psycopg2: connections that give up in time, and errors from the one tree."""

from __future__ import annotations

import ipaddress
import os
import select
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions

from relight.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    LeaseLostError,
    NotFoundError,
    PermanentError,
    ReadOnlyModeError,
    RelightError,
    StaleEpochError,
    TransientError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relight.adapters.watchdog import Watchdog

Connection = psycopg2.extensions.connection
Cursor = psycopg2.extensions.cursor

# Seconds to reach a server, and milliseconds that sent data may go unacknowledged before the connection counts as dead.
CONNECT_TIMEOUT_S = 3
TCP_USER_TIMEOUT_MS = 10_000

# By SQLSTATE: a whole class (two characters) unless the code itself is listed. "RL" is ours, raised by our triggers.
BY_SQLSTATE: dict[str, type[RelightError]] = {
    "RL": ConflictError,
    "RL001": StaleEpochError,
    "RL002": LeaseLostError,
    "RL003": ReadOnlyModeError,
    "00": PermanentError,
    "01": PermanentError,
    "02": NotFoundError,
    "03": PermanentError,
    "08": UnavailableError,
    "08P01": PermanentError,  # protocol violation
    "09": PermanentError,
    "0A": PermanentError,
    "0B": PermanentError,
    "0F": PermanentError,
    "0L": DeniedError,
    "0P": DeniedError,
    "0Z": PermanentError,
    "10": PermanentError,
    "20": PermanentError,
    "21": PermanentError,
    "22": PermanentError,
    "23": IntegrityError,
    "23505": ConflictError,  # unique violation
    "23P01": ConflictError,  # exclusion violation
    "24": PermanentError,
    "25": PermanentError,
    "25006": TransientError,  # read-only: a standby that is not promoted yet, or a primary that was demoted
    "25P03": UnavailableError,  # the server ended an idle transaction, and the connection with it
    "25P04": UnavailableError,
    "26": PermanentError,
    "27": PermanentError,
    "28": DeniedError,
    "2B": PermanentError,
    "2D": PermanentError,
    "2F": PermanentError,
    "34": PermanentError,
    "38": PermanentError,
    "39": PermanentError,
    "3B": PermanentError,
    "3D": NotFoundError,
    "3F": NotFoundError,
    "40": TransientError,  # serialization, deadlock, and on a standby the conflict with recovery
    "40002": IntegrityError,
    "42": PermanentError,
    "42501": DeniedError,
    "42701": ConflictError,
    "42704": NotFoundError,
    "42710": ConflictError,
    "42723": ConflictError,
    "42703": NotFoundError,
    "42883": NotFoundError,
    "42P01": NotFoundError,
    "42P04": ConflictError,
    "42P06": ConflictError,
    "42P07": ConflictError,
    "44": PermanentError,
    "53": UnavailableError,  # too many connections, out of memory, disk full
    "54": PermanentError,
    "55": PermanentError,
    "55006": TransientError,  # object in use
    "55P03": TransientError,  # lock not available
    "57": UnavailableError,  # shutting down, starting up, a statement cancelled by its time limit
    "57P04": NotFoundError,  # database dropped
    "58": UnavailableError,  # the server's own I/O
    "58P01": PermanentError,
    "58P02": PermanentError,
    "72": TransientError,  # snapshot too old
    "F0": PermanentError,
    "HV": PermanentError,
    "P0": PermanentError,
    "XX": PermanentError,
    "XX001": IntegrityError,
    "XX002": IntegrityError,
}

# What psycopg2 raises without a SQLSTATE: first match wins. The connection is gone for the first two.
BY_CLASS: tuple[tuple[type[Exception], type[RelightError]], ...] = (
    (psycopg2.OperationalError, UnavailableError),
    (psycopg2.InterfaceError, UnavailableError),
    (psycopg2.ProgrammingError, PermanentError),
    (psycopg2.NotSupportedError, PermanentError),
    (psycopg2.IntegrityError, IntegrityError),
    (psycopg2.DataError, PermanentError),
    (psycopg2.InternalError, PermanentError),
    (psycopg2.DatabaseError, UnavailableError),  # libpq lost the thread of the protocol
    (psycopg2.Error, PermanentError),
)


def error_for(exc: psycopg2.Error) -> RelightError:
    """The error of our tree that `exc` means. The text is the server's primary message, without its detail."""
    code = exc.pgcode
    if code:
        kind = BY_SQLSTATE.get(code) or BY_SQLSTATE.get(code[:2], PermanentError)
        return kind(f"postgres refused: {exc.diag.message_primary or type(exc).__name__} ({code})")
    kind = next(ours for theirs, ours in BY_CLASS if isinstance(exc, theirs))
    text = " ".join(str(exc).split()) or type(exc).__name__
    return kind(f"postgres: {text}")


@contextmanager
def translating() -> Iterator[None]:
    """Turn psycopg2's errors into Relight's, with the driver's as the cause. Also works as a decorator."""
    try:
        yield
    except psycopg2.Error as exc:
        raise error_for(exc) from exc


def connect(dsn: str, *, autocommit: bool = False, application_name: str = "relight") -> Connection:
    """Open a connection that gives up in time; what the DSN itself says wins over the defaults.

    The DSN may name several hosts (`host=a,b port=5432,5433`), which are tried in their order, each for its own
    `connect_timeout`; with `target_session_attrs=read-write` the first that takes writes is used.

    Raises ConfigError for a DSN that cannot be read (never quoting it: it holds a password), UnavailableError when
    nobody answers. libpq reports a wrong password without a SQLSTATE, so that too is UnavailableError, with its text.
    """
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "application_name": application_name,
    } | _parse(dsn)
    with translating():
        connection: Connection = psycopg2.connect(**arguments)
        connection.autocommit = autocommit
    return connection


def host_of(dsn: str) -> str:
    """The host that a DSN names; ConfigError for one that cannot be read."""
    return _parse(dsn).get("host", "")


def with_host(dsn: str, host: str) -> str:
    """The same DSN with another host; ConfigError for one that cannot be read."""
    _parse(dsn)
    moved: str = psycopg2.extensions.make_dsn(dsn, host=host)
    return moved


def _parse(dsn: str) -> dict[str, str]:
    hint = "give a libpq connection string or a postgresql:// address; percent-encode odd characters of the password"
    try:
        parsed: dict[str, str] = psycopg2.extensions.parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        raise ConfigError("the connection string cannot be read", hint=hint) from None
    # libpq quotes these two in its errors, and an unescaped password would be part of them.
    ports, hosts = parsed.get("port", "").split(","), parsed.get("host", "").split(",")
    if any(port and not port.isdigit() for port in ports) or not all(map(_is_plain, hosts)):
        raise ConfigError("the connection string has no plain host and port", hint=hint)
    return parsed


def _is_plain(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return not any(mark in host for mark in "@: ")


@contextmanager
def deadline(connection: Connection, seconds: float, *, watchdog: Watchdog) -> Iterator[None]:
    """Break the connection when the block takes longer: the call in it then raises UnavailableError.

    A server that accepts and then says nothing keeps its TCP acknowledgements coming, so neither keepalives nor
    tcp_user_timeout end the wait, and psycopg2 has no read timeout of its own.
    """
    alarm = watchdog.arm(seconds, lambda: _break_off(connection))
    try:
        with translating():
            yield
    except UnavailableError as exc:
        if not watchdog.disarm(alarm):
            raise UnavailableError(f"postgres said nothing for {seconds:g} s, and was given up") from exc
        raise
    finally:
        # Only then may the connection be closed: the descriptor's number could be another's by the time it is broken.
        watchdog.disarm(alarm)


def _break_off(connection: Connection) -> None:
    if connection.closed == 0:
        with socket.socket(fileno=os.dup(connection.fileno())) as wire, suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)


def has_word(connection: Connection) -> bool:
    """Whether the server has said something that nobody asked for, which on an idle connection is that it ends.

    Asks the socket alone, in microseconds. A server that vanished without a word is not noticed.
    """
    try:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except (psycopg2.Error, OSError):
        return True


def is_read_only(connection: Connection) -> bool:
    """Whether the server, when it last answered, would have refused to write: a replica, or a primary told not to."""
    status = connection.info.parameter_status
    return "on" in (status("in_hot_standby"), status("default_transaction_read_only"))


def wants_writable(connection: Connection) -> bool:
    """Whether the DSN asks for a server that takes writes (`target_session_attrs=read-write` or `primary`)."""
    return connection.info.dsn_parameters.get("target_session_attrs") in ("read-write", "primary")
