"""Names that a shell offers for an argument, beside files: shipped specs and profiles, datasets,
label spaces.

A shell completes paths itself where nothing is offered.
"""

from collections.abc import Iterable

from adapt.spec.shipped import PROFILES, shipped_names


def specs(incomplete: str) -> list[str]:
    """Shipped job specs that begin so."""
    names = (name for name in shipped_names() if not name.startswith(f"{PROFILES}/"))
    return beginning(names, incomplete)


def profiles(incomplete: str) -> list[str]:
    """Shipped platform profiles that begin so."""
    names = (name for name in shipped_names() if name.startswith(f"{PROFILES}/"))
    return beginning(names, incomplete)


def shipped(incomplete: str) -> list[str]:
    """Shipped files that begin so, and the folders that they are in."""
    names = shipped_names()
    return beginning([*{name.partition("/")[0] for name in names}, *names], incomplete)


def datasets(incomplete: str) -> list[str]:
    """Layouts of raw datasets that begin so."""
    from adapt.data.annotations.formats import ANNOTATIONS
    from adapt.data.datasets import DATASETS

    return beginning([*DATASETS, *ANNOTATIONS], incomplete)


def label_spaces(incomplete: str) -> list[str]:
    """Label spaces and shipped job specs that begin so."""
    from adapt.data.label_maps import LABEL_SPACES

    return [*beginning(LABEL_SPACES, incomplete), *specs(incomplete)]


def toy_methods(incomplete: str) -> list[str]:
    """Methods that the demo compares and that begin so."""
    from adapt.cli.demo import toy_jobs

    return beginning(toy_jobs(), incomplete)


def beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that begin so, sorted."""
    return sorted(name for name in names if name.startswith(incomplete))
