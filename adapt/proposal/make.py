"""The plan from what both domains hold and what was answered."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from adapt.data.found_files import key_fault
from adapt.errors import DataError, JobError, counted, known_names
from adapt.proposal.classes import Proposed, ids_of_target, named_datasets, propose
from adapt.proposal.held import Held
from adapt.proposal.label_values import Value
from adapt.proposal.plan import (
    VAL_LIST,
    Packing,
    Plan,
    check_count,
    packed_classes,
    packed_hw,
    scored_part,
    uris_of,
)

Size = tuple[int, int] | None
COMMON = 1e-4
"""Share of pixels below which a value that is ignored is no news."""


def check_names(source: Held, target: Held) -> None:
    """`JobError` where the two datasets have one name but may have ids of their own."""
    for option, held in (("--source-name", source), ("--target-name", target)):
        fault = key_fault(held.name)
        if fault is not None or "/" in held.name:
            raise JobError(f"{option}: {fault or 'expected a name without /'}, got {held.name!r}")
    same_layout = source.layout == target.layout and source.layout in named_datasets()
    if source.name == target.name and not same_layout and not (source.packed and target.packed):
        raise JobError(
            f"--target-name: expected another name than the source's, got {target.name!r} for both",
            fix="name one of them with --source-name or --target-name",
        )


def proposed_classes(held: Held, as_dataset: str | None, ignored: Sequence[Value]) -> Proposed:
    """The classes of a domain with labels. `as_dataset`: whose ids they are; by default the
    dataset itself where a label space names it."""
    assert held.values is not None, "without labels there is nothing to name"
    if as_dataset is not None and as_dataset not in named_datasets():
        raise JobError(
            "--source-ids or --target-ids: expected a dataset whose ids have names, "
            f"{known_names(as_dataset, named_datasets())}"
        )
    stored = held.packed[held.train].label_space if held.packed else None
    if stored is not None:
        return packed_classes(stored, held.values)
    known = next((one for one in (held.layout, held.name) if one in named_datasets()), None)
    return propose(held.values, as_dataset or known, ignored)


def make_plan(
    out: Path,
    packed: str,
    source: Held,
    target: Held,
    classes: Proposed,
    target_classes: Proposed | None,
    sizes: Mapping[str, Size],
    pairs_only: bool,
) -> Plan:
    """The plan of a job. Raises `JobError` for answers that contradict the data."""
    check_count(classes, source)
    source_uri, target_uri = uris_of(packed, source, target)
    source_hw = packed_hw(source, sizes["source"])
    target_hw = packed_hw(target, sizes["target"])
    ids = ids_of_target(classes, target_classes) if target_classes else {}
    fits = agreeing(source, target, classes, ids)
    scored, target_packings, lists = scored_part(target, target_uri, out, target_hw)
    if scored is not None and not fits:
        scored, lists = None, {}
        target_packings = target_packings[:1]
        target_packings = tuple(one._replace(skip_file=None) for one in target_packings)
    own = (
        ()
        if source.packed
        else (Packing(source, source_uri, source.train, source_hw, labelled=True),)
    )
    return Plan(
        out=out,
        source=source,
        target=target,
        source_uri=source_uri,
        target_uri=target_uri,
        source_hw=source_hw,
        target_hw=target_hw,
        classes=classes,
        target_classes=target_classes,
        ids=ids,
        packings=(*own, *target_packings),
        validation=scored,
        pairs_only=pairs_only,
        lists=lists,
        notes=tuple(notes(source, target, classes, target_classes, ids, lists, fits)),
    )


def agreeing(
    source: Held, target: Held, classes: Proposed, ids: Mapping[str, Sequence[int]]
) -> bool:
    """Return whether labels of the target can be scored as the source's classes."""
    stored = target.packed[target.train].label_space if target.packed else None
    if stored is not None:
        return stored.classes == tuple(one.name for one in classes.classes)
    return any(ids.values()) or (source.name == target.name and bool(target.labelled))


def notes(
    source: Held,
    target: Held,
    classes: Proposed,
    target_classes: Proposed | None,
    ids: Mapping[str, Sequence[int]],
    lists: Mapping[str, Sequence[str]],
    fits: bool,
) -> list[str]:
    """Sentences on what was found and decided, for the spec and the terminal."""
    found = [described("source", source), described("target", target)]
    found += [
        note
        for held, one in ((source, classes), (target, target_classes))
        if one
        for note in ignored_notes(held, one)
    ]
    if target_classes is None:
        found.append(
            "No labels of the target: no checkpoint can be scored by mIoU. `segadapt choose` ranks "
            "checkpoints without labels."
        )
    elif not fits:
        found.append(
            f"No label value of {target.name} is a class of {source.name}: write its ids into "
            "`classes` and add `validation`, or name them with --target-ids."
        )
    else:
        found += unmatched(target, target_classes, ids)
    if lists:
        count = len(lists[VAL_LIST])
        found.append(
            f"Validation: {counted(count, 'labelled image')} of {target.name} that training leaves "
            "out."
        )
    return found


def described(domain: str, held: Held) -> str:
    """A domain in one sentence."""
    height, width = held.size_hw
    labels = len(held.labelled_keys) if held.layout else held.labelled.get(held.train, 0)
    others = ", ".join(
        f"{split} {count}" for split, count in held.splits.items() if split != held.train
    )
    layout = f"layout {held.layout}" if held.layout else "packed"
    return (
        f"{domain.capitalize()} {held.name}: {held.where} ({layout}), "
        f"{counted(held.splits[held.train], 'image')} of {height}x{width} pixels, {labels} with "
        f"labels" + (f"; other splits: {others}." if others else ".")
    )


def ignored_notes(held: Held, classes: Proposed) -> list[str]:
    """Values that belong to no class, where they have pixels to speak of; and how many labels were
    read."""
    values = held.values
    assert values is not None, "classes come from values"
    gone = [one for one in classes.ignored if values.share(one) > COMMON]
    share = sum(values.share(one) for one in gone)
    shown = ", ".join(str(one) for one in gone[:10]) + (", ..." if len(gone) > 10 else "")
    found = [f"Ignored in {held.name}: {shown} ({share:.2%} of the pixels)."] if gone else []
    if values.num_read < values.num_labels:
        found.append(
            f"{values.num_read} of {values.num_labels} labels of {held.name} were read; rarer "
            "values may occur in the others (--labels reads more)."
        )
    return found


def unmatched(target: Held, classes: Proposed, ids: Mapping[str, Sequence[int]]) -> list[str]:
    """Classes of either domain that the other has not."""
    matched = {identity for some in ids.values() for identity in some}
    own = [one.name for one in classes.classes if not matched & set(one.ids)]
    missing = [name for name, some in ids.items() if not some]
    found = []
    if own:
        found.append(f"Of {target.name} alone, ignored when scoring: {', '.join(own)}.")
    if missing:
        found.append(f"Without ids in {target.name}, never scored there: {', '.join(missing)}.")
    return found


def refuse_full(out: Path, overwrite: bool) -> None:
    """`JobError` for a folder that has files already; `DataError` for a file in its place."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder, got a file", fix="pass another --out")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise JobError(
            f"--out: expected a new or empty folder, got {out} with files",
            fix="pass another one, or --overwrite to replace the spec, tables and commands there",
        )
