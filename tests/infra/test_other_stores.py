"""Environments whose vaults are in other stores: nothing of S3 is made for them, and Relight copies itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from synthesis import Synthesis

from relight.config import Role, Settings
from relight.errors import ConfigError
from relight.objectives import Tier
from relight.recovery.copying import LAG
from relight_stacks.costs import estimate
from relight_stacks.environment import OtherStore
from relight_stacks.loading import examples_folder, load_environment, load_named
from relight_stacks.promises import promises
from relight_stacks.settings import settings_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from relight_stacks.environment import Environment

R2 = OtherStore(endpoint="https://0123456789abcdef.r2.cloudflarestorage.com", bucket="our-points", lock_days=3)
GOOGLE = OtherStore(endpoint="https://storage.googleapis.com:8443", bucket="their-points", region="europe-west1")
PARTS = ("vault", "primary", "standby", "dns")


def elsewhere(name: str, tier: Tier, **other: OtherStore) -> Environment:
    """An example of that tier, under another name, with these vaults elsewhere."""
    found = load_named(tier.value, examples_folder())
    return replace(
        found, name=name, vaults=replace(found.vaults, other={Role(role): store for role, store in other.items()})
    )


ENVIRONMENTS = {
    item.name: item
    for item in (
        elsewhere("one", Tier.INTERNAL, standby=R2),
        elsewhere("first", Tier.BATCH, primary=GOOGLE),
        elsewhere("both", Tier.BATCH, primary=GOOGLE, standby=R2),
        elsewhere("alone", Tier.SANDBOX, standby=R2),
    )
}


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, bundle_file: Path) -> Mapping[str, Synthesis]:
    """The stacks of each, from one synthesis."""
    from relight_stacks.app import synthesize
    from relight_stacks.bundles import Bundles

    bundle = Bundles(region=bundle_file, providers=bundle_file)
    folder = tmp_path_factory.mktemp("other-stores")
    bundles = {item.memory.store: bundle for item in ENVIRONMENTS.values()}
    synthesize([*ENVIRONMENTS.values()], bundles=bundles, output=folder)
    return {name: _Stacks(folder, name) for name in ENVIRONMENTS}


class _Stacks(Synthesis):
    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for part in PARTS if (self.folder / "stacks" / f"{self.environment}-{part}").is_dir())


def buckets(stacks: Synthesis) -> dict[str, str]:
    """The buckets by the path of their construct."""
    return {path: body["bucket"] for path, body in stacks.resources("aws_s3_bucket").items()}


def policies(stacks: Synthesis, part: str, role: str) -> dict[str, list[dict[str, Any]]]:
    """The statements of a role, by the policy's name."""
    found = stacks.resources("aws_iam_role_policy", part=part)
    return {
        body["name"]: json.loads(body["policy"])["Statement"]
        for path, body in found.items()
        if path.startswith(f"{part}/{role}/")
    }


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("one", {"vault/lease/bucket/bucket", "vault/primary-vault/bucket/bucket"}),
        ("first", {"vault/lease/bucket/bucket", "vault/standby-vault/bucket/bucket"}),
        ("both", {"vault/lease/bucket/bucket"}),
        ("alone", {"vault/lease/bucket/bucket", "vault/primary-vault/bucket/bucket"}),
    ],
)
def test_no_bucket_and_no_replication_is_made(stacks: Mapping[str, Synthesis], name: str, made: set[str]) -> None:
    """The lease stays in AWS, under a key that the standby's other things find by its alias."""
    found = stacks[name]
    assert {*buckets(found)} == made
    assert found.resources("aws_s3_bucket_replication_configuration") == {}
    alias = f"alias/relight-{name}-vault"
    held = {path for path, body in found.resources("aws_kms_alias", part="vault").items() if body["name"] == alias}
    assert {path.split("/")[1] for path in held} == {
        *({path.split("/")[1] for path in made} - {"lease"}),
        *([] if "vault/standby-vault/bucket/bucket" in made else ["key"]),
    }


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_nothing_may_be_done_in_a_bucket_that_is_not_there(stacks: Mapping[str, Synthesis], name: str) -> None:
    """fails when a policy names the other store's bucket, or the one that Relight would have made in its place."""
    environment, found = ENVIRONMENTS[name], stacks[name]
    names = environment.names
    for role, other in environment.vaults.other.items():
        for path, body in found.resources("aws_iam_role_policy").items():
            assert other.bucket not in body["policy"], path
            assert names.vault_bucket(names.region(role)) not in body["policy"], path


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_whoever_uses_the_vault_may_read_its_keys_and_nothing_else_of_them(
    stacks: Mapping[str, Synthesis], name: str
) -> None:
    """The keys are in a secret of their own, so that who prunes learns no database's password; nobody may write it."""
    found = stacks[name]
    for part in ("primary", "standby"):
        if part not in found.parts:
            continue
        secret = found.one("aws_secretsmanager_secret", f"{part}/vault-keys/secret")
        assert secret["name"] == f"relight/{name}/vault-keys"
        own = Role(part) in ENVIRONMENTS[name].vaults.other
        for role in ("prune", "verify-points", "snapshot", "copy-points"):
            statements = policies(found, part, role).get("read-vault-keys", [])
            needed = own or role in ("snapshot", "copy-points")
            assert bool(statements) is needed, role
            for statement in statements[:1]:
                assert statement["Action"] == ["secretsmanager:GetSecretValue"]
                [arn] = statement["Resource"]
                assert arn.endswith(f":secret:relight/{name}/vault-keys-??????")
                assert f":{settings_for(ENVIRONMENTS[name], Role(part)).region}:" in arn
        assert "read-connections" not in policies(found, part, "prune")
        assert "read-connections" not in policies(found, part, "copy-points")


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_each_region_fetches_what_it_lacks(stacks: Mapping[str, Synthesis], name: str) -> None:
    """One at a time, outside the network, every five minutes; and people are told when that falls behind."""
    found, environment = stacks[name], ENVIRONMENTS[name]
    for part in ("primary", "standby"):
        if part not in found.parts:
            continue
        function = found.one("aws_lambda_function", f"{part}/copy-points/function")
        assert "dead_letter_config" not in function
        dropped = found.one("aws_lambda_function_event_invoke_config", f"{part}/copy-points/dropped")
        assert dropped["maximum_event_age_in_seconds"] == 300
        assert function["handler"] == "relight_lambdas.copy_points.handler"
        assert (function["reserved_concurrent_executions"], function["timeout"]) == (1, 900)
        assert "vpc_config" not in function
        settings = Settings.from_env(function["environment"]["variables"])
        assert settings.copies_points
        assert settings.vault_keys_secret == f"relight/{name}/vault-keys"
        schedule = found.one("aws_scheduler_schedule", f"{part}/copy-points-schedule/schedule")
        assert schedule["schedule_expression"] == "rate(5 minutes)"
        alarm = found.one("aws_cloudwatch_metric_alarm", f"{part}/copy-lag/alarm")
        assert (alarm["namespace"], alarm["metric_name"], alarm["treat_missing_data"]) == ("Relight", LAG, "breaching")
        assert alarm["threshold"] == max(900, environment.objectives.rpo_s / 2)
        assert alarm["dimensions"] == {"environment": name, "region": settings.region}
        statements = policies(found, part, "copy-points")
        assert "metrics" in statements
        own = Role(part) not in environment.vaults.other
        assert (f"copy-to-{part}-vault" in statements) is own
        both = not environment.shape.standby
        assert (f"copy-from-{part}-vault" in statements) is (own and both)


def test_where_nothing_is_elsewhere_nothing_is_copied(synthesis: Synthesis) -> None:
    """S3 replicates; the function and the secret would only be in the way."""
    paths = {path for _, _, path, _ in synthesis.every()}
    assert not [path for path in paths if "copy-points" in path or "vault-keys" in path or "copy-lag" in path]


def test_the_settings_say_where_each_vault_is() -> None:
    """Each region sees the same two vaults from its own side."""
    environment = ENVIRONMENTS["both"]
    primary, standby = (settings_for(environment, role) for role in Role)
    assert (primary.vault_endpoint, primary.vault_bucket) == (GOOGLE.endpoint, GOOGLE.bucket)
    assert (primary.vault_signs_for, primary.peer_vault_signs_for) == ("europe-west1", "auto")
    assert (primary.peer_vault_endpoint, primary.peer_vault_bucket) == (R2.endpoint, R2.bucket)
    assert (standby.vault_endpoint, standby.peer_vault_endpoint) == (R2.endpoint, GOOGLE.endpoint)
    one = settings_for(ENVIRONMENTS["one"], Role.PRIMARY)
    assert (one.vault_endpoint, one.peer_vault_endpoint) == ("", R2.endpoint)
    assert one.vault_bucket == ENVIRONMENTS["one"].names.vault_bucket(one.region)
    assert (standby.vault_holds_days, primary.vault_holds_days) == (3, 0)
    assert (one.lock_days > 0, settings_for(ENVIRONMENTS["one"], Role.STANDBY).lock_days) == (True, 0)


def test_a_port_of_its_own_is_let_out(stacks: Mapping[str, Synthesis]) -> None:
    """Where a store does not listen on 443, who has to do with the vault may reach the port that it does; so may a
    vector store that is to fetch what it restores."""
    rules = stacks["both"].resources("aws_vpc_security_group_egress_rule", part="primary")
    assert {path.rpartition("/")[2] for path, rule in rules.items() if rule.get("from_port") == 8443} == {
        f"{who}-out-8443" for who in ("agent", "functions", "vector")
    }
    elsewhere = stacks["first"].resources("aws_vpc_security_group_egress_rule", part="standby")
    assert "standby/network/vector-out-443" not in elsewhere, "its own vault is in S3, which has an endpoint"


def test_a_rehearsal_reaches_a_vault_elsewhere(stacks: Mapping[str, Synthesis]) -> None:
    """fails when the isolated place has no way to the point that it is to restore."""
    folder = stacks["one"].folder / "stacks" / "one-rehearsal" / "cdk.tf.json"
    resources = json.loads(folder.read_text())["resource"]
    assert "aws_nat_gateway" in resources
    assert "read-vault-keys" in {body["name"] for body in resources["aws_iam_role_policy"].values()}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[vault.standby]\nendpoint = "https://s3.us-west-2.amazonaws.com"\nbucket = "abc"', "is Amazon's"),
        ("[vault]\nreplication_time_control = true\n{R2}", "copies between the vaults itself"),
        ("{R2}\n[network.primary]\nnat = false", "network.primary.nat = false, and the vault in https://r2.example"),
        ('{R2}\n[network.standby]\nnat = false\ncidr = "10.60.0.0/16"', "network.standby.nat = false"),
        ('[vault.standby]\nendpoint = "http://r2.example"\nbucket = "abc"', "an address such as https://host"),
        ('[vault.standby]\nendpoint = "https://r2.example/x"\nbucket = "abc"', "an address such as https://host"),
        ('[vault.standby]\nendpoint = "https://r2.example"\nbucket = "A"', "the name of a bucket"),
        ('[vault.standby]\nendpoint = "https://r2.example"', "vault.standby.bucket"),
        ('{R2}\nregion = "Auto!"', "vault.standby.region"),
        ("{R2}\nlock_days = 373", "vault.standby.lock_days = 373 locks points for longer than the ladder keeps any"),
        ('{R2}\nkeys = "id:secret"', "vault.standby"),
        ("{R2}\nWEAVIATE", 'memory.store = "weaviate" makes its snapshots itself'),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path, more: str, said: str) -> None:
    """One clear error, which shows no key that somebody put into the file."""
    more = more.replace("{R2}", '[vault.standby]\nendpoint = "https://r2.example"\nbucket = "points"')
    text = (examples_folder() / "batch.toml").read_text()
    for table in ("network.primary", "network.standby"):
        if f"[{table}]" in more:
            text = re.sub(rf"\[{table}\]\n(.+\n)*", "", text)
    if "WEAVIATE" in more:
        text, more = text.replace('store = "pgvector"', 'store = "weaviate"'), more.replace("WEAVIATE", "")
    path = tmp_path / "mine.toml"
    path.write_text(f"{text}\n{more}\n")
    with pytest.raises(ConfigError) as caught:
        load_environment(path)
    assert said in str(caught.value)
    assert "id:secret" not in str(caught.value)


def test_a_store_is_read_from_the_file(tmp_path: Path) -> None:
    """Its address, its bucket and the region to sign for, which is auto where nothing is said."""
    path = tmp_path / "mine.toml"
    text = (examples_folder() / "batch.toml").read_text()
    stores = '[vault.standby]\nendpoint = "https://r2.example"\nbucket = "points"\n'
    stores += '[vault.primary]\nendpoint = "https://b2.example:8443"\nbucket = "other"\nregion = "us-west-004"\n'
    path.write_text(f"{text}\n{stores}")
    assert load_environment(path).vaults.other == {
        Role.STANDBY: OtherStore(endpoint="https://r2.example", bucket="points", region="auto"),
        Role.PRIMARY: OtherStore(endpoint="https://b2.example:8443", bucket="other", region="us-west-004"),
    }


def test_what_a_copy_costs_and_takes_is_said() -> None:
    """S3's price for what is not in S3 would be wrong, and so would its promise of time."""
    there, here = ENVIRONMENTS["both"], load_named("batch", examples_folder())
    units = {line.what for line in estimate(there).per_unit} ^ {line.what for line in estimate(here).per_unit}
    assert (
        units
        == {
            "points and journal in the standby's vault",
            "to a vault that is not in AWS, over the internet",
            "Replication Time Control",
        }
        & units
    )
    assert "to a vault that is not in AWS, over the internet" in units
    covered = " ".join(promises(there).not_covered)
    assert "the standby's vault in https://0123456789abcdef.r2.cloudflarestorage.com" in covered
