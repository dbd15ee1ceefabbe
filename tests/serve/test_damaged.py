"""Whatever a stranger sends, reading it ends in pixels or in a refusal with a 4xx code."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapt.serve.answers import wanted
from adapt.serve.limits import PixelLimit
from adapt.serve.refused import Refused
from adapt.serve.tensors import asked, image_of_json
from adapt.serve.uploads import decoded
from tests.serve.pictures import RGB, encoded

SMALL = RGB[:12, :16]
FILES = [
    encoded(SMALL),
    encoded(SMALL[..., 0]),
    encoded(SMALL, "JPEG"),
    encoded(SMALL, "JPEG", progressive=True),
]
MOST = PixelLimit(10_000)
quick = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
shapes = st.lists(st.sampled_from([-1, 0, 1, 2, 3, 10**9, True, 1.0, "3"]), max_size=5)
data = st.lists(st.sampled_from([0, 255, 256, -1, 1.5, "AAAA", None, [1], 2**70]), max_size=12)
binary = st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-2, 20) | scalars})
tensors = st.fixed_dictionaries(
    {"name": st.sampled_from(["image", "x", 3])},
    optional={
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32", None, []]),
        "shape": shapes | scalars,
        "data": data | scalars,
        "parameters": binary | scalars,
    },
)
outputs = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["class_map", "entropy", "x", 1, []])}),
    max_size=3,
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2) | scalars},
    optional={"outputs": outputs | scalars, "id": scalars, "parameters": binary | scalars},
)


def code_of(read: Any, *arguments: Any) -> int:
    """200 where it is read, else the code of the refusal."""
    try:
        read(*arguments)
    except Refused as refused:
        assert 400 <= refused.code < 500 and refused.problem and refused.fix
        assert len(str(refused)) < 1000
        return refused.code
    return 200


@quick
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.integers(0, 10**6),
)
def test_damaged_files_are_refused(file: bytes, changes: list[tuple[int, int]], end: int) -> None:
    damaged = bytearray(file)
    for position, value in changes:
        damaged[position % len(file)] = value
    length = end % (2 * len(file)) or 1
    code_of(decoded, bytes(damaged[:length]), MOST)


@quick
@given(requests, st.binary(max_size=20), st.none() | st.integers(-3, 400))
def test_damaged_tensors_are_refused(values: Any, rest: bytes, length: int | None) -> None:
    text = json.dumps(values).encode()
    whole = str(len(text)) if length is None else str(length)
    code_of(asked, text + rest, whole, MOST)
    code_of(asked, text, None, MOST)
    code_of(image_of_json, text)


@quick
@given(st.binary(max_size=60))
def test_other_bytes_are_refused(content: bytes) -> None:
    assert code_of(decoded, content, MOST) == 400
    code_of(asked, content, None, MOST)
    code_of(image_of_json, content)


@quick
@given(st.text("imagepn/*;=,. q01jsx", max_size=40), st.none() | st.text(max_size=9))
def test_any_accept_has_an_answer(accept: str, picture: str | None) -> None:
    code_of(wanted, accept, picture)


def test_whole_files_are_read() -> None:
    assert np.array_equal(decoded(FILES[0], MOST), SMALL)
    assert [decoded(file, MOST).shape for file in FILES] == [(12, 16, 3)] * 4
    with pytest.raises(Refused, match="at most 100 pixels"):
        decoded(FILES[0], PixelLimit(100))
