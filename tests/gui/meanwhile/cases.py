"""Cases: what is edited, and what the user does meanwhile."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SIZES = {"2 MP": (1800, 1200), "8 MP": (3504, 2336), "24 MP": (6000, 4000)}
OUTPUTS = ("new-layer", "replace")
SELECTIONS = ("rectangle", "feathered ellipse", "by colour", "none")
ROUTES = ("procedure", "window")

Deed = tuple[str, dict[str, Any]]
PAINTS = ("stroke", "fill", "convert", "delete", "add layer", "copy layer")
"""Deeds after which the pixels of some layer are different."""
OURS = ("undo", "redo", "close", "kill", "view", "second window", "edit again")
"""Deeds that are not done to the twin."""


@dataclass(frozen=True)
class Case:
    """An edit, and what the user does from a certain moment on.

    `moment` is a phase of the edit and how much of it has passed, from 0 to 1. The phases are
    *capture*, in which the job is written; *waiting*, when the service has the edit; *both*, when
    the service has two edits; *placing*, from the fitted result on; and *any*, the whole edit. The
    deed *wait for* waits for another moment. `pauses` are the seconds before each deed.
    """

    seed: int
    size: str
    output: str
    selection: str
    deeds: tuple[Deed, ...]
    moment: tuple[str, float]
    pauses: tuple[float, ...] = ()
    precision: str = "u8"
    route: str = "procedure"

    @property
    def names(self) -> list[str]:
        """The user's deeds in words."""
        return [_name(deed) for deed in self.deeds if deed[0] != "wait for"]

    @property
    def kinds(self) -> list[str]:
        """The names of the user's deeds, without further words."""
        return [name for name, _values in self.deeds if name != "wait for"]

    def __str__(self) -> str:
        phase, share = self.moment
        deeds = "; ".join(
            f"{name} {json.dumps(values)}" if values else name for name, values in self.deeds
        )
        return (
            f"{self.size} {self.precision}, {self.selection}, {self.output}, by {self.route}; "
            f"{phase} {share:.2f}: {deeds or 'nothing'}"
        )


def _name(deed: Deed) -> str:
    name, values = deed
    more = values.get("what") or values.get("to") or values.get("name")
    return f"{name} {more}" if more else name


def _select_elsewhere() -> Deed:
    return "select", {"box": [0.05, 0.75, 0.3, 0.2]}


def directed() -> list[Case]:
    """Return cases in which something easily goes wrong. Their seeds are -1, -2, …"""
    made: list[Case] = []

    def add(
        size: str,
        output: str,
        selection: str,
        moment: tuple[str, float],
        *deeds: Deed,
        route: str = "procedure",
    ) -> None:
        made.append(Case(-1 - len(made), size, output, selection, deeds, moment, route=route))

    none: Deed = ("select none", {})
    elsewhere: Deed = ("select", {"box": [0.05, 0.75, 0.3, 0.2]})
    # The selection changes while the layer is replaced.
    for number in range(9):
        add("24 MP", "replace", SELECTIONS[number % 3], ("placing", (number + 0.5) / 9), none)
    for share in (0.25, 0.6):
        add("24 MP", "replace", "none", ("placing", share), elsewhere)
    # Something else is selected right after Edit.
    for output, selection in itertools.product(OUTPUTS, ("rectangle", "none")):
        for size, share in (("8 MP", 0.4), ("24 MP", 0.1), ("24 MP", 0.5)):
            add(size, output, selection, ("capture", share), elsewhere, route="window")
    # The layer is deleted, or the image is closed.
    for name, output, phase in itertools.product(
        ("delete", "close"), OUTPUTS, ("capture", "placing")
    ):
        route = "window" if name == "close" else "procedure"
        add("24 MP", output, "none", (phase, 0.4), (name, {}), route=route)
        add("24 MP", output, "feathered ellipse", (phase, 0.6), (name, {}), route="window")
    # The layer is locked.
    for what, output, phase in itertools.product(
        ("content", "alpha", "position"), OUTPUTS, ("waiting", "placing")
    ):
        add("8 MP", output, "feathered ellipse", (phase, 0.4), ("lock", {"what": what}))
    for share in (0.1, 0.5):
        add("24 MP", "replace", "none", ("placing", share), ("lock", {"what": "content"}))
    # The plug-in is killed. If it replaces the layer, it is also killed with another selection.
    for output, share in itertools.product(OUTPUTS, (0.15, 0.4, 0.65, 0.9)):
        add("24 MP", output, "feathered ellipse", ("placing", share), ("kill", {}))
        if output == "replace":
            deeds = elsewhere, ("wait for", {"phase": "placing", "share": share}), ("kill", {})
            add("24 MP", output, "feathered ellipse", ("waiting", 0), *deeds)
    # Two edits of one image are placed at the same time.
    for outputs, size in itertools.product((("replace",) * 2, OUTPUTS), ("8 MP", "24 MP")):
        again: Deed = ("edit again", {"output": outputs[1]})
        two = elsewhere, again, ("wait for", {"phase": "both", "share": 0})
        add(size, outputs[0], "rectangle", ("waiting", 0), *two)
        add(size, outputs[0], "rectangle", ("waiting", 0), *two, none)
    return made


def case(seed: int) -> Case:
    """Return a random case, which is always the same for a seed."""
    chance = random.Random(seed)
    (size,) = chance.choices(list(SIZES), (45, 30, 25))
    (precision,) = chance.choices(("u8", "u16", "float"), (80, 10, 10))
    deeds: list[Deed] = []
    for number in range(chance.choice((1, 1, 2, 2, 3, 4))):
        if deeds and chance.random() < 0.25:
            deeds.append(("wait for", {"phase": "placing", "share": round(chance.random(), 2)}))
        deeds.append(_deed(chance, number))
        if deeds[-1][0] == "close":
            # There is no image left to work on.
            break
    (phase,) = chance.choices(("capture", "placing", "any"), (22.5, 22.5, 55))
    return Case(
        seed,
        size,
        chance.choices(OUTPUTS, (45, 55))[0],
        chance.choices(SELECTIONS, (30, 30, 20, 20))[0],
        tuple(deeds),
        (phase, chance.random()),
        tuple(chance.choice((0, 0, 0.02, 0.1, 0.3)) for _deed in deeds),
        precision if size == "2 MP" else "u8",
        _route(deeds, chance),
    )


def _route(deeds: list[Deed], chance: random.Random) -> str:
    (route,) = chance.choices(ROUTES, (75, 25))
    # GIMP itself crashes if a script calls a procedure that returns layers, and their image is
    # closed before it returns: GIMP frees the image first, and then looks at the layers.
    return "window" if ("close", {}) in deeds else route


def _deed(chance: random.Random, number: int) -> Deed:
    def box() -> list[float]:
        x, y = chance.uniform(0, 0.7), chance.uniform(0, 0.7)
        return [
            round(part, 2) for part in (x, y, chance.uniform(0.1, 0.3), chance.uniform(0.1, 0.3))
        ]

    weights: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {
        "select": (3, lambda: {"box": box()}),
        "select more": (1.5, lambda: {"box": box()}),
        "select none": (3, dict),
        "select all": (1.5, dict),
        "invert": (1.5, dict),
        "delete": (1.5, lambda: {"name": chance.choice(("edited", "edited", "below"))}),
        "lock": (2.5, lambda: {"what": chance.choice(("content", "alpha", "position"))}),
        "move": (2, lambda: {"by": [chance.randint(-60, 60), chance.randint(-60, 60)]}),
        "stroke": (2, lambda: {"box": box()}),
        "fill": (2, lambda: {"box": box()}),
        "undo": (3, dict),
        "redo": (1.5, dict),
        "convert": (1.5, lambda: {"to": chance.choice(("u16", "float", "gray"))}),
        "add layer": (1, lambda: {"number": number}),
        "copy layer": (1, lambda: {"number": number}),
        "choose": (1, lambda: {"name": "below"}),
        "close": (1, dict),
        "view": (0.7, dict),
        "second window": (0.7, dict),
        "edit again": (1, lambda: {"output": chance.choice(OUTPUTS)}),
    }
    (name,) = chance.choices(list(weights), [weight for weight, _values in weights.values()])
    return name, weights[name][1]()
