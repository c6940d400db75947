"""What a test, or whoever reaches the lab page, may change while the identity provider runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

StagedAnswer = Annotated[str, Field(pattern=r"^(429|503|html|hang)(@[\w-]+)?$")]


class Settings(BaseModel):
    """Lifetimes in whole seconds, and how strict or broken the provider is.

    With `strict_rotation` a refresh token works once, and using it again revokes the whole session (RFC 9700
    section 4.14.2); without it older refresh tokens stay good, as with Entra. `answers` are given, once each, instead of
    the real ones: `429`, `503`, `html` or `hang`, for the token endpoint, or for another one by `KIND@ENDPOINT`, where
    the endpoint is the last segment of the path.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    token_lifetime: int = 3600
    interval: int = 1
    device_lifetime: int = 900
    code_lifetime: int = 600
    refresh_lifetime: int = 90 * 86400
    strict_rotation: bool = False
    retry_after: int = 1
    answers: list[StagedAnswer] = Field(default_factory=list)
