"""Google Cloud Storage: credentials, sessions in many processes, parts, encodings."""

import gzip
import json
import multiprocessing
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from storage.config import StoreConfig
from storage.errors import StoreError
from storage.stores import Stores
from tests.servers import BUCKET
from tests.storage.cloud_servers import CloudServer


@pytest.mark.parametrize("field", ["region", "access_key_env", "session_token_env"])
def test_a_setting_without_meaning_is_refused(field: str) -> None:
    keys = {} if field == "region" else {"access_key_env": "A", "secret_key_env": "B"}
    config = StoreConfig(**{**keys, field: "A"})  # type: ignore[arg-type]
    shown = "access_key_env" if keys else field
    with pytest.raises(StoreError, match=rf"stores.gs.{shown}: expected none, as gs knows no such"):
        Stores({"gs": config}, {"A": "a", "B": "b"}).open("gs://bucket")


def test_a_machine_without_credentials_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    store = Stores().open("gs://bucket/data")
    with pytest.raises(StoreError) as caught:
        store.get("k")
    assert "gs://bucket/data/k: no credentials (" in caught.value.problem
    assert "absent.json" in caught.value.problem
    assert caught.value.fix.startswith("set them in GOOGLE_APPLICATION_CREDENTIALS (a service")


def test_credentials_that_are_refused_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gs_server: CloudServer
) -> None:
    """A user's token that the server at `token_uri` does not know."""
    user = {"type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "t"}
    path = tmp_path / "user.json"
    path.write_text(json.dumps({**user, "token_uri": f"{gs_server.endpoint_url}/token"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(StoreError, match=r"gs://bucket/k: no credentials \(.*Fix: set them in GOO"):
        Stores().open("gs://bucket").put("k", b"1")


def test_an_object_comes_as_it_is_stored(gs_server: CloudServer) -> None:
    """Not decompressed on its way, so that sizes and offsets are those of the list."""
    data, name = gzip.compress(bytes(5000)), uuid4().hex
    url = f"{gs_server.endpoint_url}/upload/storage/v1/b/{BUCKET}/o"
    query = {"uploadType": "media", "name": f"{name}/k", "contentEncoding": "gzip"}
    requests.post(url, params=query, data=data).raise_for_status()
    store = gs_server.stores().open(f"gs://{BUCKET}/{name}")
    assert store.get("k") == data
    assert next(store.list()).size_bytes == len(data)


def test_forked_processes_have_clients_of_their_own(gs_server: CloudServer) -> None:
    store = gs_server.stores().open(f"gs://{BUCKET}/{uuid4().hex}")
    store.put("k", b"1")
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put(store.get("k")), daemon=True)
    process.start()
    process.join(20)
    assert process.exitcode == 0 and results.get() == b"1"
