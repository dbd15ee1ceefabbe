"""Deploys models: finds their weights, names the endpoint, states what will run, waits until it is
ready."""

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from adapt.config.strict_yaml import packed
from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.endpoint import Deployment, EndpointClient, EndpointStatus, Serving
from adapt.platforms.following import over_outages
from adapt.platforms.gpus import check_gpus
from adapt.platforms.model_uri import find_model
from adapt.platforms.platform import Profile, Request
from adapt.platforms.reachable import asked_faults, key_faults, raise_together
from adapt.use.locate import REGISTERED
from storage.config import fitting_key, settings_name
from storage.stores import Stores
from storage.uris import split_uri, without_password

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
POLL_S = 2.0
READY_S = 1800.0
"""Clouds start a machine, pull gigabytes and load the model before an endpoint is ready."""


class PreparedEndpoint(NamedTuple):
    """An endpoint that is ready to be sent."""

    deployment: Deployment
    profile: Profile
    serving: Serving
    request: Request
    machines: Profile
    """The profile with what an endpoint's own machines have and cost."""


def serving_of(profile: Profile) -> Serving:
    """How a profile's platform serves. Raises `JobError` where it does not."""
    serving = PLATFORMS[profile.platform].serving
    if serving is None:
        known = ", ".join(sorted(name for name, row in PLATFORMS.items() if row.serving))
        raise JobError(
            f"platform: expected one that serves models, got {profile.platform} (known: {known})",
            "name a profile of one of them, or run `segadapt serve` there",
        )
    return serving


def prepare_endpoint(
    model: str,
    profile: Profile,
    stores: Stores,
    name: str | None = None,
    tracking_uri: str | None = None,
    spec: "JobSpec | None" = None,
) -> PreparedEndpoint:
    """The request and its parts; `spec` has the settings of the stores, also for the server.

    A run or a registered model stands for the weights that are its best now, so that every replica
    and every restart serves the same ones.

    Raises `JobError` for a model that is not there, and for values that the platform would refuse;
    `StoreError`.
    """
    serving = serving_of(profile)
    machines = serving.on_machines(profile)
    if machines.gpus:
        check_gpus(machines)
    label = endpoint_name(model, name)
    if not model.startswith(REGISTERED):
        raise_together(asked_faults([("MODEL", model)], profile, stores))
    found = find_model(model, profile, stores, tracking_uri, serving.takes_paths)
    if not serving.takes_settings:
        raise_together(_settings_faults(found.uri, profile, stores))
    settings = None if spec is None else packed(spec.to_yaml())
    deployment = Deployment(label, found.uri, model, found.is_file, found.sha256, settings)
    request = serving.request(deployment, profile)
    return PreparedEndpoint(deployment, profile, serving, request, machines)


def _settings_faults(uri: str, profile: Profile, stores: Stores) -> list[JobError]:
    """The settings of the model's store without which the servers would read another one."""
    faults = key_faults([uri], profile, stores.configs)
    store = fitting_key(uri, stores.configs)
    address = None if store is None else stores.configs[store].endpoint_url
    if store is not None and address is not None:
        problem = (
            f"{settings_name(store)}.endpoint_url: expected none, since servers on "
            f"{profile.platform} get no settings of stores, got {without_password(address)!r}"
        )
        fix = "copy the checkpoint's folder into a bucket of the cloud, and deploy without --spec"
        faults.append(JobError(problem, fix))
    return faults


def endpoint_name(model: str, name: str | None) -> str:
    """`name`, or one made of the last part of MODEL that says something. Raises `JobError`."""
    if name is not None:
        if re.fullmatch(NAME, name) is None:
            raise JobError(
                "--name: expected lower-case letters, digits and `-`, a letter first, at most 40 "
                f"characters, got {name!r}",
                "choose another name",
            )
        return name
    _, path = split_uri(model)
    parts = re.split(r"/+", re.split(r"[@?]", path)[0].removeprefix(REGISTERED).strip("/"))
    said = [part for part in parts if not re.fullmatch(r"\.+|\d+|step-\d+|weights\..*", part)]
    label = re.sub(r"[^a-z0-9]+", "-", said[-1].lower()).strip("-") if said else "model"
    label = label if label[:1].isalpha() else f"model-{label}"
    return label[:40].rstrip("-")


def facts_of(plan: PreparedEndpoint) -> dict[str, str]:
    """The facts to confirm before an endpoint is made, a line each."""
    deployment, profile, serving = plan.deployment, plan.profile, plan.serving
    machines = plan.machines
    each = f"{machines.gpus} GPU{'' if machines.gpus == 1 else 's'}" if machines.gpus else "CPU"
    fewest, most = serving.replicas(profile)
    several = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    facts = {
        "endpoint": deployment.name,
        "model": without_password(deployment.model),
        "platform": f"{profile.platform}, {several} x {each}",
        "image": profile.image,
        "reach": serving.reach(deployment, profile),
        "access": serving.access(profile),
    }
    if machines.price_per_hour is not None:
        prices = [f"{machines.price_per_hour * n:.2f}" for n in sorted({fewest, most})]
        facts["price"] = f"{' to '.join(prices)} {profile.currency} an hour, until `undeploy`"
    return facts


def wait_until_ready(
    client: EndpointClient,
    name: str,
    show: Callable[[EndpointStatus, float], None],
    limit_s: float = READY_S,
) -> EndpointStatus:
    """Wait until an endpoint is ready; `show` gets each status and the seconds so far. Outages are
    retried.

    Raises `JobError` where it failed or is late; it stays, for its log.
    """
    begun_s = time.monotonic()
    fix = f"read `segadapt endpoints logs {name}`, remove it with `segadapt undeploy {name}`"
    while True:
        status = over_outages(lambda: client.status(name))
        waited_s = time.monotonic() - begun_s
        show(status, waited_s)
        if status.state == "ready":
            return status
        if status.state in ("failed", "stopped"):
            detail = f": {status.detail}" if status.detail else ""
            raise JobError(f"{name}: expected a ready endpoint, got {status.state}{detail}", fix)
        if waited_s > limit_s:
            raise JobError(
                f"{name}: expected a ready endpoint within {limit_s / 60:.0f} minutes, got "
                f"{status.state} {status.detail}".rstrip(),
                fix,
            )
        time.sleep(POLL_S)
