"""The command line of the worker.

Users run the commands `edit`, `jobs`, `resume` and `key`. The plug-in runs the commands `work`,
`service` and `key`. These three commands print JSON, one object per line, for the plug-in to read.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from PIL import Image

from plugin import __version__, history, job, region, settings
from plugin.errors import Failure, Kind, UserError
from plugin.job import Files, Job, JobRequest, Status
from plugin.limits import MOST_VARIATIONS, TIERS
from plugin.progress import Phase, Progress
from plugin.translation import _, speak
from plugin.worker import cli_files, key_store, terminal
from plugin.worker.pictures import formats, png_files
from plugin.worker.run import Run
from plugin.worker.service import patience
from plugin.worker.service.api import Service

_MODEL = "gpt-image-2"
_ORIGINAL = "original"
"""The file name of the copy of the user's picture file that is kept in the job folder.

The copy is made when the picture file is first read. It is removed when all results of the job
have been written.
"""
_INTERRUPTED = 130
"""The usual exit code after Ctrl+C."""
_GLANCE = 0.2
"""Seconds between two checks whether Ctrl+C was pressed."""
_MOST_KEY = 1000
"""Largest accepted length of an API key, in characters. A longer text is probably no key."""

_telling = threading.Lock()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line with the arguments `words`, by default those of this process.

    Return the exit code: 0 after success, 1 after an error, and 130 after Ctrl+C. Errors are
    reported on standard error.
    """
    terminal.open_streams()
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.command(arguments))
    except UserError as error:
        terminal.complain(str(error))
    except OSError as error:
        why = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        terminal.complain(
            _("This failed ({why}). Solve the problem, then try again.").format(why=why)
        )
    except KeyboardInterrupt:
        terminal.complain(
            _(
                "Stopped. “python -m plugin jobs” lists the edits, and “python -m plugin resume” "
                "continues one."
            )
        )
        return _INTERRUPTED
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
    """Create and return the job for the command `edit`, without sending anything.

    Raises OSError and UserError.
    """
    prompt = job.check_prompt(arguments.prompt)
    settings.check_service()
    with contextlib.suppress(OSError):
        history.prune(settings.keep_days(), time.time())
    with job.prepare() as folder:
        cli_files.copy(arguments.image, folder / _ORIGINAL)
        image = cli_files.read_image(arguments.image, folder / _ORIGINAL)
        whole = region.Box(0, 0, *image.size)
        mask = selection = None
        if arguments.mask:
            mask = cli_files.read_mask(arguments.mask, image.size)
            selection = cli_files.bounds(mask)
        planned = region.plan(
            selection or whole, whole, arguments.size, arguments.resolution, settings.ceiling()
        )
        box = planned.content
        source = cli_files.content(image, box)
        png_files.write(source, folder / "source.png")
        if mask:
            part = mask.crop((box.x, box.y, box.right, box.bottom))
            png_files.write(part, folder / "mask.png")
        file = Files(
            image=str(arguments.image.absolute()),
            mask=str(arguments.mask.absolute()) if arguments.mask else "",
            out=str((arguments.out or arguments.image.parent).absolute()),
        )
        names = []
        for number, path in enumerate(arguments.reference, 1):
            names.append(f"reference-{number}.png")
            png_files.write(cli_files.read_reference(path), folder / names[-1])
        request = JobRequest(
            prompt,
            _MODEL,
            planned,
            arguments.variations,
            tuple(names),
            # The alpha of a fully transparent picture is not kept: it would hide the result.
            keep_alpha=mask is None and _shows(source),
            repair=arguments.repair,
            created=time.time(),
            file=file,
        )
        room = _room(image, arguments.variations)
        cli_files.check_writable(Path(file.out), _name(file), room)
        prepared = job.publish(folder, request)
    terminal.complain(
        _("Job {job}: sending {width}×{height} pixels.").format(
            job=prepared.id, width=box.width, height=box.height
        )
    )
    return prepared


def _shows(image: Image.Image) -> bool:
    return image.mode != "RGBA" or image.getchannel("A").getbbox() is not None


def _jobs(arguments: argparse.Namespace) -> int:
    for listed in history.all_jobs():
        try:
            line = f"{listed.read_state().name}\t{' '.join(listed.read_request().prompt.split())}"
        except (OSError, UserError):
            line = "damaged\t"
        terminal.say(f"{listed.id}\t{line}")
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    unfinished = history.find(arguments.id)
    out = arguments.out.absolute() if arguments.out else None
    refusal = ""
    if any(post.may_be_sent for post in unfinished.read_state().posts):
        try:
            _check_writable(unfinished, out)
        except Failure as failure:
            refusal = str(failure)
    return _finish(unfinished, out, refusal)


def _check_writable(unsent: Job, out: Path | None) -> None:
    """Check, before a job is sent, whether its results can be written. Raises Failure if not.

    The results are written to the folder `out`, or by default to the folder that is saved in the
    job.
    """
    request = unsent.read_request()
    if request.file and request.region:
        image = _original(unsent, request.file, request.region.content)
        cli_files.check_writable(
            out or Path(request.file.out), _name(request.file), _room(image, request.variations)
        )


def _name(file: Files) -> str:
    """Return the name of the result files, such as `photo-edit`, without number and suffix."""
    return f"{Path(file.image).stem}-edit"


def _room(image: Image.Image, variations: int) -> int:
    """Return the most disk space that the results can need: the bytes of uncompressed pixels."""
    return image.width * image.height * len(image.getbands()) * variations


def _finish(unfinished: Job, out: Path | None = None, refusal: str = "") -> int:
    """Finish a job, report the outcome to the user, and return the exit code of the process.

    If the job was made from a picture file, write its results to PNG files in the folder `out`, or
    by default in the folder that is saved in the job. `refusal` is a message for the user that
    says why nothing more can be sent; if `refusal` is "", unsent variations are sent.
    """
    shown: set[tuple[Phase, int | None]] = set()

    def show(progress: Progress) -> None:
        phase = (progress.phase, progress.variation)
        if progress.note:
            terminal.complain(progress.note)
        elif phase not in shown:
            shown.add(phase)
            terminal.complain(f"{progress.phase.text} …")

    run = Run(unfinished, show)
    is_stopped = _worked_on(run, unfinished, not refusal)
    state = unfinished.read_state()
    request = unfinished.read_request()
    problems = [refusal] if refusal else []
    placed = {number: post.placed for number, post in enumerate(state.posts, 1) if post.placed}
    if is_stopped and any(post.state == Status.PREPARED for post in state.posts):
        problems.append(
            _("What was not sent costs nothing. “python -m plugin resume {job}” sends it.").format(
                job=unfinished.id
            )
        )
    imported = unfinished.find_imported()
    fresh = {number: placed[number] for number in placed if number not in imported}
    paths = []
    if request.file and request.region and fresh:
        folder = out or Path(request.file.out)
        try:
            results = _results(
                unfinished, request.file, request.region.content, [*fresh.values()], folder
            )
            for number, path in zip(fresh, results):
                paths.append(path)
                # The result is in its file now. If the job can't be marked, go on.
                with contextlib.suppress(OSError):
                    unfinished.mark_imported([number])
        except Exception as error:
            # Whatever the error is, tell the user where to find the results that were paid for.
            imported = unfinished.find_imported()
            left = [fresh[number] for number in fresh if number not in imported]
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
                    "--out had no effect. It only applies to edits of a picture file whose "
                    "results are not written yet. The files listed contain only the edited "
                    "parts, as they are stored in job {job}."
                ).format(job=unfinished.id)
            )
    for path in paths:
        terminal.say(str(path))
    if any(post.recoverable or post.may_be_sent_again for post in state.posts):
        hint = _("On the command line, use “python -m plugin resume {job}” instead of Try Again.")
        problems.append(hint.format(job=unfinished.id))
    for sentence in [*state.notes, *state.messages, *problems]:
        terminal.complain(sentence)
    run.pack()
    if is_stopped:
        return _INTERRUPTED
    return 0 if len(placed) == len(state.posts) and not problems else 1


def _worked_on(run: Run, unfinished: Job, sending: bool) -> bool:
    """Run a job to its end, and return whether the user pressed Ctrl+C.

    After the first Ctrl+C, nothing more is sent, but the results of variations that were sent are
    still waited for, because the user pays for them. The job stays locked meanwhile, so that no
    other process sends the same variation. The second Ctrl+C ends the process at once.
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
                terminal.complain(
                    _(
                        "Nothing more is sent. Waiting for what was already sent. Press "
                        "Ctrl+C again to stop at once; “python -m plugin resume {job}” then "
                        "fetches the results if possible."
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
    """Write one file per result, and yield its path: a copy of the picture with the result placed.

    `placed` contains the names of the fitted results in the job folder.
    """
    image = _original(done, file, box)
    # The mask in the job folder covers only `box`. Nothing outside `box` is to be edited.
    mask = png_files.read(done.folder / "mask.png") if file.mask else None
    keep_alpha = done.read_request().keep_alpha
    if keep_alpha is None:
        keep_alpha = mask is None
    for name in placed:
        result = png_files.read(done.folder / name)
        merged = cli_files.merge(image, result, box, mask, keep_alpha)
        yield cli_files.save(merged, folder, _name(file))


def _original(done: Job, file: Files, box: region.Box) -> Image.Image:
    """Return the user's picture without the edit, as it was when the job was made.

    Raises Failure if the picture can't be read, or if the file at its path has changed since then
    and the job has no copy.
    """
    path, copied = Path(file.image), done.folder / _ORIGINAL
    if copied.exists():
        return cli_files.read_image(path, copied)
    # Jobs of older versions have no copy. For them, the user's file is read. It must still contain
    # the pixels that were sent, which are in source.png.
    image = cli_files.read_image(path)
    try:
        sent = png_files.read(done.folder / "source.png")
    except formats.Unreadable as error:
        raise Failure(
            Kind.SETUP,
            _("The files of edit number {job} are damaged: {why}.").format(job=done.id, why=error),
        ) from error
    if cli_files.content(image, box).tobytes() != sent.tobytes():
        raise Failure(
            Kind.SETUP,
            _(
                "{path} is no longer the picture that this edit was made from. Put the "
                "original picture back there."
            ).format(path=path),
        )
    return image


def _kept(done: Job, placed: list[str], folder: Path, error: Exception) -> str:
    """Return the message for results that have arrived, but can't be written to `folder`.

    `placed` contains their names in the job folder.
    """
    if isinstance(error, Failure):
        sentence = str(error)
    else:
        known = str(error) if isinstance(error, formats.Unreadable) else type(error).__name__
        why = cli_files.why(error) if isinstance(error, OSError) else known
        sentence = _("Results can't be written to {folder} ({why}).").format(folder=folder, why=why)
    kept = _(
        "The results are kept. When the problem is solved, “python -m plugin resume {job}” "
        "writes them at no cost. Add “--out FOLDER” to choose another folder. The edited "
        "parts alone: {paths}"
    ).format(job=done.id, paths=", ".join(str(done.folder / name) for name in placed))
    return f"{sentence} {kept}"


def _work(arguments: argparse.Namespace) -> int:
    """Run a job for the plug-in, which talks to this process through the standard streams only.

    Standard input ends when GIMP or the plug-in has ended, or when the user has cancelled. From
    then on nothing more is sent, but variations that were already sent are completed.
    """
    if hasattr(os, "setsid") and os.getpgrp() != os.getpid():
        # If GIMP was started from a terminal, Ctrl+C there would also end this process and lose an
        # edit that was paid for. A session of its own prevents that.
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
        # Compressing the files is not urgent, so give other processes precedence.
        os.nice(19)
    run.pack(patience.IMPORTING)
    return 0


def _told_later() -> dict[str, Any]:
    """Read the task of this process from standard input, one line of JSON, and return the object.

    Return {} if standard input ends before the line is complete. The object contains "folder" (the
    job folder), "collect" (whether to send nothing and only fetch results) and "language" (of all
    further messages). From then on, standard error is appended to the file `worker.log` in the job
    folder.
    """
    line = b""
    # A buffer would take bytes after this line out of standard input, which `_work` reads later.
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
            print(progress.to_line(), flush=True)
    except OSError:
        # The plug-in has ended, but the answer still has to be fetched. Python writes buffered
        # output when the process ends, which would fail again. So replace standard output.
        _tell_nobody()


def _tell_nobody() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _key(arguments: argparse.Namespace) -> int:
    if arguments.action == "store":
        place = key_store.store(_typed_key())
    else:
        key_store.forget()
        place = settings.key_place()
    terminal.say(json.dumps({"key_in": place}))
    return 0


def _typed_key() -> str:
    """Read an API key from a line of standard input. A terminal doesn't show what is typed.

    Raises UserError if the line is too long for a key.
    """
    if sys.stdin.isatty():
        key = getpass.getpass("API key: ")
    else:
        # Bytes outside ASCII become replacement characters. No key contains these, so
        # `settings.check_key` refuses the text later.
        key = sys.stdin.buffer.readline(_MOST_KEY + 2).decode("ascii", "replace")
    if len(key.strip()) > _MOST_KEY:
        raise UserError(
            _("This is too long for an API key. Copy the key again, without any other text.")
        )
    return key


def _service(arguments: argparse.Namespace) -> int:
    answer: dict[str, object] = {"key_in": settings.key_place(), "prices": {}, "sandbox": False}
    works, message = False, ""
    try:
        url = settings.base_url()
        if url == settings.SANDBOX:
            answer["sandbox"] = works = True
            message = _(
                "The built-in sandbox is always available. It needs no key and costs nothing."
            )
        else:
            answer["prices"] = Service(url, "").prices(_MODEL)
            if arguments.test:
                settings.check_service()
                Service(url, key_store.read()).check()
                works, message = True, _("The service can be reached and accepts the API key.")
    except UserError as error:
        message = str(error)
    if arguments.test:
        answer.update(works=works, message=message)
    terminal.say(json.dumps(answer))
    return 0
