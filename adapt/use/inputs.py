"""The inputs of a prediction: names of pictures, folders, globs, prefixes of stores, packed splits,
videos and cameras -> the items that they consist of, in an order by their names alone.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from adapt.data.found_files import FoundFiles, Walk
from adapt.data.problems import Problem, shown
from adapt.data.raw_images import IMAGE_SUFFIXES
from adapt.errors import DataError, JobError
from adapt.use.globs import ANY, WILD, pattern_of
from adapt.use.items import CAMERA, IMAGE, VIDEO_SUFFIXES, Item, named
from adapt.use.outputs import OUTPUTS
from adapt.use.packed_images import PackedImages, splits_in
from storage.store import Store
from storage.stores import READ_ONLY, Stores
from storage.uris import canonical, join, split_uri, without_password

_TAKEN = "a picture, a video, a folder, a glob, a packed split or the index of a camera"


class Search(NamedTuple):
    """The settings of a search, and what it finds beside items: files that are left out by reason,
    and faults."""

    stores: Stores
    out: str
    split: str | None
    shards_dir: Path
    left_out: Counter[str]
    problems: list[Problem]


class InputKind(NamedTuple):
    """A kind of input: which texts name one, and its items."""

    fits: Callable[[str, Search], bool]
    items: Callable[[str, Search], Iterable[Item]]


def find_items(inputs: Iterable[str], search: Search) -> list[Item]:
    """The items of all inputs, each once, in their order.

    Raises `JobError` for an input that is not there, that holds the outputs' folder or lies in it,
    and for two items of one name; `DataError` for an input without images and videos; `StoreError`.
    """
    found: dict[str, Item] = {}
    for text in inputs:
        if not text.strip():
            raise JobError(f"INPUT: expected {_TAKEN}, got none", "write `.` for this folder")
        kind = next(one for one in INPUT_KINDS.values() if one.fits(text, search))
        items = list(kind.items(text, search))
        if not items:
            raise _nothing_in(text, search)
        for item in items:
            found.setdefault(canonical(item.source), item)
    return named(list(found.values()))


def _nothing_in(text: str, search: Search) -> Exception:
    others = ", ".join(f"{reason} ({count})" for reason, count in search.left_out.items())
    return DataError(
        f"{shown(without_password(text))}: expected images or videos, got none"
        + (f", but {others}" if others else ""),
        "name a folder or a prefix that has some",
    )


def _is_camera(text: str, _search: Search) -> bool:
    return text.isascii() and text.isdigit() and not Path(text).exists()


def _camera(text: str, _search: Search) -> Iterator[Item]:
    """Each recording has a name of its own, by its time."""
    yield Item(f"camera-{text}-{datetime.now():%Y%m%d-%H%M%S}", text, CAMERA, lambda: text)


def _is_packed(text: str, search: Search) -> bool:
    if WILD.search(text) or PurePosixPath(text).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
        return False
    return search.split is not None or bool(splits_in(text, search.stores))


def _packed(text: str, search: Search) -> Iterator[Item]:
    images = PackedImages.open(text, search.split, search.stores, search.shards_dir)
    for number, key in enumerate(images.keys):
        yield Item(key, images.source(number), IMAGE, images.reader(number))


def _is_glob(text: str, _search: Search) -> bool:
    local = split_uri(text)[0] == "file"
    return bool(WILD.search(text.partition("?")[0] if _web(text) else text)) and not (
        local and Path(_path(text)).exists()
    )


def _glob(text: str, search: Search) -> Iterator[Item]:
    """`*` and `?` fit within a name, `**` over folders; names of items begin below the folders
    that are written out."""
    parts = text.split("/")
    fixed = next(number for number, part in enumerate(parts) if WILD.search(part))
    root, pattern = "/".join(parts[:fixed]), pattern_of("/".join(parts[fixed:]))
    if not root:
        root = "/" if text.startswith("/") else "."
    if split_uri(text)[0] == "file" and not Path(_path(root)).is_dir():
        return
    yield from _below(root, search, pattern)


def _is_file(text: str, _search: Search) -> bool:
    if split_uri(text)[0] == "file":
        return Path(_path(text)).is_file()
    ending = PurePosixPath(text.partition("?")[0]).suffix.lower()
    return _web(text) or ending in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _file(text: str, search: Search) -> Iterator[Item]:
    _refuse_outputs(text, search)
    address = text.partition("?")[0] if _web(text) else text
    yield Item.of(PurePosixPath(address).name, text)


def _folder(text: str, search: Search) -> Iterable[Item]:
    if split_uri(text)[0] == "file" and not Path(_path(text)).is_dir():
        raise JobError(f"{shown(text)}: expected {_TAKEN}, got {_other(text)}", "check the path")
    return _below(text, search)


def _other(text: str) -> str:
    """The word for a path of neither a file nor a folder."""
    path = Path(_path(text))
    if path.is_symlink() and not path.exists():
        return "a link to what is not there"
    return "a device, pipe or socket" if path.exists() else "no file and no folder of this name"


def _below(root: str, search: Search, wanted: re.Pattern[str] = ANY) -> Iterator[Item]:
    """The images and videos at and below a folder or a prefix, without the outputs'."""
    _refuse_outputs(root, search)
    store = None if split_uri(root)[0] == "file" else search.stores.open(root)
    for key in _local_keys(root, search) if store is None else _keys_of(store):
        uri, ending = join(root, key), PurePosixPath(key).suffix
        if _inside(uri, search.out) or not wanted.fullmatch(key):
            continue
        if ending.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            yield Item.of(key, uri, store)
        else:
            kind = shown(ending or PurePosixPath(key).name)
            search.left_out[f"files that are no images or videos ({kind})"] += 1


def _local_keys(root: str, search: Search) -> Iterator[str]:
    found = FoundFiles(folder=Path(_path(root)))
    for path in Walk(found).files():
        yield path.relative_to(found.folder).as_posix()
    search.problems.extend(found.problems)
    search.left_out.update(found.left_out)


def _keys_of(store: Store) -> Iterator[str]:
    return (entry.key for entry in store.list())


def _refuse_outputs(text: str, search: Search) -> None:
    """Raise `JobError` for an input that is the outputs' folder, or one of a kind of output."""
    out, own = canonical(search.out), canonical(text)
    if own == out or any(_inside(own, join(out, kind)) for kind in OUTPUTS):
        raise JobError(
            f"--out: expected another folder than the input's, got {shown(search.out)} for "
            f"{shown(without_password(text))}",
            "name a folder beside the input, as --out seen",
        )


def _inside(uri: str, folder: str) -> bool:
    own, root = canonical(uri), canonical(folder)
    return own == root or own.startswith(f"{root.rstrip('/')}/")


def _web(text: str) -> bool:
    return split_uri(text)[0] in READ_ONLY


def _path(text: str) -> str:
    return os.path.expanduser(split_uri(text)[1])  # noqa: PTH111 - as `LocalStore` does


INPUT_KINDS: dict[str, InputKind] = {
    "camera": InputKind(_is_camera, _camera),
    "glob": InputKind(_is_glob, _glob),
    "file": InputKind(_is_file, _file),
    "packed split": InputKind(_is_packed, _packed),
    "folder or prefix": InputKind(lambda _text, _search: True, _folder),
}
"""The kinds of inputs; the first that fits a text counts."""
