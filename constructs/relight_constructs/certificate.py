"""A certificate that is proved by a record in the environment's own zone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relight_constructs.bindings import (
    AcmCertificate,
    AcmCertificateValidation,
    Construct,
    DataAwsRoute53Zone,
    Route53Record,
    TerraformResourceLifecycle,
)

if TYPE_CHECKING:
    from relight_constructs.props import CertificateProps


class Certificate(Construct):
    """Define a certificate for a host and the names right below it, which has been issued once `arn` is known.

    ACM asks for the same record whoever asks: for the host and for the names below it, and in each region of the
    account. So there is one, which the other region's stack may have made already; it has to stay for ACM to renew.
    """

    def __init__(self, scope: Construct, id_: str, props: CertificateProps) -> None:
        super().__init__(scope, id_)
        certificate = AcmCertificate(
            self,
            "certificate",
            domain_name=props.host,
            subject_alternative_names=[f"*.{props.host}"],
            validation_method="DNS",
            # A listener has to have one at any time.
            lifecycle=TerraformResourceLifecycle(create_before_destroy=True),
        )
        zone = DataAwsRoute53Zone(self, "zone", name=props.zone, private_zone=False)
        # Of a set, any: both say the same.
        proof = certificate.domain_validation_options.get(0)
        record = Route53Record(
            self,
            "proof",
            zone_id=zone.zone_id,
            name=proof.resource_record_name,
            type=proof.resource_record_type,
            ttl=10,
            records=[proof.resource_record_value],
            allow_overwrite=True,
        )
        self._validation = AcmCertificateValidation(
            self, "validation", certificate_arn=certificate.arn, validation_record_fqdns=[record.fqdn]
        )

    @property
    def arn(self) -> str:
        """A reference to its ARN, once it has been issued."""
        return self._validation.certificate_arn
