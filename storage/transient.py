"""The table of transient failures, for everything that talks to a store or to another service over
HTTP.

An error's type states what may repair it: `TIME`, a few more `ATTEMPTS`, or, for bytes that are not
the object's, another `DOWNLOAD`. The functions tell which of these an answer, or the exception of a
client library, stands for.
"""

import ssl
from collections.abc import Iterator

from storage.errors import DamagedObject, ShortObject, SilentStore, StoreUnavailable, WrongAnswer

TIME = (StoreUnavailable, SilentStore)
"""Errors that time may repair: a job retries them for `storage.retry.OUTAGE_S`."""

ATTEMPTS = (StoreUnavailable, WrongAnswer)
"""Errors for which one operation has several attempts."""

TRANSIENT = (*TIME, WrongAnswer)
"""Errors that another attempt may repair, sooner or later."""

DOWNLOAD = (ShortObject, DamagedObject, WrongAnswer)
"""Errors of bytes that are not the object's: it is downloaded `storage.retry.DOWNLOADS` times."""

_STATUSES = frozenset({408, 425, 429})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""Statuses of gateways, and of a store whose names are not known everywhere yet. SDKs follow those
that lead somewhere; the others are a `WrongAnswer`."""

DENIED = frozenset({401, 403, 407})
"""Statuses of wrong credentials, of a store or a proxy."""

CODES = frozenset(
    {
        "SlowDown",
        "BandwidthLimitExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "OperationAborted",
        "ConditionalRequestConflict",
        "RequestTimeout",
        "RequestTimeoutException",
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Busy",
        "BadDigest",
        "IncompleteBody",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
        "NoSuchUpload",
    }
)
"""Error codes of S3 and AWS that are transient whatever their status is: a busy store, a request
that arrived damaged or cut, an upload whose parts the store has lost."""

_FINAL_TEXTS = (
    "certificate verify failed",
    "certificate_verify_failed",
    "ca certificate bundle",
    "407 proxy",
    "unsupported proxy",
)


def is_transient_status(status: int) -> bool:
    """Return whether a service that answers with this HTTP status fails or is busy just now."""
    return status in _STATUSES or status >= 500


def is_transient_page(status: int) -> bool:
    """Return whether a web page of this status may give way to the right answer: those of gateways,
    and pages to log in, which come with 200 or a redirect."""
    return 200 <= status < 400 or is_transient_status(status)


def is_final(error: BaseException) -> bool:
    """Return whether waiting is in vain after a request without an answer: a certificate is
    refused, a proxy wants a password, an address or a header cannot be sent. All else may pass:
    refused, reset, cut, silent, a name not known yet."""
    chain = list(_chain(error))
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        return True
    text = " ".join(str(one).lower() for one in chain)
    return any(final in text for final in _FINAL_TEXTS) or any(map(_cannot_be_sent, chain))


def is_certificate(error: BaseException) -> bool:
    """Return whether a request got no answer because of a certificate, the server's or ours."""
    texts = _FINAL_TEXTS[:3]
    text = " ".join(str(one).lower() for one in _chain(error))
    return any(final in text for final in texts)


def _cannot_be_sent(error: BaseException) -> bool:
    """Return whether the request itself is wrong. Half an answer in JSON is a `ValueError` too, of
    the standard library or of simplejson, whose class has the same name."""
    half = any(kind.__name__ == "JSONDecodeError" for kind in type(error).__mro__)
    return isinstance(error, ValueError) and not half


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it wraps, as arguments or as its reason; not those that were
    handled before it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, *one.args, getattr(one, "reason", None)]
        kwargs = getattr(one, "kwargs", None)  # botocore's
        waiting.append(kwargs.get("error") if isinstance(kwargs, dict) else None)
