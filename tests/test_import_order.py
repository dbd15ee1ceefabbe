"""Data flows one way: a file imports only from layers before its own."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    ["storage"],
    ["adapt.errors", "adapt.section", "adapt.batch", "adapt.places", "adapt.status"],
    ["adapt.elastic", "adapt.health"],
    ["adapt.ranks"],
    ["adapt.losses", "adapt.metrics", "adapt.schedule"],
    ["adapt.sync_batch_norm"],
    ["adapt.data"],
    ["adapt.models"],
    ["adapt.methods"],
    ["adapt.optim", "adapt.repeated_sgd"],
    ["adapt.engine"],
    ["adapt.inference"],
    ["adapt.evaluate", "adapt.submission"],
    [
        "adapt.checkpoint",
        "adapt.spool",
        "adapt.mlflow_database",
        "adapt.mlflow_run",
        "adapt.delivery",
        "adapt.tracker",
        "adapt.report",
        "adapt.tables",
        "adapt.network_tables",
        "adapt.spec_file",
        "adapt.import_checkpoint",
    ],
    ["adapt.export_checkpoint"],
    ["adapt.spec"],
    ["adapt.saving", "adapt.shared_stop"],
    ["adapt.progress"],
    ["adapt.job_data", "adapt.download", "adapt.spec_reference"],
    ["adapt.trainer", "adapt.memory"],
    ["adapt.job", "adapt.scoring", "adapt.live", "adapt.platforms", "adapt.launch"],
    ["adapt.submit"],
    ["adapt.demo", "adapt.check"],
    ["adapt.cli"],
]


def layer_of(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    raise AssertionError(f"{module}: put it into a layer of tests/test_import_order.py")


def test_a_file_imports_only_from_layers_before_its_own() -> None:
    wrong = []
    for path in sorted([*ROOT.glob("adapt/**/*.py"), *ROOT.glob("storage/**/*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name == "adapt":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            imported = node.module if isinstance(node, ast.ImportFrom) else None
            ours = imported is not None and imported.split(".")[0] in ("adapt", "storage")
            if ours and layer_of(imported) > layer_of(name):
                wrong.append(f"{name} imports {imported}")
    assert not wrong
