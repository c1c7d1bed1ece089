"""The commands: `edit`, `jobs`, `resume`, `key` for people; `work`, `service` for the plug-in.

What the plug-in reads is JSON, an object per line.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plugin import __version__, job, region, settings
from plugin.job import Files, Job, JobRequest, phase_text
from plugin.limits import MOST_VARIATIONS, TIERS
from plugin.words import _, speak
from plugin.worker import image_file, key_store, picture
from plugin.worker.failure import Failure
from plugin.worker.run import Progress, Run
from plugin.worker.service import Service

_MODEL = "gpt-image-2"
_MOST_KEY = 1000
"""Characters of a key; what is longer was pasted by mistake."""

_telling = threading.Lock()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 1 with a sentence on standard error."""
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.command(arguments))
    except (Failure, ValueError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m plugin", description="AI edits of picture files, without GIMP."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    edit = commands.add_parser("edit", help="edit a picture file; the result is a PNG beside it")
    edit.add_argument("image", type=Path, metavar="IMAGE")
    edit.add_argument("--prompt", required=True, help="what to change, in any language")
    edit.add_argument(
        "--mask",
        type=Path,
        help="picture of the same size, white (or transparent) where to edit; "
        "nothing else will change",
    )
    edit.add_argument(
        "--reference", type=Path, action="append", default=[], help="further picture to look at"
    )
    edit.add_argument("--size", default="auto", help="auto, a ratio such as 3:2, or WxH")
    edit.add_argument("--resolution", default="auto", choices=("auto", *TIERS))
    edit.add_argument(
        "--variations",
        type=int,
        default=1,
        choices=range(1, MOST_VARIATIONS + 1),
        metavar=f"1…{MOST_VARIATIONS}",
    )
    edit.add_argument("--out", type=Path, help="folder for the results")
    edit.set_defaults(command=_edit)

    jobs = commands.add_parser("jobs", help="list the edits: id, state, prompt")
    jobs.set_defaults(command=_jobs)

    resume = commands.add_parser("resume", help="go on with an edit that was interrupted")
    resume.add_argument("id", metavar="ID")
    resume.set_defaults(command=_resume)

    key = commands.add_parser(
        "key", help="keep the API key, read from standard input, or forget it"
    )
    key.add_argument("action", choices=("store", "forget"))
    key.set_defaults(command=_key)

    service = commands.add_parser("service", help="where the key is and what edits cost, as JSON")
    service.add_argument("--test", action="store_true", help="find out whether edits would work")
    service.set_defaults(command=_service)

    work = commands.add_parser("work", help="what the plug-in starts: progress as JSON lines")
    work.add_argument("folder", type=Path, nargs="?", help="the job; else standard input tells")
    work.set_defaults(command=_work)
    return parser


def _edit(arguments: argparse.Namespace) -> int:
    prompt = job.check_prompt(arguments.prompt)
    settings.check_service()
    with contextlib.suppress(OSError):
        job.prune(settings.keep_days(), time.time())
    image = image_file.read_image(arguments.image)
    whole = region.Box(0, 0, *image.size)
    mask = selection = None
    if arguments.mask:
        mask = image_file.read_mask(arguments.mask, image.size)
        selection = image_file.bounds(mask)
    planned = region.plan(
        selection or whole, whole, arguments.size, arguments.resolution, settings.ceiling()
    )
    references = [image_file.read_reference(path) for path in arguments.reference]
    out = (arguments.out or arguments.image.parent).absolute()
    box = planned.content
    with job.prepare() as folder:
        picture.write_own(image_file.content(image, box), folder / "source.png")
        if mask:
            part = mask.crop((box.x, box.y, box.right, box.bottom))
            picture.write_own(part, folder / "mask.png")
        names = [f"reference-{number}.png" for number in range(1, len(references) + 1)]
        for name, reference in zip(names, references):
            picture.write_own(reference, folder / name)
        prepared = job.publish(
            folder,
            JobRequest(
                prompt,
                _MODEL,
                planned,
                arguments.variations,
                tuple(names),
                keep_alpha=mask is None,
                created=time.time(),
                file=Files(
                    image=str(arguments.image.absolute()),
                    mask=str(arguments.mask.absolute()) if arguments.mask else "",
                    out=str(out),
                ),
            ),
        )
    print(
        _("Job {job}: {width}×{height} pixels go up.").format(
            job=prepared.id, width=box.width, height=box.height
        ),
        file=sys.stderr,
    )
    return _finish(prepared)


def _jobs(arguments: argparse.Namespace) -> int:
    for listed in job.all_jobs():
        try:
            line = f"{listed.state.name}\t{' '.join(listed.request.prompt.split())}"
        except (OSError, ValueError):
            line = "damaged\t"
        print(f"{listed.id}\t{line}")
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    return _finish(job.find(arguments.id))


def _finish(unfinished: Job) -> int:
    """Take a job to its end, and bring its results into files if it came from one."""
    shown: set[tuple[str, int]] = set()

    def show(progress: Progress) -> None:
        phase = (progress.phase, progress.variation)
        # An upload must not break because nobody listens any more.
        with contextlib.suppress(OSError):
            if progress.note:
                print(progress.note, file=sys.stderr)
            elif phase not in shown:
                shown.add(phase)
                print(f"{phase_text(progress.phase)} …", file=sys.stderr)

    run = Run(unfinished, show)
    run.finish()
    run.pack()
    state = unfinished.state
    request = unfinished.request
    placed = {number: post.placed for number, post in enumerate(state.posts, 1) if post.placed}
    fresh = [number for number in placed if number not in unfinished.imported]
    if request.file and request.region and fresh:
        pictures = [unfinished.folder / placed[number] for number in fresh]
        for path in _write_results(pictures, request.region.content, request.file):
            print(path)
        unfinished.mark_imported(fresh)
    else:
        for name in placed.values():
            print(unfinished.folder / name)
    for sentence in [*state.notes, *state.messages]:
        print(sentence, file=sys.stderr)
    return 0 if len(placed) == len(state.posts) else 1


def _write_results(placed: list[Path], box: region.Box, files: Files) -> list[Path]:
    """Put each result into a copy of the picture that was edited, and return what was written."""
    original = Path(files.image)
    image = image_file.read_image(original)
    mask = image_file.read_mask(Path(files.mask), image.size) if files.mask else None
    paths = []
    for path in placed:
        merged = image_file.merge(image, picture.read_own(path), box, mask)
        paths.append(image_file.save(merged, Path(files.out), f"{original.stem}-edit"))
    return paths


def _work(arguments: argparse.Namespace) -> int:
    """Work for the plug-in: its end of the pipes is the only thing that ties us to GIMP.

    End of file on standard input means that GIMP or the plug-in is gone, or that the user
    cancelled: what was not sent stays unsent, what was sent is seen to its end.
    """
    if hasattr(os, "setsid") and os.getpgrp() != os.getpid():
        # A Ctrl+C in the terminal that GIMP was started from is not meant for a paid edit.
        os.setsid()
    folder, collect = arguments.folder, False
    if folder is None:
        task = _told_later()
        if not task:
            return 0
        folder, collect = Path(task["folder"]), task["collect"]
    run = Run(Job(folder), _tell)

    def watch() -> None:
        while os.read(0, 1):
            pass
        if run.call_off():
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    run.finish(sending=not collect)
    # By the end of our output the plug-in knows that all is there.
    _tell_nobody()
    run.pack()
    return 0


def _told_later() -> dict[str, Any]:
    """Read from standard input what to work on, an object in a line; {} if it ends before.

    What goes wrong from then on is noted in the job.
    """
    line = b""
    # Not buffered: what comes after it is watched for.
    while not line.endswith(b"\n"):
        piece = os.read(0, 4096)
        if not piece:
            return {}
        line += piece
    task: dict[str, Any] = json.loads(line)
    speak(task["language"])
    with contextlib.suppress(OSError):
        log = Path(task["folder"]) / "worker.log"
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), sys.stderr.fileno())
    return task


def _tell(progress: Progress) -> None:
    try:
        with _telling:
            print(json.dumps(progress.to_json()), flush=True)
    except OSError:
        # Nobody listens any more, but the answer still has to be fetched; what is left in the
        # buffer would fail once more at the end.
        _tell_nobody()


def _tell_nobody() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _key(arguments: argparse.Namespace) -> int:
    if arguments.action == "store":
        place = key_store.store(_typed_key())
    else:
        key_store.forget()
        place = settings.key_place()
    print(json.dumps({"key_in": place}))
    return 0


def _typed_key() -> str:
    """Read one line, unseen where somebody types it. Raises ValueError with a sentence."""
    if sys.stdin.isatty():
        key = getpass.getpass("API key: ")
    else:
        # As bytes: whatever can't be decoded is no key either.
        key = sys.stdin.buffer.readline(_MOST_KEY + 2).decode("ascii", "replace")
    if len(key.strip()) > _MOST_KEY:
        raise ValueError(_("That is too long for an API key: copy it again, alone on its line."))
    return key


def _service(arguments: argparse.Namespace) -> int:
    answer: dict[str, object] = {"key_in": settings.key_place(), "prices": {}, "sandbox": False}
    works, message = False, ""
    try:
        url = settings.base_url()
        if url == settings.SANDBOX:
            answer["sandbox"] = works = True
            message = _("The embedded sandbox is always there. It needs no key and costs nothing.")
        else:
            answer["prices"] = Service(url, "").prices(_MODEL)
            if arguments.test:
                settings.check_service()
                Service(url, key_store.read()).check()
                works, message = True, _("The service can be reached and accepts the API key.")
    except (Failure, ValueError) as error:
        message = str(error)
    if arguments.test:
        answer.update(works=works, message=message)
    print(json.dumps(answer))
    return 0
