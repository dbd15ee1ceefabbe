"""YAML as a job spec reads it: JSON's values, unique keys, a line and a fix for each mistake."""

import os
from pathlib import Path

import pytest

from adapt.config.strict_yaml import MAX_BYTES, packed, parse_yaml, read_yaml
from adapt.errors import JobError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 12)
)


def refusal(text: str) -> str:
    with pytest.raises(JobError) as caught:
        parse_yaml(text, "job.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n\tsteps: 3", "line 2: expected valid YAML, got: found character '\\t' that cann"),
        ("a: 1\nb: *nothing", "line 2: expected valid YAML, got: found undefined alias 'nothing'."),
        ("a: 1\nb: @x", "line 2: expected valid YAML, got: found character '@' that cannot start"),
        ("a: 1\nb: x: y", "line 2: expected valid YAML, got: mapping values are not allowed here."),
        ("a: 1\nb: 'x", "line 2: expected valid YAML, got: found unexpected end of stream. Fix: c"),
        ("a: 1\nb: [1, 2", "line 2: expected valid YAML, got: expected ',' or ']', but got '<stre"),
        ("a: 1\n---\nb: 2", "line 2: expected valid YAML, got: but found another document. Fix: r"),
        ("a: 1\n<<: {b: 1}", "line 2: expected a key, got a merge (<<). Fix: write the merged key"),
        ("a: &b {c: 1}\nd:\n  <<: *b", "line 3: expected a key, got a merge (<<). Fix: write the"),
        ("a: 1\nb: !!binary aGk=", "line 2: expected plain values, got the tag !!binary. Fix: rem"),
        ("a: 1\nb: !!set {x}", "line 2: expected plain values, got the tag !!set. Fix: remove the"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", "line 2: expected plain values, got the"),
        ("a: 1\nb: !custom 3", "line 2: expected plain values, got the tag !custom. Fix: remove t"),
        ("a: 1\nb: !!int x", "line 2: expected an integer, got 'x'"),
        ("a: 1\nb: !!float [x]", "line 2: expected a number, got ''"),
        (f"a: 1\nb: {'9' * 6000}", "line 2: expected a number of at most 300 digits, got 6000"),
        ("a: 1\nb: &c [*c]", "line 2: expected plain values, got one that contains itself"),
        ("a: 1\nb: &c {d: *c}", "line 2: expected plain values, got one that contains itself"),
        ("a: 1\n? &c [*c]\n: 3", "line 2: expected plain values, got one that contains itself"),
        ("a: 1\n? {b: 1}\n: 2", "line 2: expected a name before the colon, got several values. Fi"),
        ("a: 1\nb: {{x}}", "line 2: expected a name before the colon, got several values. Fix: pu"),
        ("a: 1\na: 2", "a: expected once, got it on lines 1 and 2. Fix: keep one."),
        ("{a: 1, 'a': 2}", "a: expected once, got it twice on line 1. Fix: keep one."),
        ("b: {true: 1, 1: 2, true: 3}", "true: expected once, got it twice on line 1. Fix: keep o"),
        ("a: 1\nb: \x01", "line 2: expected text, got the character '\\x01'. Fix: remove it, or w"),
        ("\0\0", "expected text, got the character '\\x00'. Fix: remove it, or write it as an esc"),
        (BOMB, "expected at most 100000 values, got more, aliases written out"),
        (f"a: {'[' * 3000}{']' * 3000}", "expected a few levels of values, got hundreds"),
        ("%YAML 9.9\n---\na: 1", "line 1: expected valid YAML, got: found incompatible YAML docum"),
    ],
)  # fmt: skip
def test_text_that_is_no_plain_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    assert refusal(text).startswith(f"job.yaml: {message}")


def test_values_are_those_of_json() -> None:
    text = "a: &x [1, 2]\nb: *x\nc: 2024-01-01\nd: 010\ne: 0o17\nf: =\ng: ~\nh:\n1: yes\ntrue: .nan"
    assert parse_yaml(text, "text") == {
        "a": [1, 2], "b": [1, 2], "c": "2024-01-01", "d": 10, "e": "0o17", "f": "=", "g": None,
        "h": None, "1": "yes", "true": ".nan",
    }  # fmt: skip
    assert parse_yaml("\ufeffa: !!str 3\r\nb: !!float 1.0\r\n", "text") == {"a": "3", "b": 1.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "env:NO_SUCH",
            "env:NO_SUCH: expected a job spec in this variable, got none. Fix: export it.",
        ),
        ("env:NO_BASE64", "env:NO_BASE64: expected a job spec in base64, gzip or not, got: "),
        ("env:CUT", "env:CUT: expected a job spec in base64, gzip or not, got: "),
        ("env:LARGE", f"env:LARGE: expected at most {MAX_BYTES} bytes, got more"),
        ("s3://", "s3://: expected SCHEME://FOLDER/FILE, got no file"),
        ("s3://bucket", "s3://bucket: expected SCHEME://FOLDER/FILE, got no file"),
        ("s3://bucket/folder/", "s3://bucket/folder/: expected SCHEME://FOLDER/FILE, got no file"),
        ("/dev/zero", f"/dev/zero: expected at most {MAX_BYTES} bytes, got more"),
        ("/dev/null", "/dev/null: expected keys and values, got null"),
    ],
)
def test_sources_without_a_spec_are_refused(name: str, message: str) -> None:
    variables = {
        "NO_BASE64": "\x01",
        "CUT": packed("a: 1")[:20],
        "LARGE": packed("a" * 2 * MAX_BYTES),
    }
    with pytest.raises(JobError) as caught:
        read_yaml(name, variables)
    assert str(caught.value).startswith(message)


def test_a_spec_is_read_from_a_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a: 1")
    os.close(writer)
    assert read_yaml(f"/dev/fd/{reader}") == {"a": 1}
    os.close(reader)
