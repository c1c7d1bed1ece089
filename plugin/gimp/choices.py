"""Save what the user has chosen in a window, and restore it in the next window.

GIMP also saves the arguments of a procedure, but only when the window of the procedure is closed.
Besides, GIMP writes the arguments into the image, where neither prompts nor paths belong.
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
"""The arguments of `dimilinks-edit` that are saved and restored, besides the prompt."""
_PROMPTS = 30
"""The list of past prompts contains at most this many prompts."""
ONE_PRESS = 2.0
"""A press starts no second edit within this many seconds after another press (double click)."""
_REPEATING = "repeating"
"""The name of the lock that GIMP's command *Repeat* holds until the picture is exported."""


def recall(config: Gimp.ProcedureConfig) -> None:
    """Set the arguments in `config` to the values that the last window saved.

    Keep the prompt in `config` if it is not empty.
    """
    saved = settings.comforts()
    choices = saved.get("choices")
    for name, value in (choices if isinstance(choices, dict) else {}).items():
        # Ignore invalid values, because another version with other choices could have saved them.
        with contextlib.suppress(TypeError, ValueError):
            if name in _REMEMBERED:
                config.set_property(name, value)
    prompt = saved.get("prompt")
    if not config.get_property("prompt") and isinstance(prompt, str):
        config.set_property("prompt", prompt)


def remember(config: Gimp.ProcedureConfig, files: Sequence[str], edited: str = "") -> None:
    """Save the arguments in `config` and the paths of the reference files.

    `edited` is the prompt of an edit that has begun, or "". Add this prompt to the list of past
    prompts.
    """
    kept = {
        "prompt": config.get_property("prompt") or "",
        "reference_files": list(files),
        "choices": {name: config.get_property(name) for name in _REMEMBERED},
    }

    def changed(saved: dict[str, Any]) -> dict[str, Any]:
        # Use the list in `saved`, which was just read from the disk, because another window could
        # have added prompts to the list.
        prompts = _listed(saved, "prompts")
        if edited:
            prompts = [edited, *(each for each in prompts if each != edited)][:_PROMPTS]
        return {**saved, **kept, "prompts": prompts}

    # Ignore errors of the disk, because these values are only a convenience. If the disk is full,
    # the user gets a message when something more important, such as a job, can't be written.
    with contextlib.suppress(OSError):
        settings.change(changed)


def keep_prompt(prompt: str) -> None:
    """Save a prompt that the user has typed, but not used for an edit yet."""
    with contextlib.suppress(OSError):
        settings.save(prompt=prompt)


@contextlib.contextmanager
def one_press() -> Iterator[bool]:
    """Yield True if the user has chosen *Repeat* anew, and False if this was the same press.

    GIMP calls *Repeat* several times if the user double-clicks it or holds down its key. The caller
    exports the picture in the `with` block. All presses until ONE_PRESS seconds after the end of
    this block count as the same press, because GIMP delivers the keys that are pressed during an
    export only after the export.
    """
    with contextlib.ExitStack() as pressing:
        ours, before = True, None
        # The lock shows whether another press is being exported, and the settings say when the last
        # press was. If this can't be found out, this press counts as a new one.
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
    """Return the prompts of past edits, the latest first."""
    return _texts("prompts")


def reference_files() -> list[str]:
    """Return the paths of the reference files that the last window saved."""
    return _texts("reference_files")


def _texts(name: str) -> list[str]:
    return _listed(settings.comforts(), name)


def _listed(saved: dict[str, Any], name: str) -> list[str]:
    texts = saved.get(name)
    return [each for each in texts if isinstance(each, str)] if isinstance(texts, list) else []
