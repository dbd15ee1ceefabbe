"""A URI of the web: what is shown of it, what requests need of it, and its secrets."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from storage.config import StoreConfig
from storage.credentials import find_keys
from storage.errors import StoreError
from storage.uris import join, split_uri


class Target(NamedTuple):
    """A store's root. `uri` is what messages show: without user, password and query."""

    scheme: str
    uri: str
    query: str
    user: str | None
    password: str | None
    secrets: tuple[str, ...]

    def address(self, key: str) -> str:
        """The URL of an object; a key may end in `?query`."""
        name, mark, query = key.partition("?")
        found = f"?{query or self.query}" if mark or self.query else ""
        return join(self.uri, quote(name)) + found

    def shown(self, key: str) -> str:
        """The URI of an object for messages."""
        return join(self.uri, key.partition("?")[0])

    def hidden(self, text: str, key: str) -> str:
        """A text without this URI's secrets."""
        for secret in (*self.secrets, key.partition("?")[2]):
            if secret:
                text = text.replace(secret, "***")
        return text


def find_target(uri: str, config: StoreConfig, environment: Mapping[str, str], name: str) -> Target:
    """URI and settings -> `Target`; the settings' user and password go before the URI's. Raises
    `StoreError`."""
    scheme, rest = split_uri(uri)
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    login, _, host = authority.rpartition("@")
    if not host:
        raise StoreError(f"{scheme}://...: expected {scheme}://HOST/PATH, got no host")
    user, _, password = login.partition(":")
    keys = find_keys(name, config, environment, free_text=True)
    found = (keys.access_key or unquote(user) or None, keys.secret_key or unquote(password) or None)
    secrets = (query, login, password, found[1] or "", quote(found[1] or "", safe=""))
    shown = f"{scheme}://{host}{slash}{path}".removesuffix("/")
    return Target(scheme, shown, query, *found, tuple(sorted(set(secrets), key=len, reverse=True)))
