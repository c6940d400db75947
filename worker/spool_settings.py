"""What Mailquay can be told of its spool: where it lies, how much may wait in it, and for how long it keeps what is done."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from pipelines.options import ByteSize, Duration, Options
from worker.mailbox import LocalFile, Text

_STORE = re.compile(r"(?:s3|gs|az)://[A-Za-z0-9][\w.-]+(?:/[\w./=+@-]*)?", re.ASCII)


def checked_url(url: str) -> str:
    """Return the URL of a spool as it is.

    Raises:
        ValueError: it is none; the sentence does not show it.
    """
    folder = url.startswith("file:///") and url.strip("/") != "file:" and not re.search(r"[?#]", url)
    if not (folder or _STORE.fullmatch(url)) or "/../" in f"{unquote(url)}/":
        raise ValueError(
            "must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder"
        )
    return url


def _address(endpoint: str) -> str:
    # Nothing but scheme, host and port: sentences show it.
    if not re.fullmatch(r"https?://[\w.:\[\]-]+/?", endpoint):
        raise ValueError("must be http or https, host and port, without credentials")
    return endpoint


class SpoolSettings(Options):
    """Where the spool is, and how full it may be."""

    spool_url: Annotated[Text, AfterValidator(checked_url)] | None = Field(
        default=None,
        description="Where mail waits that is not delivered: `s3://bucket/prefix`, `gs://…`, `az://…` for several machines, "
        "or `file:///folder`. Unset: DATA_DIR/spool.",
        examples=["s3://mail-spool/production"],
    )
    spool_endpoint: Annotated[Text, AfterValidator(_address)] | None = Field(
        default=None,
        description="Address of the spool's store, when it is not the provider's own: for MinIO, Ceph, R2 and others.",
        examples=["https://minio.example:9000"],
    )
    spool_region: Text | None = Field(
        default=None,
        description="Region of the spool's S3 bucket. Unset: what AWS_REGION names, or us-east-1.",
        examples=["eu-central-1"],
    )
    spool_access_key: Text | None = Field(
        default=None,
        description="S3: id of the access key. Azure: name of the storage account.",
        examples=["AKIA…"],
    )
    spool_secret_key: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="S3: the secret access key. Azure: the account key. Google: the JSON key of a service account. Unset: the "
        "machine's own identity, or what the provider's variables name.",
    )
    spool_timeout: Duration = Field(
        default=timedelta(seconds=20),
        ge=timedelta(milliseconds=100),
        le=timedelta(minutes=5),
        description="How long one request to the spool's store may take; it is tried three times.",
        examples=["1m"],
    )
    spool_ca_file: LocalFile | None = Field(
        default=None,
        description="PEM file of certificates that the spool's store may be checked against, beside those of the system.",
        examples=["/etc/ssl/certs/company-ca.pem"],
    )
    spool_max: ByteSize | None = Field(
        default=None,
        ge=1,
        description="Pulling stops while so much mail waits in the spool; delivering goes on. Unset: until DISK_FREE_MIN.",
        examples=["20GB"],
    )
    disk_free_min: ByteSize = Field(
        default=256 * 2**20,
        ge=0,
        description="Pulling stops while the disk of the spool has less than this free; delivering goes on.",
        examples=["2GB"],
    )
    keep: Duration = Field(
        default=timedelta(0),
        description="For so long a delivered batch is kept, so that `mailquay replay` can hand it over again.",
        examples=["7d"],
    )

    @field_validator("spool_secret_key")
    @classmethod
    def _has_both_keys(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        url, access = info.data.get("spool_url") or "", info.data.get("spool_access_key")
        if url.startswith("s3:") and (secret is None) != (access is None):
            raise ValueError("must stand beside SPOOL_ACCESS_KEY, or neither of them")
        if url.startswith("az:") and access is None and "spool_access_key" in info.data:
            raise ValueError("needs the name of the storage account in SPOOL_ACCESS_KEY")
        return secret
