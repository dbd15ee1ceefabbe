"""One file out of a container image: of an engine, by a container that is never started, or of the
tar that `docker save` writes, whose layers are read from the last to the first.
"""

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from adapt.errors import DataError, JobError
from adapt.platforms.docker.engine import open_engine
from adapt.platforms.docker.errors import answers_of

_DELETED, _EMPTIED = ".wh.", ".wh..wh..opq"
"""Names in a layer: a file of the layers below that is deleted; a folder that was made anew."""
_SHOWN = 5
_SAVE = "write it with docker save IMAGE -o FILE.tar"


def copy_from_image(
    image: str, path: str, folder: Path, endings: tuple[str, ...], environment: Mapping[str, str]
) -> Path:
    """Copy the file at `path` of an image into `folder`; the copy.

    `image`: the tar of `docker save`, or the reference of an image that the engine of `environment`
    has. `endings`: those of files that a message proposes. Raises `JobError` for a path that is not
    there or no file, `DataError` for a tar that is no image, `StoreUnavailable`.
    """
    inside = PurePosixPath("/", path).relative_to("/")
    if inside == PurePosixPath("."):
        raise JobError(f"{path!r}: expected the path of a file in the image, got its root")
    target = folder / inside.name
    if Path(image).is_file():
        _copy_from_tar(Path(image), inside, target, endings)
    else:
        _copy_from_engine(image, inside, target, environment)
    return target


def _copy_from_engine(
    image: str, inside: PurePosixPath, target: Path, environment: Mapping[str, str]
) -> None:
    engine, where = open_engine(None, environment)
    from docker.errors import NotFound

    with answers_of(where):
        container = engine.containers.create(image, command=["none"])
        try:
            with tempfile.TemporaryFile() as archive:
                archive.writelines(container.get_archive(f"/{inside}")[0])
                archive.seek(0)
                with tarfile.open(fileobj=archive) as tar:
                    _copy_member(tar, tar.getmembers()[0], f"{image}: /{inside}", target)
        except NotFound as error:
            raise _absent(image, inside, ()) from error
        finally:
            container.remove(force=True)


def _copy_from_tar(
    image: Path, inside: PurePosixPath, target: Path, endings: tuple[str, ...]
) -> None:
    seen: list[str] = []
    with _image(image) as (tar, layers):
        for name in reversed(layers):
            with _layer(tar, name) as layer:
                members = {_name(member): member for member in layer.getmembers()}
                if inside in members:
                    _copy_member(layer, members[inside], f"{image}: /{inside}", target)
                    return
                if any(_hides(one, inside) for one in members):
                    break
                seen += [f"/{one}" for one in members if str(one).lower().endswith(endings)]
    raise _absent(str(image), inside, seen)


@contextmanager
def _image(image: Path) -> Iterator[tuple[tarfile.TarFile, list[str]]]:
    """The open tar of an image, and the names of its layers, the first first."""
    try:
        with tarfile.open(image) as tar:
            images = json.loads(_read(tar, "manifest.json"))
            if len(images) != 1:
                tags = ", ".join(tag for one in images for tag in one.get("RepoTags") or ())
                raise JobError(
                    f"{image}: expected the tar of one image, got {len(images)} ({tags})", _SAVE
                )
            yield tar, list(images[0]["Layers"])
    except (tarfile.TarError, KeyError, ValueError, TypeError, EOFError) as error:
        raise DataError(
            f"{image}: expected the tar of an image, got another file [{error!r}]", _SAVE
        ) from error


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    return _content(tar, tar.getmember(name)).read()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise tarfile.TarError(f"{member.name} is no file")
    return file


@contextmanager
def _layer(tar: tarfile.TarFile, name: str) -> Iterator[tarfile.TarFile]:
    """A layer, which is a tar in the tar, compressed or not."""
    with _content(tar, tar.getmember(name)) as file, tarfile.open(fileobj=file) as layer:
        yield layer


def _name(member: tarfile.TarInfo) -> PurePosixPath:
    return PurePosixPath("/", member.name).relative_to("/")


def _hides(marker: PurePosixPath, inside: PurePosixPath) -> bool:
    """Return whether a name in a layer deletes this path of the layers below, or one above it."""
    if marker.name == _EMPTIED:
        return marker.parent in inside.parents
    if not marker.name.startswith(_DELETED):
        return False
    deleted = marker.with_name(marker.name.removeprefix(_DELETED))
    return deleted == inside or deleted in inside.parents


def _copy_member(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str, target: Path) -> None:
    if member.issym():
        raise JobError(
            f"{where}: expected a file, got a link to {member.linkname}", "name the file itself"
        )
    if not (member.isfile() or member.islnk()):
        raise JobError(f"{where}: expected a file, got a folder", "name a file of weights in it")
    with _content(tar, member) as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy, io.DEFAULT_BUFFER_SIZE * 128)


def _absent(image: str, inside: PurePosixPath, seen: Iterable[str]) -> JobError:
    """The error that proposes the files of weights that the image has."""
    shown = sorted(set(seen))[:_SHOWN]
    fix: Any = f"name one of its files: {', '.join(shown)}" if shown else "name a file of the image"
    return JobError(f"{image}: expected a file at /{inside}, got none there", fix)
