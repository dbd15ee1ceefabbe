"""What looks like a secret is refused wherever it stands, and its value is in no message."""

from typing import Any

import pytest

from adapt.config.secrets import refuse_secrets, without_secrets
from adapt.errors import JobError
from adapt.platforms import PLATFORMS, load_profile
from adapt.spec.loading import parse_spec

AWS = "AK" + "IAIOSFODNN7EXAMPLE"
SECRETS = {
    "an AWS access key": [AWS, "AS" + "IAQWERTYUIOPASDFGH", f"s3://b/{AWS}/x", f"key={AWS};"],
    "a secret key": [
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "secret: jQ4vT0x8mZkR2yLwA7uPb9NcEhS3gFdK1iOeVqXa",
    ],
    "a token": [
        "gh" + "p_" + "a1B2" * 9,
        "h" + "f_" + "AbCdEfGh12" * 3,
        "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0.c2ln",
    ],
    "a private key": ["-----BEGIN RSA PRIVATE KEY-----\nMIIE"],
    "the key of a storage account": [
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0c2VjcmV0",
        "Eby8" * 21 + "Kw==",
    ],
}
PATHS = (
    "name",
    "source.uri",
    "stores.s3.access_key_env",
    "stores.s3.region",
    "tracking.tags.0",
    "deep.down.1.x",
)


def _at(path: str, value: str) -> dict[str, Any]:
    """Plain values with a text at a key path; numbers are places in lists."""
    found: Any = value
    for key in reversed(path.split(".")):
        found = [*["x"] * int(key), found] if key.isdigit() else {key: found}
    return dict(found)


@pytest.mark.parametrize(
    ("kind", "secret"), [(kind, one) for kind, several in SECRETS.items() for one in several]
)
def test_a_secret_is_refused_wherever_it_stands(kind: str, secret: str) -> None:
    for path in PATHS:
        with pytest.raises(JobError) as caught:
            refuse_secrets(_at(path, secret))
        assert caught.value.problem == f"{path}: expected no secret, got what looks like {kind}"
        assert secret not in str(caught.value) and "environment variable" in caught.value.fix
    with pytest.raises(JobError, match=r"^stores: expected no secret"):
        refuse_secrets({"stores": {secret: {}}})


@pytest.mark.parametrize(
    ("kind", "secret"), [(kind, one) for kind, several in SECRETS.items() for one in several]
)
def test_messages_show_the_kind_of_a_secret_alone(kind: str, secret: str) -> None:
    shown = without_secrets(f"s3://a/'{secret}': expected a file, got none. Fix: write it.")
    assert f"[{kind}]" in shown and shown.startswith("s3://a/'")
    assert not any(
        part in shown for part in (secret, secret[-6:], secret.split("=")[-1][8:] or "?")
    )
    assert "Fix: write it." in shown or kind == "a private key"
    assert without_secrets(shown) == shown


def test_messages_show_no_user_and_password() -> None:
    shown = without_secrets("s3://me:hush@host/data: expected a bucket, got none")
    assert shown == "[user and password]@host/data: expected a bucket, got none"


@pytest.mark.parametrize(
    "uri", ["https://me:hush@host/data", "postgresql://me:hush@h/db", "see s3://a:hush@b for it"]
)
def test_a_user_and_password_in_a_uri_are_refused(uri: str) -> None:
    with pytest.raises(JobError) as caught:
        refuse_secrets({"tracking": {"uri": uri}})
    assert caught.value.problem.startswith("tracking.uri: expected a URI without user and password")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("value", ["my secret", "a/b+c=", "HPUA41X2JKQW90ZLMN7B", "pa$$w"])
def test_a_field_for_a_variable_takes_the_name_of_one(value: str) -> None:
    for key in ("access_key_env", "secret_key_env", "session_token_env"):
        with pytest.raises(JobError) as caught:
            refuse_secrets({"stores": {"obs": {key: value}}})
        assert caught.value.problem.startswith(f"stores.obs.{key}: expected the name of an envir")
        assert value not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/home/User1/MyProject/Runs/DeepLabV2/AdvEnt",
        "/Users/AnnaMeier/Docs/GTA5toCityV2/Run07",
        "obs://bucket/2b66fd261ee5c6cfc8de7fa466bab600bcfe4f69.safetensors",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "https://host/data?sig=one%2Ftwo",
        "https://me@host/data",
        "OBS_ACCESS_KEY_ID",
        "ASIAN_STREETS",
        "000000000000000000000000000000000000000A",
    ],
)
def test_paths_checksums_and_names_pass(text: str) -> None:
    refuse_secrets({"a": [text], "b": {text: 1}})


def test_specs_and_profiles_are_checked(tiny_job: dict[str, Any], tmp_path: Any) -> None:
    tiny_job["stores"] = {"s3": {"access_key_env": AWS, "secret_key_env": "B"}}
    with pytest.raises(JobError, match=r"^stores.s3.access_key_env: expected no secret"):
        parse_spec(tiny_job, "tiny")
    path = tmp_path / "profile.yaml"
    path.write_text(f"platform: {next(iter(PLATFORMS))}\nenvironment: {{KEY: {AWS}}}\n")
    with pytest.raises(JobError, match=r"profile.yaml: environment.KEY: expected no secret"):
        load_profile(path)
