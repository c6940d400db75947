"""What an output can be told of the object store that it writes to."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Self
from urllib.parse import unquote

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipelines.options import Duration, FilePath
from pipelines.output import OutputOptions

_URL = re.compile(r"(?:s3|gs|az)://[A-Za-z0-9][\w.-]+(?:/[^?#]*)?|file:///[^?#]+", re.ASCII)


class StoreOptions(OutputOptions):
    """Where objects go, and who says so."""

    url: str = Field(
        description="Where objects go: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, or "
        "`file:///folder`.",
        examples=["s3://mail-archive/incoming"],
    )
    endpoint: str | None = Field(
        default=None,
        description="Address of the store, when it is not the provider's own: for MinIO, Ceph, R2 and others.",
        examples=["https://minio.example:9000"],
    )
    region: str | None = Field(
        default=None,
        description="Region of an S3 bucket. Unset: what AWS_REGION names, or us-east-1.",
        examples=["eu-central-1"],
    )
    access_key: str | None = Field(
        default=None,
        description="S3: id of the access key. Azure: name of the storage account.",
        examples=["AKIA…"],
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="S3: the secret access key. Azure: the account key. Google: the JSON key of a service account. "
        "Without one, the machine's own identity signs, or what the provider's variables name.",
        examples=["…"],
    )
    timeout: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        le=timedelta(hours=1),
        description="How long one request may take in all; large objects go in requests of 8 MiB.",
    )
    ca_file: FilePath | None = Field(
        default=None,
        description="Certificates (PEM) that the server may be verified against, beside those of the system.",
        examples=["/etc/mailquay/ca.pem"],
    )

    @field_validator("url")
    @classmethod
    def _is_place(cls, url: str) -> str:
        if not _URL.fullmatch(url) or "/../" in f"{unquote(url)}/":
            raise PydanticCustomError(
                "store_url", "write s3://bucket, gs://bucket, az://container or file:///folder"
            )
        return url

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, endpoint: str | None) -> str | None:
        # Nothing but scheme, host and port: reasons show it.
        if endpoint is not None and not re.fullmatch(r"https?://[\w.:\[\]-]+/?", endpoint):
            raise PydanticCustomError("endpoint", "write http or https, host and port, without credentials")
        return endpoint

    @model_validator(mode="after")
    def _has_whole_keys(self) -> Self:
        kind = self.url.partition(":")[0]
        if kind == "s3" and (self.access_key is None) != (self.secret_key is None):
            raise PydanticCustomError("keys", "write both ACCESS_KEY and SECRET_KEY, or neither")
        if kind == "az" and self.access_key is None:
            raise PydanticCustomError("keys", "write the name of the storage account as ACCESS_KEY")
        return self
