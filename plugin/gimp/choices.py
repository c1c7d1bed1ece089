"""Save and restore what the user has chosen, from one window to the next.

GIMP also saves the arguments of a procedure, but only when its window is closed. Besides, it writes
them into the image, where neither prompts nor paths belong.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from gi.repository import Gimp

from plugin import lock, settings, storage
from plugin.errors import Unusable
from plugin.gimp.process import launch

_REMEMBERED = (
    *("size", "resolution", "output", "source", "use-selection", "variations"),
    *("blend", "context", "repair"),
)
"""The arguments of the procedure that are restored, besides the prompt."""
_PROMPTS = 30
ONE_PRESS = 2.0
"""Seconds in which a second press, such as that of a double click, starts no second edit."""
_REPEATING = "repeating"
"""The name of the lock that *Repeat* holds until its picture is exported."""


def recall(config: Gimp.ProcedureConfig) -> None:
    """Set the arguments to those of the last window, but the prompt only if it is empty."""
    saved = settings.comforts()
    choices = saved.get("choices")
    for name, value in (choices if isinstance(choices, dict) else {}).items():
        # The values may have been saved by another version, which has other choices.
        with contextlib.suppress(TypeError, ValueError):
            if name in _REMEMBERED:
                config.set_property(name, value)
    prompt = saved.get("prompt")
    if not config.get_property("prompt") and isinstance(prompt, str):
        config.set_property("prompt", prompt)


def remember(config: Gimp.ProcedureConfig, files: Sequence[str], edited: str = "") -> None:
    """Save the arguments and the paths of the reference files.

    Also add `edited`, the prompt of an edit that has begun, to the list of past prompts.
    """
    kept = {
        "prompt": config.get_property("prompt") or "",
        "reference_files": list(files),
        "choices": {name: config.get_property(name) for name in _REMEMBERED},
    }

    def changed(saved: dict[str, Any]) -> dict[str, Any]:
        # Read the list here, because another window may have added prompts to it.
        prompts = _listed(saved, "prompts")
        if edited:
            prompts = [edited, *(each for each in prompts if each != edited)][:_PROMPTS]
        return {**saved, **kept, "prompts": prompts}

    # These values are only a convenience. If the disk is full, the user is told when it matters.
    with contextlib.suppress(OSError):
        settings.change(changed)


def keep_prompt(prompt: str) -> None:
    """Save a prompt that was typed but not used for an edit yet."""
    with contextlib.suppress(OSError):
        settings.save(prompt=prompt)


@contextlib.contextmanager
def one_press() -> Iterator[bool]:
    """Yield whether *Repeat* was chosen anew, rather than by a key that is held down, for example.

    Every press before the end of the `with` block, and within ONE_PRESS seconds after it, counts as
    the same press. This is because GIMP delivers the keys that were pressed during an export later.
    """
    with contextlib.ExitStack() as pressing:
        ours, before = True, None
        # Without writable files, this can't be determined, and each press counts as a new one.
        with contextlib.suppress(OSError, Unusable):
            ours = pressing.enter_context(lock.held(storage.locks_folder() / _REPEATING))
            before = settings.comforts().get("repeated")
        recent = isinstance(before, (int, float)) and before + ONE_PRESS > launch.STARTED
        anew = ours and not recent
        if ours:
            _note_press()
        yield anew
        if anew:
            _note_press()


def _note_press() -> None:
    with contextlib.suppress(OSError, Unusable):
        settings.change(lambda saved: {**saved, "repeated": time.time()})


def past_prompts() -> list[str]:
    """Return the prompts that were used for edits, the last one first."""
    return _texts("prompts")


def reference_files() -> list[str]:
    """Return the paths of the reference files of the last window."""
    return _texts("reference_files")


def _texts(name: str) -> list[str]:
    return _listed(settings.comforts(), name)


def _listed(saved: dict[str, Any], name: str) -> list[str]:
    texts = saved.get(name)
    return [each for each in texts if isinstance(each, str)] if isinstance(texts, list) else []
