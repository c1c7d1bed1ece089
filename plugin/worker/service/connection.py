"""Connect to the service that the settings name, or to the sandbox that stands in for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from plugin import settings
from plugin.errors import Failure, Kind, UserError
from plugin.job import Post
from plugin.translation import _
from plugin.worker import key_store
from plugin.worker.service import patience
from plugin.worker.service.api import Service


@dataclass(frozen=True)
class Connection:
    """The client of the service, and what all variations of a job need to use the service."""

    service: Service
    address: str
    """The service address in the settings, which is "sandbox" for the sandbox."""
    route: str
    pace: patience.Pace

    def check_has_task(self, post: Post) -> None:
        """Raise Failure if `post` was sent to another service, which alone knows the task.

        The addresses in settings.DOCUMENTED_BASE_URLS belong to the same service.
        """
        own = post.service in ("", self.address)
        if own or {post.service, self.address} <= {*settings.DOCUMENTED_BASE_URLS}:
            return
        raise Failure(
            Kind.SETUP,
            _(
                "The edit was sent to {service}, so its result can only be fetched there. Set "
                "this address again in Filters ▸ Dimilinks ▸ Settings…, then choose Try Again."
            ).format(service=post.service),
        )


@contextlib.contextmanager
def connected() -> Iterator[Connection]:
    """Yield a connection to the service in the settings, for a `with` block.

    If the address in the settings is "sandbox", start the sandbox, the stand-in service, and stop
    it at the end of the block. Raises Failure if the settings or the key can't be used.
    """
    try:
        settings.check_service()
        url, route = settings.base_url(), settings.route()
        key = settings.SANDBOX if url == settings.SANDBOX else key_store.read()
    except (UserError, OSError) as error:
        raise Failure(Kind.SETUP, str(error)) from error
    if url != settings.SANDBOX:
        yield Connection(Service(url, key), url, route, patience.Pace(url))
        return
    # Import the sandbox only here, because most edits don't need it.
    from plugin.worker.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield Connection(Service(sandbox.base_url, key), url, route, patience.Pace(url))
