"""Some of the cases of `tests/bench/faults`: faults of the connection, the disk and the worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plugin import settings
from plugin.job import RECEIVED
from plugin.worker.failure import Failure
from tests.service import faults

UNKNOWN, PENDING, ANSWER = Failure.OUTCOME_UNKNOWN, Failure.PENDING, Failure.ANSWER
UNREACHABLE, REFUSED = Failure.UNREACHABLE, Failure.REFUSED

# What the user is informed of, and the outcome after the job was resumed with a good service.
SLICE = {
    "edits, connect: no answer": (UNREACHABLE, RECEIVED),
    "async, connect: unknown name": (UNREACHABLE, RECEIVED),
    "edits, TLS, TLS: expired": (UNREACHABLE, RECEIVED),
    "async, TLS, TLS: self-signed": (UNREACHABLE, RECEIVED),
    "edits, TLS, TLS: wrong name": (UNREACHABLE, RECEIVED),
    "async, TLS, TLS: garbage": (UNREACHABLE, RECEIVED),
    "edits, sending: stalled": (UNREACHABLE, RECEIVED),
    "async, sending: reset": (UNREACHABLE, RECEIVED),
    "edits, waiting (waiting): reset": (UNKNOWN, UNKNOWN),
    "async, waiting (waiting): killed": (UNKNOWN, UNKNOWN),
    "edits, waiting (waiting): disk full a while": (RECEIVED, RECEIVED),
    "async, headers (headers): stalled": (UNKNOWN, UNKNOWN),
    "edits, waiting (waiting), tunnel: closed": (UNKNOWN, UNKNOWN),
    "async, headers (headers), tunnel: reset": (UNKNOWN, UNKNOWN),
    "edits, sending, tunnel: closed": (UNREACHABLE, RECEIVED),
    "async, TLS, tunnel: closed": (UNREACHABLE, RECEIVED),
    "async, waiting (waiting), tunnel: interim answers": (RECEIVED, RECEIVED),
    "edits, download (waiting): interim answers": (RECEIVED, RECEIVED),
    "edits, status (status): 429 used up": (REFUSED, RECEIVED),
    "async, status (status): 303 HTML": (UNKNOWN, UNKNOWN),
    "edits, status (status): 409 JSON": (UNKNOWN, UNKNOWN),
    "edits, status (status): 402 HTML": (REFUSED, RECEIVED),
    "async, status (status): 524 empty": (UNKNOWN, UNKNOWN),
    "edits, body (body): stalled": (RECEIVED, RECEIVED),
    "edits, body (body): trickled": (RECEIVED, RECEIVED),
    "async, body (body), TLS: closed": (RECEIVED, RECEIVED),
    "edits, body (early): closed": (UNKNOWN, UNKNOWN),
    "async, asking (status): 503 HTML": (PENDING, RECEIVED),
    "async, asking (body): garbage": (PENDING, RECEIVED),
    "edits, download (body): trickled": (ANSWER, RECEIVED),
    "async, download (status): 500 JSON": (ANSWER, RECEIVED),
    "edits, download (waiting): disk nearly full": (PENDING, RECEIVED),
    "edits, decode: sign-in page": (ANSWER, RECEIVED),
    "async, decode: half a PNG": (ANSWER, RECEIVED),
    "edits, place: killed": ("arrived, not fitted", RECEIVED),
    "async, place: disk nearly full": (PENDING, RECEIVED),
}


def test_nothing_is_billed_twice_lost_or_left_without_words(tmp_path: Path) -> None:
    trials = faults.Trials(tmp_path)
    chosen = [case for case in faults.cases() if str(case) in SLICE]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(trials.run, chosen))
    assert not {str(outcome.case): outcome.wrong for outcome in outcomes if outcome.wrong}
    assert {str(o.case): (o.heard, o.ended) for o in outcomes} == SLICE


def test_each_phase_has_its_faults_on_both_routes() -> None:
    cases = faults.cases()
    assert len({str(case) for case in cases}) == len(cases)
    for route in settings.ROUTES:
        phases = {case.phase for case in cases if case.route == route}
        assert phases == {*faults.PHASES} - ({"asking"} if route == settings.EDITS else set())
    assert {case.fault for case in cases if case.phase == "status"} == {
        *(f"{status} {writing}" for status in faults.STATUSES for writing in faults.WRITINGS),
        *(f"{odd} {writing}" for odd in faults.ODD_STATUSES for writing in faults.WRITINGS[:2]),
        faults.USED_UP,
    }
