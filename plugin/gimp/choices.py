"""What was chosen, from one window to the next.

GIMP remembers a procedure's arguments as well, but only once its window is closed, and it writes
them into the image, where neither prompts nor paths belong.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any

from gi.repository import Gimp

from plugin import settings

_REMEMBERED = (
    *("size", "resolution", "output", "source", "use-selection", "variations"),
    *("blend", "context", "repair"),
)
"""The procedure's arguments that come again, beside the prompt."""
_PROMPTS = 30
ONE_PRESS = 2.0
"""Seconds within which a second press, as of a double click, begins no second edit."""


def recall(config: Gimp.ProcedureConfig) -> None:
    """Give the arguments the values of the last window, and the last prompt if there is none."""
    saved = settings.comforts()
    choices = saved.get("choices")
    for name, value in (choices if isinstance(choices, dict) else {}).items():
        # What another version has saved may not be a choice any more.
        with contextlib.suppress(TypeError, ValueError):
            if name in _REMEMBERED:
                config.set_property(name, value)
    prompt = saved.get("prompt")
    if not config.get_property("prompt") and isinstance(prompt, str):
        config.set_property("prompt", prompt)


def remember(config: Gimp.ProcedureConfig, files: Sequence[str], edited: str = "") -> None:
    """Keep the arguments, the reference files, and the prompt if it was edited with."""
    kept = {
        "prompt": config.get_property("prompt") or "",
        "reference_files": list(files),
        "choices": {name: config.get_property(name) for name in _REMEMBERED},
    }

    def changed(saved: dict[str, Any]) -> dict[str, Any]:
        # Another window may have added to them.
        prompts = _listed(saved, "prompts")
        if edited:
            prompts = [edited, *(each for each in prompts if each != edited)][:_PROMPTS]
        return {**saved, **kept, "prompts": prompts}

    # A comfort only: that the disk is full is told when it matters.
    with contextlib.suppress(OSError):
        settings.change(changed)


def keep_prompt(prompt: str) -> None:
    """Keep a prompt that was typed and not yet edited with."""
    with contextlib.suppress(OSError):
        settings.save(prompt=prompt)


def is_second_press() -> bool:
    """Whether *Repeat* was chosen less than two seconds ago, by a key that is held for example.

    Every call counts as one more press.
    """
    now = time.time()
    pressed: list[float] = []

    def noted(saved: dict[str, Any]) -> dict[str, Any]:
        before = saved.get("repeated")
        pressed.append(before if isinstance(before, (int, float)) else -math.inf)
        return {**saved, "repeated": now}

    # Without settings that can be written nobody can tell.
    with contextlib.suppress(OSError):
        settings.change(noted)
    return any(0 <= now - before < ONE_PRESS for before in pressed)


def past_prompts() -> list[str]:
    """Return the prompts that were edited with, the last one first."""
    return _texts("prompts")


def reference_files() -> list[str]:
    """Return the paths of the last reference files."""
    return _texts("reference_files")


def _texts(name: str) -> list[str]:
    return _listed(settings.comforts(), name)


def _listed(saved: dict[str, Any], name: str) -> list[str]:
    texts = saved.get(name)
    return [each for each in texts if isinstance(each, str)] if isinstance(texts, list) else []
