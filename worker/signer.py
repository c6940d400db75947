"""Whoever signs in with OAuth 2.0: a mailbox that is pulled, or an output that sends or adds mail.

Both name an account, and one sign-in serves them all, so whatever is done for accounts (login, renewal, alerts, advice) is done for
signers. An output signs in under the app registration of the mailbox with the same account, else under that of its provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date

from pydantic import SecretStr

from pipelines.account import AccountOptions, MailProtocol
from pipelines.output import OutputOptions
from worker.mailbox import Mailbox
from worker.sources.providers import CLOUDS, PROVIDERS, Auth, CloudName, ProviderName, RegistrationName


@dataclass(frozen=True, slots=True)
class OutputSigner:
    """An output that signs in with OAuth 2.0, in a mailbox's words.

    `name` is how it is shown beside mailboxes; no mailbox can be called so. `address` is whose mailbox it writes to, or as whom
    it sends; `login` is the mailbox whose name the server is told.
    """

    output: str
    provider: ProviderName
    auth: Auth
    protocol: MailProtocol
    address: str
    login: str
    account: str
    scopes: tuple[str, ...]
    registration: RegistrationName
    tenant: str | None = None
    issuer: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    client_secret_expires: date | None = None

    @property
    def name(self) -> str:
        """How people see it among mailboxes."""
        return f"output {self.output}"


Signer = Mailbox | OutputSigner


def output_signers(
    outputs: Mapping[str, OutputOptions], mailboxes: Iterable[Mailbox], *, cloud: CloudName, oidc: bool
) -> Iterator[OutputSigner]:
    """The outputs that sign in with OAuth 2.0. `oidc` says whether OIDC__ISSUER is set."""
    wanting = {
        name: options
        for name, options in outputs.items()
        if isinstance(options, AccountOptions) and options.wants_tokens
    }
    if not wanting:
        return
    people = {one.account.casefold(): one for one in mailboxes if one.auth == "delegated"}
    applications = {one.address.casefold(): one for one in mailboxes if one.auth == "app"}
    for name, options in wanting.items():
        app = options.auth == "app"
        like = (
            applications.get(options.login_name.casefold()) if app else people.get(options.account.casefold())
        )
        yield _signer(name, options, like, cloud=cloud, oidc=oidc)


def _signer(
    name: str, options: AccountOptions, like: Mailbox | None, *, cloud: CloudName, oidc: bool
) -> OutputSigner:
    auth: Auth = "app" if options.auth == "app" else "delegated"
    provider = PROVIDERS[options.provider]
    usual: RegistrationName = provider.registration or ("oidc" if oidc else "entra")
    registration = (like.registration if like else None) or usual
    if options.scopes:
        scopes = options.scopes
    elif registration == "entra":
        scopes = CLOUDS[cloud].scopes(auth, options.protocol)
    else:
        # Elsewhere one token opens all; `email` makes a provider say who signed in.
        scopes = (
            (like.scopes if like else ()) or provider.scopes or (("email",) if auth == "delegated" else ())
        )
    return OutputSigner(
        name,
        options.provider,
        auth,
        options.protocol,
        address=str(getattr(options, "sender", options.login_name)),
        login=options.login_name,
        account=options.account,
        scopes=scopes,
        registration=registration,
        tenant=like.tenant if like else None,
        issuer=like.issuer if like else None,
        client_id=like.client_id if like else None,
        client_secret=like.client_secret if like else None,
        client_secret_expires=like.client_secret_expires if like else None,
    )
