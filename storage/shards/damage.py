"""The difference between an object that is stored wrongly and one that arrives wrongly, by the
store's own MD5.

Only the first is a reason to pack or upload it again, which would replace good data otherwise.
"""

import hashlib
import mmap

from storage.errors import StoreError
from storage.local import LocalStore
from storage.store import Store

NETWORK = (
    "check the network, HTTP_PROXY/NO_PROXY and gateways in between, then run the command again; "
    "the stored object is intact"
)
UNKNOWN = (
    "run the command again from another network; compare the object's checksum in the store "
    "itself, and replace it only if that differs too"
)


def is_stored_so(store: Store, key: str, data: bytes | mmap.mmap) -> bool | None:
    """Return whether the store itself holds these bytes, as a folder always does; None where the
    store does not tell."""
    if isinstance(store, LocalStore):
        return True
    try:
        stored = store.md5(key)
    except StoreError:
        return None
    if stored is None:
        return None
    return stored == hashlib.md5(data, usedforsecurity=False).hexdigest()


def advice(stored_so: bool | None, repair: str) -> str:
    """The fix for wrong bytes: `repair` where they are stored so."""
    if stored_so is None:
        return UNKNOWN
    return repair if stored_so else NETWORK
