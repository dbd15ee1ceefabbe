"""Networks of others become one file that states itself, with the pixels that they had."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient

import adapt
from adapt.checkpoint.files import sha256_of
from adapt.data.label_maps import LABEL_SPACES
from adapt.errors import DataError, JobError
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.models.segmenter import Segmenter
from adapt.tracking.imported_models import EXPERIMENT, check_model_name, register_import
from adapt.tracking.logged_models import TrackedModel
from adapt.trainer.found_run import find_run
from adapt.use.importing import Imported, NetworkSpec, Source, import_model, read_network_spec
from adapt.use.model import LoadedModel
from adapt.use.segmentation import Segmentation
from storage.stores import Stores
from tests.networks import tiny_model
from tests.tracking.recorded import DELIVERY_S, new_database, open_tracker
from tests.use.conftest import SPACE

IMAGE = np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A network as another training program leaves it: wrapped, without a word of what it is."""
    state = {f"module.{key}": one for key, one in trained().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "theirs.ckpt")
    return tmp_path / "theirs.ckpt"


def trained() -> Segmenter:
    """Its random predictions have several classes."""
    torch.manual_seed(5)
    segmenter = build_segmenter(tiny_model("deeplab_v2"), 19)
    for values in segmenter.parameters():
        torch.nn.init.normal_(values, std=0.3)
    return segmenter


def expected() -> Segmentation:
    """The prediction of the network itself."""
    segmenter = trained()
    header = FileHeader(segmenter.config, 19, segmenter.pixels, SPACE, (16, 24))
    return LoadedModel(segmenter, header, Stores(), "cpu").predict(IMAGE)


def described(folder: Path, **changes: Any) -> Path:
    """The YAML file that describes it."""
    model = trained().config.model_dump(mode="json", exclude={"weights_sha256"})
    values = {"model": model, "classes": "cityscapes19", "size_hw": [16, 24], **changes}
    (folder / "network.yaml").write_text(yaml.safe_dump(values))
    return folder / "network.yaml"


def imported(theirs: Path, **options: Any) -> Imported:
    spec = read_network_spec(str(described(theirs.parent)))
    return import_model(theirs, theirs.with_name("ours.safetensors"), spec=spec, **options)


def test_the_file_alone_predicts_what_the_network_did(theirs: Path) -> None:
    done = imported(theirs)
    model = adapt.load(done.uri, device="cpu")
    found = model.predict(IMAGE)
    assert np.array_equal(found.probabilities, expected().probabilities)
    assert len(np.unique(found.class_map)) > 1
    assert (model.classes, model.size_hw) == (SPACE, (16, 24))
    assert model.lineage == {
        "version": adapt.__version__,
        "imported_from": "theirs.ckpt",
        "imported_sha256": sha256_of(theirs),
    }
    assert done.sha256 == sha256_of(Path(done.uri)) and done.tensors == len(trained().state_dict())
    assert done.network.endswith("19 classes")


def test_what_states_itself_needs_no_spec_and_keeps_its_lineage(theirs: Path) -> None:
    first = imported(theirs)
    again = theirs.with_name("again.safetensors")
    size_hw = (32, 48)
    import_model(first.uri, again, size_hw=size_hw)
    model = adapt.load(again)
    assert model.size_hw == size_hw and model.classes == SPACE
    assert model.lineage["imported_from"] == "ours.safetensors"
    assert model.lineage["imported_sha256"] == first.sha256


def test_a_spec_beside_a_header_changes_the_network_not_the_lineage(theirs: Path) -> None:
    segmenter, again = trained(), theirs.with_name("again.safetensors")
    header = FileHeader(segmenter.config, 19, segmenter.pixels, lineage={"step": 7})
    write_weights(segmenter.state_dict(), header.entries(), theirs)
    import_model(theirs, again, spec=read_network_spec(str(described(theirs.parent))))
    model = adapt.load(again)
    assert (model.lineage["step"], model.size_hw) == (7, (16, 24))
    assert model.lineage["imported_sha256"] == sha256_of(theirs)


def test_stores_are_read_and_written(theirs: Path, s3_stores: Stores, s3_uri: str) -> None:
    s3_stores.open(s3_uri).put_file("a/theirs.ckpt", theirs)
    spec = read_network_spec(str(described(theirs.parent)))
    out = f"{s3_uri}/b/ours.safetensors"
    done = import_model(f"{s3_uri}/a/theirs.ckpt", out, spec=spec, stores=s3_stores)
    assert done.uri == out
    model = adapt.load(out, stores=s3_stores)
    assert model.lineage["imported_from"] == f"{s3_uri}/a/theirs.ckpt"


def test_a_job_spec_describes_the_network_too(theirs: Path, tiny_job: dict[str, Any]) -> None:
    values = yaml.safe_load(described(theirs.parent).read_text())
    spec = theirs.with_name("job.yaml")
    target = {**tiny_job["target"], "dataset": "cityscapes"}
    source = {**tiny_job["source"], "dataset": "cityscapes"}
    job = {**tiny_job, "model": values["model"], "classes": "cityscapes19"}
    job |= {"source": source, "target": target, "validation": None}
    job["method"] = {"name": "source_only"}
    spec.write_text(yaml.safe_dump(job))
    out = theirs.with_name("ours.safetensors")
    import_model(theirs, out, spec=read_network_spec(str(spec)))
    assert adapt.load(out).classes == SPACE


def test_what_does_not_fit_is_named(theirs: Path) -> None:
    out = theirs.with_name("ours.safetensors")
    with pytest.raises(JobError, match=r"theirs.ckpt: expected a header.*got none") as raised:
        import_model(theirs, out)
    assert "add --spec FILE" in str(raised.value)
    other = {"architecture": "deeplab_v3", "encoder": "test_resnet", "output_stride": 16}
    spec = read_network_spec(str(described(theirs.parent, model=other)))
    with pytest.raises(JobError, match=r"missing: decoder\.\S+, .* unexpected: decoder\."):
        import_model(theirs, out, spec=spec)
    spec = read_network_spec(str(described(theirs.parent)), ["classes=cityscapes16"])
    with pytest.raises(JobError, match=r"for 16 classes, got 19 \(decoder\."):
        import_model(theirs, out, spec=spec)
    state = trained().state_dict()
    next(iter(state.values())).fill_(float("nan"))
    torch.save(state, theirs.with_name("nan.pth"))
    spec = read_network_spec(str(described(theirs.parent)))
    with pytest.raises(JobError, match=r"^\S*nan.pth: expected finite numbers, got NaN"):
        import_model(theirs.with_name("nan.pth"), out, spec=spec)
    first = imported(theirs)
    with pytest.raises(JobError, match="classes: expected 19, as the network has, got 16"):
        import_model(first.uri, out, classes=LABEL_SPACES["cityscapes16"])
    for wrong in ("ours.pth", ".safetensors", "folder/"):
        with pytest.raises(
            JobError, match=r"--out: expected a path or URI that ends with \.safe.*name it as town"
        ):
            import_model(first.uri, wrong)


def test_a_description_is_read_as_strictly_as_a_job(tmp_path: Path) -> None:
    assert isinstance(read_network_spec(str(described(tmp_path))), NetworkSpec)
    with pytest.raises(JobError, match="modle"):
        read_network_spec(str(described(tmp_path, modle={})))
    with pytest.raises(JobError, match="classes: expected a label space"):
        read_network_spec(str(described(tmp_path, classes="cityscape19")))
    with pytest.raises(JobError, match="model"):
        read_network_spec(str(described(tmp_path)), ["model.encoder=3"])


def tracked(done: Imported) -> TrackedModel:
    return TrackedModel("ours", done.uri, done.sha256, 0, done.header)


@pytest.mark.slow
def test_it_is_registered_once_and_never_before_a_scored_one(theirs: Path, mlflow_uri: str) -> None:
    done, client = imported(theirs), MlflowClient(mlflow_uri)
    versions = [register_import(tracked(done), "of-others", mlflow_uri) for _ in range(2)]
    assert versions == ["1", "1"]
    version = client.get_model_version_by_alias("of-others", "best")
    assert version.version == "1"
    assert version.tags["segadapt.imported_from"] == "theirs.ckpt"
    model = adapt.load("models:/of-others@best", tracking_uri=mlflow_uri)
    assert model.lineage["imported_sha256"] == sha256_of(theirs)

    with pytest.raises(JobError, match=r"expected the run of a job, got one without spec\.yaml"):
        find_run("of-others", mlflow_uri)

    tracker = open_tracker(mlflow_uri, theirs.parent / "spool", "k", register_as="of-others")
    tracker.register_best("s3://b/w.safetensors", "0" * 64, {"miou": 0.1})
    assert tracker.finish("FINISHED", DELIVERY_S)
    assert client.get_model_version_by_alias("of-others", "best").version == "2"
    other = import_model(done.uri, theirs.with_name("other.safetensors"), size_hw=(8, 8))
    assert register_import(tracked(other), "of-others", mlflow_uri) == "3"
    assert client.get_model_version_by_alias("of-others", "best").version == "2"


@pytest.mark.slow
def test_the_same_file_elsewhere_leaves_the_first_version_as_it_was(theirs: Path) -> None:
    """Its LoggedModel stays, by which `mlflow.pyfunc` loads it, in whatever order names sort."""
    server = new_database(theirs.parent / "mlflow")
    first, client = imported(theirs), MlflowClient(server)
    content, uris = Path(first.uri).read_bytes(), [first.uri]
    for name in ("zoo/later.safetensors", "zoo/ours.safetensors", "a/ours.safetensors"):
        (theirs.parent / name).parent.mkdir(exist_ok=True)
        (theirs.parent / name).write_bytes(content)
        uris.append(str(theirs.parent / name))
    for number, uri in enumerate(uris, start=1):
        model = tracked(first)._replace(name=Path(uri).stem, uri=uri)
        assert register_import(model, "moved", server) == str(number)
    versions = [client.get_model_version("moved", str(number + 1)) for number in range(len(uris))]
    (run,) = {version.run_id for version in versions}
    experiment = client.get_run(str(run)).info.experiment_id
    models = {one.artifact_location: one for one in client.search_logged_models([experiment])}
    assert [models[str(version.source)].params["uri"] for version in versions] == uris
    assert all(model.status == "READY" for model in models.values())


def test_names_of_models_are_checked() -> None:
    check_model_name("of others", "--register")
    with pytest.raises(JobError, match=r"--register.*without '/' and ':'"):
        check_model_name("a/b", "--register")


def test_runs_of_mlflow_give_artifacts_and_registered_models(theirs: Path, tmp_path: Path) -> None:
    server = new_database(tmp_path / "mlflow")
    client = MlflowClient(server)
    experiment = client.create_experiment("theirs", (tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifact(run, str(theirs), "checkpoints")
    spec = read_network_spec(str(described(tmp_path)))
    out, where = tmp_path / "ours.safetensors", f"runs:/{run}/checkpoints/theirs.ckpt"
    done = import_model(where, out, spec=spec, tracking_uri=server)
    assert adapt.load(out).lineage["imported_from"] == where
    with pytest.raises(JobError, match="expected a file of weights, got a folder of artifacts"):
        import_model(f"runs:/{run}/checkpoints", out, spec=spec, tracking_uri=server)
    with pytest.raises(JobError, match=r"expected an answer of MLflow, got: .*absent\.pth"):
        import_model(f"runs:/{run}/absent.pth", out, spec=spec, tracking_uri=server)
    with pytest.raises(JobError, match="expected the MLflow server that knows it, got none"):
        import_model(where, out, spec=spec)
    with pytest.raises(JobError, match=r"best checkpoint, got none\. Fix: name the file among"):
        import_model(f"runs:/{run}", out, tracking_uri=server)

    register_import(tracked(done), "of-others", server)
    (imports,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    other, content = tmp_path / "other.safetensors", Path(done.uri).read_bytes()
    for known in ("models:/of-others@best", f"runs:/{imports.info.run_id}"):
        import_model(known, other, tracking_uri=server)
        assert adapt.load(other).lineage["imported_from"] == known
        Path(done.uri).write_bytes(content[:-1] + b"\0")
        with pytest.raises(DataError, match="expected sha256"):
            import_model(known, other, tracking_uri=server)
        Path(done.uri).write_bytes(content)


def test_a_copied_file_states_the_image_that_it_is_of(theirs: Path) -> None:
    first = imported(theirs)
    source = Source(Path(first.uri), first.uri, "town:1: /opt/ml/model/weights.safetensors")
    import_model(source, theirs.with_name("copy.safetensors"))
    lineage = adapt.load(theirs.with_name("copy.safetensors")).lineage
    assert lineage["imported_from"] == "town:1: /opt/ml/model/weights.safetensors"
