"""The client of google-cloud-storage, its credentials, and the families of its errors."""

from typing import Any, NamedTuple

import google.auth
import google.cloud.storage
import requests
from google.api_core.exceptions import RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage.exceptions import DataCorruption
from urllib3.exceptions import HTTPError

from storage.config import StoreConfig

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_ENDPOINT = "https://storage.googleapis.com"
_CONNECTIONS = 32
CREDENTIALS = (
    "GOOGLE_APPLICATION_CREDENTIALS (a service account's file), `gcloud auth application-default "
    "login`, or the machine's service account"
)


class _Families(NamedTuple):
    silence: tuple[type[Exception], ...]
    credentials: tuple[type[Exception], ...]


FAILURES = _Families(
    silence=(TransportError, RetryError, DataCorruption, OSError, HTTPError),  # and of requests
    credentials=(GoogleAuthError,),  # after `silence`: its subclass TransportError is the network's
)


class GsClient(NamedTuple):
    """The SDK's client, its session for streamed requests, and the address of both."""

    sdk: google.cloud.storage.Client
    session: requests.Session
    endpoint: str


def connected(config: StoreConfig) -> GsClient:
    """A client with the SDK's own credentials; over http, as of an emulator, without any."""
    endpoint = (config.endpoint_url or _ENDPOINT).rstrip("/")
    credentials: Any
    if endpoint.startswith("http:"):
        credentials, project = AnonymousCredentials(), None
    else:
        credentials, project = _found()
    session = AuthorizedSession(credentials)
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    sdk = google.cloud.storage.Client(
        project=project or "none",  # only requests for whole projects need one
        credentials=credentials,
        client_options={"api_endpoint": endpoint},
        _http=session,
    )
    sdk._bucket_metadata_cache = None  # its background thread fetches the bucket for traces alone
    return GsClient(sdk, session, endpoint)


def _found() -> tuple[Any, str | None]:
    """The SDK's own credentials and project. Raises `GoogleAuthError`, and `ValueError` for a file
    of JSON that is no account's, on which the SDK fails in many ways."""
    try:
        return google.auth.default(scopes=[_SCOPE])
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"not an account's file: {error}") from error
