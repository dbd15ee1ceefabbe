"""Requests to an API server over the kubernetes client, which knows kubeconfigs, credentials and
TLS; bodies and answers are plain data.

The client's own models are not used: they drop fields that they do not know, and the resources of
Kubeflow and Volcano have none.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.errors import JobError
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.kubernetes.refusals import explain
from adapt.platforms.platform import SUBMIT_LIBRARIES
from storage.errors import StoreUnavailable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

TIMEOUT_S = (10.0, 60.0)
"""To connect, and to wait for a part of an answer."""

QUIET_S = 60.0
"""Longest silence of a stream before it is `Quiet`."""

_MALFORMED = (ValueError, TypeError, KeyError, AttributeError)
"""Raised by the library for a kubeconfig of another shape, or with broken base64."""

MERGE = "application/merge-patch+json"


class Quiet(StoreUnavailable):
    """A server that is connected wrote nothing for a while; a stream may have no new lines."""


class ApiServer:
    """One API server, as one user."""

    def __init__(self, client: "ApiClient") -> None:
        self._client = client
        self.host: str = client.configuration.host

    def get(self, path: str, **query: str) -> Any:
        """An object or a list. As all methods do, raises `ServerRefused`, which is a `JobError`,
        where the server refuses, and `StoreUnavailable` where it is unreachable."""
        return self._call("GET", path, query)

    def create(self, path: str, manifest: Mapping[str, Any], dry_run: bool = False) -> Any:
        """Create an object; unknown fields are refused, not dropped. A dry run creates nothing."""
        query = {"fieldValidation": "Strict", "fieldManager": "segadapt"}
        return self._call("POST", path, query | ({"dryRun": "All"} if dry_run else {}), manifest)

    def merge(self, path: str, changes: Mapping[str, Any]) -> Any:
        """Change an object."""
        query = {"fieldManager": "segadapt"}
        return self._call("PATCH", path, query, changes, MERGE)

    def delete(self, path: str) -> Any:
        """Remove an object, and then what it owns."""
        return self._call("DELETE", path, {"propagationPolicy": "Background"})

    def stream(self, path: str, **query: str) -> Any:
        """An answer whose bytes come as they are written: a urllib3 response. Raises `Quiet` where
        not even its head comes: a kubelet sends it with the first line."""
        return self._send("GET", path, query, timeout_s=(TIMEOUT_S[0], QUIET_S)).response

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        kind: str = "application/json",
    ) -> Any:
        from urllib3.exceptions import HTTPError

        answer = self._send(method, path, query, body, kind)
        try:
            return json.loads(answer.read())
        except (HTTPError, ValueError) as error:
            raise StoreUnavailable(f"{self.host}{path}: the answer broke off: {error}") from error

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        kind: str = "application/json",
        timeout_s: tuple[float, float] = TIMEOUT_S,
    ) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError, SSLError

        headers = {"Accept": "application/json"} | ({"Content-Type": kind} if body else {})
        try:
            parts = self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._client.call_api(*parts, _request_timeout=timeout_s)
            if answer.status < 300:
                return answer
            text = answer.read().decode(errors="replace")
        except ApiException as error:
            raise self._not_trusted(error) from error
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) else error
            if isinstance(reason, SSLError):
                raise self._not_trusted(reason) from error
            raise (Quiet if isinstance(reason, ReadTimeoutError) else StoreUnavailable)(
                f"{self.host}: the API server is unreachable: {error}",
                fix="start it, or connect through the VPN or the proxy that it needs from here",
            ) from error
        raise explain(answer.status, text, self.host)

    def _not_trusted(self, error: Exception) -> JobError:
        return JobError(
            f"{self.host}: no secure connection, since `certificate-authority-data` of the "
            f"kubeconfig is not that server's: {error}",
            fix="fetch the kubeconfig anew",
        )


def connect_api(profile: KubernetesProfile, environment: Mapping[str, str]) -> ApiServer:
    """The API server of a profile's kubeconfig, or of the pod that this runs in.

    Raises `JobError` where there is neither.
    """
    try:
        from kubernetes import config
        from kubernetes.client import ApiClient, Configuration
        from yaml import YAMLError
    except ImportError as error:
        raise JobError(f"platform kubernetes: {error}", fix=SUBMIT_LIBRARIES) from error
    file = profile.kubeconfig or environment.get("KUBECONFIG") or "~/.kube/config"
    inside = not any(Path(one).expanduser().exists() for one in file.split(":"))
    settings = Configuration()
    settings.retries = 1
    try:
        if inside and profile.kubeconfig is None and environment.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(settings)
        else:
            file = str(Path(file).expanduser()) if ":" not in file else file
            config.load_kube_config(file, profile.context, settings, persist_config=False)
    except (config.ConfigException, YAMLError, OSError, *_MALFORMED) as error:
        found = f"{type(error).__name__}: {error}" if isinstance(error, _MALFORMED) else error
        raise JobError(
            f"kubeconfig: {file}: {found}",
            fix="fetch it from your provider, name the file in `kubeconfig` or KUBECONFIG and the "
            "cluster in `context` (kubectl config get-contexts)",
        ) from error
    return ApiServer(ApiClient(settings))
