"""Make the buckets of Terraform's state, one in each region: once, before an environment is first deployed.

They are versioned, encrypted, private, refuse whoever comes without TLS, and are locked by a file beside each state,
which needs no table. What is as it should be is left alone, so it may be run again. Nothing else is made, and nothing
is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_cli.console import DONE, add_plan, confirmed, result, say

if TYPE_CHECKING:
    import argparse

    from relight_stacks.environment import Environment


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--environment", metavar="NAME", required=True, help="an environment file's name")
    add_plan(parser)


def run(args: argparse.Namespace) -> int:
    """Look at what there is, show what is missing, ask, and make it."""
    # Late, as in every verb: the command line answers --help at once.
    from relight_stacks.bootstrap import carry_out, check_account, plan_buckets
    from relight_stacks.loading import load_named

    environment = load_named(args.environment)
    check_account(environment)
    steps = plan_buckets(environment)
    plan = {"environment": environment.name, "account": environment.account}
    buckets = {region: environment.names.state_bucket(region) for region in _regions(environment)}
    for region, bucket in buckets.items():
        todo = [step.what for step in steps if step.bucket == bucket]
        plan[region] = f"{bucket}: {'; '.join(todo) or 'as it should be'}"
    if steps and not confirmed(args, plan):
        return DONE
    for step in steps:
        say(f"{step.bucket}: {step.what} ...")
        carry_out(step)
    result(args, {"buckets": buckets, "done": [f"{step.bucket}: {step.what}" for step in steps]})
    return DONE


def _regions(environment: Environment) -> tuple[str, str]:
    return environment.regions.primary, environment.regions.standby
