"""AWS through boto3: clients that give up in time, and errors from the one tree."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import boto3
from botocore import exceptions as botocore
from botocore.config import Config

from relight.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    PermanentError,
    RelightError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.config import _S3Dict

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 10
ATTEMPTS = 3
# A store outside AWS is reached over the internet, and puts a large upload together before it answers.
ELSEWHERE_READ_TIMEOUT_S = 30

# A vault's readers and writers share a client, and each has several connections at once.
POOL = 32

# Service errors by code, then by HTTP status. Codes are unique enough across services to share one table.
BY_CODE: dict[str, type[RelightError]] = {
    "404": NotFoundError,
    "NoSuchKey": NotFoundError,
    "NoSuchBucket": NotFoundError,
    "NoSuchUpload": NotFoundError,
    "NoSuchVersion": NotFoundError,
    "NotFound": NotFoundError,
    "NotFoundException": NotFoundError,
    "ResourceNotFoundException": NotFoundError,
    "ClusterNotFoundException": NotFoundError,
    "ServiceNotFoundException": NotFoundError,
    "ServiceNotActiveException": NotFoundError,
    "StateMachineDoesNotExist": NotFoundError,
    "TaskDoesNotExist": NotFoundError,
    "ExecutionDoesNotExist": NotFoundError,
    "403": DeniedError,
    "AccessDenied": DeniedError,
    "AccessDeniedException": DeniedError,
    "AuthorizationError": DeniedError,
    "AuthorizationErrorException": DeniedError,
    "UnauthorizedOperation": DeniedError,
    "ExpiredToken": DeniedError,
    "ExpiredTokenException": DeniedError,
    "InvalidAccessKeyId": DeniedError,
    "InvalidClientTokenId": DeniedError,
    "UnrecognizedClientException": DeniedError,
    "SignatureDoesNotMatch": DeniedError,
    "RequestTimeTooSkewed": DeniedError,
    "412": ConflictError,
    "PreconditionFailed": ConflictError,
    "ConditionalRequestConflict": ConflictError,
    "ConditionalCheckFailedException": ConflictError,
    "ConflictException": ConflictError,
    "ExecutionAlreadyExists": ConflictError,
    "TaskTimedOut": ConflictError,
    "OperationAborted": ConflictError,
    "ResourceConflictException": ConflictError,
    "ResourceExistsException": ConflictError,
    "BadDigest": IntegrityError,
    "InvalidDigest": IntegrityError,
    "XAmzContentSHA256Mismatch": IntegrityError,
    "XAmzContentChecksumMismatch": IntegrityError,
    "Throttling": UnavailableError,
    "ThrottlingException": UnavailableError,
    "ThrottledException": UnavailableError,
    "RequestThrottled": UnavailableError,
    "RequestLimitExceeded": UnavailableError,
    "TooManyRequestsException": UnavailableError,
    "ProvisionedThroughputExceededException": UnavailableError,
    "SlowDown": UnavailableError,
    "RequestTimeout": UnavailableError,
    "RequestTimeoutException": UnavailableError,
    "ConcurrentUpdateException": UnavailableError,
    "ResourceContention": UnavailableError,
    "ScalingActivityInProgress": UnavailableError,
    "InternalError": UnavailableError,
    "InternalFailure": UnavailableError,
    "InternalServerError": UnavailableError,
    "InternalServiceError": UnavailableError,
    "ServiceUnavailable": UnavailableError,
    "ServiceUnavailableException": UnavailableError,
    "ServerException": UnavailableError,
    "NotImplemented": PermanentError,
}
BY_STATUS: dict[int, type[RelightError]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
    412: ConflictError,
    429: UnavailableError,
}

_UNAVAILABLE = (
    "CapacityNotAvailableError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "ConnectionError",
    "CredentialRetrievalError",
    "EndpointConnectionError",
    "EventStreamError",
    "HTTPClientError",
    "IncompleteReadError",
    "MetadataRetrievalError",
    "ProxyConnectionError",
    "ReadTimeoutError",
    "ResponseStreamingError",
    "SSLError",
    "TokenRetrievalError",
    "WaiterError",
)
_INTEGRITY = ("ChecksumError", "FlexibleChecksumError")
_DENIED = (
    "LoginAuthorizationCodeError",
    "LoginError",
    "LoginInsufficientPermissions",
    "LoginRefreshRequired",
    "LoginTokenLoadError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "SSOTokenLoadError",
    "UnauthorizedSSOTokenError",
)
_CONFIG = (
    "BaseEndpointResolverError",
    "ConfigNotFound",
    "ConfigParseError",
    "EndpointProviderError",
    "EndpointResolutionError",
    "EndpointVariantError",
    "InvalidConfigError",
    "InvalidDNSNameError",
    "InvalidDefaultsMode",
    "InvalidEndpointConfigurationError",
    "InvalidEndpointDiscoveryConfigurationError",
    "InvalidHostLabelError",
    "InvalidIMDSEndpointError",
    "InvalidIMDSEndpointModeError",
    "InvalidMaxRetryAttemptsError",
    "InvalidProxiesConfigError",
    "InvalidRegionError",
    "InvalidRetryConfigurationError",
    "InvalidRetryModeError",
    "InvalidS3AddressingStyleError",
    "InvalidS3UsEast1RegionalEndpointConfigError",
    "InvalidSTSRegionalEndpointsConfigError",
    "InvalidChecksumConfigError",
    "NoRegionError",
    "ProfileNotFound",
    "ServiceNotInRegionError",
    "UnknownCredentialError",
    "UnknownEndpointError",
    "UnknownFIPSEndpointError",
    "UnknownRegionError",
    "UnknownTokenProviderError",
    "UnsupportedOutpostResourceError",
    "UnsupportedS3AccesspointConfigurationError",
    "UnsupportedS3ArnError",
    "UnsupportedS3ConfigurationError",
    "UnsupportedS3ControlArnError",
    "UnsupportedS3ControlConfigurationError",
)
_PERMANENT = (
    "AliasConflictParameterError",
    "ApiVersionNotFoundError",
    "AwsChunkedWrapperError",
    "BotoCoreError",
    "DataNotFoundError",
    "InfiniteLoopConfigError",
    "InvalidExpressionError",
    "MD5UnavailableError",
    "MissingDependencyException",
    "MissingParametersError",
    "MissingServiceIdError",
    "OperationNotPageableError",
    "PaginationError",
    "ParamValidationError",
    "RangeError",
    "StubAssertionError",
    "StubResponseError",
    "UnStubbedResponseError",
    "UndefinedModelAttributeError",
    "UnknownClientMethodError",
    "UnknownEndpointResolutionBuiltInName",
    "UnknownKeyError",
    "UnknownParameterError",
    "UnknownServiceError",
    "UnknownServiceStyle",
    "UnknownSignatureVersionError",
    "UnseekableStreamError",
    "UnsupportedServiceProtocolsError",
    "UnsupportedSignatureVersionError",
    "ValidationError",
    "WaiterConfigError",
)
# By the class's name, so that an older botocore, which lacks some, still imports.
BY_CLASS: dict[str, type[RelightError]] = {
    **dict.fromkeys(_UNAVAILABLE, UnavailableError),
    **dict.fromkeys(_INTEGRITY, IntegrityError),
    **dict.fromkeys(_DENIED, DeniedError),
    **dict.fromkeys(_CONFIG, ConfigError),
    **dict.fromkeys(_PERMANENT, PermanentError),
}


# All that is denied before a request is sent is for want of credentials, and so is what AWS refuses by these codes; the
# others may come from a store that is not in AWS, which has keys of its own.
_NOBODY = ("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException")
_LOG_IN = "log in (aws sso login), or set AWS_PROFILE to a profile of the environment's account"


def error_for(exc: botocore.BotoCoreError | botocore.ClientError) -> RelightError:
    """The error of our tree that `exc` means; the text names the operation and the code."""
    if isinstance(exc, botocore.ClientError):
        return _service_error(exc)
    kind = next((BY_CLASS[item.__name__] for item in type(exc).__mro__ if item.__name__ in BY_CLASS), PermanentError)
    return kind(f"aws: {exc}", hint=_LOG_IN if kind is DeniedError else "")


def _service_error(exc: botocore.ClientError) -> RelightError:
    error = exc.response.get("Error", {})
    code = str(error.get("Code", ""))
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    fallback = UnavailableError if status >= 500 else BY_STATUS.get(status, PermanentError)
    kind = BY_CODE.get(code, fallback)
    message = error.get("Message", "") or "no message"
    hint = _LOG_IN if code in _NOBODY else ""
    return kind(f"aws {exc.operation_name} failed: {code or status}: {message}", hint=hint)


@contextmanager
def translating() -> Iterator[None]:
    """Turn botocore's errors into Relight's, with the driver's as the cause. Also works as a decorator."""
    try:
        yield
    except (botocore.BotoCoreError, botocore.ClientError) as exc:
        raise error_for(exc) from exc


class _Checksums(TypedDict, total=False):
    request_checksum_calculation: Literal["when_required"]
    response_checksum_validation: Literal["when_required"]


_ONLY_REQUIRED: _Checksums = {
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}

_making = threading.Lock()  # a session's clients may be used by many threads, but must be made by one at a time


def session(key_id: str, secret: str) -> boto3.session.Session:
    """A session with keys of its own, for a store that is not in AWS."""
    return boto3.session.Session(aws_access_key_id=key_id, aws_secret_access_key=secret)


@cache
def _session() -> boto3.session.Session:
    return boto3.session.Session()


def client(
    service: str,
    region: str,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
    attempts: int = ATTEMPTS,
    session: boto3.session.Session | None = None,
    endpoint_url: str | None = None,
    checksums: bool = True,
) -> Any:
    """A client of `service` in `region` that gives up in time and signs so that the region is named.

    Buckets are addressed by path when an endpoint is set, because a stand-in has no wildcard name. Without `checksums`
    those are left out that only Amazon's services are sure to know.
    """
    of_service = os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}")
    custom = endpoint_url or of_service or os.environ.get("AWS_ENDPOINT_URL") or ""
    # Over TLS a checksum is enough, and signing each body takes another pass over it.
    # botocore's default for us-east-1 is an address of no region, which no private endpoint answers for.
    s3: _S3Dict = {"addressing_style": "path" if custom else "virtual", "us_east_1_regional_endpoint": "regional"}
    if not custom.startswith("http://"):
        s3["payload_signing_enabled"] = False
    needed: _Checksums = {} if checksums else _ONLY_REQUIRED
    config = Config(
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        signature_version="s3v4" if service == "s3" else None,
        s3=s3,
        max_pool_connections=POOL,
        user_agent_extra="relight",
        **needed,
    )
    with _making, translating():
        source = session or _session()
        return source.client(service, region_name=region, endpoint_url=endpoint_url, config=config)  # type: ignore[call-overload]


def elsewhere(endpoint_url: str, *, key_id: str, secret: str, region: str) -> Any:
    """A client of an S3-compatible store that is not in AWS, with keys of its own; `region` is what it signs for.

    Bytes that go there are protected by MD5 alone, which every such store checks: Google's takes the checksums that
    botocore adds for a wrong signature, and others refuse the headers.
    """
    made = client(
        "s3",
        region,
        read_timeout_s=ELSEWHERE_READ_TIMEOUT_S,
        session=session(key_id, secret),
        endpoint_url=endpoint_url,
        checksums=False,
    )
    # The one request for which botocore insists on a checksum.
    made.meta.events.register("before-call.s3.DeleteObjects", _md5_instead)
    return made


def _md5_instead(params: dict[str, Any], **_: object) -> None:
    params["context"].pop("checksum", None)
    params["headers"]["Content-MD5"] = md5(params["body"])


def md5(data: bytes | memoryview) -> str:
    """The value of the header `Content-MD5`."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
