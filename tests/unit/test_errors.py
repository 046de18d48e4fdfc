"""The tree of errors, and the translation of every driver error into it."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import psycopg2
import psycopg2.errorcodes
import psycopg2.errors
import pytest
from botocore import exceptions as botocore

from relight import errors
from relight.adapters import aws, postgres
from relight.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    RelightError,
    UnavailableError,
)

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RelightError)]
SQLSTATES = {
    value for name, value in vars(psycopg2.errorcodes).items() if name.isupper() and isinstance(value, str)
} - {"", psycopg2.errorcodes.__file__}


@pytest.mark.parametrize("kind", TREE)
def test_every_error_survives_pickling(kind: type[RelightError]) -> None:
    """Class, problem, hint and text are the same afterwards."""
    before = kind("got 3 points", hint="use another")
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert (after.problem, after.hint, str(after)) == ("got 3 points", "use another", "got 3 points; use another")
    assert after.retryable == issubclass(kind, errors.TransientError)


@pytest.mark.parametrize("code", sorted(SQLSTATES))
def test_every_sqlstate_of_the_driver_is_mapped(code: str) -> None:
    """fails when psycopg2 grows an error class that nobody decided about."""
    assert code in postgres.BY_SQLSTATE or code[:2] in postgres.BY_SQLSTATE


def test_every_exception_of_psycopg2_is_mapped() -> None:
    """fails when psycopg2 grows an exception beside those that its SQLSTATEs name."""
    kinds = [kind for _, kind in inspect.getmembers(psycopg2, inspect.isclass) if issubclass(kind, psycopg2.Error)]
    assert len(kinds) >= 9
    for kind in kinds:
        assert isinstance(postgres.error_for(kind("text")), RelightError)
        assert kind in dict(postgres.BY_CLASS)


BOTOCORE = [
    name
    for name, kind in inspect.getmembers(botocore, inspect.isclass)
    if issubclass(kind, botocore.BotoCoreError) and kind.__module__ == "botocore.exceptions"
]


@pytest.mark.parametrize("name", BOTOCORE)
def test_every_exception_of_botocore_is_mapped(name: str) -> None:
    """fails when botocore grows an exception that nobody decided about."""
    assert name in aws.BY_CLASS


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, NotFoundError),
        ("AccessDenied", 403, DeniedError),
        ("PreconditionFailed", 412, ConflictError),
        ("SlowDown", 503, UnavailableError),
        ("SomethingNew", 500, UnavailableError),
        ("SomethingNew", 429, UnavailableError),
        ("SomethingNew", 404, NotFoundError),
        ("SomethingNew", 400, errors.PermanentError),
        ("BadDigest", 400, IntegrityError),
    ],
)
def test_a_services_error_is_read_by_code_and_then_by_status(code: str, status: int, kind: type[RelightError]) -> None:
    """The text names the operation and the code."""
    response: Any = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(RelightError) as caught, aws.translating():
        raise botocore.ClientError(response, "PutObject")
    assert type(caught.value) is kind
    assert "PutObject" in str(caught.value)
    assert code in str(caught.value)


def test_a_closed_port_is_unavailable() -> None:
    """Nobody listening is something to try again."""
    with pytest.raises(UnavailableError):
        postgres.connect("host=127.0.0.1 port=1 user=u password=s3cret dbname=d")


@pytest.mark.parametrize(
    "dsn",
    [
        "host=127.0.0.1 pass s3cret",
        "postgresql://u:s3cret/x@127.0.0.1:5/d",
        "postgresql://u:p@s3cret@127.0.0.1/d",
        "postgresql://u:p:s3cret",
        "host=127.0.0.1 port=s3cret",
        "postgresql://u:pw%s3cret@127.0.0.1/d",
    ],
)
def test_a_bad_connection_string_is_never_quoted(dsn: str) -> None:
    """fails when a part of the password shows in the error, or in what caused it."""
    with pytest.raises(RelightError) as caught:
        postgres.connect(dsn)
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "s3cret" not in str(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    assert isinstance(caught.value, ConfigError)


def test_other_errors_pass_untouched() -> None:
    """fails when translating hides a bug."""
    with pytest.raises(ZeroDivisionError), postgres.translating(), aws.translating():
        _ = 1 / 0
