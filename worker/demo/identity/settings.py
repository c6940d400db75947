"""What a test, or whoever reaches the lab page, may change while the identity provider runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from worker.demo.identity import refusals


def _known(answer: str) -> str:
    """A staged refusal is one that the provider knows."""
    name = answer.partition("@")[0].partition("=")[2]
    if name and name not in refusals.BY_NAME:
        msg = f"there is no refusal of the name {name}"
        raise ValueError(msg)
    return answer


StagedAnswer = Annotated[
    str,
    Field(pattern=r"^(429|500|503|html|hang|drop|refuse=[A-Z_]+)(@[\w-]+)?$"),
    AfterValidator(_known),
]


class Settings(BaseModel):
    """Lifetimes in whole seconds, and how strict or broken the provider is.

    With `strict_rotation` a refresh token works once, and using it again revokes the whole session (RFC 9700
    section 4.14.2); without it older refresh tokens stay good, as with Entra. Without `rotates` a refresh brings no new
    refresh token, as with Google; without `echo_scope` no answer says its scope, which RFC 6749 section 5.1 allows.
    `refresh_expires_in` is told to clients as `refresh_token_expires_in`, and is not what counts: `refresh_lifetime` is.
    `claims` go over those of id tokens; None takes one away. With `device_code_blocked` a policy of the tenant forbids
    sign-in by device code, which shows when the person has agreed.

    `answers` are given, once each, instead of the real ones: `429`, `500`, `503`, `html`, `hang` (never answers), `drop`
    (closes the connection) or `refuse=NAME`, a name of `refusals`, for the token endpoint, or for another one by
    `KIND@ENDPOINT`, where the endpoint is the last segment of the path.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    token_lifetime: int = 3600
    interval: int = 1
    device_lifetime: int = 900
    code_lifetime: int = 600
    refresh_lifetime: int = 90 * 86400
    strict_rotation: bool = False
    rotates: bool = True
    echo_scope: bool = True
    refresh_expires_in: int | None = None
    claims: dict[str, JsonValue] = Field(default_factory=dict)
    device_code_blocked: bool = False
    retry_after: int = 1
    answers: list[StagedAnswer] = Field(default_factory=list)
