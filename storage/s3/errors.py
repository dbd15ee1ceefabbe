"""What boto3 raises, as `StoreError`s that name the URI and the cure."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
)
from botocore.parsers import ResponseParserError

from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.s3 import answers
from storage.s3.client import S3Clients
from storage.web_pages import WebPage


class S3Errors:
    """Explains the failures of one store. Until the store has answered once, its silence is taken
    for a wrong address, which waiting does not mend."""

    def __init__(self, bucket: str, name: str, clients: S3Clients) -> None:
        self.bucket, self.name, self.clients = bucket, name, clients
        self.answered = False

    def worked(self) -> None:
        """Note that a request was answered as it should."""
        self.answered = True
        self.clients.worked()

    @contextmanager
    def client(self, uri: str, attempts: int = 1) -> Iterator[Any]:
        """The client; what boto3 raises inside comes out as a `StoreError` that names `uri`."""
        client = None
        try:
            client = self.clients.get(attempts)
            yield client
        except ClientError as error:
            self.answered = True
            raise self._of_answer(uri, error, client) from error
        except WebPage as page:
            kind = StoreUnavailable if page.passes else StoreError
            raise kind(f"{uri}: {self.filled(answers.WEB_PAGE, page)}") from page
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise StoreError(f"{uri}: {self.filled(answers.NO_CREDENTIALS, error)}") from error
        except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
            kind = StoreUnavailable if self.answered else StoreError
            proxy = isinstance(error, ProxyConnectionError)
            cure = answers.PROXY_FAILS if proxy else answers.UNREACHABLE
            raise kind(f"{uri}: {self.filled(cure, error)}") from error
        except ResponseParserError as error:  # its text is the whole answer
            raise StoreError(f"{uri}: {self.filled(answers.NOT_S3)}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise StoreError(f"{uri}: {error}; check {self.name}") from error

    def _of_answer(self, uri: str, error: ClientError, client: Any) -> StoreError:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in answers.ABSENT:
            if self._bucket_is_there():
                return MissingObject(f"{uri}: there is no such object; check the URI")
            code = "NoSuchBucket"
        if code in answers.SHORT:
            return ShortObject(f"{uri}: the object is shorter than asked; upload it again ({code})")
        if code in answers.CURES:
            renewed = code in answers.MAY_BE_EXPIRED and self.clients.renew(client)
            kind = StoreUnavailable if renewed else StoreError
            return kind(f"{uri}: {self.filled(answers.CURES[code])} ({code})")
        if code in answers.TRANSIENT or status >= 500 or status == 429:
            return StoreUnavailable(f"{uri}: {self.filled(answers.FAILS, error)}")
        return StoreError(f"{uri}: {self.filled(answers.REFUSES, error)}")

    def _bucket_is_there(self) -> bool:
        """Whether the object alone is missing; an answer to HEAD does not tell which."""
        try:
            self.clients.get().head_bucket(Bucket=self.bucket)
        except ClientError as error:
            return str(error.response["Error"]["Code"]) not in ("404", "NoSuchBucket")
        except BotoCoreError:
            return True  # the store went away just now; the object was missing before
        return True

    def filled(self, cure: str, error: object = None, **more: object) -> str:
        """A text of `s3_answers` with this store's names."""
        return cure.format(
            bucket=self.bucket,
            name=self.name,
            endpoint=self._endpoint,
            credentials=self.clients.keys.source,
            refreshing=self.clients.keys.refreshing,
            error=error,
            **more,
        )

    @property
    def _endpoint(self) -> str:
        try:
            return str(self.clients.get().meta.endpoint_url)
        except BotoCoreError:  # no client can be made
            return self.clients.config.endpoint_url or "AWS"
