"""Advice on a gap: one sentence, with its reasons and the commands or keys that follow.

The first that applies: fix the data, train on the source alone, label, adapt. All numbers that
decide are in `THRESHOLDS`.
"""

from math import ceil
from typing import NamedTuple

from adapt.gap.diagnose import Gap
from adapt.gap.measures import NetworkGap, PredictionGap
from adapt.gap.thresholds import FEWEST_LABELS, MOST_LABELS, THRESHOLDS

FIX, SOURCE_ONLY, LABEL, ADAPT, DONE = "fix", "source_only", "label", "adapt", "done"
TRANSFORMERS = ("vit", "deit", "eva", "dinov", "tips", "swin", "hiera", "mit_")
"""In the names of encoders that are transformers."""


class Finding(NamedTuple):
    """A fault of the data, with its numbers, and its fix."""

    text: str
    do: str


class Advice(NamedTuple):
    """`kind` is one of fix, source_only, label, adapt, done; `then` is what comes after a fix.
    `fixes` are to be made first."""

    kind: str
    then: str
    sentence: str
    fixes: tuple[Finding, ...]
    reasons: tuple[str, ...]
    steps: tuple[str, ...]


def advise(gap: Gap, spec: str) -> Advice:
    """The advice on a gap; `spec` is named in its commands."""
    fixes = tuple(_fixes(gap))
    then, sentence, steps = _next(gap, spec)
    kind = then
    if fixes:
        things = ", then ".join(one.do for one in fixes)
        kind, sentence = FIX, f"Fix this first: {things}. Then: {sentence}"
    return Advice(kind, then, sentence, fixes, tuple(_reasons(gap)), steps)


def labels_wanted(samples: int) -> int:
    """Images of a target of so many that it is advised to label."""
    share = ceil(samples * THRESHOLDS["label_share"].value)
    return min(samples, max(FEWEST_LABELS, min(MOST_LABELS, share)))


def suggested_method(gap: Gap) -> tuple[str, str]:
    """The method to adapt by, and why."""
    images, predictions = gap.images, gap.latest.predictions
    if images.low_frequencies >= THRESHOLDS["fda_share"].value:
        return "fda", (
            f"{images.low_frequencies:.0%} of the difference of spectra lies at low frequencies, "
            f"which are style; beta {images.beta:g} covers them"
        )
    least = THRESHOLDS["confident"].value
    if predictions is not None and predictions.confident[1] < least:
        return "advent", (
            f"only {predictions.confident[1]:.0%} of the target's pixels are predicted with "
            "confidence, which self-training lives on"
        )
    if is_transformer(gap.encoder):
        return "vfm_uda", "self-training made for pretrained transformers"
    return "daformer", "self-training leads every published table of networks such as this one"


def is_transformer(encoder: str) -> bool:
    """By the encoder's name."""
    return any(one in encoder for one in TRANSFORMERS)


def _fixes(gap: Gap) -> list[Finding]:
    found = []
    if gap.missing:
        listed = ", ".join(gap.missing)
        found.append(
            Finding(
                f"the source's labels have no pixel of {listed}",
                f"add source images of {listed}, or take the class out of the spec",
            )
        )
    viewpoint = _viewpoint(gap)
    if viewpoint:
        fix = "source images from the target's viewpoint (camera's height and pitch, field of view)"
        found.append(Finding(viewpoint, f"take {fix}, or crop to the common part"))
    most = THRESHOLDS["colour"].value
    if gap.images.colour >= most:
        text = f"the mean colours are {gap.images.colour:.0f} Delta E apart ({most:.0f} is much)"
        keys = "brightness, contrast, saturation and hue of source.augment"
        found.append(Finding(text, f"even out light and colour ({keys})"))
    return found


def _viewpoint(gap: Gap) -> str:
    """How the viewpoints differ; empty where they do not."""
    predictions = gap.latest.predictions
    if predictions is not None:
        most, found = THRESHOLDS["viewpoint_places"].value, predictions.places
        if found >= most:
            return f"classes stand elsewhere in the picture: {found:.2f} bits ({most:g} is much)"
        return ""
    most, found = THRESHOLDS["viewpoint_detail"].value, gap.images.detail
    if found >= most:
        return f"detail stands elsewhere in the picture: {found:.2f} bits ({most:g} is much)"
    return ""


def is_close(network: NetworkGap) -> bool:
    """By the features of the deepest stage and, where they are known, by the predictions."""
    predictions = network.predictions
    alike = network.layers[-1].kernel <= THRESHOLDS["close"].value
    if predictions is None:
        return alike
    source, target = predictions.entropy
    return alike and target <= THRESHOLDS["entropy"].value * source


def _next(gap: Gap, spec: str) -> tuple[str, str, tuple[str, ...]]:
    """Kind, sentence and commands, data apart."""
    if gap.after is not None:
        return _after(gap, spec)
    if is_close(gap.before):
        adapters = "with a pretrained transformer and adapters, where the budget has room"
        if is_transformer(gap.encoder):
            adapters = "with adapters on the pretrained transformer"
        text = f"Train on the source alone, {adapters}: adaptation has little to close."
        return SOURCE_ONLY, text, (f"segadapt run {spec} --set 'method={{name: source_only}}'",)
    method, why = suggested_method(gap)
    text = f"Adapt with {method}: {why}."
    steps = [_run(spec, method, gap)]
    predictions = gap.latest.predictions
    if predictions is not None and predictions.classes >= THRESHOLDS["classes"].value:
        steps.append("stream: {sampling: rare_classes}, since class shares differ")
    steps.append(f"segadapt gap {spec} --model RUN, after it: what has closed")
    return ADAPT, text, tuple(steps)


def _after(gap: Gap, spec: str) -> tuple[str, str, tuple[str, ...]]:
    predictions = gap.latest.predictions
    assert predictions is not None, "a trained network predicts"
    if is_close(gap.latest) and predictions.confident[1] >= THRESHOLDS["confident"].value:
        return DONE, "Use the network: the domains look alike to it.", ()
    count = labels_wanted(gap.target.samples)
    text = f"Label {count} target images: training has left a gap that labels close best."
    command = f"segadapt suggest {spec} --model {gap.model} --count {count}"
    return LABEL, text, (command, "then set target.labelled_split")


def _run(spec: str, method: str, gap: Gap) -> str:
    more = f", beta: {gap.images.beta:g}" if method == "fda" else ""
    return f"segadapt run {spec} --set 'method={{name: {method}{more}}}'"


def _reasons(gap: Gap) -> list[str]:
    """The numbers behind the advice, each in a sentence."""
    deepest = gap.latest.layers[-1]
    found = [
        f"The kernel distance of the domains at {deepest.layer} is {deepest.kernel:.2f}, the "
        f"A-distance {deepest.a_distance:.2f} of 2; of two halves of the source "
        f"{deepest.halves[1]:.2f} and {deepest.halves[0]:.2f}.",
    ]
    if not gap.pretrained and gap.after is None:
        found.append(
            "The encoder has random weights: these are distances of random features, and a "
            "pretrained encoder may see more."
        )
    predictions = gap.latest.predictions
    if predictions is not None:
        found.append(_entropy_text(predictions))
    else:
        found.append(
            "No trained network was given, so nothing is known of its predictions: set "
            "model.start_uri, or give --model."
        )
    rare = _rare_classes(gap)
    if rare:
        found.append(f"Nearly missing in the source's labels: {', '.join(rare)}.")
    return found


def _entropy_text(predictions: PredictionGap) -> str:
    source, target = predictions.entropy
    return (
        f"The network's entropy is {target:.3f} on the target and {source:.3f} on the source; it "
        f"is confident of {predictions.confident[1]:.0%} and {predictions.confident[0]:.0%} of the "
        "pixels."
    )


def _rare_classes(gap: Gap) -> list[str]:
    shares = zip(gap.classes.names, gap.label_shares, strict=True)
    return [name for name, share in shares if 0 < share < THRESHOLDS["rare"].value]
