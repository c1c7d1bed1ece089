"""Some of the cases of `tests/bench/faults`: faults of the connection, the disk and the worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plugin import settings
from plugin.errors import Kind
from plugin.job import Status
from tests.service import faults

UNKNOWN, PENDING, ANSWER = Kind.OUTCOME_UNKNOWN, Kind.PENDING, Kind.ANSWER
UNREACHABLE, REFUSED = Kind.UNREACHABLE, Kind.REFUSED

# What the user is informed of, and the outcome after the job was resumed with a good service.
SLICE = {
    "edits, connect: no answer": (UNREACHABLE, Status.RECEIVED),
    "async, connect: unknown name": (UNREACHABLE, Status.RECEIVED),
    "edits, TLS, TLS: expired": (UNREACHABLE, Status.RECEIVED),
    "async, TLS, TLS: self-signed": (UNREACHABLE, Status.RECEIVED),
    "edits, TLS, TLS: wrong name": (UNREACHABLE, Status.RECEIVED),
    "async, TLS, TLS: garbage": (UNREACHABLE, Status.RECEIVED),
    "edits, sending: stalled": (UNREACHABLE, Status.RECEIVED),
    "async, sending: reset": (UNREACHABLE, Status.RECEIVED),
    "edits, waiting (waiting): reset": (UNKNOWN, UNKNOWN),
    "async, waiting (waiting): killed": (UNKNOWN, UNKNOWN),
    "edits, waiting (waiting): disk full a while": (Status.RECEIVED, Status.RECEIVED),
    "async, headers (headers): stalled": (UNKNOWN, UNKNOWN),
    "edits, waiting (waiting), tunnel: closed": (UNKNOWN, UNKNOWN),
    "async, headers (headers), tunnel: reset": (UNKNOWN, UNKNOWN),
    "edits, sending, tunnel: closed": (UNREACHABLE, Status.RECEIVED),
    "async, TLS, tunnel: closed": (UNREACHABLE, Status.RECEIVED),
    "async, waiting (waiting), tunnel: interim answers": (Status.RECEIVED, Status.RECEIVED),
    "edits, download (waiting): interim answers": (Status.RECEIVED, Status.RECEIVED),
    "edits, status (status): 429 used up": (REFUSED, Status.RECEIVED),
    "async, status (status): 303 HTML": (UNKNOWN, UNKNOWN),
    "edits, status (status): 409 JSON": (UNKNOWN, UNKNOWN),
    "edits, status (status): 402 HTML": (REFUSED, Status.RECEIVED),
    "async, status (status): 524 empty": (UNKNOWN, UNKNOWN),
    "edits, body (body): stalled": (Status.RECEIVED, Status.RECEIVED),
    "edits, body (body): trickled": (Status.RECEIVED, Status.RECEIVED),
    "async, body (body), TLS: closed": (Status.RECEIVED, Status.RECEIVED),
    "edits, body (early): closed": (UNKNOWN, UNKNOWN),
    "async, asking (status): 503 HTML": (PENDING, Status.RECEIVED),
    "async, asking (body): garbage": (PENDING, Status.RECEIVED),
    "edits, download (body): trickled": (ANSWER, Status.RECEIVED),
    "async, download (status): 500 JSON": (ANSWER, Status.RECEIVED),
    "edits, download (waiting): disk nearly full": (PENDING, Status.RECEIVED),
    "edits, decode: sign-in page": (ANSWER, Status.RECEIVED),
    "async, decode: half a PNG": (ANSWER, Status.RECEIVED),
    "edits, place: killed": ("arrived, not fitted", Status.RECEIVED),
    "async, place: disk nearly full": (PENDING, Status.RECEIVED),
}


@pytest.mark.campaign
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
