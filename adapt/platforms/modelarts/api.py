"""The calls of ModelArts' API that we need, over its SDK: plain values in and out, errors with
their fix, retried where that is safe.

The endpoint is made from the region here, since the SDK's own table has a slip (ap-southeast-1).
Bodies go as plain values: the SDK's classes lack `prefetch_to_local`.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from adapt.errors import JobError
from adapt.platforms.modelarts.errors import THROTTLED, NotThere, explained
from adapt.platforms.modelarts.profile import ModelArtsProfile
from adapt.platforms.platform import SUBMIT_LIBRARIES
from storage.errors import StoreUnavailable
from storage.retry import Retry

RETRY = Retry(max_attempts=5, first_wait_s=2.0)
TIMEOUTS_S = (10.0, 60.0)
PAGE = 50


def endpoint_of(profile: ModelArtsProfile) -> str:
    """The URL of the API: the profile's, or that of its region."""
    return profile.endpoint or regional(profile, "modelarts")


def regional(profile: ModelArtsProfile, service: str) -> str:
    """The URL of a service of the profile's region."""
    domain = "eu" if profile.region.startswith("eu-") else "com"
    return f"https://{service}.{profile.region}.myhuaweicloud.{domain}"


class ModelArtsApi:
    """ModelArts of one project. Methods raise `JobError` and `StoreUnavailable`.

    Made without asking the service; raises `JobError` where a variable or the SDK is missing.
    `timeouts_s` are for the connection and for the answer.
    """

    def __init__(
        self,
        profile: ModelArtsProfile,
        environment: Mapping[str, str],
        timeouts_s: tuple[float, float] = TIMEOUTS_S,
    ) -> None:
        self._profile, self._endpoint = profile, endpoint_of(profile)
        self.retry = RETRY
        try:
            from huaweicloudsdkcore.auth.credentials import BasicCredentials
            from huaweicloudsdkcore.http.http_config import HttpConfig
            from huaweicloudsdkmodelarts import v1
        except ImportError as error:
            raise JobError(
                "platform modelarts: expected its SDK, got none installed", SUBMIT_LIBRARIES
            ) from error
        access_key = _variable(environment, profile.access_key_env, "access_key_env")
        secret_key = _variable(environment, profile.secret_key_env, "secret_key_env")
        project = profile.project_id or _variable(
            environment, profile.project_id_env, "project_id_env"
        )
        keys = BasicCredentials(access_key, secret_key, project)
        token = environment.get(profile.security_token_env, "").strip()
        keys = keys.with_security_token(token or None)

        def connected(endpoint: str) -> Any:
            builder = v1.ModelArtsClient.new_builder().with_endpoints([endpoint])
            builder = builder.with_http_config(HttpConfig(timeout=timeouts_s))
            return builder.with_credentials(keys).build()

        self._connected, self._requests = connected, v1
        self._sdk = connected(self._endpoint)
        # its own lines about every error would come before ours
        logging.getLogger("HuaweiCloud-SDK-ModelArtsClient").addHandler(logging.NullHandler())

    def create(self, body: Mapping[str, Any]) -> Any:
        """The job that was made."""
        return self._call("create_training_job", "CreateTrainingJobRequest", False, body=body)

    def terminate(self, job: str) -> None:
        """Ask for the end of a job that runs or waits."""
        body = {"action_type": "terminate"}
        self._call(
            "stop_training_job", "StopTrainingJobRequest", False, training_job_id=job, body=body
        )

    def details(self, job: str) -> Any:
        """The description of a job. Raises `JobError` where there is none."""
        request = "ShowTrainingJobDetailsRequest"
        try:
            return self._call("show_training_job_details", request, training_job_id=job)
        except NotThere as error:
            raise JobError(
                f"JOB: expected a training job of this project and region, got {job!r} ({error})",
                "take an id from `jobs`",
            ) from error

    def search(self, key: str, operator: str, *values: str) -> Iterator[Any]:
        """The jobs that match a filter, the newest first."""
        seen: set[str] = set()
        filters = [{"key": key, "operator": operator, "value": list(values)}]
        workspace, page = self._profile.workspace_id, 0
        while True:
            body = {"offset": page, "limit": PAGE, "sort_by": "create_time", "order": "desc"}
            body |= {"workspace_id": workspace, "filters": filters}
            found = self._call("list_training_jobs", "ListTrainingJobsRequest", body=body)
            items = [one for one in found.get("items") or [] if one["metadata"]["id"] not in seen]
            yield from items
            seen.update(one["metadata"]["id"] for one in items)
            page += 1
            if not items or len(seen) >= found.get("total", 0):
                return

    def log_end(self, job: str, task: str) -> Any:
        """The end of a task's log, as far as ModelArts shows it; None where there is none yet.

        Raises `LogGone` where it was cleared.
        """
        method, request = "show_training_job_logs_preview", "ShowTrainingJobLogsPreviewRequest"
        try:
            return self._call(method, request, training_job_id=job, task_id=task)
        except NotThere:
            return None

    def flavors(self) -> dict[str, Any]:
        """The machines of the public pool by name."""
        found = self._call("show_training_job_flavors", "ShowTrainingJobFlavorsRequest")
        return {one["flavor_id"]: one for one in found.get("flavors") or []}

    def has_pool(self, pool: str) -> bool:
        """Return whether there is such a dedicated pool."""
        try:
            self._call("show_pool", "ShowPoolRequest", pool_name=pool)
        except NotThere:
            return False
        return True

    def is_taken(self, name: str) -> bool:
        """Return whether a job has this name."""
        found = self._call(
            "validate_training_job_name",
            "ValidateTrainingJobNameRequest",
            job_name=name,
            workspace_id=self._profile.workspace_id,
        )
        return bool(found.get("is_duplicate"))

    def _call(self, method: str, request: str, reads: bool = True, **parts: Any) -> Any:
        """One call, retried where it was throttled, or reads only and got no answer."""
        send: Callable[[Any], Any] = getattr(self._sdk, method)
        retry = replace(self.retry, transient=lambda error: reads or _throttled(error))
        return retry.call(lambda: self._send(send, getattr(self._requests, request)(**parts)))

    def _send(self, send: Callable[[Any], Any], request: Any, endpoint: str = "") -> Any:
        from huaweicloudsdkcore.exceptions.exceptions import SdkException
        from requests.exceptions import RequestException

        try:
            answer = send(request)
        except (SdkException, RequestException) as error:
            raise explained(error, self._profile, endpoint or self._endpoint) from error
        try:
            return json.loads(answer.raw_content or b"{}")
        except ValueError as error:
            raise StoreUnavailable(
                f"{self._endpoint}: the answer is no JSON",
                "remove the proxy between, if there is one",
            ) from error


def _throttled(error: Exception) -> bool:
    return getattr(error.__cause__, "status_code", None) == THROTTLED


def _variable(environment: Mapping[str, str], name: str, key: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise JobError(f"{key}: expected variable {name}, got none", f"export {name}=...")
    return value
