"""Error codes of S3 stores, and the problem and the fix that each of them stands for."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

ABSENT = ("NoSuchKey", "404", "NotFound", "NoSuchVersion")
"""Error codes of an object, or its bucket, that is not there."""

SHORT = ("InvalidRange", "416")
"""Error codes of a range behind the object's end."""

CHANGED = ("PreconditionFailed", "412")
"""Error codes of a conditional write to an object that another writer has changed."""

UNKNOWN = ("NotImplemented", "501")
"""Error codes of a request that the store does not know; a retry does not teach it."""

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
"""Error codes of expired temporary credentials."""

MAY_BE_EXPIRED = (*EXPIRED, "400")
"""Error codes for which fresh credentials are worth a try; answers to HEAD have no text."""


class Explanation(NamedTuple):
    """Problem and fix of an error, to be filled with a store's names."""

    problem: str
    fix: str


_CHECK_KEYS = "compare them with the store's console"
_WRONG_KEYS = Explanation(
    "the store refuses the credentials; they come from {credentials}", _CHECK_KEYS
)
_DENIED = Explanation(
    "access denied: the credentials are wrong or lack a right here; they come from {credentials}",
    "check the keys and the rights of their owner",
)
_WRONG_REGION = Explanation(
    "the bucket is in another region", "check {name}.region and .endpoint_url"
)
PATH_REFUSED = Explanation(
    "the store refuses the bucket's name in the path", "set {name}.addressing: virtual"
)
_EXPIRED_KEYS = Explanation(
    "the temporary credentials have expired; they come from {credentials}", "{refreshing}"
)
_UNEXPLAINED = Explanation(
    "the store refuses without a reason, as for HEAD with expired temporary credentials or for "
    "another region; the credentials come from {credentials}",
    "check {name}.region and the credentials",
)
NO_CREDENTIALS = Explanation(
    "no credentials ({error}) in {credentials}",
    "set those, or name the variables with the keys in {name}.access_key_env and .secret_key_env",
)
UNREACHABLE = Explanation(
    "the store at {endpoint} is unreachable or broke off ({error})",
    "check {name}.endpoint_url and the network",
)
UNUSABLE = Explanation(
    "a setting of the store cannot be used ({error})",
    "check {name}.endpoint_url and .region, AWS_ENDPOINT_URL_S3 and AWS_REGION",
)
CERTIFICATE = Explanation(
    "the certificate of {endpoint} is not accepted ({error})",
    "set AWS_CA_BUNDLE to the file of its authority, or have it renewed",
)
PROXY_FAILS = Explanation(
    "the proxy on the way to {endpoint} refuses the request ({error})",
    "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
)
WEB_PAGE = Explanation(
    "expected an answer of S3, got a web page ({error}), as of a proxy or login page in between",
    "check {name}.endpoint_url, HTTP_PROXY/NO_PROXY",
)
NOT_S3 = Explanation(
    "the answer of the endpoint is not S3's", "check {name}.endpoint_url, HTTP_PROXY/NO_PROXY"
)
FAILS = Explanation(
    "the store at {endpoint} fails: {error}", "see the store's own log if it persists"
)
REFUSES = Explanation(
    "the store at {endpoint} refuses: {error}", "look the code up in the store's documentation"
)
RANGE_IGNORED = Explanation(
    "expected bytes from {offset} on, got {found} from {endpoint}: something in between drops the "
    "Range header",
    "check {name}.endpoint_url, HTTP_PROXY/NO_PROXY",
)
NO_BUCKET = Explanation(
    "there is no bucket {bucket!r} at {endpoint}",
    "check the URI and {name}, or create the bucket",
)
FINAL: Mapping[str, Explanation] = MappingProxyType(
    {
        "NoSuchBucket": NO_BUCKET,
        "InvalidAccessKeyId": _WRONG_KEYS,
        "SignatureDoesNotMatch": _WRONG_KEYS,
        "InvalidToken": _WRONG_KEYS,
        "InvalidSecurity": _WRONG_KEYS,
        **dict.fromkeys(EXPIRED, _EXPIRED_KEYS),
        "400": _UNEXPLAINED,
        "AccessDenied": _DENIED,
        "403": _DENIED,
        "RequestTimeTooSkewed": Explanation(
            "the clock of this machine is wrong; the store refuses its signatures", "set the clock"
        ),
        "SecondLevelDomainForbidden": PATH_REFUSED,
        "VirtualHostDomainRequired": PATH_REFUSED,
        "PermanentRedirect": _WRONG_REGION,
        "AuthorizationHeaderMalformed": _WRONG_REGION,
        "301": _WRONG_REGION,
        "InvalidBucketName": Explanation("{bucket!r} is no name of a bucket", "check the URI"),
    }
)
"""Error code of an answer -> its explanation, for codes that a retry does not fix."""
