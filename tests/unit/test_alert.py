"""Which alerts stand, decided on plain values: what is raised, what stays, and what is nobody's alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest

from worker import errors
from worker.accounts import Access, AccountStanding, CredentialStanding
from worker.alert import Alert, Polled, standing_alerts
from worker.errors import AccountTrouble, ConfigurationError, LoginRefused, MailquayError, NeedsSignIn
from worker.hosts import Away
from worker.settings import load
from worker.standing import Standing

NOW = 1_900_000_000.0
ALICE = "alice@contoso.com"
WELL = AccountStanding(ALICE, "ok", "", ("box", "shop"), NOW, NOW, NOW + 1, troubled=False)
LOST = replace(WELL, state=NeedsSignIn.state, sentence="sign in", troubled=True)
TRIED = Standing(state=NeedsSignIn.state, failures=1, tried_at=NOW)
SECRET = CredentialStanding("entra", "client", "secret", "ending", "make a new one", ("box",), NOW + 9)
# Those that a mailbox can fail with; two are only what the others have in common.
EVERY_ERROR = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, MailquayError)
    and kind not in {MailquayError, AccountTrouble}
]


def alerts(
    *accounts: AccountStanding,
    credentials: Sequence[CredentialStanding] = (),
    mailboxes: Mapping[str, Standing] | None = None,
    before: Mapping[str, Alert] | None = None,
) -> dict[str, Alert]:
    """What stands when Alice's `mailboxes` are enabled, by default `box` and `shop`, and polled."""
    standings = {"box": TRIED, "shop": TRIED} if mailboxes is None else mailboxes
    polled = [Polled(name, ALICE, standing) for name, standing in standings.items()]
    return standing_alerts(Access(accounts, tuple(credentials)), polled, before or {}, now=NOW)


def refused(failures: int) -> Standing:
    return Standing(state=LoginRefused.state, sentence="look", failures=failures, tried_at=NOW)


def test_nothing_is_alerted_while_all_is_well() -> None:
    """However often it is looked."""
    assert alerts(WELL, credentials=[replace(SECRET, state="ok")]) == {}


def test_an_account_without_access_is_one_alert_with_all_its_mailboxes() -> None:
    """And with the sentence that says what to do."""
    assert alerts(LOST) == {
        f"account.lost:{ALICE}": Alert(
            f"account.lost:{ALICE}",
            "account.lost",
            ALICE,
            "raised",
            "owner",
            "sign in",
            ("box", "shop"),
            NOW,
            NOW + 1,
        )
    }


def test_a_mailbox_that_was_described_a_moment_ago_alarms_nobody_until_it_was_polled() -> None:
    """Its owner is just about to sign in."""
    never = replace(WELL, state="never signed in", sentence="sign in", ends_at=None)

    assert alerts(never, mailboxes={"box": Standing(), "shop": Standing()}) == {}
    assert list(alerts(never, mailboxes={"box": Standing(), "shop": TRIED})) == [f"account.lost:{ALICE}"]


def test_who_signs_in_for_no_enabled_mailbox_is_nobody_s_trouble() -> None:
    """An operator who switched a mailbox off knows; of several mailboxes only the enabled ones are named."""
    ended = replace(SECRET, state="ended")

    assert alerts(LOST, credentials=[ended], mailboxes={}) == {}
    (alert,) = alerts(LOST, mailboxes={"shop": TRIED}).values()
    assert alert.mailboxes == ("shop",)


def test_what_ends_is_announced_and_what_has_ended_is_another_alert() -> None:
    """The one is cleared when the other is raised."""
    ending = replace(WELL, state="ending", sentence="sign in before")

    assert list(alerts(ending, credentials=[SECRET])) == [
        f"account.ending:{ALICE}",
        "credential.ending:secret of client",
    ]
    assert list(alerts(LOST, credentials=[replace(SECRET, state="ended")])) == [
        f"account.lost:{ALICE}",
        "credential.ended:secret of client",
    ]


def test_an_alert_that_stood_before_is_left_as_it_was_raised() -> None:
    """Its time and its words stay those that people were told."""
    before = {id_: replace(alert, since=NOW - 99, sentence="before") for id_, alert in alerts(LOST).items()}

    assert alerts(LOST, before=before) == before


def test_a_provider_that_is_down_takes_nothing_back_of_what_it_refused() -> None:
    """Else an outage would clear the alert, and its end would raise it again."""
    before = alerts(LOST)
    down = replace(WELL, troubled=True)

    assert alerts(down) == {}
    assert alerts(down, before=before) == before
    assert alerts(WELL, before=before) == {}


def test_a_mailbox_that_its_server_refuses_is_alerted_after_the_third_time() -> None:
    """Servers err, too."""
    assert alerts(WELL, mailboxes={"box": refused(2)}) == {}

    (alert,) = alerts(WELL, mailboxes={"box": refused(3), "shop": TRIED}).values()

    assert (alert.id, alert.sentence, alert.mailboxes) == (f"mailbox.lost:{ALICE}", "look", ("box",))


def test_fifty_shared_mailboxes_of_an_account_are_one_alert() -> None:
    """Whoever has to act is told once."""
    fifty = {f"box{number}": refused(5) for number in range(50)}

    (alert,) = alerts(WELL, mailboxes=fifty).values()

    assert alert.mailboxes == tuple(sorted(fifty))


def test_a_server_that_hangs_in_between_takes_nothing_back_and_a_good_pull_does() -> None:
    """Else every hiccup would clear the alert and raise it again."""
    before = alerts(WELL, mailboxes={"box": refused(3)})
    hanging = Standing(state="unreachable", failures=1, tried_at=NOW, failing_since=NOW - 60)

    assert alerts(WELL, mailboxes={"box": hanging}) == {}
    assert alerts(WELL, mailboxes={"box": hanging}, before=before) == before
    assert alerts(WELL, mailboxes={"box": Standing(state="ok", tried_at=NOW)}, before=before) == {}


def test_an_alert_that_reaches_further_mailboxes_or_somebody_else_is_raised_again() -> None:
    """A second mailbox of the same account, or an owner who has to act where the operator had to."""
    before = alerts(WELL, mailboxes={"box": refused(3), "shop": TRIED})
    both = alerts(WELL, mailboxes={"box": refused(3), "shop": refused(3)}, before=before)
    assert both != before
    (alert,) = both.values()
    assert alert.mailboxes == ("box", "shop")
    assert alerts(WELL, mailboxes={"box": refused(4), "shop": TRIED}, before=both) == both

    told = alerts(replace(LOST, state="registration refused", sentence="new secret"))
    assert [alert.who for alert in told.values()] == ["operator"]
    assert [alert.who for alert in alerts(LOST, before=told).values()] == ["owner"]


def test_a_mailbox_that_was_not_pulled_for_hours_is_silent_whatever_the_reason() -> None:
    """A server that is away for long, or whose name is wrong, waits for nobody by its state, and mail has stopped."""
    away = Standing(
        state="unreachable",
        sentence="does not answer",
        failures=9,
        tried_at=NOW,
        failing_since=NOW - 7 * 3600,
    )
    assert list(alerts(WELL, mailboxes={"box": away, "shop": TRIED})) == ["mailbox.silent:box"]
    assert alerts(WELL, mailboxes={"box": replace(away, failing_since=NOW - 3600)}) == {}
    assert list(alerts(LOST, mailboxes={"box": away})) == [f"account.lost:{ALICE}"]


def test_a_host_that_is_away_is_one_alert_and_silences_those_of_its_mailboxes() -> None:
    """After five minutes; when it is back, what was not tried meanwhile is not called silent before it was."""
    away = Away("mail.example:993", NOW - 299, 5, "Connection refused", NOW)
    failing = Standing(state="unreachable", failures=9, tried_at=NOW - 7 * 3600, failing_since=NOW - 7 * 3600)
    polled = [Polled(name, ALICE, failing, away) for name in ("box", "shop")]
    nothing = Access((), ())

    assert standing_alerts(nothing, polled, {}, now=NOW) == {}
    raised = standing_alerts(nothing, polled, {}, now=NOW + 2)
    assert [(one.id, one.who, one.mailboxes) for one in raised.values()] == [
        ("host.away:mail.example:993", "nobody", ("box", "shop"))
    ]
    later = [replace(one, away=replace(away, reason="Connection timed out")) for one in polled]
    assert standing_alerts(nothing, later, raised, now=NOW + 3600) == raised
    assert standing_alerts(nothing, [replace(one, away=None) for one in polled], raised, now=NOW) == {}


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_a_mailbox_is_lost_only_when_a_person_has_to_act_and_not_for_its_account(
    kind: type[MailquayError],
) -> None:
    """What heals by itself alarms nobody; what is wrong with an account is the account's alert."""
    standing = Standing(state=kind.state, failures=99, tried_at=NOW)

    found = alerts(WELL, mailboxes={"box": standing})

    waits = kind.who in {"owner", "admin", "operator"} and not kind.retried
    assert bool(found) == (waits and not issubclass(kind, AccountTrouble))


def test_an_alert_reads_itself_back_and_is_cleared_under_its_own_name() -> None:
    """Its JSON is what the webhook gets and what is kept in between."""
    (alert,) = alerts(LOST).values()
    cleared = alert.cleared()

    assert Alert.parse(alert.to_json()) == alert
    assert orjson.loads(alert.to_json()) == {**asdict(alert), "mailboxes": ["box", "shop"]}
    assert (cleared.id, cleared.since, cleared.state) == (alert.id, alert.since, "cleared")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("ALERT__URL", "chat.example/hook-t0ken", "write a whole address"),
        ("ALERT__SECRET", "t0ken", "write whsec_"),
        ("ALERT__DAYS", "0", "greater than or equal to 1"),
    ],
)
def test_what_the_webhook_output_would_not_take_is_a_problem_of_the_configuration(
    tmp_path: Path, variable: str, value: str, sentence: str
) -> None:
    """Found by `mailquay check`, and not when the first alert is told; the value is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        load({variable: value}, cwd=tmp_path)

    (problem,) = caught.value.problems
    assert (problem.variable, sentence in problem.sentence) == (variable, True)
    assert "t0ken" not in problem.sentence
