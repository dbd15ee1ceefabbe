"""What S3 stores answer when they refuse, and what the user can do about it; where credentials come
from.
"""

from collections.abc import Mapping
from types import MappingProxyType

ABSENT = ("NoSuchKey", "404", "NotFound", "NoSuchVersion")
"""Error codes of an object, or its bucket, that is not there."""

SHORT = ("InvalidRange", "416")
"""Error codes of a range behind the object's end."""

TRANSIENT = (
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "BadDigest",
)
"""Error codes that pass, beside every status from 500 on."""

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
"""Error codes of temporary credentials whose time is over."""

MAY_BE_EXPIRED = (*EXPIRED, "400")
"""Error codes for which fresh credentials are worth a try; answers to HEAD have no text."""

_WRONG_KEYS = "the store refuses the credentials; they come from {credentials}"
_DENIED = (
    "access denied: the credentials are wrong or lack a right here; they come from {credentials}"
)
_WRONG_REGION = "the bucket lies in another region; check {name}.region and .endpoint_url"
PATH_REFUSED = "the store refuses the bucket's name in the path; set {name}.addressing: virtual"
_EXPIRED_KEYS = "the temporary credentials have expired; they come from {credentials}; {refreshing}"
_UNEXPLAINED = (
    "the store refuses without a reason, as to HEAD with temporary credentials that have expired "
    "or for another region; the credentials come from {credentials}; check {name}.region"
)
NO_CREDENTIALS = (
    "no credentials ({error}); they are sought in {credentials}; set those, or name the variables "
    "that hold the keys in {name}.access_key_env and .secret_key_env"
)
UNREACHABLE = (
    "the store at {endpoint} does not answer or broke off ({error}); check {name}.endpoint_url "
    "and the network"
)
PROXY_FAILS = (
    "the proxy on the way to {endpoint} does not let the request through ({error}); check "
    "HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
)
WEB_PAGE = (
    "the endpoint answers a web page, not S3 ({error}): a proxy or login page stands between; "
    "check {name}.endpoint_url, HTTP_PROXY/NO_PROXY"
)
NOT_S3 = "the endpoint's answer is not S3's; check {name}.endpoint_url, HTTP_PROXY/NO_PROXY"
FAILS = "the store at {endpoint} fails: {error}; if it goes on, look at the store's own log"
REFUSES = "the store at {endpoint} refuses: {error}; look the code up in the store's documentation"
RANGE_IGNORED = (
    "asked for bytes from {offset} on, {endpoint} answered {found}; what stands between does not "
    "pass the Range header on: check {name}.endpoint_url, HTTP_PROXY/NO_PROXY"
)
CURES: Mapping[str, str] = MappingProxyType(
    {
        "NoSuchBucket": "there is no bucket {bucket!r} at {endpoint}; check the URI and "
        "{name}, or create the bucket",
        "InvalidAccessKeyId": _WRONG_KEYS,
        "SignatureDoesNotMatch": _WRONG_KEYS,
        "InvalidToken": _WRONG_KEYS,
        "InvalidSecurity": _WRONG_KEYS,
        **dict.fromkeys(EXPIRED, _EXPIRED_KEYS),
        "400": _UNEXPLAINED,
        "AccessDenied": _DENIED,
        "403": _DENIED,
        "RequestTimeTooSkewed": "this machine's clock is wrong; the store refuses its "
        "signatures; set the clock",
        "SecondLevelDomainForbidden": PATH_REFUSED,
        "VirtualHostDomainRequired": PATH_REFUSED,
        "PermanentRedirect": _WRONG_REGION,
        "AuthorizationHeaderMalformed": _WRONG_REGION,
        "301": _WRONG_REGION,
        "InvalidBucketName": "{bucket!r} is no name of a bucket; check the URI",
    }
)
"""Error code of an answer -> what to do, for codes that no repetition mends."""
