"""Some of the cases of `tests/bench/meanwhile`: a user works while an edit is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from gui_window import until
from meanwhile import cases, judge
from meanwhile.desk import Desk, Lengths, Run, edited

pytestmark = pytest.mark.gimp

# The seeds of directed cases, one or two of each kind. Most get smaller photographs.
_DIRECTED = (-2, -5, -10, -14, -19, -24, -42, -43, -55, -61, -67)
_LARGE = -10
_BY_CHANCE = (7, 8, 13, 21)


@pytest.fixture(scope="module", params=["3.0", "3.2"])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    with Desk(request.param) as running:
        yield running
    until(lambda: not running.window.processes(), "the end of everything that was started")


@pytest.mark.parametrize("seed", _DIRECTED)
def test_what_is_known_to_go_wrong_easily(desk: Desk, seed: int) -> None:
    case = cases.directed()[-1 - seed]
    # Only one case has a large photograph, because these take long to compare.
    assert not _wrong(desk, case if seed == _LARGE else replace(case, size="8 MP"))


@pytest.mark.parametrize("output", cases.OUTPUTS)
def test_nothing_is_wrong_when_nobody_does_anything(desk: Desk, output: str) -> None:
    assert not _wrong(desk, _undisturbed(output))


@pytest.mark.campaign
@pytest.mark.parametrize("seed", _BY_CHANCE)
def test_what_chance_brings(desk: Desk, seed: int) -> None:
    assert not _wrong(desk, replace(cases.case(seed), size="2 MP"))


def _undisturbed(output: str) -> cases.Case:
    return cases.Case(0, "2 MP", output, "feathered ellipse", (), ("any", 0))


def _wrong(desk: Desk, case: cases.Case) -> dict[str, object]:
    verdict = judge.judge(desk, case)
    return {f"{case}": (verdict.wrong, verdict.told)} if verdict.wrong else {}


@pytest.mark.parametrize(
    ("output", "deed", "values", "kind"),
    [
        ("replace", "fill", {"box": [0.8, 0.8, 0.1, 0.1]}, "outside"),
        ("new-layer", "fill", {"box": [0.8, 0.8, 0.1, 0.1]}, "outside"),
        ("replace", "select none", {}, "user's"),
        ("new-layer", "lock", {"what": "alpha"}, "user's"),
        ("replace", "delete", {"name": "below"}, "user's"),
        ("new-layer", "add layer", {"number": 1}, "stray"),
    ],
)
def test_what_nobody_has_asked_for_is_noticed(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    deed: str,
    values: dict[str, object],
    kind: str,
) -> None:
    """The judge is not informed of these deeds, and must find what they change."""

    def meddled(desk: Desk, case: cases.Case, lengths: Lengths) -> Run:
        run = edited(desk, case, lengths)
        desk.user.act(image=run.image, deed=deed, values=values)
        return run

    monkeypatch.setattr(judge, "edited", meddled)
    assert judge.judge(desk, _undisturbed(output)).count(kind)
