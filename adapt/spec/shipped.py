"""The job specs, platform profiles and JSON schema that come with SegAdapt: `job_specs` beside the
package in the repository and the image, `adapt/job_specs` in an installation from a wheel.
"""

import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from adapt.errors import MAX_SHOWN, JobError, got

SCHEMA = "schema.json"
PROFILES = "platforms"


def shipped_dir() -> Path:
    """The folder of shipped files."""
    package = Path(str(resources.files("adapt")))
    installed = package / "job_specs"
    return installed if installed.is_dir() else package.parent / "job_specs"


def shipped_names() -> list[str]:
    """Every shipped job spec and profile, as `toy_town/advent`, sorted."""
    return sorted(_name(path) for path in shipped_dir().glob("*/*.yaml"))


def shipped_path(name: str) -> Path:
    """The file of a shipped spec or profile.

    Raises `JobError` for an unknown name.
    """
    names = shipped_names()
    if name not in names:
        more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
        raise JobError(
            f"NAME: expected a shipped job spec, {got(name, names)} (known: "
            f"{', '.join(names[:MAX_SHOWN])}{more})",
            fix="run `segadapt specs`",
        )
    return shipped_dir() / f"{name}.yaml"


def find_file(where: Path | str, key: str = "SPEC") -> Path | str:
    """`where` itself, or where there is no such file the shipped one of that name.

    Raises `JobError`, which names `key`, where there is neither.
    """
    from adapt.config.strict_yaml import IN_VARIABLE

    name, names = str(where), shipped_names()
    if name in names and not Path(where).is_file():
        return shipped_path(name)
    elsewhere = "://" in name or name.startswith(IN_VARIABLE)
    if elsewhere or os.path.exists(name):  # noqa: PTH110 - False also for what is no path
        return where
    kind = [one for one in names if (key == "SPEC") != one.startswith(f"{PROFILES}/")]
    raise JobError(
        f"{key}: expected a YAML file, its URI or the name of a shipped one, {got(name, kind)}",
        fix="check the path, or take a name from `segadapt specs`",
    )


def copy_shipped(name: str, out: Path) -> Iterator[Path]:
    """Copy a shipped file, or a folder of them, below `out`, and the schema that editors read.

    Yields each written path. Raises `JobError` for an unknown name, and rather than overwrite.
    """
    names = [one for one in shipped_names() if one.startswith(f"{name}/")] or [name]
    sources = [shipped_path(one) for one in names]
    targets = [out / source.relative_to(shipped_dir()) for source in sources]
    for target in targets:
        if target.exists():
            raise JobError(
                f"--out: expected no file at {target}, got one", fix="choose another folder"
            )
    for source, target in zip(sources, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        yield target
    shutil.copyfile(shipped_dir() / SCHEMA, out / SCHEMA)


def _name(path: Path) -> str:
    return path.relative_to(shipped_dir()).with_suffix("").as_posix()
