"""How an edit stands: what its row in the window says, and which buttons it has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from plugin.errors import Kind
from plugin.gimp.edit_status import Button, Facts, Here, Standing
from plugin.job import Post, Status, Variation
from plugin.progress import Phase

ONE, TWO = Variation("20261122-133005-7f3a", 1), Variation("20261122-133005-7f3a", 2)
RECEIVED = Post(Status.RECEIVED, result="result-1.png", placed="placed-1.png")
UNFITTED = Post(Status.RECEIVED, result="result-1.png")
SENT = Post(Status.SENT)
ACCEPTED = Post(Status.ACCEPTED, task="img_1")
ENDED = Here(ended=True)
DAY = 86400


def _facts(*posts: Post, there: Sequence[Variation] = (), **known: object) -> Facts:
    return Facts(dict(zip((ONE, TWO), posts)), there=frozenset(there), **known)  # type: ignore[arg-type]


def _failed(kind: Kind, message: str = "It failed.", **more: str) -> Post:
    return Post(Status.FAILED, kind=kind, message=message, **more)


def test_a_running_edit_can_be_cancelled_only() -> None:
    facts = _facts(SENT, RECEIVED, here=Here())
    assert facts.standing is Standing.RUNNING and facts.buttons() == [Button.CANCEL]


def test_while_it_waits_it_says_for_how_long_and_how_many_are_ready() -> None:
    here = Here(phase=Phase.WAITING, phase_text="Waiting", elapsed=75)
    assert _facts(SENT, here=here, usual=120).text() == "Waiting: 1:15 (usually 2:00)"
    assert _facts(SENT, RECEIVED, here=here).text().endswith("(1 of 2 ready)")
    assert _facts(SENT, here=Here(phase_text="Sending")).text() == "Sending"


def test_the_bar_never_goes_back_and_is_never_full() -> None:
    usual = [
        Here(phase=Phase.PREPARING),
        *(Here(phase=Phase.UPLOADING, sent=sent, total=10) for sent in (0, 5, 10)),
        *(Here(phase=Phase.WAITING, elapsed=seconds) for seconds in (1, 30, 60, 600, 6000)),
        Here(phase=Phase.DOWNLOADING),
        Here(phase=Phase.FITTING),
    ]
    shown = [_facts(SENT, here=here).fraction() for here in usual]
    assert shown == sorted(shown) and shown[0] == 0 and 0.9 < shown[-1] < 1


def test_what_the_service_says_of_its_progress_moves_the_bar() -> None:
    here = Here(phase=Phase.WAITING, elapsed=1, percents=(80, 90))
    assert _facts(SENT, SENT, here=here).fraction() == pytest.approx(0.1 + 0.85 * 0.8)


def test_a_cancelled_edit_can_be_waited_for_again() -> None:
    facts = _facts(SENT, here=Here(detached=True))
    assert facts.standing is Standing.LEFT and "You stopped waiting" in facts.text()
    assert facts.buttons() == [Button.KEEP_WAITING, Button.DISCARD]


def test_an_edit_of_another_window_is_under_way_for_a_while_and_then_unknown() -> None:
    young, old = _facts(SENT, age=60), _facts(SENT, age=DAY)
    assert young.standing is Standing.LEFT and "is in progress" in young.text()
    assert young.buttons() == [Button.DISCARD]
    assert old.standing is Standing.UNKNOWN and "may have been charged" in old.text()
    assert Button.TRY_AGAIN not in old.buttons()
    assert _facts(SENT, age=DAY, collecting=True).standing is Standing.LEFT


@pytest.mark.parametrize("here", [None, ENDED])
def test_a_result_in_the_image_is_compared_and_one_that_is_not_is_put_there(
    here: Here | None,
) -> None:
    inside, outside = _facts(RECEIVED, there=[ONE], here=here), _facts(RECEIVED, here=here)
    assert inside.text() == ""
    assert inside.buttons() == [Button.COMPARE, Button.DISCARD, Button.MORE]
    assert "Not in this image" in outside.text()
    assert outside.buttons() == [Button.PUT_INTO_IMAGE, Button.DISCARD, Button.MORE]


def test_one_of_several_variations_can_be_kept_unless_it_replaced_the_layer() -> None:
    both = _facts(RECEIVED, RECEIVED, there=[ONE, TWO], here=ENDED)
    assert Button.KEEP in both.buttons()
    assert Button.KEEP not in _facts(RECEIVED, RECEIVED, there=[ONE], here=ENDED).buttons()
    replaced = _facts(RECEIVED, RECEIVED, there=[ONE, TWO], here=Here(ended=True, replaces=True))
    assert Button.KEEP not in replaced.buttons()


def test_the_choice_survives_the_loss_of_a_variation() -> None:
    assert _facts(RECEIVED, RECEIVED, chosen=1).chosen_result == TWO
    assert _facts(RECEIVED, _failed(Kind.BUSY), chosen=1).chosen_result == ONE
    assert _facts(SENT, chosen=1).chosen_result is None


@pytest.mark.parametrize(
    ("posts", "hint"),
    [
        ([ACCEPTED], "at no cost"),
        ([UNFITTED], "at no cost"),
        ([_failed(Kind.ANSWER, task="img_1")], "at no cost"),
        ([_failed(Kind.ANSWER, answer="answer-1.json")], "at no cost"),
        ([_failed(Kind.BUSY)], "Send what is missing"),
        ([Post()], "Send what is missing"),
        ([RECEIVED, _failed(Kind.UNREACHABLE)], "Send what is missing"),
        ([ACCEPTED, _failed(Kind.REFUSED)], "send the rest"),
        ([_failed(Kind.OUTCOME_UNKNOWN)], ""),
        ([SENT], ""),
        ([RECEIVED], ""),
    ],
)
def test_trying_again_says_what_it_costs_and_never_sends_twice(
    posts: list[Post], hint: str
) -> None:
    facts = _facts(*posts, here=ENDED)
    found = facts.retry_hint()
    assert hint in found and bool(found) == bool(hint)
    assert (Button.TRY_AGAIN in facts.buttons()) == bool(hint)


@pytest.mark.parametrize("known", [{"collecting": True}, {"others": True}])
def test_what_another_process_may_send_is_not_sent_here(known: dict[str, bool]) -> None:
    assert not _facts(Post(), **known).is_unsent
    # An edit of this window is nobody else's.
    assert _facts(Post(), here=ENDED, **known).is_unsent


@pytest.mark.parametrize("kind", Kind)
def test_a_failure_says_why_and_offers_the_settings_if_they_can_help(kind: Kind) -> None:
    facts = _facts(_failed(kind, "Enter the key."), messages=["Enter the key."])
    assert facts.standing is Standing.FAILED and facts.text() == "Enter the key."
    helps = kind in (Kind.SETUP, Kind.REFUSED, Kind.PENDING)
    assert (Button.SETTINGS in facts.buttons()) == helps
    assert facts.buttons()[-3:] == [Button.SHOW_FOLDER, Button.DISCARD, Button.MORE]


def test_a_failure_says_nothing_twice() -> None:
    here = Here(ended=True, sentences=["No."])
    assert _facts(_failed(Kind.BUSY), here=here, messages=["Other."], note="No.").text() == "No."
    assert _facts(Post(), here=ENDED).text() == "This edit was not sent."


LEFT_ALONE = Here(ended=True, detached=True)


@pytest.mark.parametrize("here", [None, ENDED, LEFT_ALONE])
def test_an_edit_whose_worker_died_after_the_answer_is_not_called_unsent(here: Here | None) -> None:
    facts = _facts(UNFITTED, here=here)
    assert "at no cost" in facts.text() and "not sent" not in facts.text()
    assert Button.TRY_AGAIN in facts.buttons()
    for other in (Post(), _failed(Kind.BUSY, "")):
        text = _facts(UNFITTED, other, here=here).text()
        assert "may be charged" in text and "no cost" not in text


def test_an_edit_that_was_cancelled_and_whose_worker_died_may_have_been_charged() -> None:
    for posts in ([SENT], [SENT, Post()], [SENT, UNFITTED], [SENT, ACCEPTED]):
        assert "You may have been charged" in _facts(*posts, here=LEFT_ALONE).text()
    assert "at no cost" in _facts(ACCEPTED, here=LEFT_ALONE).text()


@pytest.mark.parametrize(
    ("posts", "lost"),
    [
        ([RECEIVED], True),
        ([ACCEPTED], True),
        ([SENT], True),
        ([_failed(Kind.ANSWER, answer="answer-1.json")], True),
        ([_failed(Kind.BUSY)], False),
        ([Post()], False),
    ],
)
def test_discarding_asks_only_if_something_paid_for_could_be_lost(
    posts: list[Post], lost: bool
) -> None:
    assert _facts(*posts, here=ENDED).may_be_lost == lost
