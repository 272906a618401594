"""Why a delivery was refused: the check that failed, what is wrong, how it comes, what to do."""

from __future__ import annotations

import msgspec

from webhookd.body import check_content_type
from webhookd.checks import Case, Check, checks_of, failed_check, inflated, moment, named, shown_word
from webhookd.ingest import examine
from webhookd.remedies import ENDED_URL, OLD_URL, PARTICULAR, REMEDIES, REPLAY
from webhookd.trials.diagnoses import Diagnosis, capital, sender_of
from webhookd.trials.signature import diagnose
from webhookd.trials.unreadable import unreadable


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong with a signature or a body."""

    name: str
    text: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a delivery ended and why: `failed` is a check, `problem` and `remedy` are sentences; None if none failed."""

    id: str
    outcome: str
    checks: tuple[Check, ...]
    failed: str | None = None
    problem: str | None = None
    remedy: str | None = None
    diagnoses: tuple[Finding, ...]


def explain(case: Case, now: int) -> Explanation:
    """Return why the delivery ended as it did; `now` is in ms since the epoch.

    Neither a secret, nor what a signature should be, nor a value of the body is in it. Takes up to some 0.3 s, for
    bodies of 64 KiB that were refused for their signature: to be called in a thread. Raises nothing.
    """
    record = case.record
    failed = failed_check(case)
    checks = checks_of(case, failed)
    if record.outcome != "refused":
        return Explanation(id=record.id, outcome=record.outcome, checks=checks, diagnoses=())
    diagnoses: tuple[Diagnosis, ...] = ()
    if record.reason == "signature":
        diagnoses = diagnose(case.hook, case.source, case.delivery, now, whole=case.body is not None)
    elif record.reason == "malformed" and case.body is not None:
        diagnoses = unreadable(case.source, case.delivery)
    return Explanation(
        id=record.id,
        outcome=record.outcome,
        checks=checks,
        failed=failed,
        problem=_problem(case),
        remedy=_remedy(case, diagnoses, now),
        diagnoses=tuple(Finding(d.name, d.text) for d in diagnoses),
    )


def _problem(case: Case) -> str:
    known = REMEDIES.get(case.record.reason or "")
    if known is None:
        return case.record.detail or "The delivery was refused."
    problem = _told(case, known.problem)
    if case.record.reason == "signature" and case.body is None:
        problem += f" The body ({case.record.size:,} bytes) was not kept, so that nothing could be tried with it."
    return problem


def _remedy(case: Case, diagnoses: tuple[Diagnosis, ...], now: int) -> str:
    reason = case.record.reason or ""
    known = REMEDIES.get(reason)
    remedy = PARTICULAR.get((reason, failed_check(case) or "")) or (known.remedy if known else "")
    said = [*dict.fromkeys(d.remedy for d in diagnoses)] or ([_told(case, remedy)] if remedy else [])
    if reason in case.source.advice and (not diagnoses or any(d.by_setting for d in diagnoses)):
        said.append(case.source.advice[reason])
    if not diagnoses and _passes(case, now):
        said.append(REPLAY)
    if (until := case.old_url_until) is not None:
        words = OLD_URL if until > now else ENDED_URL
        said.append(words.format(until=moment(until), sender=sender_of(case.source)))
    return " ".join(said) or "Have it sent again."


def _told(case: Case, text: str) -> str:
    headers = case.record.headers
    content_type, encoding = headers.get("content-type"), headers.get("content-encoding")
    told = text.format(
        sender=sender_of(case.source),
        detail=(case.record.detail or "").rstrip("."),
        limit=f"{case.max_body:,} bytes",
        content_type="no Content-Type" if content_type is None else f"the Content-Type {shown_word(content_type)}",
        content_encoding=f"the Content-Encoding {shown_word(encoding or '')}",
        event=case.hook.event,
        named=named(case),
    )
    return capital(told)


def _passes(case: Case, now: int) -> bool:
    """Whether the delivery would pass the checks of the hook as it is at `now`."""
    if case.body is None or len(case.body) > case.max_body:
        return False
    try:
        check_content_type(case.record.headers.get("content-type"))
        verified = case.source.verify(case.delivery, case.hook.valid_secrets(now))
        examine(case.source, case.schemas, case.hook, inflated(verified))
    except (Exception, SystemExit):  # noqa: BLE001 - refused, or a bug again: it does not pass
        return False
    return True
