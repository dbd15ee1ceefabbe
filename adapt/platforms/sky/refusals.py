"""Refusals of SkyPilot, as errors with their fix."""

import re
from typing import NamedTuple


class Refusal(NamedTuple):
    """The key of the profile, what was found, and the fix."""

    key: str
    found: str
    fix: str


_REFUSALS = (
    (
        "no (enabled )?cloud|no cloud access|no infra|cloud .* is not enabled|not enabled",
        "sky",
        "no cloud is enabled, or not the one of infra",
        "run `sky check`, and give it the keys of a cloud as it says",
    ),
    (
        "no resource satisfying|no launchable resource|resources ?unavailable|not find(ing)? any",
        "resources",
        "no cloud that is enabled has such machines",
        "lower cpus, memory_gb or nodes, name more accelerators (`sky gpus list`), or remove infra",
    ),
    (
        "invalid (accelerator|gpu)|accelerator.*not (found|supported)",
        "accelerators",
        "SkyPilot knows no such GPU",
        "take names from `sky gpus list --all`",
    ),
    (
        "invalid (infra|cloud|region|zone)|cloud .* is not (a )?valid",
        "infra",
        "SkyPilot knows no such cloud, region or zone",
        "write CLOUD/REGION/ZONE as `sky gpus list --infra CLOUD` shows them, or remove it",
    ),
    (
        "is not set in local environment",
        "secrets",
        "a variable is not set here",
        "export it, or remove it from the profile",
    ),
    (
        "no such option|no such command|additional properties|unexpected keyword",
        "sky",
        "SkyPilot is another version than this was written for (0.14), or `resources` or `config` "
        "of the profile has a key that it does not know",
        "pip install --upgrade skypilot, and `sky api stop` once after it",
    ),
    (
        "quota|vcpulimitexceeded|limit.*exceeded",
        "quota",
        "the account has no quota for such machines",
        "ask the cloud for more, or take other accelerators or another infra",
    ),
)


def refusal_of(said: str) -> Refusal:
    """The meaning of what `sky` wrote before it failed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if re.search(r"error|invalid|exception", line, re.IGNORECASE)]
    shown = " ".join((named or lines or ["no message"])[-2:])
    for pattern, key, found, fix in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return Refusal(key, f"{found} [{shown}]", fix)
    return Refusal("sky", f"SkyPilot refused: {shown}", "change what it names")
