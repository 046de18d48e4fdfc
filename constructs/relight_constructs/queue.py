"""The queue's servers: NATS with JetStream, which loses nothing that a recovery could not rebuild from the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.balancer import Health
from relight_constructs.bindings import Construct
from relight_constructs.nats import CLIENTS, HEALTH_PATH, MONITOR, PASSWORD, ROUTES, STORE, Node, script
from relight_constructs.props import ServiceProps, VolumeProps
from relight_constructs.services import Service

if TYPE_CHECKING:
    from relight_constructs.props import QueueProps


class NatsQueue(Construct):
    """Define one ECS service for each node, in turn in the network's zones, each with a volume of its own.

    The agents and the functions reach them under one name. A node that starts anew starts empty, and gets its streams
    from the others; a single one gets its messages from the ledger.
    """

    def __init__(self, scope: Construct, id_: str, props: QueueProps) -> None:
        super().__init__(scope, id_)
        network, inner = props.network, props.inner
        inner.name("nats", props.host)
        clients = inner.serve("nats", group="queue", port=CLIENTS, health=Health(port=MONITOR, path=HEALTH_PATH))
        for who in ("agent", "functions"):
            network.admit(who, to="inner", port=CLIENTS)
        clustered = props.nodes > 1
        self.services: list[Service] = []
        for number in range(props.nodes):
            node = Node(number=number, nodes=props.nodes, host=props.host, storage_gib=props.storage_gib)
            targets = [clients]
            if clustered:
                network.admit("queue", to="inner", port=ROUTES + number)
                targets.append(inner.serve(node.name, group="queue", port=ROUTES, listen=ROUTES + number))
            self.services.append(
                Service(
                    self,
                    node.name,
                    ServiceProps(
                        place=props.place,
                        cluster=props.cluster,
                        name=node.name,
                        family=f"{props.place.prefix}-{node.name}",
                        image=props.image,
                        entry_point=("/bin/sh", "-c"),
                        command=(script(node.config()),),
                        cpu=props.cpu,
                        memory=props.memory,
                        desired_count=1 if number < props.running else 0,
                        ports=(CLIENTS, MONITOR, ROUTES) if clustered else (CLIENTS, MONITOR),
                        network=network.attachment("queue", zone=number),
                        logs_key=props.key,
                        secrets={PASSWORD: props.password},
                        volume=VolumeProps(path=STORE, size_gib=props.storage_gib, key=props.key),
                        health_command=f"wget -q --spider 'http://127.0.0.1:{MONITOR}{HEALTH_PATH}'",
                        targets=tuple(targets),
                        alone=True,
                        log_retention_days=props.log_retention_days,
                    ),
                )
            )
