"""Some samples of a packed split, by their keys: manifest and index as if nothing else was packed.

Shards without any of the samples are left out, so they are never fetched; those that are kept stay
whole, with the other samples in them, which no index names any more.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from adapt.data.packed.index import Index
from adapt.data.packed.manifest import Manifest
from adapt.errors import DataError, known_names

MOST_KNOWN = 3000
"""Keys of which a hint is chosen, to answer within a tenth of a second."""


def only_keys(
    manifest: Manifest, index: Index, keys: Sequence[str], where: str
) -> tuple[Manifest, Index]:
    """The split's description with these samples alone, in packed order.

    `where` names the split in messages. Raises `DataError` for a key that it does not have.
    """
    rows = _rows(index, keys, where)
    shards, numbers = np.unique(index.shard[rows], return_inverse=True)
    columns = {field.name: getattr(index, field.name)[rows] for field in fields(index)}
    kept = Index(**{**columns, "shard": numbers.astype(np.int32)})
    samples = np.bincount(numbers).tolist()
    totals = kept.id_pixels.sum(axis=0, dtype=np.int64).tolist()
    changes = {
        "num_samples": len(rows),
        "id_pixels": dict(zip(manifest.ids, totals, strict=True)),
        "shards": tuple(
            manifest.shards[shard].model_copy(update={"num_samples": count})
            for shard, count in zip(shards.tolist(), samples, strict=True)
        ),
        "index_sha256": hashlib.sha256(kept.to_bytes()).hexdigest(),
    }
    return manifest.model_copy(update=changes), kept


def _rows(index: Index, keys: Sequence[str], where: str) -> list[int]:
    """The places of the samples, ascending."""
    places = {str(key): row for row, key in enumerate(index.keys)}
    missing = [key for key in keys if key not in places]
    if missing:
        known = [] if len(places) > MOST_KNOWN else places
        hint = known_names(missing[0], known).partition(" (known:")[0]
        raise DataError(
            f"{where}: expected the sample of each of {len(keys)} keys, {hint}, the first of "
            f"{len(missing)} that it lacks",
            fix="write the images' names below their folder, without suffix",
        )
    return sorted(places[key] for key in set(keys))
