"""What can go wrong with a mailbox, sorted by who must act.

Each class answers two questions: who has to do something, and does Mailquay try again by itself? The rest of the
worker decides on the class alone, never on the text. A sentence in here names the mailbox or the variable and the
remedy; it never holds a secret, a token, a subject or a body. Errors of stages and outputs live in
`pipelines.errors`: they concern one message, these concern a mailbox or the whole installation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Who = Literal["nobody", "owner", "admin", "operator", "us"]


class MailquayError(Exception):
    """Something Mailquay foresaw went wrong.

    `who` must act; `retried` says whether Mailquay tries again on its own; `state` is the word for it that `status`,
    logs and metrics show.
    """

    who: ClassVar[Who] = "operator"
    retried: ClassVar[bool] = False
    state: ClassVar[str] = "failed"

    def __init__(self, sentence: str, *, mailbox: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.mailbox = mailbox

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross a process boundary with all attributes, whatever arguments a class takes."""
        return _restored, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        """The sentence, with the mailbox in front when there is one."""
        return f"{self.mailbox}: {self.sentence}" if self.mailbox else self.sentence


def _restored(kind: type[MailquayError], args: tuple[Any, ...], attributes: dict[str, Any]) -> MailquayError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class Unreachable(MailquayError):
    """A server refused, hung, closed the connection or broke the protocol. The next poll tries again."""

    who = "nobody"
    retried = True
    state = "unreachable"


class Throttled(MailquayError):
    """The server asked for a pause. The mailbox is parked for `seconds`, then pulled again.

    Where it gave no time, each pause in a row may be twice as long as the one before, up to `longest` seconds.
    """

    who = "nobody"
    retried = True
    state = "throttled"

    def __init__(
        self, sentence: str, *, seconds: float, longest: float = 0.0, mailbox: str | None = None
    ) -> None:
        super().__init__(sentence, mailbox=mailbox)
        self.seconds = seconds
        self.longest = longest


class Waiting(MailquayError):
    """Nothing is wrong with the mailbox: it waits for its server, and is not called failed. Asked again after `seconds`."""

    who = "nobody"
    retried = True
    state = "waiting"

    def __init__(self, sentence: str, *, seconds: float, mailbox: str | None = None) -> None:
        super().__init__(sentence, mailbox=mailbox)
        self.seconds = seconds


class HostBusy(Waiting):
    """So much is asked of the server by other mailboxes already that this one's turn has not come yet."""


class HostAway(Waiting):
    """The server is away for all of its mailboxes; one of them finds out when it is back."""

    state = "host away"


class SessionExpired(MailquayError):
    """The server ended the session because its access token ran out: sign in again at once, nobody is told."""

    who = "nobody"
    retried = True
    state = "unreachable"


class LeaseLost(MailquayError):
    """Another process took over this mailbox or batch; this one stops before its next durable step."""

    who = "nobody"
    retried = True
    state = "busy"


class SpoolFull(MailquayError):
    """The spool or its disk has no room. Mail waits on the mail server until there is room again."""

    who = "operator"
    retried = True
    state = "spool full"


class SpoolUnavailable(SpoolFull):
    """The object store that holds the spool does not answer, or refuses. Mail waits where it is until it does."""

    state = "spool unavailable"


class RedisUnavailable(MailquayError):
    """Redis does not answer. Nothing is pulled without a lease; everything resumes when it is back."""

    who = "operator"
    retried = True
    state = "redis unavailable"


class AccountTrouble(MailquayError):
    """The account gets no token. When its provider is asked again is kept with the account, for all its mailboxes.

    So the mailboxes are polled as ever, at the cost of one look into Redis, and go on by themselves within one poll once
    somebody has signed in.
    """


class NeedsSignIn(AccountTrouble):
    """The account's owner has to sign in again (`mailquay login ACCOUNT`). Resumes by itself afterwards."""

    who = "owner"
    state = "needs sign-in"


class SignInDoubtful(AccountTrouble):
    """The provider refuses a grant that worked a short while ago. It is tried again for a while before anybody is told."""

    who = "nobody"
    retried = True
    state = "sign-in doubtful"


class NeedsAdmin(AccountTrouble):
    """A tenant administrator has to allow something: consent, conditional access, a licence."""

    who = "admin"
    state = "needs admin"


class RegistrationRefused(AccountTrouble):
    """The provider does not accept the app registration as it is configured: its secret, certificate, id or scopes."""

    who = "operator"
    state = "registration refused"


class OurBug(AccountTrouble):
    """The provider says that Mailquay did something that no client should do. Please report it."""

    who = "us"
    state = "bug"


class LoginRefused(MailquayError):
    """The mail server refused a sign-in that should have worked. Tried again slowly, because servers lie."""

    who = "operator"
    state = "login refused"


class NotConnected(LoginRefused):
    """The mail server took the token and does not open the mailbox: an access, a licence or a switch is missing.

    Exchange says so too for a while after many logins, so it counts only once it lasts or where nothing was pulled yet.
    """

    state = "not connected"


class TokenTooLong(LoginRefused):
    """The access token is longer than this server takes over this protocol."""

    state = "token too long"


class Misconfigured(MailquayError):
    """The operator has to change the configuration: a host, a certificate, a client secret, a folder."""

    who = "operator"
    state = "misconfigured"


class TokensUnreadable(Misconfigured):
    """The stored token cannot be opened with the keys at hand: a wrong or missing key, or a moved blob."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: the variable that a person has to touch, and why."""

    variable: str
    sentence: str

    def __str__(self) -> str:
        """Variable and sentence on one line."""
        return f"{self.variable}: {self.sentence}"


class ConfigurationError(Misconfigured):
    """Every configuration problem at once; values are never shown."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
