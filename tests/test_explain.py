"""Why a delivery was refused, told from its record: the checks in their order, and words for every refusal there is."""

import asyncio
import gzip
import hmac
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from webhookd import Datasource, EventType, Unsigned, examiner, inflating
from webhookd.body import check_content_type, check_json, content_encoding, inflate
from webhookd.checks import CHECKS, Case
from webhookd.errors import (
    BodyTooLarge,
    EventMismatch,
    MethodNotAllowed,
    Rejected,
    SchemaMismatch,
    Stopping,
    Unavailable,
)
from webhookd.explain import Explanation, explain
from webhookd.explainer import Explainer
from webhookd.hooks import HookTable
from webhookd.limits import Budget
from webhookd.model import Hook, Record, Rotation, Secret
from webhookd.records import Records
from webhookd.registry import load
from webhookd.remedies import BUG, CONFIG_API, ENDED_URL, OLD_URL, PARTICULAR, REMEDIES, REPLAY, general
from webhookd.schema import Schemas
from webhookd.trials.diagnoses import DIAGNOSES, GENERAL_FACTS, capital

REGISTRY = load()
SCHEMAS = Schemas(REGISTRY)
NOW = 1_717_236_905_000
SECRET = "a secret of these tests"
JSON = {"content-type": "application/json"}
BODY = b'{"ref": 1}'


def every_refusal(above: type[Rejected] = Rejected) -> set[type[Rejected]]:
    mine = {one for one in above.__subclasses__() if one.__module__ == "webhookd.errors"}
    return mine.union(*(every_refusal(one) for one in mine))


CHECK_OF = {one.reason: one.check for one in every_refusal()}


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {**JSON, "x-hub-signature-256": "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()}


def case(
    reason: str | None,
    *,
    detail: str | None = None,
    body: bytes | None = BODY,
    headers: Mapping[str, str] = JSON,
    source: Datasource | None = None,
    outcome: Any = "refused",
    record: Mapping[str, Any] | None = None,
    max_body: int = 1000,
    **fields: Any,
) -> Case:
    """Return a delivery to a hook for GitHub's pushes that ended with `reason`."""
    hook = Hook(
        token="0" * 40,
        api_token="9b2d8e0a-0000-4000-8000-000000000000",
        tenant="42",
        datasource=(source or REGISTRY.get("github")).name,
        event="push",
        base_url="https://webhook.example.org",
        created_at=NOW,
        **fields,
    )
    ended = Record(
        id="0190",
        received_at=NOW,
        outcome=outcome,
        reason=reason,
        status=0,
        detail=detail,
        size=len(body or b""),
        duration=0.0,
        headers=headers,
        has_body=body is not None,
        **{"check": CHECK_OF.get(reason), **(record or {})},
    )
    return Case(ended, body, hook, source or REGISTRY.get("github"), SCHEMAS, max_body)


def states(explanation: Explanation) -> dict[str, str]:
    return {check.check: check.state for check in explanation.checks}


# --- the checks ------------------------------------------------------------------------------------------------------


def raised(call: Callable[[], object]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        call()
    return caught.value


def over(deliveries: int, size: int, share: float, *, inflated: bool = False) -> Rejected:
    """Return what a budget of so much says to a tenant that wants all of it and one byte more."""
    budget = Budget(deliveries, size, lambda: share)
    ticket = budget.admit("42")
    if not inflated:
        return raised(lambda: ticket.grow(size + 1))
    zipped = gzip.compress(b" " * (size + 1))
    return raised(lambda: asyncio.run(inflating.inflated(zipped, "gzip", 2 * size, ticket)))


HOOK = case(None).hook


def malformed() -> examiner.Verdict:
    """Return what an examiner process says of a body that is no JSON."""
    job = examiner.Job(HOOK, dict(JSON), NOW, HOOK.hook_url, 1)
    return examiner._judged(REGISTRY.get("github"), SCHEMAS, job, b"{")


ZIPPED = gzip.compress(BODY)
PLACES = [
    (Stopping("told in any words"), "load"),
    (raised(lambda: Budget(0, 1, lambda: 1.0).admit("42")), "load"),
    (raised(lambda: Budget(1, 0, lambda: 1.0).admit("42", 1)), "load"),
    (over(2, 100, 0.5), "load"),
    (over(2, 100, 0.5, inflated=True), "inflate"),
    (over(2, 100, 2.0), "load"),
    (over(2, 100, 2.0, inflated=True), "inflate"),
    (MethodNotAllowed(("POST",)), "method"),
    (BodyTooLarge("told in any words"), "size"),
    (raised(lambda: asyncio.run(inflating.inflated(gzip.compress(BODY), "gzip", 1, None))), "inflate"),
    (raised(lambda: check_content_type("text/plain")), "content_type"),
    (raised(lambda: content_encoding("br")), "content_encoding"),
    (Unsigned("told in any words"), "signature"),
    (raised(lambda: list(inflate(b"no stream", "gzip"))), "inflate"),
    (raised(lambda: list(inflate(ZIPPED + b"more", "gzip"))), "inflate"),
    (raised(lambda: list(inflate(ZIPPED[:-5], "gzip"))), "inflate"),
    (raised(lambda: check_json(b"{} and a stream")), "json"),
    (raised(lambda: check_json(b"1")), "json"),
    (raised(lambda: examiner._settled(examiner._out_of("told in any words", HOOK), HOOK)), "json"),
    (raised(lambda: examiner._settled(malformed(), HOOK)), "json"),
    (EventMismatch("told in any words"), "event"),
    (SchemaMismatch("told in any words", ()), "schema"),
    (Unavailable("told in any words"), "publish"),
]
"""Refusals as they are raised, and the check that each is of; some of a kind are of another than the others."""


def refused_by(error: Rejected, **given: Any) -> Case:
    record = {**given.pop("record", {}), "check": error.check}
    return case(error.reason, detail=error.detail, record=record, **given)


@pytest.mark.parametrize(("error", "failed"), PLACES)
def test_checks_are_passed_up_to_the_one_that_failed(error: Rejected, failed: str) -> None:
    explanation = explain(refused_by(error), NOW)
    names = list(CHECKS)
    place = names.index(failed)
    assert explanation.failed == failed
    assert states(explanation) == {
        name: "passed" if number < place else "failed" if number == place else "not reached"
        for number, name in enumerate(names)
    }
    assert [check.check for check in explanation.checks] == names


def test_every_refusal_that_leaves_a_record_has_its_place() -> None:
    nowhere = {"unknown_hook", "hooks_not_current"}  # there is no hook, so there is no record
    of_senders = {one for one in every_refusal() if one.reason not in CONFIG_API - {"method"}}
    assert {one.check for one in of_senders} <= CHECKS.keys()
    assert {error.reason for error, _ in PLACES} == {one.reason for one in of_senders} - nowhere


def test_no_word_of_the_detail_says_which_check_it_was() -> None:
    misleading = "an inflated stream of the spool cannot be checked"
    for error, failed in PLACES:
        record = {"check": error.check}
        assert explain(case(error.reason, detail=misleading, record=record), NOW).failed == failed


def test_an_accepted_delivery_passed_everything() -> None:
    explanation = explain(case(None, outcome="accepted", record={"provider_event": "push"}), NOW)
    assert set(states(explanation).values()) == {"passed"}
    assert (explanation.failed, explanation.problem, explanation.remedy) == (None, None, None)
    notes = {check.check: check.detail for check in explanation.checks}
    assert notes["size"] == "10 of at most 1,000 bytes"
    assert notes["signature"] == "the hook has no secret: not asked for"
    assert notes["event"] == "`push`"
    document = json.loads(msgspec.json.encode(explanation))
    assert document.keys() == {"id", "outcome", "checks", "diagnoses"}
    assert document["diagnoses"] == []
    assert document["checks"][0] == {"check": "method", "state": "passed"}


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        ("handshake", "`ping` only greets: answered, and not published"),
        ("mismatch", "`ping` is another event than the hook's, whose `onMismatch` is `ignore`: not published"),
    ],
)
def test_an_ignored_delivery_failed_nothing(reason: str, note: str) -> None:
    explanation = explain(case(reason, outcome="ignored", record={"provider_event": "ping"}), NOW)
    assert (explanation.failed, explanation.remedy) == (None, None)
    assert states(explanation)["json"] == "passed"
    assert {check.detail for check in explanation.checks if check.check == "event"} == {note}
    assert states(explanation)["schema"] == states(explanation)["publish"] == "not reached"


# --- bugs ------------------------------------------------------------------------------------------------------------


class Broken(Datasource):
    """Breaks where it is told to."""

    name = "broken"
    title = "Broken"
    signs = True
    events: ClassVar = {"push": EventType()}

    def verify_signature(self, delivery: Any, secret: str) -> None:
        if delivery.headers.get("break") == "verify":
            raise KeyError(secret)
        if delivery.headers.get("break") == "leave":
            sys.exit("leaving")
        if delivery.headers.get("key") != secret:
            raise Unsigned("Key is not the secret")

    def event_type(self, delivery: Any) -> str | None:
        if delivery.headers.get("break") == "event":
            raise KeyError("event")
        return None


@pytest.mark.parametrize(
    ("where", "failed", "body"),
    [
        ("verify", "signature", BODY),
        ("leave", "signature", BODY),
        ("event", "event", BODY),
        ("nowhere any more", None, BODY),
        ("verify", None, None),
    ],
)
def test_a_bug_is_looked_for_again(where: str, failed: str | None, body: bytes | None) -> None:
    headers = {**JSON, "break": where, "key": SECRET}
    explanation = explain(case(BUG, source=Broken(), body=body, headers=headers, secrets=(Secret(SECRET),)), NOW)
    assert explanation.failed == failed
    assert SECRET not in repr(explanation)
    assert states(explanation)["content_encoding"] == "passed"
    if failed is None:
        assert {states(explanation)[name] for name in ("signature", "json", "event", "publish")} == {"unknown"}
    assert ("the delivery would pass" in (explanation.remedy or "")) is (where.startswith("nowhere"))
    assert explanation.problem == "A fault of webhookd, or of the plugin for Broken: the sender was told 500."


def test_a_refusal_of_a_later_version_is_told_in_its_own_words() -> None:
    given = case("moon_phase", detail="the moon is wrong", headers={}, record={"check": "moon"})
    explanation = explain(given, NOW)
    assert (explanation.failed, explanation.problem) == (None, "the moon is wrong")
    assert explanation.remedy == "Have it sent again."
    assert states(explanation)["publish"] == "unknown"


# --- in words --------------------------------------------------------------------------------------------------------


def test_every_refusal_has_a_remedy() -> None:
    assert REMEDIES.keys() == {one.reason for one in every_refusal()} | {BUG}
    for known in REMEDIES.values():
        for text in (general(known.problem), general(known.remedy)):
            assert text[0].isupper()
            assert text.endswith(".")
            assert "{" not in text


@pytest.mark.parametrize(("error", "failed"), PLACES)
def test_a_refusal_is_told_with_its_facts(error: Rejected, failed: str) -> None:
    explanation = explain(refused_by(error, headers={}, record={"provider_event": "issues"}), NOW)
    assert explanation.problem
    assert explanation.remedy
    assert "{" not in explanation.problem + explanation.remedy
    assert explanation.problem[0].isupper()
    assert failed == explanation.failed


@pytest.mark.parametrize(
    ("reason", "given", "problem", "remedy"),
    [
        (
            "content_type",
            {"headers": {"content-type": "application/x-www-form-urlencoded"}},
            "GitHub sent the Content-Type `application/x-www-form-urlencoded`, and a hook takes JSON only.",
            (
                "Switch GitHub to the content type `application/json`."
                " At GitHub: Settings, Webhooks, Edit, Content type: application/json."
            ),
        ),
        (
            "content_type",
            {"headers": {}},
            "GitHub sent no Content-Type, and a hook takes JSON only.",
            (
                "Switch GitHub to the content type `application/json`."
                " At GitHub: Settings, Webhooks, Edit, Content type: application/json."
            ),
        ),
        (
            "event_mismatch",
            {
                "record": {"provider_event": "issues"},
                "headers": {**JSON, "x-github-event": "issues"},
                "on_mismatch": "reject",
            },
            "GitHub names the event `issues`; this hook is for `push` and rejects all others.",
            (
                "Have GitHub send `push` only, create a hook for the other event, or set this hook's `onMismatch` to `ignore`"
                " or `publish`. At GitHub: Settings, Webhooks, Edit, Let me select individual events."
            ),
        ),
        (
            "signature",
            {"detail": "X-Hub-Signature-256 is missing", "secrets": (Secret(SECRET),)},
            "The hook has a secret, and the delivery no signature that fits it: X-Hub-Signature-256 is missing.",
            (
                "Set the secret of the hook at GitHub, or take it away from the hook; see that no proxy removes the header."
                " At GitHub: Settings, Webhooks, Edit, Secret."
            ),
        ),
        (
            "too_large",
            {"detail": "the body is over 1000 bytes", "body": None},
            "The body is too large: the body is over 1000 bytes.",
            "Have GitHub send less at a time, or the operator raise `max_body` (1,000 bytes).",
        ),
    ],
)
def test_what_is_wrong_and_what_to_do(reason: str, given: dict[str, Any], problem: str, remedy: str) -> None:
    explanation = explain(case(reason, **given), NOW)
    assert (explanation.problem, explanation.remedy) == (problem, remedy)


def test_a_diagnosis_gives_the_remedy() -> None:
    explanation = explain(case("signature", body=BODY + b"\n", headers=signed(BODY), secrets=(Secret(SECRET),)), NOW)
    (found,) = explanation.diagnoses
    assert (found.name, found.text) == (
        "newline-stripped",
        "The signature is over the body without the newline at its end.",
    )
    assert explanation.remedy == (
        "Have GitHub sign the very bytes that it sends, and let nothing between it and webhookd write them anew."
    )


def test_a_signature_that_nothing_explains_is_told_as_such() -> None:
    explanation = explain(case("signature", headers=signed(BODY, "another"), secrets=(Secret(SECRET),)), NOW)
    assert explanation.diagnoses == ()
    assert explanation.remedy == (
        "Give GitHub and the hook the same secret, and let nothing between them change the body."
        " At GitHub: Settings, Webhooks, Edit, Secret."
    )


def test_a_body_that_was_not_kept_is_not_tried() -> None:
    given = case("signature", body=None, headers=signed(b""), secrets=(Secret(SECRET),))
    explanation = explain(given, NOW)
    assert explanation.diagnoses == ()
    assert explanation.problem
    assert explanation.problem.endswith("was not kept, so that nothing could be tried with it.")


def test_faults_of_the_schema_are_listed_and_quote_nothing() -> None:
    body = b'{"ref": "canary", "commits": 1}'
    for sent, headers in ((body, JSON), (gzip.compress(body), {**JSON, "content-encoding": "gzip"})):
        explanation = explain(case("schema", detail="it does not fit", body=sent, headers=headers), NOW)
        (failed,) = (check for check in explanation.checks if check.state == "failed")
        assert failed.detail
        assert "/commits: " in failed.detail
        assert "canary" not in repr(explanation)


LATER = NOW + 86_400_000


@pytest.mark.parametrize(
    ("token", "rotation", "note", "remedy"),
    [
        (None, None, None, None),
        ("0" * 40, Rotation(first="f" * 40), None, None),
        ("e" * 40, Rotation(first="f" * 40, previous="e" * 40, until=LATER), "2024-06-02T10:15:05+00:00", OLD_URL),
        (None, Rotation(first="f" * 40, previous="f" * 40, until=LATER), "2024-06-02T10:15:05+00:00", OLD_URL),
        ("e" * 40, Rotation(first="f" * 40, previous="e" * 40, until=NOW), "2024-06-01T10:15:05+00:00", ENDED_URL),
        (None, Rotation(first="f" * 40, previous="e" * 40, until=LATER), "had before", ENDED_URL),
        ("e" * 40, Rotation(first="f" * 40), "had before", ENDED_URL),
    ],
)
def test_an_older_url_of_the_hook_is_told(
    token: str | None, rotation: Rotation | None, note: str | None, remedy: str | None
) -> None:
    told = explain(case("stopping", record={"token": token}, rotation=rotation), NOW)
    (detail,) = (check.detail for check in told.checks if check.check == "hook")
    assert detail is None if note is None else note in (detail or "")
    words = (remedy or "").format(until="2024-06-02T10:15:05+00:00", sender="GitHub")
    assert (told.remedy or "").endswith(words or REPLAY)
    accepted = explain(case(None, outcome="accepted", record={"token": token}, rotation=rotation), NOW)
    assert [check.detail for check in accepted.checks if check.check == "hook"] == [detail]
    shown = repr(told)
    assert not [word for word in ("0" * 40, "e" * 40, "f" * 40) if word in shown]


@pytest.mark.parametrize("reason", ["overloaded", "unavailable", "stopping", "tenant_share", "event_mismatch", BUG])
def test_what_would_pass_now_is_to_be_replayed(reason: str) -> None:
    def replayed(**given: Any) -> bool:
        return REPLAY in (explain(case(reason, **given), NOW).remedy or "")

    assert replayed()
    assert replayed(secrets=(Secret(SECRET),), headers=signed(BODY))
    assert not replayed(secrets=(Secret(SECRET),))
    assert not replayed(body=None)
    assert not replayed(body=b"{")
    assert not replayed(headers={})
    assert not replayed(max_body=5)


def test_words_of_a_sender_are_cut_and_cleaned() -> None:
    evil = "\x1b[31mred\u202e" + "x" * 500
    explanation = explain(case("content_type", headers={"content-type": evil}), NOW)
    assert explanation.problem
    assert explanation.problem.isprintable()
    assert "?[31mred?" in explanation.problem
    assert len(explanation.problem) < 300


def test_a_bomb_is_not_inflated_to_explain_it() -> None:
    bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
    given = case("schema", body=bomb, headers={**JSON, "content-encoding": "gzip"}, max_body=10**9, detail="no fit")
    (failed,) = (check for check in explain(given, NOW).checks if check.state == "failed")
    assert failed.detail == "no fit"


def test_what_is_large_once_inflated_is_not_made_into_objects_to_explain_it() -> None:
    many = gzip.compress(b'{"ref": [' + b"[]," * 300_000 + b"[]]}")
    given = case("schema", body=many, headers={**JSON, "content-encoding": "gzip"}, max_body=10**9, detail="no fit")
    (failed,) = (check for check in explain(given, NOW).checks if check.state == "failed")
    assert failed.detail == "no fit"


# --- several who ask -------------------------------------------------------------------------------------------------


def test_who_asks_for_many_waits_behind_who_asks_for_one() -> None:
    """Ask for twenty as one tenant, then for one as another: that one is the second to be answered."""
    given = case("overloaded")
    explainer = Explainer(Records(HookTable(), REGISTRY, per_hook=1, max_bytes=1), REGISTRY, SCHEMAS, 1000, lambda: NOW)
    answered: list[str] = []

    async def ask(tenant: str) -> None:
        explanation = await explainer.explain(msgspec.structs.replace(given.hook, tenant=tenant), given.record)
        assert explanation.failed == "load"
        answered.append(tenant)

    async def all_of_them() -> None:
        await asyncio.gather(*(ask("many") for _ in range(20)), ask("one"))

    asyncio.run(all_of_them())
    assert answered[:3] == ["many", "one", "many"]
    assert len(answered) == 21
    assert not explainer._turns


# --- what the documents say ------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "refusals.md").read_text()
REFUSALS = "| status | reason | what the sender sees | what it means | what to do |"


def tables(text: str, header: str) -> list[list[list[str]]]:
    """Return the rows of every table that begins with `header`, cell by cell."""
    return [
        [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.split("\n\n")[0].splitlines()[2:]]
        for part in text.split(f"\n{header}")[1:]
    ]


def documented(refusals: set[type[Rejected]]) -> set[tuple[str, ...]]:
    return {
        (str(one.status), f"`{one.reason}`", one.title, general(known.problem), general(known.remedy))
        for one in refusals
        for known in [REMEDIES[one.reason]]
    }


def test_the_page_lists_every_refusal_with_its_remedy() -> None:
    of_senders, of_callers = tables(PAGE, REFUSALS)
    callers = {one for one in every_refusal() if one.reason in CONFIG_API - {"method"}}
    bug = REMEDIES[BUG]
    theirs = documented(every_refusal() - callers)
    theirs.add(("500", "`bug`", "Internal error", general(bug.problem), general(bug.remedy)))
    assert {tuple(row) for row in of_senders} == theirs
    assert {tuple(row) for row in of_callers} == documented(callers)
    assert len(of_senders) + len(of_callers) == len(every_refusal()) + 1


def test_the_page_lists_what_is_said_instead() -> None:
    (rows,) = tables(PAGE, "| reason | check | what to do instead |")
    assert rows == [[f"`{reason}`", f"`{check}`", general(text)] for (reason, check), text in PARTICULAR.items()]
    for error, failed in PLACES:
        said = explain(refused_by(error), NOW).remedy or ""
        instead = PARTICULAR.get((error.reason, failed))
        assert instead is None or said.startswith(instead.format(sender="GitHub"))


def test_the_operators_page_says_the_same_remedies() -> None:
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", (ROOT / "docs" / "operating.md").read_text())
    (rows,) = tables(text, "| status | title | reason | what to do |")
    told = {reason.strip("`"): remedy.replace(" (Bearer tokens)", "") for _, _, reason, remedy in rows}
    assert told == {reason: general(known.remedy) for reason, known in REMEDIES.items() if reason != BUG}


def test_the_page_lists_the_checks_in_their_order() -> None:
    (rows,) = tables(PAGE, "| check | what it asks for |")
    assert rows == [[f"`{name}`", text] for name, text in CHECKS.items()]


def test_the_page_lists_every_diagnosis() -> None:
    (rows,) = tables(PAGE, "| name | what was found | what to do |")
    assert rows == [
        [f"`{name}`", capital(known.text.format(**GENERAL_FACTS)), known.remedy.format(**GENERAL_FACTS)]
        for name, known in DIAGNOSES.items()
    ]


def test_the_page_says_where_the_sender_has_it() -> None:
    (rows,) = tables(PAGE, "| datasource | of which refusals | what is said |")
    said = {
        (re.findall(r"`(.+)`", name)[0], reason, text)
        for name, of, text in rows
        for reason in re.findall(r"`(\w+)`", of)
    }
    built_in = [REGISTRY.get(name) for name in ("github", "circleci", "dockerhub", "generic")]
    assert said == {(source.name, reason, text) for source in built_in for reason, text in source.advice.items()}


def test_the_page_names_every_key_of_an_explanation() -> None:
    (rows,) = tables(PAGE, "| key | what it is |")
    named = {name for keys, _ in rows for name in re.findall(r"`(\w+)`", keys)}
    assert named == set(Explanation.__struct_fields__)


def test_the_example_of_the_page_is_what_is_said() -> None:
    """Compare the page's example, blanks aside, with what is found for such a delivery."""
    body = b'{"ref": "refs/heads/main", "repository": {"pushed_at": 1714564800}}'
    detail = "X-Hub-Signature-256 is no signature of this body by the hook's secret"
    headers = {**signed(body), "content-length": "68"}
    given = case(
        "signature", detail=detail, body=body + b"\n", headers=headers, secrets=(Secret(SECRET),), max_body=25 * 1024**2
    )
    explanation = explain(given, NOW)
    shown = " ".join(PAGE.partition("```\nDelivery")[2].partition("```")[0].split())
    for check in explanation.checks:
        text = CHECKS[check.check] + (f": {check.detail}" if check.detail else "")
        assert f"{ {'failed': 'FAILED', 'not reached': '-'}.get(check.state, check.state) } {text}" in shown
    assert f"What is wrong: {explanation.problem}" in shown
    assert f"How it comes: {explanation.diagnoses[0].text}" in shown
    assert f"What to do: {explanation.remedy}" in shown
