"""Roles, and secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relight_drill.making.arguments import given

if TYPE_CHECKING:
    from relight_drill.making.arguments import Arguments, Make, Place


def _iam_role(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    role = place.client("iam").create_role(
        RoleName=name,
        AssumeRolePolicyDocument=a.need("assume_role_policy"),
        **given(Description=a.take("description"), MaxSessionDuration=a.take("max_session_duration")),
    )["Role"]
    return {"id": name, "name": name, "arn": role["Arn"], "unique_id": role["RoleId"]}


def _iam_role_policy(place: Place, a: Arguments) -> dict[str, Any]:
    role, name = a.need("role"), a.need("name")
    place.client("iam").put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=a.need("policy"))
    return {"id": f"{role}:{name}", "name": name}


def _secret(place: Place, a: Arguments) -> dict[str, Any]:
    name = a.need("name")
    a.not_emulated("recovery_window_in_days")
    optional = given(Description=a.take("description"), KmsKeyId=a.take("kms_key_id"))
    arn = place.client("secretsmanager").create_secret(Name=name, **optional)["ARN"]
    return {"id": arn, "arn": arn, "name": name}


def _secret_version(place: Place, a: Arguments) -> dict[str, Any]:
    """The value comes by a write-only argument, so that it is in no state; its version says when it is written anew."""
    arn = a.need("secret_id")
    a.not_emulated("secret_string_wo_version")
    made = place.client("secretsmanager").put_secret_value(SecretId=arn, SecretString=a.need("secret_string_wo"))
    return {"id": f"{arn}|{made['VersionId']}", "arn": arn, "version_id": made["VersionId"]}


def _random_password(place: Place, a: Arguments) -> dict[str, Any]:
    made = place.client("secretsmanager").get_random_password(
        **given(
            PasswordLength=a.take("password_length"),
            ExcludeCharacters=a.take("exclude_characters"),
            ExcludeNumbers=a.take("exclude_numbers"),
            ExcludePunctuation=a.take("exclude_punctuation"),
            ExcludeUppercase=a.take("exclude_uppercase"),
            ExcludeLowercase=a.take("exclude_lowercase"),
            IncludeSpace=a.take("include_space"),
            RequireEachIncludedType=a.take("require_each_included_type"),
        )
    )
    return {"random_password": made["RandomPassword"]}


MAKERS: dict[str, Make] = {
    "aws_iam_role": _iam_role,
    "aws_iam_role_policy": _iam_role_policy,
    "aws_secretsmanager_secret": _secret,
    "aws_secretsmanager_secret_version": _secret_version,
}

EPHEMERAL: dict[str, Make] = {"aws_secretsmanager_random_password": _random_password}
