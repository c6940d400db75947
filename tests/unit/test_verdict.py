"""What a token endpoint's answer means: who must act, when it is asked again, and what people read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from worker.errors import (
    AccountTrouble,
    MailquayError,
    Misconfigured,
    NeedsAdmin,
    NeedsSignIn,
    OurBug,
    RegistrationRefused,
    SignInDoubtful,
    Throttled,
    Unreachable,
    Who,
)
from worker.tokens import Grant, Stored, Trouble
from worker.tokens.aadsts import HELP, help_for
from worker.tokens.verdict import (
    DOUBT_SECONDS,
    LATELY_SECONDS,
    declined,
    judged,
    lasting,
    refusal,
    restored,
)

ALICE = "alice@contoso.com"
NOW = 1_900_000_000.0
HOUR = 3600.0
UNHEARD_OF = 999_999_999

OWNER, ADMIN, OPERATOR, BUG = NeedsSignIn, NeedsAdmin, RegistrationRefused, OurBug
ACTS: dict[type[MailquayError], tuple[Who, bool]] = {
    NeedsSignIn: ("owner", False),
    NeedsAdmin: ("admin", False),
    RegistrationRefused: ("operator", False),
    OurBug: ("us", False),
    Unreachable: ("nobody", True),
    Throttled: ("nobody", True),
}
"""Each class of answer: who must act, and whether it is tried again without anybody."""

REFUSALS: list[tuple[str, str, type[MailquayError]]] = [
    # RFC 6749 section 5.2 and OpenID Connect Core section 3.1.2.6, with the suberrors of MSAL's classification.
    ("invalid_grant", "", OWNER),
    ("invalid_grant", "basic_action", OWNER),
    ("invalid_grant", "additional_action", OWNER),
    ("invalid_grant", "consent_required", OWNER),
    ("invalid_grant", "user_password_expired", OWNER),
    ("invalid_grant", "bad_token", OWNER),
    ("invalid_grant", "token_expired", OWNER),
    ("invalid_grant", "one_of_next_year", OWNER),
    ("interaction_required", "", OWNER),
    ("interaction_required", "basic_action", OWNER),
    ("login_required", "", OWNER),
    ("consent_required", "", OWNER),
    ("no_account", "", OWNER),
    ("invalid_grant", "message_only", ADMIN),
    ("invalid_grant", "device_authentication_failed", ADMIN),
    ("invalid_grant", "protection_policy_required", ADMIN),
    ("interaction_required", "message_only", ADMIN),
    ("unauthorized_client", "", ADMIN),
    ("invalid_resource", "", ADMIN),
    ("access_denied", "", ADMIN),
    ("invalid_grant", "client_mismatch", OPERATOR),
    ("invalid_client", "", OPERATOR),
    ("invalid_scope", "", OPERATOR),
    ("invalid_request", "", OPERATOR),
    ("invalid_target", "", OPERATOR),
    ("unknown_error", "unknown_suberror", OPERATOR),
    ("", "", OPERATOR),
    ("unsupported_grant_type", "", BUG),
    ("unsupported_response_type", "", BUG),
    ("temporarily_unavailable", "", Unreachable),
    ("server_error", "", Unreachable),
    ("slow_down", "", Unreachable),
]


def said(error: MailquayError) -> tuple[type[MailquayError], Who, bool]:
    return type(error), error.who, error.retried


# -- what an answer means --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "suberror", "kind"), REFUSALS)
def test_error_and_suberror_say_who_must_act(error: str, suberror: str, kind: type[MailquayError]) -> None:
    """The sentence names the account and both words, so that whoever must act can look them up."""
    found = refusal(ALICE, {"error": error, "suberror": suberror})

    assert said(found) == (kind, *ACTS[kind])
    assert ALICE in found.sentence
    assert f"{error or 'unknown'}{suberror and '/' + suberror}" in found.sentence


def test_no_number_ever_decides() -> None:
    """Microsoft changes them; they are help for people, alone and together, known and unknown."""
    for error, suberror, kind in REFUSALS:
        for codes in ([], [UNHEARD_OF], *([code] for code in HELP), [*HELP]):
            answer = {"error": error, "suberror": suberror, "error_codes": codes}
            assert type(refusal(ALICE, answer)) is kind, answer


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_provider_that_is_broken_decides_nothing(status: int) -> None:
    """Whatever it says beside, nobody is sent to sign in because of an outage."""
    for error, suberror, _ in REFUSALS:
        answer = {"error": error, "suberror": suberror, "error_codes": [50173]}

        assert said(refusal(ALICE, answer, status=status)) == (Unreachable, "nobody", True)
        assert said(refusal(ALICE, answer, status=status, retry_after=7)) == (Throttled, "nobody", True)
        assert said(refusal(ALICE, answer, status=429)) == (Throttled, "nobody", True)


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [
        (429, 7.0, 7.0),
        (429, None, 60.0),
        (429, 0.0, 60.0),
        (429, 86400.0, 3600.0),
        (429, float("inf"), 3600.0),
        (429, float("nan"), 1.0),
        (429, -5.0, 1.0),
        (503, 120.0, 120.0),
        (500, float("nan"), 1.0),
    ],
)
def test_a_provider_that_asks_for_a_pause_gets_it_up_to_an_hour(
    status: int, retry_after: float | None, seconds: float
) -> None:
    """RFC 9110 section 10.2.3. What makes no sense becomes a number that can be waited for, stored and compared."""
    found = refusal(ALICE, {"error": "server_error"}, status=status, retry_after=retry_after)

    assert isinstance(found, Throttled)
    assert found.seconds == seconds
    assert f"in {seconds:.0f} s" in found.sentence


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "invalid_grant", "error_description": "AADSTS50173 of PRIVATE"},
        {
            "error": "invalid_grant",
            "error_uri": "https://PRIVATE",
            "claims": "PRIVATE",
            "trace_id": "PRIVATE",
        },
        {"error": {"message": "PRIVATE"}},
        {"error": ["PRIVATE"]},
        {"error": 'the token "PRIVATE" is wrong'},
        {"error": "PRIVATE\x1b[31m"},
        {"error": "PRIVATE\r\nX: y"},
        {"error": "PRIVATE" * 20},
        {"error": "invalid_grant", "suberror": {"message": "PRIVATE"}},
        {"error": "invalid_grant", "error_codes": ["PRIVATE"]},
        {"error": "invalid_grant", "error_codes": "PRIVATE"},
        {"error": "invalid_grant", "error_codes": 50173},
    ],
)
def test_only_words_and_numbers_of_an_answer_are_shown(answer: dict[str, Any]) -> None:
    """Descriptions name people and quote tokens; a hostile provider writes no control characters to a terminal."""
    found = refusal(ALICE, answer)

    assert "PRIVATE" not in str(found)
    assert type(found) is (NeedsSignIn if answer["error"] == "invalid_grant" else RegistrationRefused)


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ({"error": "invalid_grant"}, f"mailquay login {ALICE}"),
        ({"error": "invalid_grant", "suberror": "message_only"}, "An administrator has to allow it"),
        ({"error": "unauthorized_client"}, "An administrator has to look at the app registration"),
        ({"error": "invalid_client"}, "Check the app registration"),
        ({"error": "unsupported_grant_type"}, "please report it"),
        ({"error": "server_error"}, "It is tried again"),
        ({}, "Check the app registration"),
    ],
)
def test_every_sentence_says_what_to_do(answer: dict[str, Any], remedy: str) -> None:
    """With a number that is known its meaning as well, with another one only the number."""
    assert remedy in refusal(ALICE, answer).sentence

    known = refusal(ALICE, answer | {"error_codes": [UNHEARD_OF, 700082, 50173]}).sentence
    assert remedy in known
    assert f"AADSTS{UNHEARD_OF} AADSTS700082 AADSTS50173 for {ALICE}: {HELP[700082]}. " in known


# The tables of Microsoft's page on error codes, sorted by who must act.
NUMBERS = {
    "owner": "65001 65004 50076 50079 50078 50072 50074 50158 50173 50132 50133 700082 70008 70043 700084 50089 70000 "
    "50055 50144 50135",
    "admin": "90094 90095 90008 53000 53001 53002 53003 53011 530032 530034 530035 50131 50005 50105 50057 50034 51004 "
    "50020 50053 700016 700011 7000112 70001 500011 65005 650052 650056 650057",
    "operator": "7000215 7000222 7000218 700025 700027 50011 70011 28002 28003 700022 90002 50059 50194 9001023 90124 "
    "9002332 90038 900382 900432",
    "nobody": "50033 50087 50088 90006 90012 90024 90033 90090 70012 80001 80002 80005 80014 90055",
    "us": "50196 54005",
}


@pytest.mark.parametrize("who", NUMBERS)
def test_every_number_that_a_person_may_meet_is_explained(who: str) -> None:
    """In a sentence without an end, because the remedy follows it."""
    for number in map(int, NUMBERS[who].split()):
        sentence = help_for([number])
        assert len(sentence) > 15, number
        assert sentence[-1] not in ".!", number
        assert str(number) not in sentence


def test_numbers_that_nobody_knows_are_not_explained() -> None:
    """The first that is known counts."""
    assert help_for([]) == help_for([UNHEARD_OF]) == help_for(["50173", None]) == ""
    assert help_for([UNHEARD_OF, 50196, 50173]) == HELP[50196]


# -- sign-ins that came to nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ({"error": "access_denied"}, NeedsSignIn, "was declined"),
        ({"error": "authorization_declined"}, NeedsSignIn, "was declined"),
        ({"error": "expired_token"}, NeedsSignIn, "nobody approved"),
        ({"error": "code_expired"}, NeedsSignIn, "nobody approved"),
        ({"error": "authorization_pending"}, NeedsSignIn, "nobody approved"),
        # A policy that forbids it is not the person's will.
        ({"error": "access_denied", "suberror": "message_only"}, NeedsAdmin, "administrator"),
        ({"error": "invalid_grant", "error_codes": [53003]}, NeedsSignIn, "--browser"),
        ({"error": "invalid_client"}, RegistrationRefused, "Check the app registration"),
        ({"error": {"code": 403}}, RegistrationRefused, "says unknown"),
        ({}, RegistrationRefused, "says unknown"),
    ],
)
def test_a_sign_in_that_came_to_nothing_says_why(
    answer: dict[str, Any], kind: type[MailquayError], words: str
) -> None:
    """A person who declines or waits too long is told so; everything else is a refusal like any other."""
    found = declined(ALICE, answer | {"error_description": "PRIVATE"})

    assert type(found) is kind
    assert words in found.sentence
    assert ALICE in found.sentence
    assert "PRIVATE" not in found.sentence


def test_a_sign_in_at_a_broken_provider_is_tried_again() -> None:
    """It says nothing of the person."""
    assert type(declined(ALICE, {"error": "invalid_grant"}, status=503)) is Unreachable


# -- refusals that may heal by themselves ------------------------------------------------------------------------------

WORKED = Stored(7, Grant("{}"), renewed_at=NOW - HOUR)
"""An account whose grant worked an hour ago."""


def refused(kind: type[MailquayError]) -> MailquayError:
    return kind("no", seconds=77.0) if kind is Throttled else kind("no")


def tried_until_told(
    kind: type[MailquayError], stored: Stored, *, times: int
) -> list[tuple[type[MailquayError], float]]:
    """What is raised each time that the provider is asked, as early as that is allowed, and how long the pause is."""
    now, found = NOW, []
    trouble = None
    for _ in range(times):
        error, trouble = judged(refused(kind), stored, trouble, now)
        found.append((type(error), trouble.again_at - now))
        now = trouble.again_at
    return found


@pytest.mark.parametrize(("kind", "then"), [(NeedsSignIn, HOUR), (NeedsAdmin, 300.0)])
def test_what_worked_lately_is_doubted_for_a_quarter_of_an_hour(
    kind: type[MailquayError], then: float
) -> None:
    """Ever more seldom; then it is said, and an owner's trouble looked at once an hour, since a sign-in is seen at once."""
    found = tried_until_told(kind, WORKED, times=8)

    assert found == [
        *((SignInDoubtful, seconds) for seconds in (30.0, 60.0, 120.0, 240.0, 240.0, 240.0)),
        (kind, then),
        (kind, then),
    ]
    assert sum(seconds for _, seconds in found[:6]) >= DOUBT_SECONDS > sum(s for _, s in found[:5])


@pytest.mark.parametrize(
    "stored",
    [
        Stored(0),
        Stored(7, Grant("{}"), renewed_at=NOW - LATELY_SECONDS),
        Stored(7, None, renewed_at=NOW - HOUR),
    ],
)
@pytest.mark.parametrize("kind", [NeedsSignIn, NeedsAdmin])
def test_what_did_not_work_lately_is_believed_at_once(kind: type[MailquayError], stored: Stored) -> None:
    """A mailbox that was switched off for a month, or never signed in."""
    assert type(judged(refused(kind), stored, None, NOW)[0]) is kind


@pytest.mark.parametrize("kind", [RegistrationRefused, OurBug])
def test_what_never_heals_by_itself_is_said_at_once(kind: type[MailquayError]) -> None:
    """And looked at each five minutes, because it is mended where nobody here sees it."""
    assert tried_until_told(kind, WORKED, times=3) == [(kind, 300.0)] * 3


def test_a_doubtful_sentence_holds_what_the_provider_said() -> None:
    """Status shows it while nobody is alarmed."""
    error, trouble = judged(NeedsSignIn("the identity provider says invalid_grant"), WORKED, None, NOW)

    assert error.sentence.startswith("the identity provider says invalid_grant. It worked lately")
    assert trouble == Trouble("SignInDoubtful", error.sentence, tries=1, again_at=NOW + 30, refused_since=NOW)


def test_an_outage_is_asked_about_more_and_more_seldom() -> None:
    """Up to once a minute, however long it lasts."""
    found = tried_until_told(Unreachable, WORKED, times=1200)

    assert found[:6] == [(Unreachable, seconds) for seconds in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0)]
    assert set(found[6:]) == {(Unreachable, 60.0)}


def test_a_throttled_account_waits_as_long_as_the_provider_asked() -> None:
    """However often it was asked before."""
    assert tried_until_told(Throttled, WORKED, times=3) == [(Throttled, 77.0)] * 3


@pytest.mark.parametrize(
    ("before", "refused_before", "after", "refused_since"),
    [
        # The first refusal behind an outage has all the time that any first one has.
        ("Unreachable", None, NeedsSignIn, NOW),
        ("Throttled", None, NeedsAdmin, NOW),
        ("AClassOfAnotherVersion", None, NeedsSignIn, NOW),
        # An outage between two refusals gives no new time.
        ("Unreachable", NOW - 600, NeedsSignIn, NOW - 600),
        ("SignInDoubtful", NOW - 600, Unreachable, NOW - 600),
        ("NeedsSignIn", NOW - 600, Throttled, NOW - 600),
        ("SignInDoubtful", NOW - 600, NeedsSignIn, NOW - 600),
        ("RegistrationRefused", NOW - 600, NeedsSignIn, NOW - 600),
        # An outage alone refuses nothing.
        ("Unreachable", None, Throttled, None),
        ("Throttled", None, Unreachable, None),
    ],
)
def test_a_refusal_begins_with_the_first_no(
    before: str, refused_before: float | None, after: type[MailquayError], refused_since: float | None
) -> None:
    """Whatever comes between, it is counted on."""
    noted = Trouble(before, "no", tries=4, again_at=NOW, refused_since=refused_before)

    _, trouble = judged(refused(after), WORKED, noted, NOW)

    assert (trouble.refused_since, trouble.tries) == (refused_since, 5)


@pytest.mark.parametrize(
    ("refused_for", "worked_before", "kind"),
    [
        (DOUBT_SECONDS - 1, LATELY_SECONDS - 1, SignInDoubtful),
        (DOUBT_SECONDS, HOUR, NeedsSignIn),
        (2 * LATELY_SECONDS, HOUR, NeedsSignIn),
    ],
)
@pytest.mark.parametrize("before", ["SignInDoubtful", "Unreachable"])
def test_the_time_of_doubt_is_counted_from_the_first_refusal(
    before: str, refused_for: float, worked_before: float, kind: type[MailquayError]
) -> None:
    """It neither ends early because the grant grows old meanwhile, nor begins anew."""
    since = NOW - refused_for
    noted = Trouble(before, "no", tries=4, again_at=NOW, refused_since=since)
    stored = replace(WORKED, renewed_at=since - worked_before)

    assert type(judged(refused(NeedsSignIn), stored, noted, NOW)[0]) is kind


# -- what was noted ----------------------------------------------------------------------------------------------------

NOTED = [*AccountTrouble.__subclasses__(), Unreachable, Throttled]
"""Every class that an account's trouble may have."""


@pytest.mark.parametrize("kind", NOTED)
def test_what_was_noted_is_the_same_error_in_another_process(kind: type[MailquayError]) -> None:
    """Class, sentence and who must act survive the way through Redis; a pause is as long as what is left of it."""
    long_ago = replace(WORKED, renewed_at=0.0)
    error, trouble = judged(refused(kind), long_ago, None, NOW)
    read = Trouble(**orjson.loads(orjson.dumps(trouble)))

    found = restored(read, NOW + 7)

    assert read == trouble
    assert said(found) == said(error) == (kind, kind.who, kind.retried)
    assert found.sentence == error.sentence
    if isinstance(found, Throttled):
        assert found.seconds == 70.0
        late = restored(read, NOW + 1000)
        assert isinstance(late, Throttled)
        assert late.seconds == 1.0


def test_what_another_version_has_noted_is_tried_again() -> None:
    """Two versions run side by side during an update."""
    found = restored(Trouble("AClassOfAnotherVersion", "no", 1, NOW), NOW)

    assert (type(found), found.sentence) == (Unreachable, "no")


@pytest.mark.parametrize("kind", [*NOTED, Misconfigured])
def test_only_what_waits_for_a_person_lasts(kind: type[MailquayError]) -> None:
    """Outages and doubts pass, and are nobody's trouble; a file that cannot be read is not the account's."""
    trouble = Trouble(kind.__name__, "no", 1, NOW)

    assert lasting(trouble) == (kind in {NeedsSignIn, NeedsAdmin, RegistrationRefused, OurBug})


def test_no_trouble_lasts_not() -> None:
    """Nor does one that another version has noted."""
    assert not lasting(None)
    assert not lasting(Trouble("AClassOfAnotherVersion", "no", 1, NOW))
