"""The calls of ModelArts' API of services (v2) that we need, over its SDK."""

from collections.abc import Iterator, Mapping
from typing import Any

from adapt.platforms.modelarts.api import PAGE, ModelArtsApi, regional

LINES = "/v2/{project_id}/groups/{group}/streams/{stream}/content/query"
MOST_LINES = 5000
"""Of one answer of the Log Tank Service."""


class ServicesApi(ModelArtsApi):
    """The services of one project. Methods raise `JobError` and `StoreUnavailable`."""

    def make(self, body: Mapping[str, Any]) -> Any:
        """The service that was made."""
        return self._call("create_infer_service", "CreateInferServiceRequest", False, body=body)

    def services(self, **filters: Any) -> Iterator[Any]:
        """The services that match the filters, the newest first."""
        at = 0
        while True:
            found = self._call(
                "list_infer_services",
                "ListInferServicesRequest",
                workspace_id=self._profile.workspace_id,
                sort_key="create_at",
                sort_dir="DESC",
                limit=PAGE,
                offset=at,
                **filters,
            )
            yield from found.get("data") or []
            at += PAGE
            if at >= found.get("total", 0):
                return

    def described(self, service: str) -> Any:
        """The description of a service. Raises `NotThere`."""
        return self._call("show_infer_service", "ShowInferServiceRequest", service_id=service)

    def remove(self, service: str) -> None:
        """Stop and delete a service."""
        body = {"service_ids": [service]}
        self._call(
            "batch_delete_infer_services", "BatchDeleteInferServicesRequest", False, body=body
        )

    def events(self, service: str) -> list[Any]:
        """The events of a service, the oldest first."""
        found: list[Any] = []
        while True:
            page = self._call(
                "list_infer_service_events",
                "ListInferServiceEventsRequest",
                service_id=service,
                sort_key="create_at",
                sort_dir="ASC",
                limit=PAGE,
                offset=len(found),
            )
            found += page.get("data") or []
            if len(found) % PAGE or len(found) >= page.get("total", 0):
                return found

    def lines(self, group: str, stream: str, since_ms: int, until_ms: int) -> list[Any]:
        """The first lines of a stream of the Log Tank Service in a time, the oldest first, each
        with its number, which is its time in nanoseconds."""
        endpoint = self._profile.serve.log_endpoint or regional(self._profile, "lts")
        client = self._connected(endpoint)
        body = {
            "start_time": str(since_ms),
            "end_time": str(until_ms),
            "is_desc": False,
            "search_type": "init",
            "highlight": False,
            "limit": MOST_LINES,
        }

        def send(asked: Mapping[str, Any]) -> Any:
            return client.do_http_request(
                method="POST",
                resource_path=LINES,
                path_params={"group": group, "stream": stream},
                header_params={"Content-Type": "application/json;charset=UTF-8"},
                body=asked,
                response_type="BatchDeleteInferServicesResponse",  # any: the raw content is read
            )

        found = self.retry.call(lambda: self._send(send, body, endpoint))
        return list(found.get("logs") or [])
