"""Every endpoint, its answers and its refusals, by a real server."""

import base64
import gzip
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import adapt
from adapt.errors import JobError
from adapt.serve import tensor_outputs
from adapt.serve.server import Server
from adapt.use.model import LoadedModel
from tests.serve.pictures import RGB, encoded, opened, pixel_bomb, scan_bomb

PNG = {"content-type": "image/png"}
INFER = "/v2/models/segadapt/infer"


def test_health_and_metadata(client: httpx.Client, model: LoadedModel) -> None:
    for path in ("/ping", "/health", "/v2/health/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
    assert client.get("/v2/health/live").json() == {"live": True}
    server = client.get("/v2").json()
    assert server == {
        "name": "segadapt",
        "version": adapt.__version__,
        "extensions": ["binary_tensor_data"],
    }
    assert client.get("/v2/models/segadapt/ready").json() == {"name": "segadapt", "ready": True}
    found = client.get("/v2/models/segadapt").json()
    assert found["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert {one["name"]: one["shape"] for one in found["outputs"]} == {
        "class_map": [-1, -1, -1],
        "entropy": [-1, -1, -1],
        "class_shares": [-1, 19],
    }
    classes = found["parameters"]["classes"]
    assert [one["name"] for one in classes] == list(model.classes.names)
    assert [tuple(one["colour"]) for one in classes] == list(model.classes.colours)
    assert found["parameters"]["lineage"] == {"version": adapt.__version__, "step": 7}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pixels_are_those_of_predict(kind: str, client: httpx.Client, model: LoadedModel) -> None:
    data = encoded(kind=kind)
    expected = model.predict(Image.open(opened(data).fp))
    assert len(np.unique(expected.class_map)) > 2, "a test of one class could not fail"
    headers = {"content-type": f"image/{kind.lower()}"}
    answer = client.post("/invocations", content=data, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    picture = opened(answer.content)
    assert picture.mode == "P" and np.array_equal(np.array(picture), expected.class_map)
    assert np.array_equal(np.array(picture.convert("RGB")), expected.colours)

    images = [base64.b64encode(data).decode()]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("entropy",)]
    values: dict[str, Any] = {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": images}],
        "outputs": outputs,
    }
    answer = client.post(INFER, json=values)
    length = int(answer.headers["inference-header-content-length"])
    (entropy,) = json.loads(answer.content[:length])["outputs"]
    assert entropy["shape"] == [1, 60, 100] and entropy["datatype"] == "FP32"
    assert entropy["parameters"] == {"binary_data_size": 4 * 6000} and "data" not in entropy
    assert answer.content[length:] == expected.entropy.tobytes()


def test_forms_of_an_answer(client: httpx.Client, model: LoadedModel) -> None:
    expected = model.predict(RGB)

    def asked(accept: str, picture: str | None = None) -> httpx.Response:
        query = {} if picture is None else {"picture": picture}
        headers = {**PNG, "accept": accept}
        answer = client.post("/invocations", content=encoded(), headers=headers, params=query)
        assert answer.status_code == 200, answer.text
        return answer

    shares = asked("application/json").json()
    assert (shares["height"], shares["width"]) == (60, 100)
    assert abs(shares["mean_entropy"] - expected.entropy.mean()) < 1e-5
    counts = np.bincount(expected.class_map.ravel(), minlength=19) / 6000
    assert np.allclose([one["share"] for one in shares["classes"]], counts, atol=1e-6)
    assert [one["name"] for one in shares["classes"]] == list(model.classes.names)
    overlay = opened(asked("image/jpeg").content)
    assert overlay.format == "JPEG"
    assert np.abs(np.array(overlay).astype(int) - expected.overlay()).mean() < 8
    exact = opened(asked("image/png", "overlay").content)
    assert np.array_equal(np.array(exact), expected.overlay())
    ids = opened(asked("*/*", "class_map").content)
    assert ids.mode == "L" and np.array_equal(np.array(ids), expected.class_map)
    assert opened(asked("image/png", "entropy").content).mode == "RGB"
    browser = "text/html,image/avif,image/jpeg;q=0.5,application/json;q=0,*/*;q=0.8"
    assert asked(browser).headers["content-type"] == "image/png"
    assert asked("image/jpeg, image/png;q=0.9").headers["content-type"] == "image/jpeg"


def test_json_holds_an_image_as_base64(client: httpx.Client, model: LoadedModel) -> None:
    values = {"image": base64.b64encode(encoded()).decode()}
    answer = client.post("/invocations", json=values)
    assert np.array_equal(np.array(opened(answer.content)), model.predict(RGB).class_map)


def test_tensors_in_json_and_binary_are_one(client: httpx.Client, model: LoadedModel) -> None:
    expected = model.predict(RGB)
    plain = {"name": "image", "datatype": "UINT8", "shape": [60, 100, 3]}
    answer = client.post(INFER, json={"id": "7", "inputs": [{**plain, "data": RGB.tolist()}]})
    found = answer.json()
    assert (found["model_name"], found["id"]) == ("segadapt", "7")
    (output,) = found["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == (
        "class_map",
        "UINT8",
        [60, 100],
    )
    assert output["data"] == expected.class_map.ravel().tolist()
    flat = {**plain, "shape": [1, 60, 100, 3], "data": RGB.ravel().tolist()}
    (output,) = client.post(INFER, json={"inputs": [flat]}).json()["outputs"]
    assert output["shape"] == [1, 60, 100]

    batch = np.stack([RGB, RGB[::-1]])
    tensor = {**plain, "shape": [2, 60, 100, 3], "parameters": {"binary_data_size": batch.nbytes}}
    outputs = [
        {"name": "class_map"},
        {"name": "class_shares", "parameters": {"binary_data": False}},
    ]
    values = {"inputs": [tensor], "parameters": {"binary_data_output": True}, "outputs": outputs}
    answer = infer_binary(client, values, batch.tobytes())
    length = int(answer.headers["inference-header-content-length"])
    maps, shares = json.loads(answer.content[:length])["outputs"]
    ids = np.frombuffer(answer.content[length:], np.uint8).reshape(2, 60, 100)
    assert maps["shape"] == [2, 60, 100] and np.array_equal(ids[0], expected.class_map)
    assert np.array_equal(ids[1], model.predict(RGB[::-1]).class_map)
    assert shares["shape"] == [2, 19] and len(shares["data"]) == 38

    files = b"".join(struct.pack("<I", len(one)) + one for one in (encoded(), encoded(RGB[:30])))
    pair = {"name": "image", "datatype": "BYTES", "shape": [2]}
    tensor = {**pair, "parameters": {"binary_data_size": len(files)}}
    answer = infer_binary(client, {"inputs": [tensor]}, files)
    refused(answer, 400, "inputs: expected images of one size, got 60x100 and 30x100")


def infer_binary(client: httpx.Client, values: dict[str, Any], rest: bytes) -> httpx.Response:
    text = json.dumps(values).encode()
    headers = {"inference-header-content-length": str(len(text))}
    headers["content-type"] = "application/octet-stream"
    return client.post(INFER, content=text + rest, headers=headers)


def refused(answer: httpx.Response, code: int, *parts: str) -> dict[str, str]:
    """The answer has this code, and the house's form of message with these parts."""
    assert answer.status_code == code, answer.text
    found = answer.json()
    assert found.keys() == {"error", "fix"} and found["fix"] and not found["fix"].endswith(".")
    for part in parts:
        assert part in found["error"], found
    return found


def ident(value: object) -> str:
    """A short name of a case."""
    return str(value)[:40] if isinstance(value, str) else type(value).__name__


GZIP = {"content-encoding": "gzip"}
BROKEN = encoded()[:-40]
WRONG_SUM = encoded().replace(b"IDAT", b"IDAT", 1)[:-30] + b"\0" + encoded()[-29:]
DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("content", "headers", "code", "message"),
    [
        (b"", PNG, 400, "image 0: expected the bytes of a PNG or JPEG file, got none"),
        (b"<html>no</html>", PNG, 400, "expected a PNG or JPEG file, got a web page"),
        (b"GIF89a" + b"\0" * 99, PNG, 400, "got another file (it begins with b'GIF89a"),
        (BROKEN, PNG, 400, "image 0: corrupt image: "),
        (WRONG_SUM, PNG, 400, "image 0: corrupt image: "),
        (encoded(kind="JPEG")[:-99], {"content-type": "image/jpeg"}, 400, "truncated"),
        (encoded(np.zeros((400, 400, 3), np.uint8)), PNG, 413, "got 400x400 = 160000"),
        (pixel_bomb(30_000, 30_000), PNG, 413, "at most 100000 pixels"),
        (pixel_bomb(2**31 - 1, 2**31 - 1), PNG, 413, "at most 100000 pixels"),
        (pixel_bomb(40_000, 2), PNG, 413, "sides of at most 32768"),
        (scan_bomb(2000), {"content-type": "image/jpeg"}, 400, "at most 100 scans, got 20"),
        (encoded(), {"content-type": "image/tiff"}, 415, "content-type: expected image/png or"),
        (encoded(), {}, 415, "got ''"),
        (encoded(), PNG | {"accept": "text/html"}, 406, "accept: expected one of image/png,"),
        (b"{", {"content-type": "application/json"}, 400, "body: expected JSON, got other text"),
        (DEEP, {"content-type": "application/json"}, 400, "body: expected JSON, got other text"),
        (b'{"a": 1}', {"content-type": "application/json"}, 400, "got the keys ['a']"),
        (b'{"image": 3}', {"content-type": "application/json"}, 400, "as base64, got int"),
        (b'{"image": "%"}', {"content-type": "application/json"}, 400, "as base64, got another"),
        (gzip.compress(encoded()), PNG | GZIP, 415, "content-encoding: expected none, got 'gzip'"),
    ],
    ids=ident,
)
def test_bad_invocations_are_refused(
    content: bytes, headers: dict[str, str], code: int, message: str, client: httpx.Client
) -> None:
    refused(client.post("/invocations", content=content, headers=headers), code, message)


def test_pictures_that_there_are_not_are_refused(client: httpx.Client) -> None:
    answer = client.post("/invocations?picture=colour", content=encoded(), headers=PNG)
    refused(answer, 400, "picture: expected a known name, got 'colour'; did you mean 'colours'?")
    headers = PNG | {"accept": "image/jpeg"}
    answer = client.post("/invocations?picture=class_map", content=encoded(), headers=headers)
    refused(answer, 406, "expected image/png for class_map, whose values no compression may change")


TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]}
TEXT = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AAAA"]}


@pytest.mark.parametrize(
    ("values", "code", "message"),
    [
        ([], 400, "body: expected a JSON object, got list"),
        ({}, 400, "inputs: expected a list of one tensor, image, got null"),
        ({"inputs": [TENSOR, TENSOR]}, 400, "inputs: expected a list of one tensor"),
        ({"inputs": [TENSOR | {"name": "x"}]}, 400, "inputs[0].name: expected image, got 'x'"),
        ({"inputs": [TENSOR | {"datatype": "FP32"}]}, 400, "inputs[0].datatype: expected a known"),
        ({"inputs": [TENSOR | {"datatype": [1]}]}, 400, "inputs[0].datatype: expected a known"),
        ({"inputs": [TENSOR | {"shape": [1, True, 3]}]}, 400, "expected a list of positive integ"),
        ({"inputs": [TENSOR | {"shape": [3, 1, 1]}]}, 400, "expected [H, W, 3] or [B, H, W, 3]"),
        ({"inputs": [TENSOR | {"shape": [2, 1, 3]}]}, 400, "expected 6 values for shape [2, 1, 3]"),
        ({"inputs": [TENSOR | {"shape": [9999, 9999, 3]}]}, 413, "at most 100000 pixels"),
        ({"inputs": [TENSOR | {"shape": [10**30, 1, 1, 3]}]}, 400, "inputs[0].data: expected"),
        ({"inputs": [TENSOR | {"data": "abc"}]}, 400, "inputs[0].data: expected a list, got 'abc'"),
        ({"inputs": [TENSOR | {"data": [1, 2, 256]}]}, 400, "from 0 to 255, got 1 to 256"),
        ({"inputs": [TENSOR | {"data": [1, 2, 0.5]}]}, 400, "from 0 to 255, got float64 values"),
        ({"inputs": [TENSOR | {"data": [1, 2, 10**30]}]}, 400, "got object values"),
        ({"inputs": [TENSOR | {"data": [1, [2], 3]}]}, 400, "expected numbers, got another list"),
        ({"inputs": [TEXT | {"shape": [2]}]}, 400, "inputs[0].shape: expected [1] for as many"),
        ({"inputs": [TEXT | {"data": [7]}]}, 400, "as base64, got int"),
        ({"inputs": [TEXT]}, 400, "image 0: expected a PNG or JPEG file, got another file"),
        ({"inputs": [TENSOR], "outputs": [{"name": "map"}]}, 400, "outputs: expected a known name"),
        ({"inputs": [TENSOR], "outputs": [3]}, 400, "outputs: expected a list of objects"),
        ({"inputs": [TENSOR], "id": 3}, 400, "id: expected a text, got 3"),
        (
            {"inputs": [TENSOR], "parameters": {"binary_data_output": 1}},
            400,
            "parameters.binary_data_output: expected true or false, got 1",
        ),
        (
            {"inputs": [TENSOR | {"parameters": {"binary_data_size": 4}}]},
            400,
            "binary_data_size: expected a number up to 0, got 4",
        ),
        (
            {"inputs": [{**TENSOR, "shape": [17, 1, 1, 3], "data": [0] * 51}]},
            413,
            "inputs: expected at most 16 images, got 17",
        ),
    ],
    ids=ident,
)
def test_bad_tensors_are_refused(
    values: object, code: int, message: str, client: httpx.Client
) -> None:
    refused(client.post(INFER, json=values), code, message)


@pytest.mark.slow
def test_long_json_is_refused_before_it_is_read(client: httpx.Client) -> None:
    """Python parses with its lock held, and would show millions of values in a message."""
    headers = {"content-type": "application/json"}
    body = b'{"inputs":[' + b"[]," * 3_000_000 + b"[]]}"
    refused(
        client.post(INFER, content=body, headers=headers), 413, "at most 3145728 values in JSON"
    )
    body = b'{"inputs":[' + b"[]," * 300_000 + b"[]]}"
    answer = client.post(INFER, content=body, headers=headers)
    refused(answer, 400, "got a list of length 300001")
    values = {"inputs": [TENSOR | {"shape": [1] * 999}]}
    refused(
        client.post(INFER, json=values), 400, "shape: expected [H, W, 3] or [B, H, W, 3], got a"
    )
    values = {"inputs": [TENSOR | {"data": "a" * 999}]}
    refused(client.post(INFER, json=values), 400, "expected a list, got a str of length 999")
    values = {"inputs": [[0] * 999]}
    refused(client.post(INFER, json=values), 400, "got a list of long values")


def test_long_answers_in_json_are_refused(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_outputs, "MAX_JSON_VALUES", 2)
    answer = client.post(INFER, json={"inputs": [TENSOR | {"shape": [1, 1, 3]}]})
    assert answer.json()["outputs"][0]["shape"] == [1, 1]
    outputs = [{"name": "class_shares"}]
    answer = client.post(INFER, json={"inputs": [TENSOR], "outputs": outputs})
    found = refused(
        answer, 413, "outputs: expected at most 2 values in JSON, got 19 of class_shares"
    )
    assert "binary" in found["fix"]


def test_bad_binary_data_are_refused(client: httpx.Client) -> None:
    small = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 3]}
    sized = {"inputs": [small | {"parameters": {"binary_data_size": 3}}]}
    refused(
        infer_binary(client, sized, b"1234"), 400, "expected the binary data of the inputs alone"
    )
    file = {"name": "image", "datatype": "BYTES", "shape": [1]}
    for rest, message in (
        (b"\1\0", "each file behind its length in 4 bytes, got fewer bytes"),
        (b"\xff\xff\xff\xffab", "expected a file of 4294967295 bytes, got 2"),
    ):
        values = {"inputs": [file | {"parameters": {"binary_data_size": len(rest)}}]}
        refused(infer_binary(client, values, rest), 400, message)
    for length in ("9", "-1", "x", "9" * 5000, "²"):
        headers = [(b"inference-header-content-length", length.encode())]
        answer = client.post(INFER, content=b"{}", headers=headers)  # type: ignore[arg-type]
        refused(answer, 400, "inference-header-content-length: expected a number up to 2, got")


def test_unknown_paths_methods_models_and_types_are_refused(client: httpx.Client) -> None:
    refused(client.get("/v1"), 404, "path: expected /, /invocations, /ping", "got '/v1'")
    answer = client.get("/invocations")
    refused(answer, 405, "method: expected POST for this path, got GET")
    assert answer.headers["allow"] == "POST"
    for path in ("/v2/models/town", "/v2/models/town/ready"):
        refused(client.get(path), 404, "model: expected the served one, got 'town'")
    refused(client.post("/v2/models/town/infer", json={}), 404, "known: segadapt")
    answer = client.post(INFER, content=b"{}", headers=PNG)
    refused(answer, 415, "content-type: expected application/json, got 'image/png'")
    refused(client.get("/ping/"), 404, "got '/ping/'")


def test_head_is_get_without_a_body(client: httpx.Client) -> None:
    """RFC 9110, 9.3.2; probes of load balancers ask so."""
    for path in ("/", "/ping", "/v2/models/segadapt"):
        answer, whole = client.head(path), client.get(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == whole.headers["content-length"]
    assert client.head("/invocations").status_code == 405


def test_a_data_url_is_told_from_base64(client: httpx.Client) -> None:
    text = base64.b64encode(encoded()).decode()
    identity = {"content-encoding": "identity"}
    assert client.post("/invocations", json={"image": text}, headers=identity).is_success
    answer = client.post("/invocations", json={"image": f"data:image/png;base64,{text}"})
    found = refused(answer, 400, "image: expected a PNG or JPEG file as base64, got another text")
    assert "without `data:...,` before it" in found["fix"]


def test_metrics_count_requests_and_batches(client: httpx.Client) -> None:
    def value(line: str) -> float:
        found = [one for one in client.get("/metrics").text.splitlines() if one.startswith(line)]
        return float(found[0].split()[-1]) if found else 0.0

    good = 'segadapt_requests_total{code="200",route="/invocations"}'
    before, batches = value(good), value("segadapt_batch_images_count")
    client.post("/invocations", content=encoded(), headers=PNG)
    client.get("/nowhere")
    assert value(good) == before + 1
    assert value("segadapt_batch_images_count") == batches + 1
    assert value('segadapt_request_seconds_count{route="/invocations"}') >= 1
    assert value('segadapt_requests_total{code="404",route="other"}') >= 1
    assert value("segadapt_ready") == 1
    assert (value("segadapt_queue_images"), value("segadapt_bodies_bytes")) == (0, 0)


@pytest.mark.parametrize("name", ["a/b", "", "x</script><b>", ".", "a b", "a%2Fb", "é", "a" * 101])
def test_a_name_that_no_url_takes_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=r"--name: expected letters, digits.*Fix: choose another"):
        Server(lambda: pytest.fail("nothing is loaded"), port=0, name=name)
