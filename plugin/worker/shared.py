"""The request and the pictures that all variations of a job share for sending and fitting."""

from __future__ import annotations

import threading

from plugin import settings
from plugin.errors import Failure, Kind, UserError
from plugin.job import Job
from plugin.translation import _
from plugin.worker.fitting import blend, fit
from plugin.worker.fitting.affine import Pixels
from plugin.worker.pictures import formats, memory, png_files
from plugin.worker.service import form, upload
from plugin.worker.service.form import Form
from plugin.worker.service.upload import Upload

_PIXELS_AT_ONCE = 36_000_000
"""Results are fitted in parallel only if they have at most this many pixels together.

Four results of the largest size that the service makes stay below this number.
"""


class Shared:
    """Holds the request and the pictures of a job, which are read from the job folder once.

    The constructor raises Failure if the job folder is damaged.
    """

    def __init__(self, job: Job) -> None:
        self._lock = threading.Lock()
        damaged = Failure(
            Kind.SETUP,
            _(
                "The files of edit number {job} are damaged, so it can't be sent. Start a new edit."
            ).format(job=job.id),
        )
        try:
            self._request = job.read_request()
        except (OSError, UserError) as error:
            raise damaged from error
        if self._request.region is None or not self._request.model:
            raise damaged
        self._region = self._request.region
        self._prompt = self._request.prompt
        self._source, self._mask = upload.read_source(job.folder)
        keep_alpha = self._request.keep_alpha
        self._keep_alpha = self._mask is None if keep_alpha is None else keep_alpha
        self._references = upload.read_references(job.folder, self._request.references)
        self._uploads: dict[str, Upload] = {}
        self._forms: dict[str, Form] = {}
        self._room = memory.Room(_PIXELS_AT_ONCE)
        if self._mask is not None and settings.explains_mask():
            self._prompt += f"\n\n{settings.MASK_LINE}"
        factor = None
        if self._request.blend and self._mask is not None:
            factor = blend.factor(self._mask, self._request.blend)
            png_files.write(factor, job.folder / "blend.png")
        kept = self._source if self._keep_alpha else None
        self._hidden = fit.what_hides(self._mask, factor, kept)

    def upload(self, route: str) -> Upload:
        """Return the pictures as `route` needs them. Raises Failure if they can't be sent.

        They are encoded at the first call for each route.
        """
        route = route or settings.EDITS
        with self._lock:
            if route not in self._uploads:
                self._uploads[route] = upload.build(
                    self._region,
                    self._source,
                    self._mask,
                    self._references,
                    form.pictures_bytes(route),
                )
            return self._uploads[route]

    def form(self, route: str) -> Form:
        """Return the request body for `route`, which is the same for all variations.

        Raises Failure if the pictures can't be sent, or if no result would be visible, for example
        because the selection is empty.
        """
        # Check visibility only here, before sending, because results that were already paid for are
        # fitted in any case.
        if self._hidden:
            raise Failure(Kind.SETUP, self._hidden)
        uploaded = self.upload(route)
        with self._lock:
            if route not in self._forms:
                self._forms[route] = form.build(
                    route,
                    self._prompt,
                    self._request.model,
                    self._region.size,
                    self._region.resolution,
                    uploaded,
                )
            return self._forms[route]

    def fit(self, data: bytes, route: str) -> tuple[Pixels, list[str]]:
        """Fit the result in `data`, which is the answer to a request by `route`, to the source.

        Return the fitted pixels, RGB or RGBA, as an array of shape (height, width, 3 or 4), and
        notes for the user. Raises formats.Unreadable if `data` is not a usable picture, and Failure
        if the pictures of the job can't be encoded as they were sent.
        """
        sent = self.upload(route)
        with self._room.taken(formats.pixels(data)):
            answer, delivered = formats.read_result(data, self._source.size)
            placed, notes = fit.fit(
                answer, sent, self._source, self._mask, self._request.repair, delivered
            )
            if self._keep_alpha:
                placed = fit.keep_alpha(placed, self._source)
        return placed, sent.notes + notes
