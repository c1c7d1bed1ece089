"""What was chosen, from one window to the next.

GIMP remembers a procedure's arguments as well, but only once its window is closed, and it writes
them into the image, where neither prompts nor paths belong.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from gi.repository import Gimp

from plugin import lock, settings
from plugin.gimp import launch

_REMEMBERED = (
    *("size", "resolution", "output", "source", "use-selection", "variations"),
    *("blend", "context", "repair"),
)
"""The procedure's arguments that come again, beside the prompt."""
_PROMPTS = 30
ONE_PRESS = 2.0
"""Seconds within which a second press, as of a double click, begins no second edit."""
_REPEATING = "repeating"
"""The lock that *Repeat* has until its picture is exported."""


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


@contextlib.contextmanager
def one_press() -> Iterator[bool]:
    """Tell whether *Repeat* was chosen anew, and not by a key that is held for example.

    Whatever is pressed before this ends, or within ONE_PRESS afterwards, counts as the same press:
    GIMP hands on late what was pressed while a picture was exported.
    """
    with contextlib.ExitStack() as pressing:
        ours, before = True, None
        # Without files that can be written nobody can tell.
        with contextlib.suppress(OSError, settings.Unusable):
            ours = pressing.enter_context(lock.held(settings.locks_folder() / _REPEATING))
            before = settings.comforts().get("repeated")
        recent = isinstance(before, (int, float)) and before + ONE_PRESS > launch.STARTED
        anew = ours and not recent
        if ours:
            _note_press()
        yield anew
        if anew:
            _note_press()


def _note_press() -> None:
    with contextlib.suppress(OSError, settings.Unusable):
        settings.change(lambda saved: {**saved, "repeated": time.time()})


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
