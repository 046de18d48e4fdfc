"""Fixtures for every test; the servers start only when a test asks for one."""

import signal

import pytest

# So that their failures say what was compared.
pytest.register_assert_rewrite(
    "example_lives", "memory_helpers", "point_helpers", "queue_contract", "vector_store_contract"
)

pytest_plugins = ["servers"]

# A shell lets what it starts in the background ignore interrupts, and so does all that this starts in turn.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Coroutines that are tests run on asyncio."""
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes begin first: a worker that met one last would end long after the others."""
    drills = {item.path for item in items if item.get_closest_marker("drill")}
    served = {item.path for item in items if item.get_closest_marker("servers")}
    items.sort(key=lambda item: (item.path not in drills, item.path not in served))
