"""The table of stores, their settings, and the parts of URIs: what touches no store."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from pydantic import ValidationError

from storage.config import StoreConfig, fitting_key
from storage.errors import StoreError
from storage.stores import STORES, Stores, settings_fault, uri_fault
from storage.uris import bucket_and_prefix, checked_key, join, split_uri

ROWS = ("local", "s3", "gs", "az", "smart_open")


def imported() -> dict[str, set[str]]:
    """Module of storage -> modules of storage that it imports, also inside functions."""
    root = Path(__file__).resolve().parents[2]
    found: dict[str, set[str]] = {}
    for file in (root / "storage").rglob("*.py"):
        module = ".".join(file.relative_to(root).with_suffix("").parts)
        froms = [
            one for one in ast.walk(ast.parse(file.read_text())) if isinstance(one, ast.ImportFrom)
        ]
        names = {name for one in froms for name in (one.module or "", *named_by(one))}
        found[module] = {name for name in names if name.startswith("storage.")}
    assert len(found) > 20
    return found


def named_by(node: ast.ImportFrom) -> list[str]:
    """Modules of `from package import module`."""
    return [f"{node.module}.{one.name}" for one in node.names]


def test_no_file_imports_itself_over_others() -> None:
    modules = imported()
    graph = {name: targets & set(modules) for name, targets in modules.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


def test_the_table_alone_imports_the_rows() -> None:
    """A row imports itself; the shard cache knows `local`, whose files it reads in place."""
    for module, targets in imported().items():
        row = module.split(".")[1]
        foreign = {name.split(".")[1] for name in targets} & set(ROWS) - {row}
        if row == "shards":
            foreign -= {"local"}
        assert not foreign or row == "stores", f"{module} imports {sorted(foreign)}"


def test_bucket_and_prefix() -> None:
    assert bucket_and_prefix("gs://b") == ("gs://b", "b", "")
    assert bucket_and_prefix("az://b/c/d/") == ("az://b/c/d", "b", "c/d/")
    with pytest.raises(StoreError, match=r"gs://: expected gs://BUCKET/PREFIX"):
        bucket_and_prefix("gs://")
    with pytest.raises(StoreError, match=r"az://: expected az://CONTAINER/PREFIX, got no contain"):
        bucket_and_prefix("az://", "CONTAINER")
    with pytest.raises(StoreError, match=r"gs://b: expected a key .*, got '../c'"):
        bucket_and_prefix("gs://b/../c")


def test_keys_of_unfinished_writes_are_refused() -> None:
    with pytest.raises(StoreError, match=r"expected a key "):
        checked_key("a/.tmp-0123-k", "s3://b")


def test_settings_that_a_store_needs() -> None:
    whole = StoreConfig(endpoint_url="https://obs.cn-north-4.myhuaweicloud.com")
    assert Stores().missing("obs://b/k") == "stores.obs.endpoint_url"
    assert Stores({"obs": whole}).missing("obs://b/k") is None
    nearer = Stores({"obs": whole, "obs://b": StoreConfig()})
    assert nearer.missing("obs://b/k") == 'stores["obs://b"].endpoint_url'
    for uri in ("s3://b/k", "gs://b/k", "az://c/k", "https://host/k", "/data", "other://b"):
        assert Stores().missing(uri) is None


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"gopher://b/c: .*'gopher' \(known: az, azure, file, gcs"):
        Stores().open("gopher://b/c")
    with pytest.raises(StoreError, match=r"stores.s4: expected a scheme .*'s4' \(known: az, "):
        Stores({"s4": StoreConfig()})


@pytest.mark.parametrize(
    "key", ["S3", "", "s3:", "s3:/b", "s3://", "s3://b/", "s3://b//c", "s3://b/../c", "https://u@h"]
)
def test_a_malformed_key_of_stores_is_named(key: str) -> None:
    with pytest.raises(StoreError) as caught:
        Stores({key: StoreConfig()})
    assert str(caught.value).startswith("stores")
    assert "expected a scheme as `s3`, or how URIs begin" in str(caught.value)
    assert repr(key) in str(caught.value)


KEYS = ("s3", "s3://data", "s3://data/private", "s3://data/private/x", "https://host", "file")


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("s3://other/a", "s3"),
        ("S3://data/a", "s3://data"),
        ("s3://data", "s3://data"),
        ("s3://database/a", "s3"),
        ("s3://data/privately", "s3://data"),
        ("s3://data/private", "s3://data/private"),
        ("s3://data/private/x/y", "s3://data/private/x"),
        ("obs://data/private", None),
        ("https://host/x", "https://host"),
        ("http://host/x", None),
        ("/data/private", "file"),
    ],
)
def test_the_longest_key_holds_for_a_uri(uri: str, key: str | None) -> None:
    assert fitting_key(uri, KEYS) == fitting_key(uri, reversed(KEYS)) == key


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b/c/d", ("s3", "b/c/d")),
        ("OBS://b", ("obs", "b")),
        ("file:///a/b", ("file", "/a/b")),
        ("a/b", ("file", "a/b")),
        ("/a b", ("file", "/a b")),
    ],
)
def test_split_uri(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == parts


def test_join() -> None:
    assert join("s3://b/", "c", "", "d/e/") == "s3://b/c/d/e"
    assert join("s3://b") == "s3://b"
    assert join("/", "a") == "/a"
    assert join("file:///", "a") == "file:///a"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"access_key_env": "A"}, "secret_key_env: missing, expected it with access_key_env"),
        ({"session_token_env": "A"}, "access_key_env: missing, expected it and secret_key_env"),
        ({"endpoint_url": "obs.example.com"}, "endpoint_url"),
        ({"endpoint_url": "https://obs.example.com/bucket"}, "endpoint_url"),
        ({"key": "secret"}, "Extra inputs"),
        ({"downloads": "obstore"}, "Extra inputs"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"connect_timeout_s": 1e300}, "connect_timeout_s"),
        ({"read_timeout_s": 3601}, "read_timeout_s"),
    ],
)
def test_a_wrong_config_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StoreConfig.model_validate(fields)


def test_every_field_of_the_config_is_described() -> None:
    assert all(field.description for field in StoreConfig.model_fields.values())


USELESS = [
    *(
        (scheme, {"region": "x"})
        for scheme in ("file", "gs", "gcs", "az", "azure", "http", "https")
    ),
    *((scheme, {"checksums": "when_supported"}) for scheme in ("file", "gs", "az", "https")),
    *((scheme, {"sign_uploads": False}) for scheme in ("file", "gs", "az", "https")),
    *((scheme, {"addressing": "path"}) for scheme in ("file", "gs", "https")),
    ("file", {"max_attempts": 3}),
    ("file", {"endpoint_url": "https://x"}),
    ("https://host/data", {"endpoint_url": "https://x"}),
    ("gs://bucket", {"access_key_env": "A", "secret_key_env": "B"}),
]


@pytest.mark.parametrize(("key", "fields"), USELESS)
def test_a_setting_that_its_store_would_ignore_is_refused(
    key: str, fields: dict[str, object]
) -> None:
    problem, fix = settings_fault(key, StoreConfig.model_validate(fields)) or ("", "")
    scheme, name = key.partition("://")[0], next(iter(fields))
    shown = f"stores.{key}" if scheme == key else f'stores["{key}"]'
    start = f"{shown}.{name}: expected none, as {scheme} knows no such setting, got one (known: "
    assert problem.startswith(start) and fix == "remove it"
    with pytest.raises(StoreError, match=f"{name}: expected none, as {scheme} knows no such"):
        Stores({key: StoreConfig.model_validate(fields)})


@pytest.mark.parametrize("scheme", STORES)
def test_settings_that_a_store_knows_and_defaults_are_taken(scheme: str) -> None:
    assert settings_fault(scheme, StoreConfig()) is None
    changed = {"max_attempts": 7, "endpoint_url": "https://x", "addressing": "path"}
    for field in set(STORES[scheme].settings) & set(changed):
        assert settings_fault(scheme, StoreConfig(**{field: changed[field]})) is None  # type: ignore[arg-type]  # one of three


@pytest.mark.parametrize(
    ("uri", "problem", "fix"),
    [
        ("foo://x", "expected a known scheme, got 'foo' (known: az", ""),
        ("s4://x/y", "expected a known scheme, got 's4'; did you mean 's3'? (known: az", ""),
        ("gs:/b/x", "expected gs://BUCKET/PREFIX, got no :// after gs", "write gs://BUCKET/PREFIX"),
        ("S3:b/x", "expected s3://BUCKET/PREFIX, got no :// after S3", "write s3://BUCKET/PREFIX"),
        ("file:/data", "expected file:///FOLDER, got no :// after file", "write file:///FOLDER"),
        ("file://data/x", "expected file:///FOLDER, got 'file://data/x'", "write file:///FOLDER"),
        ("az://", "expected az://CONTAINER/PREFIX, got 'az://'", "write az://CONTAINER/PREFIX"),
        ("obs:///runs", "expected obs://BUCKET/PREFIX, got", "write obs://BUCKET/PREFIX"),
        ("https://u:hush@/d", "expected https://HOST/PATH, got 'https://***@/d'", "write https"),
    ],
)
def test_a_uri_that_no_store_can_have_is_named(uri: str, problem: str, fix: str) -> None:
    found = uri_fault(uri)
    assert found is not None and found[0].startswith(problem) and found[1].startswith(fix)
    with pytest.raises(StoreError) as caught:
        Stores().open(uri)
    assert found[0] in caught.value.problem and "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "/data",
        "data/x",
        "C:/data",
        "a:b",
        "file:///data",
        "s3://b",
        "https://u@h/d?sig=1",
        "gs://b/",
    ],
)
def test_uris_and_paths_that_a_store_may_have_pass(uri: str) -> None:
    assert uri_fault(uri) is None
