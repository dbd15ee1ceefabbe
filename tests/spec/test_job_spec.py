"""The job spec: strict, explained by key path, saved and read back, every shipped file valid."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.config.strict_yaml import packed, parse_yaml, with_overrides
from adapt.errors import JobError
from adapt.platforms.local_stack import S3Server
from adapt.spec.job_spec import JobSpec, json_schema
from adapt.spec.loading import load_spec, parse_spec
from adapt.spec.same_job import check_same_job
from storage.errors import MissingObject
from storage.stores import Stores

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted(path for path in ROOT.glob("job_specs/*/*.yaml") if path.parent.name != "platforms")


def changed(values: dict[str, Any], *overrides: str) -> JobSpec:
    return parse_spec(with_overrides(values, overrides), "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_spec_loads_and_is_named_after_its_file(path: Path) -> None:
    assert load_spec(path).name == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_resolved_spec_is_a_valid_job_with_the_same_meaning(path: Path) -> None:
    job = load_spec(path)
    assert parse_spec(yaml.safe_load(job.to_yaml()), "other name") == job


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.steps=10k",
            "train.steps: expected a positive integer, got '10k'. Fix: write 10000.",
        ),
        ("train.steps=0", "train.steps: expected a positive integer, got 0"),
        ("train.steps=true", "train.steps: expected a positive integer, got true"),
        ("steps=5", "steps: unknown key, got 'steps'; did you mean 'train.steps'? (known: "),
        ("step=5", "step: unknown key, got 'step'; did you mean 'train.steps'?"),
        (
            "batch_size=5",
            "got 'batch_size'; did you mean 'source.batch_size' or 'target.batch_size' or ",
        ),
        ("weight_adv=1", "got 'weight_adv'; did you mean 'method.weight_adv'? (known: "),
        ("source.crop_hw=1", "got 'crop_hw'; did you mean 'source.augment.crop_hw'? (known: "),
        ("loss.lr=1", "loss.lr: unknown key, got 'lr'; did you mean 'optim.lr'? (known: "),
        ("block_px=1", "block_px: unknown key, got 'block_px' (known: "),  # no method here has it
        ("train.step=5", "train.step: unknown key, got 'step'; did you mean 'steps'?"),
        ("trian.steps=5", "trian: unknown key, got 'trian'; did you mean 'train'?"),
        ("train.precision=fp16", "train.precision: expected fp32 or bf16, got 'fp16'"),
        ("optim.lr=fast", "optim.lr: expected a number > 0, got 'fast'"),
        ("source.size_hw=[48]", "source.size_hw.1: missing, expected an integer"),
        ("source.size_hw=48", "source.size_hw: expected a list of 2 or null, got 48"),
        (
            "method.name=adven",
            "method.name: expected a known name, got 'adven'; did you mean 'advent'?",
        ),
        ("method={}", "method.name: missing, expected one of adaptsegnet, advent, "),
        (
            "method.weight=1",
            "method.weight: unknown key, got 'weight'; did you mean 'weight_adv'?",
        ),
        ("model.encoder=7", "model.encoder: expected a text, got 7"),
        (
            "source.augment.scale=[2.0, 1.0]",
            "source.augment.scale: expected 0 < low <= high, got [2.0, 1.0]",
        ),
        (
            "classes=cityscape19",
            "classes: expected a label space or a list of classes, got 'cityscape19'; did you",
        ),
        ("classes.1.colour=[1, 2]", "classes.1.colour.2: missing, expected an integer"),
        (
            "classes.1.ids.tiny=[0]",
            "classes: expected one class for id 0 of 'tiny', got 'band 0' and 'band 1'",
        ),
        ("source.dataset=tinny", "source.dataset: classes: expected ids for dataset 'tinny'"),
        ("validation.dataset=x", "validation.dataset: classes: expected ids for dataset 'x'"),
        ("target=null", "target: missing, expected a domain to adapt to with method advent"),
        ("stores.s4.region=x", "stores.s4: expected a known scheme, got 's4'; did you mean 's3'?"),
        (
            "stores={'s3://b/': {region: x}}",
            'stores["s3://b/"]: expected a scheme as `s3`, or how URIs begin, as `s3://BUCKET`',
        ),
        ("stores={'s4://b': {region: x}}", 'stores["s4://b"]: expected a scheme as `s3`, or how'),
        (
            "stores={gs: {region: x}}",
            "stores.gs.region: expected none, as gs knows no such setting, got one (known: connect",
        ),
        ("source.uri=foo://x", "source.uri: expected a known scheme, got 'foo' (known: az, "),
        (
            "target.uri=s4://b/x",
            "target.uri: expected a known scheme, got 's4'; did you mean 's3'?",
        ),
        (
            "checkpoint.uri=gs:/b/x",
            "checkpoint.uri: expected gs://BUCKET/PREFIX, got no :// after gs. Fix: write gs://BUC",
        ),
        ("model.weights_uri=az://", "model.weights_uri: expected az://CONTAINER/PREFIX, got 'az:"),
        (
            "checkpoint.uri=https://host/runs",
            "checkpoint.uri: expected a store that lists and deletes (file, s3, obs, gs or az), "
            "got http",
        ),
        (
            "optim.schedule_steps=5",
            "optim.schedule_steps: expected at least train.steps (6), got 5",
        ),
        ("source=null", "source: expected keys and values or a list, got null"),
    ],
)
def test_mistakes_are_named_by_key(tiny_job: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        changed(tiny_job, override)
    assert message in str(caught.value)


def test_the_only_value_that_fits_is_told(tiny_job: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"^model.output_stride: expected 32, got 8$"):
        changed(tiny_job, "model={architecture: gcn, output_stride: 8}")


def test_all_mistakes_are_told_at_once(tiny_job: dict[str, Any]) -> None:
    with pytest.raises(JobError) as caught:
        changed(tiny_job, "train.steps=-1", "optim.lr=0", "seed=x")
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_section_is_named(tiny_job: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"^source: missing, expected keys and values or a list$"):
        parse_spec({key: value for key, value in tiny_job.items() if key != "source"}, "tiny")


def test_yaml_scalars_are_those_of_json() -> None:
    text = "a: 2e-4\nb: off\nc: 010\nd: true\ne: 1.5\nf: -3\ng: 1:30\nh: null\ni: 1_000"
    values = parse_yaml(text, "text")
    assert values == {
        "a": 2e-4, "b": "off", "c": 10, "d": True, "e": 1.5, "f": -3, "g": "1:30", "h": None,
        "i": "1_000",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "a: expected once, got it on lines 1 and 3. Fix: keep one."),
        ("a: [1, 2", "job.yaml: expected valid YAML, got: expected ',' or ']'"),
        ("- 1\n- 2", "job.yaml: expected keys and values, got a list"),
        ("", "job.yaml: expected keys and values, got null"),
        ("word", "job.yaml: expected keys and values, got 'word'"),
        ("a: 1\nuri: {{bucket}}", "line 2: expected a name before the colon, got several values"),
    ],
)
def test_wrong_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(JobError) as caught:
        load_spec(path)
    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    message = r"SPEC: expected a YAML file, its URI or the name of a shipped one, got '.*nothing.y"
    with pytest.raises(JobError, match=message):
        load_spec(tmp_path / "nothing.yaml")
    with pytest.raises(JobError, match=r": expected a file that can be read, got: Is a directory"):
        load_spec(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe\x00")
    with pytest.raises(JobError, match=r"expected text in UTF-8, got other bytes from byte 3 on\."):
        load_spec(tmp_path / "binary.yaml")


@pytest.mark.parametrize("name", ["../x", "..", ".a", "a/b", "a\\b", "a?b", "a\nb", " a", "a#1"])
def test_a_name_that_is_no_folder_is_refused(tiny_job: dict[str, Any], name: str) -> None:
    with pytest.raises(JobError, match=r"^name: expected the name of one folder.* Fix: write let"):
        parse_spec({**tiny_job, "name": name}, "tiny")


@pytest.mark.parametrize("name", ["advent", "advent-2.1_b", "Zürich 2", "a%b"])
def test_a_name_of_a_folder_is_taken(tiny_job: dict[str, Any], name: str) -> None:
    assert parse_spec({**tiny_job, "name": name}, "tiny").name == name
    assert parse_spec({**tiny_job, "name": ""}, name).name == name


def test_overrides_reach_the_classes_of_a_named_label_space() -> None:
    job = load_spec("gta5_to_cityscapes/advent", ["classes.0.name=street"])
    assert job.classes.names[:2] == ("street", "sidewalk")
    job = load_spec("gta5_to_cityscapes/advent", ["classes=cityscapes16", "classes.15.name=bike"])
    assert job.classes.names[14:] == ("motorcycle", "bike")


def test_a_spec_comes_from_a_store(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**tiny_job, "name": "elsewhere"}))
    assert load_spec(f"file://{tmp_path}/job.yaml").name == "elsewhere"
    with pytest.raises(MissingObject, match=r"other\.yaml"):
        load_spec(f"file://{tmp_path}/other.yaml")


def test_a_spec_in_obs_needs_its_endpoint(
    tiny_job: dict[str, Any],
    s3_server: S3Server,
    s3_stores: Stores,
    s3_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3_stores.open(s3_uri).put("job.yaml", yaml.safe_dump(tiny_job).encode())
    uri = f"{s3_uri.replace('s3://', 'obs://')}/job.yaml"
    with pytest.raises(JobError, match="expected the endpoint of OBS in AWS_ENDPOINT_URL_S3"):
        load_spec(uri)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")  # as boto3 reads them itself
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    environment = {"AWS_ENDPOINT_URL_S3": s3_server.endpoint_url}
    assert load_spec(uri, environment=environment).name == "tiny"


@pytest.mark.parametrize("pack", [packed, lambda text: base64.b64encode(text.encode()).decode()])
def test_a_spec_comes_in_a_variable(tiny_job: dict[str, Any], pack: Any) -> None:
    job = parse_spec(tiny_job, "tiny")
    assert load_spec("env:JOB", environment={"JOB": pack(job.to_yaml())}) == job


def test_packed_text_is_always_the_same_and_short() -> None:
    text = load_spec(SPECS[0]).to_yaml()
    assert packed(text) == packed(text) and len(packed(text)) < len(text)


@pytest.mark.parametrize("text", ["", "no base64!", packed("a: 1")[:-8]])
def test_variables_that_hold_no_spec_are_named(text: str) -> None:
    with pytest.raises(JobError, match="env:JOB: expected"):
        load_spec("env:JOB", environment={"JOB": text})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.steps",
            "--set train.steps: expected KEY.PATH=VALUE, got no value. Fix: write it as "
            "train.steps=500.",
        ),
        (".train.steps=1", "--set .train.steps: expected KEY.PATH=VALUE, got an empty part 1 of 3"),
        ("train.=1", "--set train.: expected KEY.PATH=VALUE, got an empty part 2 of 2"),
        ("=1", "--set : expected KEY.PATH=VALUE, got an empty part 1 of 1"),
        ("classes.9.name=x", "expected the number of an entry, got '9' (known: 0, 1, 2, 3)"),
        ("train.steps=[1", "expected valid YAML, got"),
    ],
)
def test_wrong_overrides_are_refused(tiny_job: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(JobError, match="--set") as caught:
        changed(tiny_job, override)
    assert message in str(caught.value)


def test_a_wrong_override_names_no_file() -> None:
    with pytest.raises(JobError, match=r"^--set train\.steps: expected KEY"):
        load_spec("toy_town/advent", ["train.steps"])


def test_overrides_reach_everything(tiny_job: dict[str, Any]) -> None:
    job = changed(tiny_job, "train.steps=5", "classes.0.name=top", "stores.s3.region=eu", "seed=7")
    assert (job.train.steps, job.classes.names[0], job.seed) == (5, "top", 7)
    assert job.stores["s3"].region == "eu"
    assert tiny_job["train"]["steps"] == 6, "the given values stay as they were"


def test_a_missing_secret_is_named(tiny_job: dict[str, Any]) -> None:
    job = changed(
        tiny_job,
        "source.uri=obs://bucket/tiny",
        "stores.obs.access_key_env=OBS_KEY",
        "stores.obs.secret_key_env=OBS_SECRET",
    )
    message = "stores.obs.access_key_env: expected the secret in environment variable OBS_KEY"
    with pytest.raises(JobError, match=message):
        job.check_environment({})
    job.check_environment({"OBS_KEY": "key", "OBS_SECRET": "secret"})
    with pytest.raises(JobError, match=r"stores.obs.secret_key_env"):
        job.check_environment({"OBS_KEY": "key"})


def test_the_secrets_of_each_store_in_use_are_needed(tiny_job: dict[str, Any]) -> None:
    named = "{access_key_env: %s_KEY, secret_key_env: %s_SECRET}"
    data, runs = named % ("DATA", "DATA"), named % ("RUNS", "RUNS")
    other = named % ("OTHER", "OTHER")
    job = changed(
        tiny_job,
        "source.uri=s3://data/gta5/packed",
        "checkpoint.uri=s3://runs/all",
        f"stores={{s3: {other}, 's3://data/gta5': {data}, 's3://runs': {runs}}}",
    )
    secrets = dict.fromkeys(("DATA_KEY", "DATA_SECRET", "RUNS_KEY", "RUNS_SECRET"), "x")
    job.check_environment(secrets)
    for missing, key in (("DATA_KEY", "s3://data/gta5"), ("RUNS_SECRET", "s3://runs")):
        field = "access_key_env" if missing.endswith("KEY") else "secret_key_env"
        with pytest.raises(JobError) as caught:
            job.check_environment({**secrets, missing: ""})
        assert str(caught.value).startswith(f'stores["{key}"].{field}: expected the secret in')


def test_batches_must_be_shared_out_evenly(tiny_job: dict[str, Any]) -> None:
    job = changed(tiny_job, "source.batch_size=6", "target.batch_size=4", "train.accumulate=2")
    job.check_ranks(1)
    with pytest.raises(JobError, match=r"source.batch_size: expected a multiple of 4 \(2 ranks x"):
        job.check_ranks(2)


def test_what_matters_may_not_change_in_a_resumed_run(tiny_job: dict[str, Any]) -> None:
    saved = parse_spec(tiny_job, "tiny")
    for free in ("train.log_every_steps=7", "source.uri=/elsewhere", "checkpoint.keep=9"):
        check_same_job(saved, changed(tiny_job, free))
    for key in ("optim.lr=1.0e-3", "method.weight_adv=[1.0, 1.0]", "seed=2"):
        message = f"^{key.split('=')[0]}: expected .*, the value of the run's checkpoint, got"
        with pytest.raises(JobError, match=message):
            check_same_job(saved, changed(tiny_job, key))


def test_a_file_of_weights_may_move_where_its_sha256_is_known(tiny_job: dict[str, Any]) -> None:
    one, other = "model.weights_uri=one.pth", "model.weights_uri=other.pth"
    known, another = (f"model.weights_sha256={digit * 64}" for digit in "ab")
    check_same_job(changed(tiny_job, one, known), changed(tiny_job, other, known))
    kept = ("checkpoint.trained_only=true", "model.frozen_encoder=true")
    check_same_job(changed(tiny_job, one, *kept), changed(tiny_job, other, *kept))
    for before, after in (
        ((one,), (other,)),
        ((one, known), (other, another)),
        ((one,), (other, known)),
    ):
        with pytest.raises(
            JobError, match=r"^model.weights_(uri|sha256): expected .*, the value of"
        ):
            check_same_job(changed(tiny_job, *before), changed(tiny_job, *after))


@pytest.mark.parametrize("steps", [4, 9, 100])
def test_the_length_of_a_run_may_change_where_its_schedule_stays(
    tiny_job: dict[str, Any], steps: int
) -> None:
    scheduled, longer = "optim.schedule_steps=100", f"train.steps={steps}"
    check_same_job(changed(tiny_job, scheduled), changed(tiny_job, scheduled, longer))
    check_same_job(
        changed(tiny_job, "train.steps=100"), changed(tiny_job, longer, "optim.schedule_steps=100")
    )
    with pytest.raises(JobError, match=r"^train.steps: expected 6, at which .*, got") as told:
        check_same_job(parse_spec(tiny_job, "tiny"), changed(tiny_job, longer), "s3://w")
    assert "model.start_uri: s3://w" in told.value.fix
    assert "optim.schedule_steps from the start" in told.value.fix
    with pytest.raises(JobError, match=r"^optim.schedule_steps: expected 6, at which .*, got 100"):
        check_same_job(parse_spec(tiny_job, "tiny"), changed(tiny_job, scheduled, longer))


def test_the_schema_for_editors_is_up_to_date() -> None:
    assert (ROOT / "job_specs" / "schema.json").read_text() == json_schema(), "run `make docs`"
    schema = json.loads(json_schema())
    assert set(schema["required"]) == {"classes", "source", "model", "method"}


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("method.name=dacs", "--set 'method={name: dacs}'"),
        ("model.architecture=unet", "--set 'model={architecture: unet}'"),
        ("method.nmae=dacs", ""),
    ],
)
def test_an_override_that_picks_another_row_names_the_whole_section(
    override: str, fix: str
) -> None:
    with pytest.raises(JobError, match="unknown key") as refused:
        load_spec("gta5_to_cityscapes/advent", [override])
    assert refused.value.fix.endswith(fix) and bool(fix) == ("whole section" in refused.value.fix)
