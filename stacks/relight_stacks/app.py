"""Synthesize every environment: `python -P -m relight_stacks.app`. It is what `cdktf synth` runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from relight.config import MemoryStore, Role
from relight.errors import ConfigError, RelightError
from relight.objectives import Tier
from relight_constructs.bundle import LAMBDA, build_bundle
from relight_stacks.bundles import Bundles
from relight_stacks.loading import examples_folder, load_environments, load_named
from relight_stacks.promises import keep_promises
from relight_stacks.rules import check, check_together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from relight_stacks.environment import Environment

# Beside cdktf's own output, and as little a part of the sources.
CACHE = Path(".relight") / "bundles"


def synthesize(
    environments: Sequence[Environment], *, bundles: Mapping[MemoryStore, Bundles], output: Path | None = None
) -> Path:
    """Write each environment's stacks as Terraform JSON; the same input writes the same bytes.

    `bundles` are the zips that functions run whose memory is in that store.

    Returns the folder: `output`, else what CDKTF_OUTDIR says, else `cdktf.out`. A stack is in
    `stacks/<environment>-<part>/cdk.tf.json`, beside the bundle that it names by a relative path.
    """
    # Imported here, because it starts node: --help and a wrong environment answer at once.
    from relight_constructs.bindings import App
    from relight_stacks.dns import DnsStack
    from relight_stacks.region import AgentStack
    from relight_stacks.rehearsal import RehearsalStack
    from relight_stacks.vault import VaultStack

    app = App() if output is None else App(outdir=str(output))
    for environment in environments:
        bundle = bundles[environment.memory.store]
        vault = VaultStack(app, environment)
        dns = DnsStack(app, environment)
        roles = Role if environment.shape.standby else (Role.PRIMARY,)
        regions = {role: AgentStack(app, environment, role, bundles=bundle) for role in roles}
        # The zone, the vaults and the primary's database are found by name, so only the order of a first deployment
        # depends on them. A standby that is deployed without its primary: --ignore-missing-stack-dependencies.
        for region in regions.values():
            region.add_dependency(vault)
            region.add_dependency(dns)
        # Slack's one configuration names the topics of both.
        ordered = environment.own_state or environment.incidents.slack_channel
        if ordered and Role.STANDBY in regions:
            regions[Role.STANDBY].add_dependency(regions[Role.PRIMARY])
        if environment.rehearsed:
            # Its alarms tell the standby's topic.
            rehearsal = RehearsalStack(app, environment, bundles=bundle)
            rehearsal.add_dependency(vault)
            rehearsal.add_dependency(regions[Role.STANDBY])
    app.synth()
    return Path(app.outdir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when done, 1 when refused."""
    parser = argparse.ArgumentParser(prog="python -P -m relight_stacks.app", description="Synthesize the stacks.")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write here instead of to cdktf.out")
    parser.add_argument(
        "--environment", action="append", metavar="NAME", help="synthesize this one only; may be given again"
    )
    parser.add_argument("--examples", action="store_true", help="synthesize the example of each tier too")
    parser.add_argument(
        "--bundle", type=Path, metavar="ZIP", help="use this zip for the functions instead of building one for Lambda"
    )
    parser.add_argument(
        "--providers-bundle", type=Path, metavar="ZIP", help="the same for the function that asks LLM providers"
    )
    parser.add_argument(
        "--memory", type=MemoryStore, metavar="STORE", help="use this vector store instead of the environment's own"
    )
    parser.add_argument("--tier", type=Tier, metavar="TIER", help="use this tier instead of the environment's own")
    options = parser.parse_args(arguments)
    try:
        named = options.environment
        environments = [load_named(name) for name in dict.fromkeys(named)] if named else load_environments()
        if options.examples:
            environments += load_environments(examples_folder())
        for name, given in (("--bundle", options.bundle), ("--providers-bundle", options.providers_bundle)):
            if given and not given.is_file():
                raise ConfigError(f"{name} {given} is not a file", hint="name a zip, or leave it out to build one")
        if options.memory:
            environments = [environment.with_store(options.memory) for environment in environments]
        if options.tier:
            environments = [environment.with_tier(options.tier) for environment in environments]
        check_together(environments)
        for environment in environments:
            check(environment, source=environment.name)
            keep_promises(environment, source=environment.name)
        stores = {environment.memory.store for environment in environments}
        zips = {store: options.bundle or build_bundle(LAMBDA, CACHE, store=store) for store in stores}
        asking = options.providers_bundle or options.bundle or build_bundle(LAMBDA, CACHE, providers=True)
        bundles = {
            store: Bundles(region=bundle.absolute(), providers=asking.absolute()) for store, bundle in zips.items()
        }
        synthesize(environments, bundles=bundles, output=options.output)
    except RelightError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
