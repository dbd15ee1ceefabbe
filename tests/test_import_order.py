"""Data flows one way: a folder imports only from the folders before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = ["accelerator", "errors", "batch", "ranks", "counts", "losses"]
FLOW = [
    "config",
    "places",
    "data",
    "stream",
    "models",
    "methods",
    "engine",
    "evaluation",
    "labelling",
    "checkpoint",
    "tracking",
    "report",
    "profiling",
    "spec",
    "trainer",
    "use",
    "gap",
    "suggest",
    "serve",
    "export",
    "launch",
    "platforms",
    "check",
    "proposal",
    "sweep",
    "cli",
]
"""The folders of `adapt/`, in the order in which a job passes them."""

LAYERS = ["adapt", "storage", *(f"adapt.{name}" for name in [*VOCABULARY, *FLOW])]


def position(module: str) -> int:
    """The layer's number; a value of the package, as `adapt.__version__`, is in the first."""
    layer = ".".join(module.split(".")[: 1 if module.startswith("storage") else 2])
    return LAYERS.index(layer) if layer in LAYERS else 0


def imports() -> Iterator[tuple[str, str]]:
    """(module, what it imports), within the project, also inside functions."""
    for path in sorted([*ROOT.glob("adapt/*/**/*.py"), *ROOT.glob("storage/**/*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield from ((name, imported) for imported in imported_by(path.read_text()))


def imported_by(source: str) -> Iterator[str]:
    """Modules of the project that a source imports, in either form; `from adapt import x` imports
    `adapt.x`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "adapt":
            found = [f"adapt.{alias.name}" for alias in node.names]
        else:
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (one for one in found if one.split(".")[0] in ("adapt", "storage"))


def test_a_folder_imports_only_from_the_folders_before_it() -> None:
    assert [f"{a} imports {b}" for a, b in imports() if position(b) > position(a)] == []


def test_both_forms_of_an_import_are_seen() -> None:
    source = (
        "import os, adapt.cli\nimport storage.uris as uris\nfrom adapt import spec, __version__\n"
        "def f():\n    import adapt.launch.health\n    from adapt.config import section\n"
    )
    assert list(imported_by(source)) == [
        *("adapt.cli", "storage.uris", "adapt.spec", "adapt.__version__"),
        *("adapt.launch.health", "adapt.config"),
    ]
    assert position("adapt.launch.health") > position("adapt.spec") > position("adapt.__version__")


def test_the_flow_is_the_list_of_folders() -> None:
    folders = {path.parent.name for path in ROOT.glob("adapt/*/__init__.py")}
    files = {path.stem for path in ROOT.glob("adapt/*.py")} - {"__init__", "__main__"}
    assert folders == set(FLOW)
    assert files == set(VOCABULARY)
