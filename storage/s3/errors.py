"""Turns exceptions of boto3 into `StoreError`s with the URI, the problem and the fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from storage.errors import (
    ChangedObject,
    MissingObject,
    NoCredentials,
    ShortObject,
    SilentStore,
    StoreError,
    StoreUnavailable,
    WrongAnswer,
)
from storage.s3 import refusals
from storage.s3.client import S3Clients
from storage.s3.refusals import Explanation
from storage.transient import CODES, REDIRECTS, is_certificate, is_final, is_transient_status
from storage.web_pages import WebPage


class S3Errors:
    """Explains the failures of one store. Until the store has answered once, its silence is taken
    for a wrong address, which waiting does not fix."""

    def __init__(self, bucket: str, name: str, clients: S3Clients) -> None:
        self.bucket, self.name, self.clients = bucket, name, clients
        self.answered = False

    def worked(self) -> None:
        """Note that a request succeeded."""
        self.answered = True
        self.clients.worked()

    @contextmanager
    def client(self, uri: str, attempts: int = 1) -> Iterator[Any]:
        """The client; exceptions of boto3 inside come out as `StoreError`s that name `uri`."""
        client = None
        try:
            client = self.clients.get(attempts)
            yield client
        except ClientError as error:
            self.answered = True
            raise self._of_answer(uri, error, client) from error
        except WebPage as page:
            raise self.explained(uri, refusals.WEB_PAGE, page.kind, page) from page
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            none = self.explained(uri, refusals.NO_CREDENTIALS, NoCredentials, error)
            raise none from error
        except (ConnectionError, HTTPClientError, IncompleteReadError, HTTPError) as error:
            raise self._of_silence(uri, error) from error
        except ResponseParserError as error:  # its text is the whole answer
            raise self.explained(uri, refusals.NOT_S3, WrongAnswer) from error
        except FlexibleChecksumError as error:
            raise self.explained(uri, refusals.FAILS, WrongAnswer, error) from error
        except (BotoCoreError, Boto3Error) as error:
            raise StoreError(f"{uri}: {error}", fix=f"check {self.name}") from error
        except ValueError as error:  # of a client that cannot be made
            raise self.explained(uri, refusals.UNUSABLE, error=error) from error

    def _of_silence(self, uri: str, error: Exception) -> StoreError:
        what = refusals.UNREACHABLE
        if isinstance(error, ProxyConnectionError):
            what = refusals.PROXY_FAILS
        elif is_certificate(error):
            what = refusals.CERTIFICATE
        kind: type[StoreError] = StoreUnavailable if self.answered else SilentStore
        return self.explained(uri, what, StoreError if is_final(error) else kind, error)

    def _of_answer(self, uri: str, error: ClientError, client: Any) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in refusals.ABSENT:
            if self._bucket_is_there():
                return MissingObject(f"{uri}: there is no such object", fix="check the URI")
            code = "NoSuchBucket"
        if code in refusals.SHORT:
            return ShortObject(
                f"{uri}: the object is shorter than requested ({code})", fix="upload it again"
            )
        if code in refusals.FINAL:
            renewed = code in refusals.MAY_BE_EXPIRED and self.clients.renew(client)
            kind: type[StoreError] = StoreUnavailable if renewed else StoreError
            kind = WrongAnswer if status in REDIRECTS else kind
            problem, fix = refusals.FINAL[code]
            return self.explained(uri, Explanation(f"{problem} ({code})", fix), kind)
        if code in refusals.CHANGED:
            return self.explained(uri, refusals.REFUSES, ChangedObject, error)
        if code in refusals.UNKNOWN:
            return self.explained(uri, refusals.REFUSES, error=error)
        if code in CODES or is_transient_status(status):
            return self.explained(uri, refusals.FAILS, StoreUnavailable, error)
        kind = WrongAnswer if status in REDIRECTS else StoreError
        return self.explained(uri, refusals.REFUSES, kind, error)

    def _bucket_is_there(self) -> bool:
        """Return whether the object alone is missing; an answer to HEAD does not state which."""
        try:
            self.clients.get().head_bucket(Bucket=self.bucket)
        except ClientError as error:
            return str(error.response["Error"]["Code"]) not in ("404", "NoSuchBucket")
        except BotoCoreError:
            return True  # the store became unreachable just now; the object was missing before
        return True

    def explained(
        self,
        uri: str,
        explanation: Explanation,
        kind: type[StoreError] = StoreError,
        error: object = None,
        **more: object,
    ) -> StoreError:
        """The error of an explanation, filled with this store's names."""
        names = {
            "bucket": self.bucket,
            "name": self.name,
            "endpoint": self._endpoint,
            "credentials": self.clients.keys.source,
            "refreshing": self.clients.keys.refreshing,
            "error": error,
            **more,
        }
        problem, fix = (text.format(**names) for text in explanation)
        return kind(f"{uri}: {problem}", fix=fix)

    @property
    def _endpoint(self) -> str:
        try:
            return str(self.clients.get().meta.endpoint_url)
        except (BotoCoreError, ValueError):  # no client can be made
            return self.clients.config.endpoint_url or "AWS"
