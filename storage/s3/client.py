"""The boto3 clients of one S3 store: one a process, made on first use and after a fork, and again
with fresh credentials where the store reports the old ones as expired.

Temporary keys of the SDK's chain (role, web identity, container, credential_process) are refreshed
by botocore itself ten minutes before they expire; only keys without a date of expiry, or with a
wrong clock, are ever refused.
"""

import os
import threading
from collections.abc import Mapping
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import IncompleteReadError

from storage.config import StoreConfig
from storage.credentials import Keys, sdk_keys
from storage.web_pages import refuse_web_page

_CONNECTIONS = 32


class S3Clients:
    """Makes and keeps clients; safe for threads and forks."""

    def __init__(self, config: StoreConfig, addressing: str, keys: Keys) -> None:
        self.config, self.addressing, self.keys = config, addressing, keys
        self._made: dict[tuple[int, int], Any] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._renewals = 0

    def get(self, attempts: int = 1) -> Any:
        """This process's client; `attempts`: botocore's own, of one request."""
        pid = os.getpid()
        with self._lock(pid):
            if (pid, attempts) not in self._made:
                self._made[pid, attempts] = self._connected(attempts)
            return self._made[pid, attempts]

    def renew(self, client: Any) -> bool:
        """Drop a client whose credentials have expired; whether another may have better ones.

        Keys that the job spec names stay as they are; others are looked up again, `max_attempts`
        times in a row at most.
        """
        pid = os.getpid()
        with self._lock(pid):
            mine = [key for key, made in self._made.items() if made is client]
            if not mine:
                return True  # another thread has renewed it
            if self.keys.access_key is not None or self._renewals + 1 >= self.config.max_attempts:
                return False
            self._renewals += 1
            self._made = {key: made for key, made in self._made.items() if key[0] != pid}
            return True

    def worked(self) -> None:
        """The credentials are accepted."""
        self._renewals = 0

    def session(self) -> boto3.session.Session:
        """A session with the keys that the job spec names, or with the SDK's own chain."""
        keys = self.keys
        if keys.access_key is None:
            access_key, secret_key, token = sdk_keys(os.environ) or (None, None, None)
            return boto3.session.Session(access_key, secret_key, token or None)
        return boto3.session.Session(keys.access_key, keys.secret_key, keys.session_token)

    def _lock(self, pid: int) -> threading.Lock:
        return self._locks.setdefault(pid, threading.Lock())

    def _connected(self, attempts: int) -> Any:
        settings: Any = {"addressing_style": self.addressing}
        if self.config.sign_uploads is not None:
            settings["payload_signing_enabled"] = self.config.sign_uploads
        config = Config(
            signature_version="s3v4",
            s3=settings,
            request_checksum_calculation=self.config.checksums,
            response_checksum_validation=self.config.checksums,
            connect_timeout=self.config.connect_timeout_s,
            read_timeout=self.config.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=_CONNECTIONS,
        )
        client = self.session().client(
            "s3",
            region_name=self.config.region,
            endpoint_url=self.config.endpoint_url,
            config=config,
        )
        if client.meta.endpoint_url.startswith("https:"):  # known only now; an AWS config file wins
            client.meta.config.s3.setdefault("payload_signing_enabled", False)
        for refuse in (refuse_half_an_answer, refuse_web_page):  # called in reverse order
            client.meta.events.register_first("before-parse.s3.*", refuse)
        return client


def refuse_half_an_answer(
    response_dict: Mapping[str, Any], operation_model: Any, **_: object
) -> None:
    """Hook of botocore before it parses an answer. Raises `IncompleteReadError` for one that is
    shorter than announced: botocore takes an empty one for a listing without objects."""
    body, announced = response_dict.get("body"), response_dict["headers"].get("content-length")
    if not isinstance(body, bytes) or announced is None or operation_model.http["method"] == "HEAD":
        return
    if len(body) < int(announced):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(announced))
