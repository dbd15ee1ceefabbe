"""A URI for smart_open: what is shown of it, what requests need of it, and its secrets."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from storage.config import StoreConfig
from storage.credentials import find_keys
from storage.errors import StoreError
from storage.uris import join, split_uri

WEB = ("http", "https")
_BY_LOGIN = ("ftp", "ftps", "sftp", "scp", "ssh")
_UNQUOTED = ("gs", "gcs", "az", "azure", "hdfs", "viewfs")
"""Schemes whose keys smart_open takes literally; the others want them percent-encoded."""

_USELESS = ("endpoint_url", "region", "session_token_env")


class Target(NamedTuple):
    """A store's root. `uri` is what messages show: without user, password and query."""

    scheme: str
    uri: str
    query: str
    user: str | None
    password: str | None
    secrets: tuple[str, ...]

    def address(self, key: str) -> str:
        """The URI of an object as smart_open takes it; over https, a key may end in `?query`."""
        name, mark, query = key.partition("?") if self.scheme in WEB else (key, "", "")
        name = name if self.scheme in _UNQUOTED else quote(name)
        uri = join(self.uri, name)
        if self.scheme in _BY_LOGIN and self.user:
            password = "" if self.password is None else f":{quote(self.password, safe='')}"
            login = f"{self.scheme}://{quote(self.user, safe='')}{password}@"
            uri = uri.replace(f"{self.scheme}://", login, 1)
        if self.scheme == "az":
            uri = uri.replace("az://", "azure://", 1)
        return uri + (f"?{query or self.query}" if mark or self.query else "")

    def shown(self, key: str) -> str:
        """The URI of an object for messages."""
        return join(self.uri, key.partition("?")[0] if self.scheme in WEB else key)

    def hidden(self, text: str, key: str = "") -> str:
        """A text with this URI's secrets taken out."""
        query = key.partition("?")[2]
        for secret in (*self.secrets, query):
            if secret:
                text = text.replace(secret, "***")
        return text


def find_target(uri: str, config: StoreConfig, environment: Mapping[str, str], name: str) -> Target:
    """URI and settings -> `Target`; the settings' user and password go before the URI's. Raises
    `StoreError`."""
    scheme, rest = split_uri(uri)
    rest, _, query = rest.partition("?") if scheme in WEB else (rest, "", "")
    authority, slash, path = rest.partition("/")
    login, _, host = authority.rpartition("@")
    if not host and scheme not in ("hdfs", "viewfs"):
        raise StoreError(f"{scheme}://...: expected {scheme}://HOST/PATH or {scheme}://BUCKET/PATH")
    for field in _USELESS:
        if getattr(config, field) is not None:
            raise StoreError(f"{name}.{field}: expected none, as {scheme} knows no such setting")
    user, _, password = login.partition(":")
    keys = find_keys(name, config, environment)
    found = (keys.access_key or unquote(user) or None, keys.secret_key or unquote(password) or None)
    secrets = (query, login, password, found[1] or "", quote(found[1] or "", safe=""))
    if scheme in ("ftp", "ftps") and found[0] is None:
        found = ("anonymous", "anonymous@")
    shown = f"{scheme}://{host}{slash}{path}".removesuffix("/")
    return Target(scheme, shown, query, *found, tuple(sorted(set(secrets), key=len, reverse=True)))
