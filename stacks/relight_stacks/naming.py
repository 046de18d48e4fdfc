"""Every name that more than one stack, or more than one region, must agree on. Pure: nothing here starts node.

Names are computed rather than referred to, so that the standby's stack needs no state and no API of the primary.
"""

from __future__ import annotations

from dataclasses import dataclass

from relight.config import Role


def function_name(environment: str, verb: str) -> str:
    """The Lambda function of an environment that does `verb`, one in each region that has it."""
    return f"relight-{environment}-{verb}"


def in_region(text: str, region: str) -> str:
    """An image or an address that each region has of its own, as `region` has it: `{region}` stands for its name."""
    return text.replace("{region}", region)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of one environment's resources."""

    environment: str
    account: str
    primary_region: str
    standby_region: str
    domain: str

    @property
    def prefix(self) -> str:
        """What every name of the environment starts with."""
        return f"relight-{self.environment}"

    def region(self, role: Role) -> str:
        """The region deployed as `role`."""
        return self.primary_region if role is Role.PRIMARY else self.standby_region

    def stack(self, part: str) -> str:
        """The id of the stack for `part`: vault, primary, standby, dns or rehearsal."""
        return f"{self.environment}-{part}"

    def state_bucket(self, region: str) -> str:
        """The bucket that holds Terraform's state of the stacks whose home is `region`; made beforehand."""
        return f"{self.prefix}-state-{self.account}-{region}"

    def vault_bucket(self, region: str) -> str:
        """The vault of `region`."""
        return f"{self.prefix}-vault-{self.account}-{region}"

    @property
    def lease_bucket(self) -> str:
        """The bucket of the epoch and the lease."""
        return f"{self.prefix}-lease-{self.account}-{self.lease_region}"

    @property
    def lease_region(self) -> str:
        """Where the epoch and the lease live: the standby, as long as there is no witness region."""
        return self.standby_region

    @property
    def vault_key_alias(self) -> str:
        """The alias of the key that encrypts a region's vault, the same in each region."""
        return f"alias/{self.prefix}-vault"

    @property
    def operations_key_alias(self) -> str:
        """The alias of the key that encrypts a region's secrets, logs and messages."""
        return f"alias/{self.prefix}-operations"

    @property
    def signing_key_alias(self) -> str:
        """The alias of the key that signs recovery points, the same in each region, and so is the key."""
        return f"alias/{self.prefix}-signing"

    @property
    def connections_secret(self) -> str:
        """The secret that tells how to reach a region's own servers, one in each region."""
        return f"relight/{self.environment}/connections"

    @property
    def vector_password_secret(self) -> str:
        """The secret that a region's own vector database takes its password from when it starts empty."""
        return f"relight/{self.environment}/vector-password"

    @property
    def queue_password_secret(self) -> str:
        """The secret that a region's own queue takes its password from when it starts."""
        return f"relight/{self.environment}/queue-password"

    @property
    def vault_keys_secret(self) -> str:
        """The secret with the keys of the vaults that are not in AWS, one in each region."""
        return f"relight/{self.environment}/vault-keys"

    @property
    def provider_keys_secret(self) -> str:
        """The secret with the keys of LLM providers, where Relight writes the connections itself."""
        return f"relight/{self.environment}/provider-keys"

    @property
    def pagerduty_secret(self) -> str:
        """The secret with the routing key of the service that is paged, one in each region."""
        return f"relight/{self.environment}/pagerduty"

    def dashboard(self, region: str) -> str:
        """The dashboard of `region`. Dashboards are an account's and of no region, so the region is part of it."""
        return f"{self.prefix}-{region}"

    @property
    def state_password_secret(self) -> str:
        """The secret with the password of the state database's master user, replicated to the standby."""
        return f"relight/{self.environment}/state-password"

    @property
    def state(self) -> str:
        """The state database: the same name in both regions, of an instance or of a cluster."""
        return f"{self.prefix}-state"

    @property
    def state_arn(self) -> str:
        """The ARN of the primary's instance."""
        return f"arn:aws:rds:{self.primary_region}:{self.account}:db:{self.state}"

    @property
    def backups_key_alias(self) -> str:
        """The alias of the key that encrypts the state database's backups where they are copied to."""
        return f"alias/{self.prefix}-backups"

    @property
    def cluster(self) -> str:
        """The ECS cluster, one in each region."""
        return self.prefix

    def family(self, service: str) -> str:
        """The task definition family of an ECS service."""
        return f"{self.prefix}-{service}"

    def function(self, verb: str) -> str:
        """The Lambda function that does `verb`."""
        return function_name(self.environment, verb)

    def schedule(self, verb: str) -> str:
        """The schedule that calls the function that does `verb`."""
        return f"{self.prefix}-{verb}"

    @property
    def inner_domain(self) -> str:
        """The private zone of a region's own servers, one in each region's network."""
        return f"{self.prefix}.internal"

    @property
    def vector_host(self) -> str:
        """Where a region's own vector store is reached, whatever task it is."""
        return f"vector.{self.inner_domain}"

    @property
    def queue_host(self) -> str:
        """Where a region's own queue is reached, on 4222, as the user `relight`."""
        return f"nats.{self.inner_domain}"

    @property
    def state_machine(self) -> str:
        """The state machine that recovers."""
        return f"{self.prefix}-recovery"

    @property
    def state_machine_arn(self) -> str:
        """Its ARN."""
        return f"arn:aws:states:{self.standby_region}:{self.account}:stateMachine:{self.state_machine}"

    @property
    def rehearsal(self) -> str:
        """What every name of the place for rehearsals starts with; its cluster and its state machine are called so."""
        return f"{self.prefix}-rehearsal"

    @property
    def rehearsal_machine_arn(self) -> str:
        """The ARN of the state machine that rehearses."""
        return f"arn:aws:states:{self.standby_region}:{self.account}:stateMachine:{self.rehearsal}"

    @property
    def rehearsal_key_alias(self) -> str:
        """The alias of the key that encrypts what is in the place for rehearsals."""
        return f"alias/{self.rehearsal}"

    @property
    def rehearsal_password_secret(self) -> str:
        """The secret that the store of a rehearsal takes its password from."""
        return f"relight/{self.environment}/rehearsal-password"

    @property
    def incidents_topic(self) -> str:
        """The topic that people are told by."""
        return f"{self.prefix}-incidents"

    def incidents_topic_arn(self, region: str) -> str:
        """The ARN of the one in `region`."""
        return f"arn:aws:sns:{region}:{self.account}:{self.incidents_topic}"

    def provider_alarm(self, provider: str) -> str:
        """The alarm that tells that the standby cannot ask an LLM provider."""
        return f"{self.prefix}-provider-{provider}"

    @property
    def service_host(self) -> str:
        """The one name that callers of the agent use."""
        return f"agent.{self.environment}.{self.domain}"

    def endpoint_host(self, role: Role) -> str:
        """The name of one region's own endpoint."""
        return f"{role}.{self.service_host}"
