"""Pages, generated pages and container files say what is true: links, commands, keys, users."""

import re
import runpy
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.exceptions
import yaml
from PIL import Image
from pydantic import BaseModel

import adapt
from adapt.cli import app
from adapt.data.datasets import DATASETS
from adapt.data.label_maps import LABEL_SPACES
from adapt.methods import METHODS
from adapt.models import ARCHITECTURES, build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.platforms import load_profile
from adapt.spec.job_spec import JobSpec, json_schema
from adapt.spec.loading import load_spec
from adapt.spec.reference import PAGE, SCHEMA, main, parts, reference
from adapt.spec.shipped import shipped_names, shipped_path
from storage.stores import STORES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PROGRAM = re.compile(r"(?:^\s*|[;&|] |\w=\S+ )segadapt |entrypoint\.py ")
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
README = (ROOT / "README.md").read_text()
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()
SMALL_NETWORK = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}
ARCHITECTURES_PAGE = (ROOT / "docs" / "architectures.md").read_text()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of every command of ours in shell blocks and in inline code."""
    shell = [*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]
    for line in "\n".join(shell).splitlines():
        found = PROGRAM.search(line)
        if found and not line.lstrip().startswith("#"):
            yield shlex.split(line[found.end() :], comments=True)


def specs_in(arguments: list[str]) -> Iterator[Path]:
    """The shipped specs and profiles among arguments, by path or by name."""
    for word in arguments:
        if word.startswith("job_specs/"):
            yield ROOT / word
        elif word in shipped_names():
            yield shipped_path(word)


def parse_command(arguments: list[str]) -> None:
    """Parse as the command line would, without running it."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    if arguments[0].startswith("--"):
        assert arguments[0] in {name for one in group.params for name in one.opts}
        return
    command = group.commands[arguments[0]]
    command.make_context(arguments[0], list(arguments[1:]))


@EACH_PAGE
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith(("https://", "http://")):
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.slow
@EACH_PAGE
def test_commands_that_pages_name_exist(page: Path) -> None:
    for arguments in command_lines(page.read_text()):
        parse_command(arguments)
        for spec in specs_in(arguments):
            assert load_profile(spec) if spec.parent.name == "platforms" else load_spec(spec)


def test_a_command_that_does_not_exist_would_be_found() -> None:
    page = "Type `segadapt check SPEC --sett a=1`.\n```sh\npython entrypoint.py fly\n```"
    fly, misspelt = command_lines(page)
    with pytest.raises(typer.exceptions.TyperException, match="--sett"):
        parse_command(misspelt)
    with pytest.raises(KeyError, match="fly"):
        parse_command(fly)


@EACH_PAGE
def test_make_targets_that_pages_name_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= targets


@EACH_PAGE
def test_lines_of_prose_are_short(page: Path) -> None:
    """But for tables, links alone on a line and the generated page."""
    free = ("|", "!", "[", "<!--")
    lines = [line for line in page.read_text().splitlines() if not line.startswith(free)]
    assert page == PAGE or max(map(len, lines)) <= 145


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_the_readme_names_every_row_of_the_tables() -> None:
    rows = [*METHODS, *ARCHITECTURES, *DATASETS, *LABEL_SPACES]
    assert [row for row in rows if f"`{row}`" not in README] == []
    assert [scheme for scheme in STORES if f"`{scheme}://`" not in README] == []


def test_the_datasets_page_names_every_layout_and_its_splits() -> None:
    page = (ROOT / "docs" / "datasets.md").read_text()
    for name, row in DATASETS.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
        assert all(f"`{split}`" in line for split in row.splits)
        known = (row.known_ids or frozenset(range(256))) - ({255} if row.known_ids else set())
        assert f"{min(known)} to {max(known)}" in line


def test_classes_on_the_datasets_page_are_valid() -> None:
    block = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "datasets.md").read_text(), re.DOTALL)
    classes = yaml.safe_load(block[0])["classes"]
    shipped = load_spec(ROOT / "job_specs" / "airsim_to_camvid" / "source_only.yaml")
    assert classes == shipped.resolved()["classes"]


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "run `make docs`"


def test_the_reference_shows_defaults_that_differ_from_the_sections_own() -> None:
    page = reference()
    for part, key, default in (
        ("dacs", "teacher", "`{alpha: 0.99}`, else its defaults"),
        ("dacs", "augmentation", "`{jitter: 0.25}`, else its defaults"),
        ("dacs", "pseudo_labels", "its defaults"),
        ("daformer", "teacher", "its defaults"),
        ("mic", "host", "`{name: 'daformer'}`, else its defaults"),
        ("masktwins", "host", "`{name: 'daformer'}`, else its defaults"),
    ):
        section = page.split(f"### `method.name: {part}`\n")[1].split("\n#")[0]
        (row,) = (line for line in section.splitlines() if line.startswith(f"| `{key}` |"))
        assert row.split(" | ")[2] == default, row


def test_make_docs_writes_page_and_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapt.spec.reference.PAGE", tmp_path / PAGE.name)
    monkeypatch.setattr("adapt.spec.reference.SCHEMA", tmp_path / SCHEMA.name)
    main()
    assert (tmp_path / PAGE.name).read_text() == reference()
    assert (tmp_path / SCHEMA.name).read_text() == json_schema()


@pytest.mark.parametrize("part", list(parts()), ids=lambda part: part.model.__name__)
def test_every_key_says_what_it_is_for(part: Any) -> None:
    silent = [name for name, field in part.model.model_fields.items() if not field.description]
    assert not silent, f"{part.model.__name__}: give {', '.join(silent)} a description"


def test_every_section_of_a_job_is_on_the_page() -> None:
    defined = {
        name for name, node in JobSpec.model_json_schema()["$defs"].items() if "properties" in node
    }
    shown: set[type[BaseModel]] = {part.model for part in parts()}
    assert defined <= {model.__name__ for model in shown}
    configs = [row.Config for row in METHODS.values()]
    assert shown >= {*configs, *(row.Config for row in ARCHITECTURES.values())}


def test_types_and_defaults_read_as_one_writes_them() -> None:
    page = reference()
    for row in (
        "| `steps` | integer >= 1 | `120000` | Optimizer steps (ADVENT's value). |",
        '| `adam` | "current" or "legacy" | `"current"` |',
        '| `name` | "sgd" | `"sgd"` |',
        '| `name` | "adamw" | **required** |',
        "| `source` | section or list of (section) | **required** | The labelled domain: a "
        "dataset, or a list of them with weights. |",
        "| `optim` | section | its defaults | Optimizers and schedule. |",
        "| `size_hw` | list of 2 (integer) or null | `null` |",
        "| `adversary_betas` | list of 2 (number >= 0 and < 1) | `[0.9, 0.99]` |",
        "| `stores` | table of section | `{}` |",
    ):
        assert row in page


def test_the_example_on_the_methods_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", METHODS_PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/methods.md", "exec"), names)
    assert {"segmentation/main", "adversarial/main", "discriminator_target/aux"} <= set(
        names["losses"]
    )
    assert all(value.isfinite() for value in names["losses"].values())


def test_the_examples_on_the_page_of_use_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("best", "streets", "out"):
        (tmp_path / name).mkdir()
    segmenter = build_segmenter({**SMALL_NETWORK, "weights": "none"}, 19)
    space = LABEL_SPACES["cityscapes19"]
    header = FileHeader(segmenter.config, 19, segmenter.pixels, space, (32, 64))
    write_weights(segmenter.state_dict(), header.entries(), Path("best/weights.safetensors"))
    for name in ("street.png", "streets/a.png", "streets/b.png"):
        Image.new("RGB", (50, 30), (90, 120, 200)).save(name)
    page = (ROOT / "docs" / "use_your_model.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3 and page.index(blocks[0]) < 60
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/use_your_model.md", "exec"), names)
    assert {path.name for path in tmp_path.glob("**/*.png")} >= {"out.png", "a.png", "b.png"}
    assert Image.open("out.png").size == (50, 30)
    assert {path.name for path in Path("out").iterdir()} == {"a.png", "b.png"}


def test_the_methods_page_has_every_method_and_its_picture() -> None:
    for name in METHODS:
        assert f"`{name}`" in METHODS_PAGE
        assert (ROOT / "docs" / "pictures" / "methods" / f"{name}.svg").is_file()
        assert f"pictures/methods/{name}.svg" in METHODS_PAGE


def test_the_architectures_page_has_every_architecture_in_each_table() -> None:
    for name, row in ARCHITECTURES.items():
        assert len(re.findall(rf"^\|.*`{name}`.*\|$", ARCHITECTURES_PAGE, re.MULTILINE)) >= 4, name
        spec = ROOT / "job_specs" / "airsim_to_camvid_architectures" / f"{name}.yaml"
        assert load_spec(spec).model.architecture == name
        assert all(encoder in ARCHITECTURES_PAGE for encoder in row.demands.encoders)


def test_the_example_on_the_architectures_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", ARCHITECTURES_PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/architectures.md", "exec"), names)
    assert names["loss"].isfinite()
    assert names["network"].head_names == ("main", "aux_8", "aux_16")


def test_pictures_of_the_pages_are_well_formed() -> None:
    for path in ROOT.glob("docs/**/*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_drawn_pictures_are_up_to_date() -> None:
    folder = ROOT / "docs" / "pictures"
    names = runpy.run_path(str(folder / "draw.py"))
    assert len(names["PICTURES"]) == 5
    for name, drawn in names["PICTURES"].items():
        text = (folder / f"{name}.svg").read_text(encoding="utf-8")
        assert drawn() == text, "run `python docs/pictures/draw.py`"
        assert "url(http" not in text, "a page loads nothing from elsewhere"


def test_the_licence_is_the_one_that_is_named() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()


def stages() -> dict[str, str]:
    """Name of each stage of the Dockerfile -> its instructions."""
    found = re.split(r"^FROM \S+ AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def test_the_image_runs_the_job_as_modelarts_user() -> None:
    name, job = list(stages().items())[-1]
    assert name == "job", "the last stage is what `docker build .` makes"
    assert re.findall(r"^USER (.+)$", job, re.MULTILINE) == ["1000:100"]
    assert 'ENTRYPOINT ["python", "/opt/segadapt/entrypoint.py"]' in job
    assert 'CMD ["--help"]' in job
    assert "org.opencontainers.image.revision" in job
    user = stages()["user"]
    assert "useradd -u 1000 -g 100 -d /home/ma-user" in user and "ma-group" in user
    assert "PYTHONUNBUFFERED=1" in user and "STOPSIGNAL SIGTERM" in user
    for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        assert f"{name}=when_required" in user


def test_images_have_tags_and_come_from_no_registry_of_ours() -> None:
    bases = re.findall(r"^ARG BASE_IMAGE=(.+)$", DOCKERFILE, re.MULTILINE)
    images = bases + [service["image"] for service in COMPOSE["services"].values()]
    for image in images:
        assert re.fullmatch(r"[a-z][a-z0-9/_-]*:[a-z0-9._-]+", image), image
        assert not image.endswith(":latest")


def test_what_the_dockerfile_copies_is_there_and_reaches_the_builder() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY ([^-]\S*) ", DOCKERFILE, re.MULTILINE)
    assert {"adapt", "storage", "job_specs", "entrypoint.py", "requirements.lock"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in allowed


def test_versions_agree() -> None:
    version = adapt.__version__
    assert f'image.version="{version}"' in DOCKERFILE
    assert COMPOSE["services"]["job"]["image"] == f"segadapt:{version}"
    assert version in (ROOT / "CHANGELOG.md").read_text()


def test_compose_builds_stages_that_exist_and_runs_commands_that_exist() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"s3", "bucket", "mlflow", "job"}
    assert {service["build"]["target"] for service in services.values()} <= set(stages())
    parse_command(services["job"]["command"])
    compile(services["bucket"]["command"][0], "compose.yaml", "exec")
    programs = {services[name]["command"][0] for name in ("s3", "mlflow")}
    assert programs == {"weed", "mlflow"}
    head = (ROOT / "compose.yaml").read_text()
    for line in re.findall(r"^# +docker compose run .* job (.+)$", head, re.MULTILINE):
        parse_command(shlex.split(line))


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_are_locked_down(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "/tmp" in service["tmpfs"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for volume in service.get("volumes", []):
        source = volume.partition(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / source).is_dir()


def test_compose_holds_no_secrets() -> None:
    for service in COMPOSE["services"].values():
        for key, value in service["environment"].items():
            if re.search("KEY|SECRET|TOKEN|PASSWORD", key):
                assert re.fullmatch(rf"\$\{{{key}:\?.+\}}", value), key
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
