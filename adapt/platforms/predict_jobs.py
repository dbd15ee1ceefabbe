"""Prepares the jobs that predict a set on a platform, and states what will run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from adapt.config.strict_yaml import packed
from adapt.data.writing.plan import Slice
from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.deploy import endpoint_name
from adapt.platforms.gpus import check_gpus
from adapt.platforms.model_uri import find_model
from adapt.platforms.platform import Platform, Profile, Request
from adapt.platforms.prediction import Prediction, Sliced
from adapt.platforms.reachable import IMAGE, asked_faults, key_faults, raise_together
from adapt.platforms.submit import name_of
from adapt.use.locate import REGISTERED
from storage.stores import Stores
from storage.uris import without_password

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

MOST_SLICES = 1000
WHOLE = "0/1"
"""`--slice` where it is not given."""


class PreparedPrediction(NamedTuple):
    """Jobs that are ready to be sent: the requests by their jobs' names."""

    prediction: Sliced
    profile: Profile
    platform: Platform
    requests: dict[str, Request]


class Asked(NamedTuple):
    """The wishes of a user; see `Prediction`. `part` is I/N, for one slice alone."""

    model: str
    inputs: Sequence[str]
    out: str
    options: Sequence[str]
    num_slices: int | None
    part: str


def prepare_prediction(
    asked: Asked,
    profile: Profile,
    stores: Stores,
    spec: "JobSpec | None" = None,
    tracking_uri: str | None = None,
    now: datetime | None = None,
) -> PreparedPrediction:
    """The requests and their parts; `spec` has the settings of the stores.

    Raises `JobError` for values that the platform would refuse, and `StoreError`.
    """
    slices, num_slices = slices_of(asked.num_slices, asked.part)
    if profile.gpus:
        check_gpus(profile)
    label = f"predict-{endpoint_name(asked.model, None)}"
    prediction = Prediction(
        name=name_of(label, now or datetime.now(UTC), 1, reserve=len(f"-{num_slices}")),
        model=asked.model,
        asked=asked.model,
        inputs=tuple(asked.inputs),
        out=asked.out,
        options=tuple(asked.options),
        num_slices=num_slices,
        slices=slices,
        spec=None if spec is None else packed(spec.to_yaml()),
    )
    platform = PLATFORMS[profile.platform]
    _check(prediction, profile, platform, stores)
    found = find_model(asked.model, profile, stores, tracking_uri, takes_paths=False)
    raise_together(key_faults([found.uri], profile, stores.configs))
    prediction = prediction._replace(model=found.uri, sha256=found.sha256)
    return PreparedPrediction(prediction, profile, platform, platform.predict(prediction, profile))


def slices_of(wanted: int | None, part: str) -> tuple[tuple[int, ...], int]:
    """The numbers of the slices to submit, of how many: all of the `wanted`, or the part I/N."""
    if wanted is None:
        piece = Slice.parse(part)
        if piece.num_slices > MOST_SLICES:
            raise JobError(f"--slice: expected at most {MOST_SLICES}, got {piece.num_slices}")
        return (piece.number,), piece.num_slices
    if part != WHOLE:
        raise JobError(
            f"--slices: expected none beside --slice {part}, got {wanted}",
            "name --slices N for all of them, or --slice I/N for one",
        )
    return tuple(range(wanted)), wanted


def _check(prediction: Prediction, profile: Profile, platform: Platform, stores: Stores) -> None:
    """Raise one `JobError` for all mistakes of MODEL, INPUT and --out that show before a read."""
    said = "INPUT: expected pictures or videos that other machines can read, got camera"
    faults = [JobError(f"{said} {one}") for one in prediction.inputs if one.isdecimal()]
    is_registered = prediction.asked.startswith(REGISTERED)
    named = [] if is_registered else [("MODEL", prediction.asked)]
    named += [("INPUT", uri) for uri in prediction.inputs]
    asked = [*named, ("--out", prediction.out)]
    faults += asked_faults(asked, profile, stores)
    faults += key_faults([uri for _, uri in asked], profile, stores.configs)
    one = prediction._replace(
        model=f"{IMAGE}/registered" if is_registered else prediction.asked,  # found after these
        inputs=tuple(uri for uri in prediction.inputs if not uri.isdecimal()),
        slices=prediction.slices[:1],
    )
    try:
        platform.predict(one, profile)
    except JobError as error:
        faults.append(error)
    raise_together(faults)


def facts_of(plan: PreparedPrediction) -> dict[str, str]:
    """The facts to confirm before the jobs are sent, a line each."""
    prediction, profile = plan.prediction, plan.profile
    each = f"{profile.gpus} GPU{'' if profile.gpus == 1 else 's'}" if profile.gpus else "CPU"
    count, of = len(prediction.slices), prediction.num_slices
    alone = f" (slice {prediction.slices[0]}/{of} alone)" if count < of else ""
    several = f"{count} job{'' if count == 1 else 's'}"
    if len(plan.requests) < count:
        several = f"1 job of {count} pods"
    facts = {
        "jobs": ", ".join(plan.requests) if len(plan.requests) < 4 else f"{prediction.name}-*",
        **_uris(prediction),
        "platform": f"{profile.platform}, {several}{alone} x {each}",
        "image": profile.image,
        "restarts": "the same command resumes; --slice I/N submits one slice again",
    }
    if profile.price_per_hour is not None:
        price = profile.price_per_hour * count
        facts["price"] = f"{price:.2f} {profile.currency} an hour while all run"
    return facts | plan.platform.predict_facts(profile)


def _uris(jobs: Sliced) -> dict[str, str]:
    kinds: dict[str, list[str]] = {}
    for one in jobs.uris:
        kind = "writes" if one.written else "model" if one.in_image else "reads"
        kinds.setdefault(kind, []).append(without_password(one.uri))
    return {kind: ", ".join(uris) for kind, uris in kinds.items()}
