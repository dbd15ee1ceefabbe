"""The boto3 clients of one account and region."""

from collections.abc import Mapping
from typing import Any

from adapt.platforms.sagemaker.errors import aws_errors
from adapt.platforms.sagemaker.profile import SageMakerProfile


class AwsApis:
    """A client of each service, made once. Keys are those in `environment`, else those of the SDK's
    own chain."""

    def __init__(self, profile: SageMakerProfile, environment: Mapping[str, str]) -> None:
        self._profile, self._environment = profile, environment
        self._apis: dict[str, Any] = {}
        self._session: Any = None

    def api(self, service: str) -> Any:
        """The boto3 client of a service. Raises `JobError`, `StoreUnavailable`."""
        if service not in self._apis:
            with aws_errors("profile", service):
                self._apis[service] = self._connected(service)
        return self._apis[service]

    def _connected(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        found, urls = self._environment.get, {**self._profile.endpoint_urls}
        self._session = self._session or boto3.session.Session(
            found("AWS_ACCESS_KEY_ID"),
            found("AWS_SECRET_ACCESS_KEY"),
            found("AWS_SESSION_TOKEN"),
            region_name=self._profile.region,
        )
        return self._session.client(
            service,
            endpoint_url=urls.get(service),  # type: ignore[call-overload]  # others have none
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "total_max_attempts": 4},
            ),
        )
