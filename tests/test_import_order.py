"""Data flows one way: a folder imports only from the folders before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = ["errors", "batch", "ranks", "losses"]
FLOW = [
    "config",
    "places",
    "data",
    "stream",
    "models",
    "methods",
    "engine",
    "evaluation",
    "checkpoint",
    "tracking",
    "spec",
    "trainer",
    "launch",
    "platforms",
    "check",
    "cli",
]
"""The folders of `adapt/`, in the order in which a job passes them."""

LAYERS = ["adapt", "storage", *(f"adapt.{name}" for name in [*VOCABULARY, *FLOW])]


def position(module: str) -> int:
    layer = ".".join(module.split(".")[: 1 if module.startswith("storage") else 2])
    return LAYERS.index(layer)


def imports() -> Iterator[tuple[str, str]]:
    """(module, what it imports), within the project, also inside functions."""
    for path in sorted([*ROOT.glob("adapt/*/**/*.py"), *ROOT.glob("storage/**/*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            imported = node.module if isinstance(node, ast.ImportFrom) else None
            if imported and imported.split(".")[0] in ("adapt", "storage"):
                yield name, imported


def test_a_folder_imports_only_from_the_folders_before_it() -> None:
    assert [f"{a} imports {b}" for a, b in imports() if position(b) > position(a)] == []


def test_the_flow_is_the_list_of_folders() -> None:
    folders = {path.parent.name for path in ROOT.glob("adapt/*/__init__.py")}
    files = {path.stem for path in ROOT.glob("adapt/*.py")} - {"__init__", "__main__"}
    assert folders == set(FLOW)
    assert files == set(VOCABULARY)
