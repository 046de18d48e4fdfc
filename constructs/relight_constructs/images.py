"""The images that a standby starts from, in its own region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    Construct,
    EcrReplicationConfiguration,
    EcrReplicationConfigurationReplicationConfiguration,
    EcrReplicationConfigurationReplicationConfigurationRule,
    EcrReplicationConfigurationReplicationConfigurationRuleDestination,
    EcrReplicationConfigurationReplicationConfigurationRuleRepositoryFilter,
)

if TYPE_CHECKING:
    from relight_constructs.props import ImagesProps


class ReplicatedImages(Construct):
    """Define the copying of repositories to another region, from the next push on.

    A registry, which is an account's in a region, has one such configuration: a second would replace the first. What a
    filter names is a prefix, so `agent` copies `agent-tools` too.
    """

    def __init__(self, scope: Construct, id_: str, props: ImagesProps) -> None:
        super().__init__(scope, id_)
        EcrReplicationConfiguration(
            self,
            "replication",
            replication_configuration=EcrReplicationConfigurationReplicationConfiguration(
                rule=[
                    EcrReplicationConfigurationReplicationConfigurationRule(
                        destination=[
                            EcrReplicationConfigurationReplicationConfigurationRuleDestination(
                                region=props.region, registry_id=props.account
                            )
                        ],
                        repository_filter=[
                            EcrReplicationConfigurationReplicationConfigurationRuleRepositoryFilter(
                                filter=repository, filter_type="PREFIX_MATCH"
                            )
                            for repository in props.repositories
                        ],
                    )
                ]
            ),
        )
