"""Versions of a packed split, by the manifest's id: the one that is there, and those kept.

A version is kept as its manifest and index, `SPLIT/versions/ID.json` and `ID.npz`, some hundred
bytes a sample: when it is tagged, and when `pack --overwrite` replaces it. Its shards are not.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from adapt.data.packed.index import Index, check_index, parse_index
from adapt.data.packed.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from adapt.data.packed.split_files import MAX_INDEX_BYTES, read_manifest, read_object
from adapt.errors import DataError, JobError, known_names
from storage.errors import FixableError
from storage.store import Store

FOLDER = "versions"
ID_CHARS = 12
"""Of the dataset's id, as people see it."""
CURRENT = "current"


class Version(NamedTuple):
    """A version without its samples. `there`: its shards are the ones in the split's folder."""

    id: str
    there: bool
    kept_at: str
    tags: tuple[str, ...]
    note: str
    manifest: Manifest


@dataclass(frozen=True)
class Difference:
    """From one version to another: keys that came, went, have the image of before with another
    label, and others whose bytes differ; pixels of each class as shares before and after.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[str, ...]
    changed: tuple[str, ...]
    settings: dict[str, tuple[Any, Any]]
    shares: dict[str, tuple[float, float]]

    @property
    def equal(self) -> bool:
        """True where nothing differs."""
        keys = (*self.added, *self.removed, *self.relabelled, *self.changed)
        return not (keys or self.settings)


def keep(store: Store, split: str, tag: str = "", note: str = "", first_note: str = "") -> Version:
    """Keep the version that is there, with a tag that moves to it from any other, and a note that
    replaces its own; `first_note` is for a version that has none.

    Raises as `read_manifest`, `JobError` for a tag that could be an id.
    """
    check_tag(tag)
    manifest, index = read_manifest(store, split)
    identity = manifest.dataset_id
    others = {one.id: one for one in versions(store, split)}
    before = others.pop(identity, None)
    for one in others.values():
        if tag and tag in one.tags:
            write(store, split, one._replace(tags=tuple(t for t in one.tags if t != tag)))
    kept = Version(
        id=identity,
        there=True,
        kept_at=(before and before.kept_at) or datetime.now(UTC).isoformat(timespec="seconds"),
        tags=tuple(dict.fromkeys([*(before.tags if before else ()), *([tag] if tag else [])])),
        note=note or (before.note if before else "") or first_note,
        manifest=manifest,
    )
    store.put(f"{split}/{FOLDER}/{identity[:ID_CHARS]}.npz", index.to_bytes())
    write(store, split, kept)
    return kept


def check_tag(tag: str) -> None:
    """`JobError` for a name that versions have already, or that no command line takes."""
    hexadecimal = len(tag) >= 4 and not set(tag) - set("0123456789abcdef")
    if tag == CURRENT or hexadecimal or set(tag) & set("@/ ") or not tag.isprintable():
        raise JobError(
            f"TAG: expected a name that is no id and has no @, / or space, got {tag!r}",
            fix="write letters, digits, - and _, such as before-cleaning",
        )


def write(store: Store, split: str, one: Version) -> None:
    """Write the record of a kept version."""
    record = {
        "kept_at": one.kept_at,
        "tags": one.tags,
        "note": one.note,
        "manifest": one.manifest.model_dump(mode="json"),
    }
    data = json.dumps(record, indent=1).encode()
    store.put(f"{split}/{FOLDER}/{one.id[:ID_CHARS]}.json", data)


def versions(store: Store, split: str) -> list[Version]:
    """The kept versions and the one that is there, oldest first; that one last where it was not
    kept. Raises as `read_manifest`."""
    there = read_manifest(store, split)[0]
    kept = sorted(kept_versions(store, split, there.dataset_id), key=lambda one: one.kept_at)
    if not any(one.there for one in kept):
        kept.append(Version(there.dataset_id, True, "", (), "", there))
    return kept


def kept_versions(store: Store, split: str, there: str) -> Iterator[Version]:
    """The records in the split's folder."""
    for entry in store.list(f"{split}/{FOLDER}/"):
        if not entry.key.endswith(".json"):
            continue
        name = entry.key.removeprefix(f"{split}/")
        uri = f"{store.uri}/{entry.key}"
        data = read_object(store, split, name, 2 * MAX_MANIFEST_BYTES)
        try:
            record = json.loads(data)
            manifest = parse_manifest(json.dumps(record["manifest"]).encode(), uri)
            tags = tuple(map(str, record["tags"]))
            kept_at, note = str(record["kept_at"]), str(record["note"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{uri}: expected the record of a version, got: {error}", fix="delete the object"
            ) from error
        identity = manifest.dataset_id
        yield Version(identity, identity == there, kept_at, tags, note, manifest)


def find(store: Store, split: str, wanted: str) -> Version:
    """The version of a tag, of an id's beginning, or `current`. `JobError` where none or several
    fit."""
    known = versions(store, split)
    if wanted in ("", CURRENT):
        return next(one for one in known if one.there)
    fits = [one for one in known if wanted in one.tags]
    fits = fits or [one for one in known if len(wanted) >= 4 and one.id.startswith(wanted)]
    if len(fits) != 1:
        names = [one.id[:ID_CHARS] for one in known] + [tag for one in known for tag in one.tags]
        several = f"which {len(fits)} versions have; " if fits else ""
        raise JobError(
            f"{store.uri}/{split}: expected the tag or id of a version, {several}"
            f"{known_names(wanted, [*names, CURRENT])}",
            fix="`segadapt data ls` lists them",
        )
    return fits[0]


def index_of(store: Store, split: str, one: Version) -> Index:
    """The index of a version, the one that is there or one that was kept."""
    if one.there:
        return read_manifest(store, split)[1]
    name = f"{FOLDER}/{one.id[:ID_CHARS]}.npz"
    uri = f"{store.uri}/{split}/{name}"
    index = parse_index(read_object(store, split, name, MAX_INDEX_BYTES), uri)
    check_index(one.manifest, index, uri)
    return index


def keep_replaced(store: Store, split: str) -> None:
    """Keep the version that `pack --overwrite` is about to replace; a damaged one is not kept."""
    try:
        keep(store, split, first_note="replaced by pack --overwrite")
    except FixableError:
        return


Side = tuple[Manifest, Index]


def difference(before: Side, after: Side) -> Difference:
    """Compare two versions, or two packed splits of one dataset, by their indexes
    alone: of a relabelled key, the image has as many bytes and the label other pixels."""
    rows = [rows_of(*side) for side in (before, after)]
    first, second = rows
    both = [key for key in first if key in second and first[key].xxh3 != second[key].xxh3]
    relabelled = [
        key
        for key in both
        if first[key].image_bytes == second[key].image_bytes
        and first[key].label != second[key].label
    ]
    kinds = set(relabelled)
    return Difference(
        added=tuple(sorted(second.keys() - first.keys())),
        removed=tuple(sorted(first.keys() - second.keys())),
        relabelled=tuple(sorted(relabelled)),
        changed=tuple(sorted(key for key in both if key not in kinds)),
        settings=settings(before[0], after[0]),
        shares=shares(before[0], after[0]),
    )


class Row(NamedTuple):
    """A sample: the checksum of all its bytes, the size of its image, and its label in numbers."""

    xxh3: int
    image_bytes: tuple[int, int, int]
    label: tuple[int, dict[int, int]]


def rows_of(manifest: Manifest, index: Index) -> dict[str, Row]:
    """key -> row."""
    ids, found = manifest.ids, {}
    for number, key in enumerate(index.keys.tolist()):
        counts = index.id_pixels[number].tolist()
        pixels = {one: count for one, count in zip(ids, counts, strict=True) if count}
        size = int(index.height_px[number]), int(index.width_px[number])
        found[key] = Row(
            int(index.xxh3[number]),
            (int(index.image_length_bytes[number]), *size),
            (int(index.label_length_bytes[number]), pixels),
        )
    return found


def settings(before: Manifest, after: Manifest) -> dict[str, tuple[Any, Any]]:
    """The settings of two packings that differ."""
    keys = ("dataset", "encoding_name", "size_hw", "labelled", "label_space")
    pairs = {key: (getattr(before, key), getattr(after, key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def shares(before: Manifest, after: Manifest) -> dict[str, tuple[float, float]]:
    """Shares of pixels before and after by class or id, for those that moved."""
    first, second = share_of(before), share_of(after)
    names = dict.fromkeys([*first, *second])
    pairs = {name: (first.get(name, 0.0), second.get(name, 0.0)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def share_of(manifest: Manifest) -> dict[str, float]:
    """Share of all pixels by class, where labels are train ids, else by id."""
    total = sum(manifest.id_pixels.values())
    classes = manifest.label_space.classes if manifest.label_space else ()
    return {
        (classes[one] if one < len(classes) else f"id {one}"): pixels / total
        for one, pixels in manifest.id_pixels.items()
        if total
    }
