"""Names, labels and paths in the forms that the API server takes."""

from typing import Annotated

from adapt.platforms.texts import matching

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_KEY = rf"({_LABEL}(\.{_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"

LabelName = Annotated[
    str, matching(_LABEL, "lower-case letters, digits and `-`, at most 63 characters", longest=63)
]
ObjectName = Annotated[
    str,
    matching(
        rf"{_LABEL}(\.{_LABEL})*",
        "the name of an object: lower-case letters, digits, `-`",
        longest=253,
    ),
]
LabelKey = Annotated[str, matching(_KEY, "a label's key, as in cloud.example/gpu", longest=253)]
LabelValue = Annotated[str, matching(_VALUE, "a label's value, at most 63 characters", longest=63)]
MountPath = Annotated[str, matching(r"/[^:]+", "an absolute path without `:`", longest=1024)]
