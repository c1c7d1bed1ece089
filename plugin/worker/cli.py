"""The command line of the worker.

The commands `edit`, `jobs`, `resume` and `key` are for users. The plug-in starts `work` and
`service`, and also `key`. Output for the plug-in is JSON, with one object per line.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import getpass
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TextIO, cast

from PIL import Image

from plugin import __version__, job, region, settings
from plugin.job import PREPARED, Files, Job, JobRequest, phase_text
from plugin.limits import MOST_VARIATIONS, TIERS
from plugin.words import _, speak
from plugin.worker import image_file, key_store, patience, picture
from plugin.worker.failure import Failure
from plugin.worker.run import Progress, Run
from plugin.worker.service import Service

_MODEL = "gpt-image-2"
_ORIGINAL = "original"
"""The name of the copy of the edited picture file in its job.

The copy is made when the file is read, and is removed when all results of the job are written.
"""
_INTERRUPTED = 130
"""The usual exit code after Ctrl+C."""
_GLANCE = 0.2
"""Seconds between two checks whether Ctrl+C was pressed."""
_MOST_KEY = 1000
"""Largest length of a key, in characters. A longer text was probably pasted by mistake."""

_telling = threading.Lock()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line with the arguments `words`, by default those of the process.

    Return the exit code: 0 for success, 1 for an error, which is reported on standard error, and
    130 after Ctrl+C.
    """
    _open_streams()
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.command(arguments))
    except (Failure, ValueError) as error:
        _tell_user(str(error))
    except OSError as error:
        why = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        _tell_user(_("This can't be done ({why}). Once that is mended, try again.").format(why=why))
    except KeyboardInterrupt:
        _tell_user(_("Stopped. “python -m plugin jobs” lists the edits; “resume” goes on."))
        return _INTERRUPTED
    return 1


def _open_streams() -> None:
    """Replace standard streams that are closed, and let standard output print any character."""
    # Otherwise other files get the descriptors of closed streams, and libraries write warnings
    # into these files.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or _nowhere("r")
    sys.stdout = sys.stdout or _nowhere("w")
    sys.stderr = sys.stderr or _nowhere("w")
    codecs.register_error("dimilinks", _encodable)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="dimilinks")


def _nowhere(mode: str) -> TextIO:
    return cast(TextIO, open(os.devnull, mode, encoding="utf-8"))


def _encodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle characters that an output encoding lacks, as an error handler for `codecs`.

    The undecodable bytes of a file name are written as they are. Other characters are escaped.
    """
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


def _print(line: str, stream: TextIO | None = None) -> None:
    """Print to standard output or `stream`. Ignore errors, as when the reader has gone."""
    with contextlib.suppress(OSError):
        print(line, file=stream)


def _tell_user(sentence: str) -> None:
    _print(sentence, sys.stderr)


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
    edit.add_argument(
        "--no-repair",
        dest="repair",
        action="store_false",
        help="take answers as they come, without bringing them back to the picture",
    )
    edit.set_defaults(command=_edit)

    jobs = commands.add_parser("jobs", help="list the edits: id, state, prompt")
    jobs.set_defaults(command=_jobs)

    resume = commands.add_parser("resume", help="go on with an edit that was interrupted")
    resume.add_argument("id", metavar="ID")
    resume.add_argument("--out", type=Path, help="another folder for the results")
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
    return _finish(_prepared(arguments))


def _prepared(arguments: argparse.Namespace) -> Job:
    """Create the job of an edit.

    Raises OSError, and Failure or ValueError with a message for the user.
    """
    prompt = job.check_prompt(arguments.prompt)
    settings.check_service()
    with contextlib.suppress(OSError):
        job.prune(settings.keep_days(), time.time())
    with job.prepare() as folder:
        image_file.copy(arguments.image, folder / _ORIGINAL)
        image = image_file.read_image(arguments.image, folder / _ORIGINAL)
        whole = region.Box(0, 0, *image.size)
        mask = selection = None
        if arguments.mask:
            mask = image_file.read_mask(arguments.mask, image.size)
            selection = image_file.bounds(mask)
        planned = region.plan(
            selection or whole, whole, arguments.size, arguments.resolution, settings.ceiling()
        )
        box = planned.content
        source = image_file.content(image, box)
        picture.write_own(source, folder / "source.png")
        if mask:
            part = mask.crop((box.x, box.y, box.right, box.bottom))
            picture.write_own(part, folder / "mask.png")
        file = Files(
            image=str(arguments.image.absolute()),
            mask=str(arguments.mask.absolute()) if arguments.mask else "",
            out=str((arguments.out or arguments.image.parent).absolute()),
        )
        names = []
        for number, path in enumerate(arguments.reference, 1):
            names.append(f"reference-{number}.png")
            picture.write_own(image_file.read_reference(path), folder / names[-1])
        request = JobRequest(
            prompt,
            _MODEL,
            planned,
            arguments.variations,
            tuple(names),
            # In a fully transparent picture there is nothing to keep: the result covers it.
            keep_alpha=mask is None and _shows(source),
            repair=arguments.repair,
            created=time.time(),
            file=file,
        )
        room = _room(image, arguments.variations)
        image_file.check_writable(Path(file.out), _name(file), room)
        prepared = job.publish(folder, request)
    _tell_user(
        _("Job {job}: {width}×{height} pixels go up.").format(
            job=prepared.id, width=box.width, height=box.height
        )
    )
    return prepared


def _shows(image: Image.Image) -> bool:
    return image.mode != "RGBA" or image.getchannel("A").getbbox() is not None


def _jobs(arguments: argparse.Namespace) -> int:
    for listed in job.all_jobs():
        try:
            line = f"{listed.state.name}\t{' '.join(listed.request.prompt.split())}"
        except (OSError, ValueError):
            line = "damaged\t"
        _print(f"{listed.id}\t{line}")
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    unfinished = job.find(arguments.id)
    out = arguments.out.absolute() if arguments.out else None
    refusal = ""
    if any(post.state == PREPARED or post.may_be_sent_again for post in unfinished.state.posts):
        try:
            _check_writable(unfinished, out)
        except Failure as failure:
            refusal = str(failure)
    return _finish(unfinished, out, refusal)


def _check_writable(unsent: Job, out: Path | None) -> None:
    """Check, before a job is sent, whether its results can be written. Raises Failure if not.

    They go to `out`, or by default to the folder that the job names.
    """
    request = unsent.request
    if request.file and request.region:
        image = _original(unsent, request.file, request.region.content)
        image_file.check_writable(
            out or Path(request.file.out), _name(request.file), _room(image, request.variations)
        )


def _name(file: Files) -> str:
    """Return the name of the result files, without their number and suffix."""
    return f"{Path(file.image).stem}-edit"


def _room(image: Image.Image, variations: int) -> int:
    """Return the disk space that results may need, in bytes: that of their uncompressed pixels."""
    return image.width * image.height * len(image.getbands()) * variations


def _finish(unfinished: Job, out: Path | None = None, refusal: str = "") -> int:
    """Finish a job, write its results to files if it was made from a file, and return an exit code.

    The results are written to `out`, or by default to the folder that the job names. If there is a
    `refusal`, a message for the user, nothing more is sent.
    """
    shown: set[tuple[str, int]] = set()

    def show(progress: Progress) -> None:
        phase = (progress.phase, progress.variation)
        if progress.note:
            _tell_user(progress.note)
        elif phase not in shown:
            shown.add(phase)
            _tell_user(f"{phase_text(progress.phase)} …")

    run = Run(unfinished, show)
    is_stopped = _worked_on(run, unfinished, not refusal)
    state = unfinished.state
    request = unfinished.request
    problems = [refusal] if refusal else []
    placed = {number: post.placed for number, post in enumerate(state.posts, 1) if post.placed}
    if is_stopped and any(post.state == PREPARED for post in state.posts):
        problems.append(
            _("What was not sent costs nothing; “python -m plugin resume {job}” sends it.").format(
                job=unfinished.id
            )
        )
    fresh = {number: placed[number] for number in placed if number not in unfinished.imported}
    paths = []
    if request.file and request.region and fresh:
        folder = out or Path(request.file.out)
        try:
            results = _results(
                unfinished, request.file, request.region.content, [*fresh.values()], folder
            )
            for number, path in zip(fresh, results):
                paths.append(path)
                # The result is in its file even if this can't be marked.
                with contextlib.suppress(OSError):
                    unfinished.mark_imported([number])
        except Exception as error:
            # After any error, the user must learn where the results are that were paid for.
            left = [fresh[number] for number in fresh if number not in unfinished.imported]
            problems.append(_kept(unfinished, left, folder, error))
        else:
            if len(placed) == len(state.posts):
                with contextlib.suppress(OSError):
                    (unfinished.folder / _ORIGINAL).unlink(missing_ok=True)
    elif placed:
        paths = [unfinished.folder / name for name in placed.values()]
        if out:
            problems.append(
                _(
                    "--out is for results of picture files that are not written yet. These are "
                    "the edited parts alone, as the job {job} keeps them."
                ).format(job=unfinished.id)
            )
    for path in paths:
        _print(str(path))
    for sentence in [*state.notes, *state.messages, *problems]:
        _tell_user(sentence)
    run.pack()
    if is_stopped:
        return _INTERRUPTED
    return 0 if len(placed) == len(state.posts) and not problems else 1


def _worked_on(run: Run, unfinished: Job, sending: bool) -> bool:
    """Run a job to its end, and return whether the user pressed Ctrl+C.

    After the first Ctrl+C, nothing more is sent. What was sent is still waited for, because it is
    paid for. The second Ctrl+C ends the process at once. Until then the job stays locked, so that
    nothing is sent twice.
    """
    pressed = threading.Event()

    def press(*_: object) -> None:
        if pressed.is_set():
            os._exit(_INTERRUPTED)
        pressed.set()

    former = signal.signal(signal.SIGINT, press)
    try:
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(run.finish, sending)
            # On Windows, signals are not handled while this thread waits without a timeout.
            while not wait([working], _GLANCE).done:
                if pressed.is_set():
                    break
            if pressed.is_set() and not run.call_off():
                _tell_user(
                    _(
                        "Nothing more is sent; what was sent is waited for. Ctrl+C once more ends "
                        "at once: then “python -m plugin resume {job}” fetches it, if it can be."
                    ).format(job=unfinished.id)
                )
            while not wait([working], _GLANCE).done:
                pass
            working.result()
    finally:
        signal.signal(signal.SIGINT, former)
    return pressed.is_set()


def _results(
    done: Job, file: Files, box: region.Box, placed: list[str], folder: Path
) -> Iterator[Path]:
    """Write each result, in a copy of the edited picture, to a file, and yield the file's path."""
    image = _original(done, file, box)
    # This is only the part of the mask that was sent. Nothing outside of it is selected.
    mask = picture.read_own(done.folder / "mask.png") if file.mask else None
    keep_alpha = mask is None if done.request.keep_alpha is None else done.request.keep_alpha
    for name in placed:
        result = picture.read_own(done.folder / name)
        merged = image_file.merge(image, result, box, mask, keep_alpha)
        yield image_file.save(merged, folder, _name(file))


def _original(done: Job, file: Files, box: region.Box) -> Image.Image:
    """Return the edited picture, as it was when the job was made.

    Raises Failure if it can't be read or is another one by now.
    """
    path, copied = Path(file.image), done.folder / _ORIGINAL
    if copied.exists():
        return image_file.read_image(path, copied)
    # Jobs of older versions have no copy. Their source.png is compared with the file instead.
    image = image_file.read_image(path)
    try:
        sent = picture.read_own(done.folder / "source.png")
    except picture.Unreadable as error:
        raise Failure(
            Failure.SETUP, _("The job {job} is damaged: {why}.").format(job=done.id, why=error)
        ) from error
    if image_file.content(image, box).tobytes() != sent.tobytes():
        raise Failure(
            Failure.SETUP,
            _(
                "{path} is no longer the picture that this edit was made from: put that picture "
                "back there."
            ).format(path=path),
        )
    return image


def _kept(done: Job, placed: list[str], folder: Path, error: Exception) -> str:
    """Return the message for results that have arrived, but can't be written to their files."""
    if isinstance(error, Failure):
        sentence = str(error)
    else:
        known = str(error) if isinstance(error, picture.Unreadable) else type(error).__name__
        why = image_file.why(error) if isinstance(error, OSError) else known
        sentence = _("Results can't be written to {folder} ({why}).").format(folder=folder, why=why)
    kept = _(
        "They are kept: “python -m plugin resume {job}” writes them once that is mended, and with "
        "“--out FOLDER” into another folder, at no cost. The edited parts alone: {paths}"
    ).format(job=done.id, paths=", ".join(str(done.folder / name) for name in placed))
    return f"{sentence} {kept}"


def _work(arguments: argparse.Namespace) -> int:
    """Work on a job for the plug-in, to which only the standard streams connect this process.

    The end of standard input means that GIMP or the plug-in has ended, or that the user has
    cancelled. Then nothing more is sent, and what was sent is completed.
    """
    if hasattr(os, "setsid") and os.getpgrp() != os.getpid():
        # Ctrl+C in the terminal that GIMP was started from must not end an edit that was paid for.
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
    # The end of standard output is the signal for the plug-in that all results are written.
    _tell_nobody()
    if os.name == "posix":
        # The rest is not urgent, and the user needs the processor for other things now.
        os.nice(19)
    run.pack(patience.IMPORTING)
    return 0


def _told_later() -> dict[str, Any]:
    """Read a line with a JSON object from standard input, and return the object.

    It contains the job folder, whether to send nothing ("collect"), and the language of all further
    messages. Return {} if the input ends before. From then on, standard error goes to the file
    `worker.log` in the job folder.
    """
    line = b""
    # The input is read without a buffer, because `_work` watches the rest of it.
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
        # The plug-in has ended, but the answer still has to be fetched. Without a new standard
        # output, writing the rest of the buffer would fail again at the end of the process.
        _tell_nobody()


def _tell_nobody() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _key(arguments: argparse.Namespace) -> int:
    if arguments.action == "store":
        place = key_store.store(_typed_key())
    else:
        key_store.forget()
        place = settings.key_place()
    _print(json.dumps({"key_in": place}))
    return 0


def _typed_key() -> str:
    """Read a key from a line of standard input, without an echo in a terminal.

    Raises ValueError with a message for the user if the line is too long.
    """
    if sys.stdin.isatty():
        key = getpass.getpass("API key: ")
    else:
        # Bytes that can't be decoded become characters that no key has, and are refused later.
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
    _print(json.dumps(answer))
    return 0
