"""What a NATS server is told: its configuration, and the command that starts it with it. Pure.

The password is never part of either: the server's shell puts it in from the environment, into a file that only the
server can read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

USER = "relight"
CLIENTS = 4222
MONITOR = 8222
# The first node's port at the address that the nodes share; each listens on ROUTES itself.
ROUTES = 6222
STORE = "/data"
CONFIG = "/tmp/nats.conf"  # noqa: S108 - inside the container, whose disk nobody shares
PASSWORD = "RELIGHT_QUEUE_PASSWORD"  # noqa: S105 - a variable's name
# Answered also by a node that is catching up with the others: ECS would replace it by one that has more to catch
# up with.
HEALTH_PATH = "/healthz?js-enabled-only=true"

_GIB = 1 << 30


def node_name(number: int) -> str:
    """The name of a node, and of its service."""
    return f"nats-{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One of `nodes` servers that share the address `host`, at which the port of node N's routes is 6222 + N."""

    number: int
    nodes: int
    host: str
    storage_gib: int

    @property
    def name(self) -> str:
        """Its name among the nodes, and as a service."""
        return node_name(self.number)

    def config(self) -> dict[str, Any]:
        """Its configuration; `$RELIGHT_QUEUE_PASSWORD` stands where the password is to be.

        Every write is on the disk before it is acknowledged. The nodes tell neither clients nor each other of addresses
        that only they can reach.
        """
        found: dict[str, Any] = {
            "host": "0.0.0.0",  # noqa: S104 - the network's groups say who reaches it
            "port": CLIENTS,
            "http": f"0.0.0.0:{MONITOR}",
            "server_name": self.name,
            "jetstream": {
                "store_dir": STORE,
                "sync_interval": "always",
                "max_memory_store": 64 << 20,
                # The file system's own needs, and what is being compacted, beside it.
                "max_file_store": int(self.storage_gib * _GIB * 0.8),
            },
            "authorization": {"user": USER, "password": f"${PASSWORD}"},
            "lame_duck_duration": "30s",
            "write_deadline": "5s",
        }
        if self.nodes > 1:
            found["cluster"] = {
                "name": USER,
                "host": "0.0.0.0",  # noqa: S104 - as above
                "port": ROUTES,
                "authorization": {"user": USER, "password": f"${PASSWORD}"},
                "advertise": f"{self.host}:{ROUTES + self.number}",
                "no_advertise": True,
                "routes": [
                    f"nats://{USER}:${PASSWORD}@{self.host}:{ROUTES + other}"
                    for other in range(self.nodes)
                    if other != self.number
                ],
            }
        return found


def script(config: dict[str, Any], *, path: str = CONFIG) -> str:
    """What a POSIX shell does to start the server: write its configuration to `path`, and become it.

    The password may hold letters, digits, `-` and `_`: nothing that an address, or a text in quotes, reads otherwise.
    """
    # JSON is a subset of the server's own language, and nothing in this one but the password begins with a `$`.
    return f"""set -eu
case "${PASSWORD}" in
  '' | *[!A-Za-z0-9_-]*) echo 'the password of the queue must be letters, digits, - and _' >&2; exit 1 ;;
esac
umask 077
cat >{path} <<END
{json.dumps(config, indent=1)}
END
unset {PASSWORD}
exec nats-server --config {path}"""
