"""The judge, which finds out what is wrong after an edit."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gui_window import until

from meanwhile.cases import OURS, PAINTS, Case
from meanwhile.desk import KEYS, Desk, Done, Edit, Run, edited
from meanwhile.service import ANSWERS

PAINT = (0, 255, 0)
GRAY = {(255, 0, 255): 146, (0, 255, 255): 229, (0, 255, 0): 220}
"""The levels of answers and paint in gray images."""


@dataclass
class Verdict:
    """The outcome of a case, and what is wrong: pairs of a kind and a description.

    `outside` is the number of pixels that changed outside of what was selected.
    """

    case: Case
    outcome: str = ""
    outside: int = 0
    wrong: list[tuple[str, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """The status and the message of each edit."""
    seconds: float = 0.0

    def say(self, kind: str, words: str) -> None:
        self.wrong.append((kind, words))

    def count(self, kind: str) -> int:
        """Return how many things of this kind are wrong."""
        return sum(each == kind for each, _words in self.wrong)


History = tuple[int, ...]
"""The numbers of the deeds that have an effect, in their order. Undone deeds have none."""


def judge(desk: Desk, case: Case) -> Verdict:
    """Make the edit of a case with all that the user does, and return what is wrong."""
    verdict = Verdict(case)
    began = time.monotonic()
    displays: list[int] = []
    try:
        run = edited(desk, case, desk.lengths(case))
        displays = run.displays
        verdict.told = [f"{edit.status}: {edit.message}" for edit in run.edits]
        for words in dict.fromkeys(run.died):
            verdict.say("death", words)
        _Judge(desk, case, run, verdict).judge()
    except (OSError, RuntimeError) as error:
        if desk.alive:
            verdict.say("stuck", f"{type(error).__name__}: {error}")
    if not desk.alive:
        verdict.say("death", f"GIMP died: {desk.window.log()[-300:]}")
    if verdict.count("stuck") or not desk.alive:
        desk.start_again()
    else:
        _tidy(desk, displays)
    verdict.seconds = time.monotonic() - began
    return verdict


def _tidy(desk: Desk, displays: Sequence[int]) -> None:
    """Remove everything that the case has left."""
    desk.watcher.close_images(displays=list(displays))
    stays = {
        digest
        for state in desk.firsts.values()
        for digest in (state["selection"], *(layer["pixels"] for layer in state["layers"]))
    }
    for file in desk.kept.iterdir():
        if file.name not in stays:
            file.unlink()
    # GIMP's message about a plug-in that is gone would cover the next window.
    while desk.window.desk.active_window() in ("GIMP Message", "GIMP Warning", "GIMP Error"):
        desk.window.desk.press(app="gimp", role="button", name="OK")


@dataclass(frozen=True)
class _Found:
    """The differences of an image from a twin.

    `rank` has the numbers of what is wrong, of changed pixels outside, and of lost edits.
    """

    rank: tuple[int, int, int]
    expected: Any
    regions: Sequence[Region]
    wrong: list[tuple[str, str]]
    shown: list[float | None]
    """For each edit, the share of what it should have changed that shows the answer, 0 to 1."""


class _Judge:
    """Compares an image with its twins, and checks that every paid result is somewhere."""

    def __init__(self, desk: Desk, case: Case, run: Run, verdict: Verdict) -> None:
        self._desk = desk
        self._case = case
        self._run = run
        self._say = verdict.say
        self._verdict = verdict
        self._twins: dict[History, tuple[int, Any]] = {}

    def judge(self) -> None:
        run, verdict = self._run, self._verdict
        strays = set(self._desk.watcher.images()) - {run.image, run.twin}
        if strays:
            self._say("stray", f"{len(strays)} images more than before")
        after = self._state(run.image)
        self._twins[()] = run.twin, self._first()
        if after is None:
            if not run.closed:
                self._say("stray", "the image is gone")
            kept = [self._paid(edit, shown=None) for edit in run.edits]
            verdict.outcome = kept[0]
            return
        if run.closed:
            self._say("stray", "the image is still there")
            return
        if run.did("view"):
            # A new view has moved the focus to the tabs of the views. A user would click into the
            # picture. This can't be done earlier, because Escape would close a window of the
            # plug-in that opens at that moment.
            self._desk.window.key("Escape")
        if not after["undo"]:
            self._say("undo", "it is disabled")
        found = self._nearest(after)
        verdict.wrong += found.wrong
        verdict.outside = found.rank[1]
        if verdict.outside:
            self._say("outside", f"{verdict.outside:,} pixels changed")
        shown = found.shown
        if any(map(_is_lost, run.edits, shown)) and run.did("undo"):
            # The user may have undone the edit.
            while self._press("redo"):
                after = self._state(run.image)
            shown = [self._shown(after, edit, found.regions) for edit in run.edits]
            if any(done.began + 1 > run.placed > 0 for done in run.did("undo")):
                # If the user did something after that, it can't be redone.
                shown = [
                    None if _is_lost(e, share) else share for e, share in zip(run.edits, shown)
                ]
        outcomes = [self._paid(edit, share) for edit, share in zip(run.edits, shown)]
        verdict.outcome = outcomes[0]
        self._untouched(found.expected, after, shown)
        if after["undo"]:
            self._undo(after, outcomes.count("placed"))

    def _first(self) -> Any:
        """Return the state of the twin right after it was opened."""
        case, firsts = self._case, self._desk.firsts
        key = (case.size, case.precision, case.selection)
        if key not in firsts:
            firsts[key] = self._state(self._run.twin)
        return firsts[key]

    def _state(self, image: int, known: Any = None) -> Any:
        return self._desk.watcher.state(image=image, folder=str(self._desk.kept), known=known)

    # The twins

    def _histories(self, count: int) -> set[History]:
        """Return the histories that may result from the first `count` deeds.

        There are several after an undo, which may have reverted a deed or the edit.
        """
        found: set[tuple[History, History]] = {((), ())}
        for number, done in enumerate(self._run.done[:count]):
            name = done.deed[0]
            if not done.worked:
                continue
            step: set[tuple[History, History]] = set()
            for there, undone in found:
                if name == "undo":
                    step.update((kept, gone + undone) for kept, gone in self._taken_back(there))
                elif name == "redo":
                    for again in range(min(2, len(undone)) + 1):
                        step.add((there + undone[:again], undone[again:]))
                elif name in OURS:
                    step.add((there, undone))
                else:
                    step.add(((*there, number), ()))
            found = step
        return {there for there, _undone in found}

    def _taken_back(self, there: History) -> Iterator[tuple[History, History]]:
        """Yield what Ctrl+Z may leave of a history, and what it undoes.

        A deed that changed nothing may be no undo step. Deeds during placing belong to the same
        undo step as the result. Locks that a script sets are an undo step only from GIMP 3.2 on.
        """
        deeds = self._run.done
        no_step = ("lock",) if self._desk.series == "3.0" else ()
        steps = [number for number in there if deeds[number].deed[0] not in no_step]
        together = itertools.takewhile(lambda number: self._is_late(deeds[number]), steps[::-1])
        for back in {0, 1, 2, len(list(together))}:
            gone = tuple(steps[max(0, len(steps) - back) :])
            yield tuple(number for number in there if number not in gone), gone

    def _is_late(self, done: Done) -> bool:
        """Return whether a deed may belong to the undo step that placed the first result."""
        return done.began + 0.5 >= (self._run.placed or np.inf)

    def _expected(self, history: History) -> Any:
        """Return the state of a twin to which the deeds of a history were done."""
        if history not in self._twins:
            known = self._expected(history[:-1])
            name, values = self._run.done[history[-1]].deed
            twin = self._desk.watcher.duplicate(image=self._twins[history[:-1]][0])
            self._desk.user.act(image=twin, deed=name, values=values)
            state = self._state(twin, None if name in PAINTS else known)
            self._twins[history] = twin, state
        return self._twins[history][1]

    def _nearest(self, after: Any) -> _Found:
        """Compare the image with all possible twins and regions, and return the best match."""
        found = []
        for history in sorted(self._histories(len(self._run.done))):
            expected = self._expected(history)
            for regions in itertools.product(*map(self._regions, self._run.edits)):
                outside, wrong = self._compared(expected, after, regions)
                shown = [self._shown(after, edit, regions) for edit in self._run.edits]
                lost = sum(map(_is_lost, self._run.edits, shown))
                found.append(_Found((len(wrong), outside, lost), expected, regions, wrong, shown))
                if found[-1].rank == (0, 0, 0):
                    break
        return min(found, key=lambda each: each.rank)

    def _regions(self, edit: Edit) -> list[Region]:
        """Return what may have been selected when an edit began.

        The edit reads the selection at some moment between its call and the beginning of its job.
        """
        deeds, begun, edits = self._run.done, self._run.begun, self._run.edits
        number = edits.index(edit)
        first = 0
        if number:
            first = next(n for n, done in enumerate(deeds) if done.deed[0] == "edit again")
        elif len(edits) > 1 and begun and edits[1].began < begun[0]:
            # It is not known which of the two began its job first.
            number = 1
        end = begun[number] if len(begun) > number else edit.ended
        last = sum(done.began <= end for done in deeds)
        histories: set[History] = set()
        for count in range(first, last + 1):
            histories |= self._histories(count)
        found = [self._region(self._expected(history)) for history in sorted(histories)]
        return [region for region in found if region] or [self._region(self._twins[()][1])]

    def _region(self, state: Any) -> Region | None:
        """Return what was selected in a state, or None if it lacks the layer to be edited."""
        layer = next((each for each in state["layers"] if each["name"] == "edited"), None)
        if layer is None:
            return None
        width, height = state["size"]
        selected = np.fromfile(self._desk.kept / state["selection"], np.uint8)
        return Region(selected.reshape(height, width) if selected.any() else None, layer["at"])

    # Outside

    def _compared(
        self, expected: Any, after: Any, regions: Sequence[Region]
    ) -> tuple[int, list[tuple[str, str]]]:
        """Return how many pixels outside the regions differ from the twin's, and what else does."""
        wrong: list[tuple[str, str]] = []
        outside = 0
        for key in ("precision", "base", "size"):
            if after[key] != expected[key]:
                wrong.append(("user's", f"{key} is {after[key]}, not {expected[key]}"))
        if after["selection"] != expected["selection"]:
            wrong.append(("user's", "the selection isn't the user's"))
        if after["channels"] != expected["channels"]:
            wrong.append(("stray", f"channels {after['channels']}"))
        there = {layer["name"]: layer for layer in after["layers"]}
        edits = list(zip(self._run.edits, regions))
        replaced = [region for edit, region in edits if edit.output == "replace"]
        added = [region for edit, region in edits if edit.output == "new-layer"]
        for layer in expected["layers"]:
            now = there.pop(layer["name"], None)
            if now is None:
                wrong.append(("user's", f"the layer {layer['name']} is gone"))
                continue
            for key in ("at", "size", "locks", "visible", "opacity", "mask"):
                if now[key] != layer[key]:
                    words = f"{key} of {layer['name']} is {now[key]}, not {layer[key]}"
                    wrong.append(("user's", words))
            if now["pixels"] != layer["pixels"]:
                # The user may have copied the layer after the result was placed.
                mine = layer["name"] == "edited" or layer["name"].startswith("user's")
                outside += self._changed(layer, now, replaced if mine else [])
        if len(there) > len(added):
            wrong.append(("stray", f"layers {sorted(there)}"))
        for result in there.values():
            outside += min((self._leaks(result, region) for region in added), default=0)
        return outside, wrong

    def _changed(self, layer: Any, now: Any, regions: Sequence[Region]) -> int:
        """Return how many pixels of a layer differ outside these regions."""
        width, height = layer["size"]
        before, after = (
            np.fromfile(self._desk.kept / each["pixels"], np.uint8) for each in (layer, now)
        )
        if before.size != after.size:
            return width * height
        differ = np.zeros((height, width), bool)
        for byte in range(before.size // (width * height)):
            step = slice(byte, None, before.size // (width * height))
            differ |= (before[step] != after[step]).reshape(height, width)
        for region in regions:
            if region.selected is None:
                return 0
            differ &= region.on(region.at, (width, height)) == 0
        return int(differ.sum())

    def _leaks(self, result: Any, region: Region) -> int:
        """Return how many pixels a new layer shows outside a region."""
        if region.selected is None:
            return 0
        width, height = result["size"]
        if result["mask"]:
            mask = np.fromfile(self._desk.kept / result["mask"], np.uint16) > 0
            mask = mask.reshape(height, width)
        else:
            mask = np.ones((height, width), bool)
        return min(
            int((mask & (region.on(at, (width, height)) == 0)).sum()) for at in self._places(result)
        )

    def _places(self, result: Any) -> list[list[int]]:
        """Return where a result is, and where it may have been before the user moved a layer."""
        places = [result["at"]]
        for done in self._run.did("move"):
            dx, dy = done.deed[1]["by"]
            places += [[x - dx, y - dy] for x, y in places]
        return places

    # Inside

    def _shown(self, after: Any, edit: Edit, regions: Sequence[Region]) -> float | None:
        """Return the share of fully selected pixels that show the answer, 0 to 1.

        Returns None if the layer that was to be replaced is gone.
        """
        region = regions[self._run.edits.index(edit)]
        names = {"edited", "below"}
        if edit.output == "replace":
            layer = next((each for each in after["layers"] if each["name"] == "edited"), None)
            return layer and self._covered(after, layer, edit, region, [region.at])
        results = [
            layer
            for layer in after["layers"]
            if layer["name"] not in names and not layer["name"].startswith("user's")
        ]
        return max(
            (self._covered(after, layer, edit, region, self._places(layer)) for layer in results),
            default=0.0,
        )

    def _covered(
        self, after: Any, layer: Any, edit: Edit, region: Region, places: Sequence[list[int]]
    ) -> float:
        width, height = layer["size"]
        name = layer["pixels"]
        if (after["precision"], after["base"]) != ("u8-non-linear", "rgb"):
            name = self._desk.watcher.colours(layer=layer["id"], folder=str(self._desk.kept))
        colours = np.fromfile(self._desk.kept / name, np.uint8).reshape(height, width, -1)
        mask = None
        if layer["mask"]:
            mask = np.fromfile(self._desk.kept / layer["mask"], np.uint16).reshape(height, width)
        # Where the user painted, or another result was placed on top, the answer was there before.
        wanted = [ANSWERS[edit.prompt], PAINT]
        if edit.status == "success" or any(map(_is_marked, self._jobs(edit))):
            wanted += [ANSWERS[e.prompt] for e in self._run.edits if e.output == edit.output]
        if after["base"] == "gray":
            wanted = [(GRAY[colour],) * 3 for colour in wanted]
        whole = width * height
        if region.selected is not None:
            whole = max(1, int((region.selected == 255).sum()))
        most = 0.0
        for at in places:
            part = np.ones((height, width), bool)
            if region.selected is not None:
                part = region.on(at, (width, height)) == 255
            near_by = _NEAR[not after["precision"].startswith("u8")]
            shown = _in_one_of(wanted, colours[part], near_by)
            if mask is not None:
                shown &= mask[part] >= 0xFE00
            most = max(most, float(shown.sum()) / whole)
        return most

    def _untouched(self, expected: Any, after: Any, shown: Sequence[float | None]) -> None:
        """Check that nothing has changed inside the selection if nothing was placed."""
        if self._run.did("kill") or any(share is None or share >= 0.999 for share in shown):
            return
        now = {layer["name"]: layer for layer in after["layers"]}
        for layer in expected["layers"]:
            if layer["name"] in now and now[layer["name"]]["pixels"] != layer["pixels"]:
                changed = self._changed(layer, now[layer["name"]], [])
                self._say("lost", f"{changed:,} pixels of {layer['name']} changed by no result")

    # Paid results

    def _paid(self, edit: Edit, shown: float | None) -> str:
        """Check that a result is in the image, or kept with a message, and return the outcome."""
        posts = self._desk.service.posts.count(edit.prompt)
        if posts > 1:
            self._say("lost", f"it was sent {posts} times")
        if not posts:
            if not edit.message:
                self._say("lost", f"nothing was sent, and nobody is told ({edit.status})")
            return "not sent"
        kept = [job for job in self._jobs(edit) if any(job.glob("result-1.*"))]
        if not kept:
            self._say("lost", "it was paid for, and its result is in no job")
            return "lost"
        marked = _is_marked(kept[0])
        placed = shown is not None and shown >= 0.999
        if placed:
            if edit.status not in ("success", "told") and not self._run.did("kill"):
                self._say("lost", f"it is in the image, but the call says: {edit.message}")
            elif not marked and not self._run.did("kill"):
                self._say("lost", "it is in the image, and not marked so")
            return "placed"
        if shown is None and marked:
            # The user has removed it since.
            return "placed"
        if _is_lost(edit, shown):
            self._say("lost", f"success, but {1 - (shown or 0.0):.1%} of the answer isn't there")
        elif marked:
            self._say("lost", "it is marked as if it were in the image")
        if self._run.did("kill"):
            return "kept"
        if not edit.message and not (shown is None and edit.status == "success"):
            self._say("lost", "it is kept, and nobody is told")
        return "kept"

    def _jobs(self, edit: Edit) -> list[Path]:
        """Return the folders of an edit's jobs."""
        return [
            job
            for job in self._desk.jobs()
            if json.loads((job / "request.json").read_text("utf-8"))["prompt"] == edit.prompt
        ]

    # Undo

    def _press(self, name: str) -> bool:
        """Press undo or redo, and return whether this changed the image."""
        image, watcher = self._run.image, self._desk.watcher
        before = watcher.glance(image=image)
        self._desk.window.key(KEYS[name])
        with contextlib.suppress(TimeoutError):
            return until(lambda: watcher.glance(image=image) not in (None, before), name, 4)
        return False

    def _undo(self, after: Any, placed: int) -> None:
        """Check that Ctrl+Z undoes the edits or, if there are none, what the user does next."""
        run = self._run
        if not placed and not run.did("kill"):
            self._probe()
            return
        late = [done for done in run.done if self._is_late(done)]
        # A rectangle is selected before it is filled, which makes two steps.
        steps = sum(2 if done.deed[0] == "fill" else 1 for done in late)
        most = placed + steps + (3 if run.did("kill") else 0)
        known = {
            _looks(self._expected(history[:count]))
            for number in range(len(run.done) + 1)
            for history in self._histories(number)
            for count in range(len(history) + 1)
        }
        if not placed and _looks(after) in known:
            self._probe()
            return
        # A deed that changes nothing (a stroke outside the selection, *select all* twice) is an
        # undo step as well.
        silent = sum(done.deed[0] in ("stroke", "fill") or self._is_silent(done) for done in late)
        for number in range(most):
            if not self._press("undo"):
                silent -= 1
                if silent < 0:
                    self._say("undo", f"Ctrl+Z does nothing the {number + 1}. time")
                    return
            if _looks(self._state(run.image)) in known:
                break
        else:
            self._say("undo", f"after {most} times Ctrl+Z the edit isn't undone")
            return
        if number == 0 and self._case.size != "24 MP":
            self._press("redo")
            if _looks(self._state(run.image)) != _looks(after):
                self._say("undo", "Ctrl+Y doesn't bring the edit back")

    def _is_silent(self, done: Done) -> bool:
        """Return whether a deed changed nothing in a twin."""
        number = self._run.done.index(done)
        return any(
            _looks(self._expected(history)) == _looks(self._expected(history[:-1]))
            for history in self._histories(number + 1)
            if history[-1:] == (number,)
        )

    def _probe(self) -> None:
        """Check that Ctrl+Z undoes what the user does next."""
        image, watcher = self._run.image, self._desk.watcher
        before = watcher.glance(image=image)
        self._desk.user.act(image=image, deed="add layer", values={"number": "probe"})
        if not self._press("undo") or watcher.glance(image=image) != before:
            self._say("undo", "Ctrl+Z doesn't take back what the user does next")


@dataclass(frozen=True)
class Region:
    """What was selected, and where the layer was at that time.

    `selected` is None if nothing was selected, so that the whole layer is edited.
    """

    selected: np.ndarray | None
    at: list[int]

    def on(self, at: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """Return the selection of a drawable at this position, (height, width), 0 to 255.

        Outside the canvas, nothing is selected.
        """
        assert self.selected is not None
        (x, y), (width, height) = at, size
        part = np.zeros((height, width), np.uint8)
        down, across = self.selected.shape
        left, top, right, bottom = (
            max(0, x),
            max(0, y),
            min(across, x + width),
            min(down, y + height),
        )
        if left < right and top < bottom:
            part[top - y : bottom - y, left - x : right - x] = self.selected[top:bottom, left:right]
        return part


_NEAR = 3, 7
"""By how many levels a colour may be off in images with 8 bits, and in deep images.

In deep images, a pixel counts as fully selected from 254.5/255 on. Then 0.2 % of white may show
through the result, which is several levels in dark colours.
"""


def _in_one_of(wanted: Sequence[tuple[int, ...]], colours: np.ndarray, near_by: int) -> np.ndarray:
    """Return which rows of `colours` are a colour of `wanted`, to within `near_by` levels."""
    found = np.zeros(len(colours), bool)
    for colour in wanted:
        if found.all():
            break
        near = np.ones(len(colours), bool)
        for channel, value in enumerate(colour):
            near &= np.abs(colours[:, channel].astype(np.int16) - value) <= near_by
        found |= near
    return found


def _is_marked(job: Path) -> bool:
    return any(job.glob("imported*"))


def _is_lost(edit: Edit, shown: float | None) -> bool:
    return edit.status == "success" and shown is not None and shown < 0.999


def _looks(state: Any) -> str:
    """Return the part of a state that Ctrl+Z restores, as a string.

    The locks are not part of it: GIMP 3.0 doesn't undo locks that a script set.
    """
    layers = [{**layer, "id": 0, "locks": []} for layer in state["layers"]]
    return json.dumps({**state, "layers": layers, "chosen": [], "undo": True}, sort_keys=True)


_COLUMNS = ("death", "undo", "stray", "user's", "lost", "stuck")
_OUTCOMES = ("placed", "kept", "not sent")


def table(verdicts: dict[str, list[Verdict]], in_full: bool) -> str:
    """Return two tables of the verdicts: by GIMP's version, output and size, and by deeds.

    With `in_full`, the deeds are listed with their particulars and by version. In the second table,
    an edit counts for each of its deeds.
    """
    head = ["edits", "pixels changed outside", "plug-in or GIMP dead", "undo broken"]
    head += ["stray images, layers, channels", "selection or locks not the user's"]
    head += ["lost or unsaid", "stuck", *_OUTCOMES]

    def row(name: str, made: Sequence[Verdict]) -> str:
        cells = [len(made), f"{sum(each.outside for each in made):,}"]
        cells += [sum(bool(each.count(kind)) for each in made) for kind in _COLUMNS]
        cells += [sum(each.outcome == outcome for each in made) for outcome in _OUTCOMES]
        return f"| {name} | {' | '.join(map(str, cells))} |"

    def part(title: str, rows: dict[str, list[Verdict]]) -> list[str]:
        lines = [f"| {title} | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
        return [*lines, *(row(name, made) for name, made in rows.items()), ""]

    by_kind: dict[str, list[Verdict]] = {}
    by_deed: dict[str, list[Verdict]] = {}
    for version, made in verdicts.items():
        for each in made:
            case = each.case
            by_kind.setdefault(f"{version}, {case.output}, {case.size}", []).append(each)
            for name in dict.fromkeys(case.names if in_full else case.kinds):
                by_deed.setdefault(f"{version}, {name}" if in_full else name, []).append(each)
    everything = [each for made in verdicts.values() for each in made]
    by_kind["all"] = everything
    lines = part("GIMP, output, photograph", dict(sorted(by_kind.items())))
    lines += part("the user's deeds, among them", dict(sorted(by_deed.items())))
    wrong = sum(bool(each.wrong) for each in everything)
    lines.append(f"{len(everything)} edits; something was wrong with {wrong} of them.")
    return "\n".join(lines) + "\n"
