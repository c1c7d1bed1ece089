"""Say what an edit will cost, before it is sent."""

from __future__ import annotations

from plugin import settings
from plugin.errors import UserError
from plugin.gimp.translation import _


def lines(price: float | None, pictures: int) -> list[str]:
    """Return a line of text with the price of an edit, in a list.

    `price` is the price of one picture, or None if the service publishes no price for it.
    `pictures` is the number of pictures to pay for, which is the number of layers multiplied by the
    number of variations. The list is empty if the price is unknown. The service doesn't say which
    currency its prices are in.
    """
    try:
        if settings.base_url() == settings.SANDBOX:
            return [_("Sandbox: free, but not AI")]
    except UserError:
        return []
    if price is None:
        return []
    if pictures == 1:
        return [_("Price: {price:.2f}").format(price=price)]
    return [
        _("Price: {count} pictures × {price:.2f} = {sum:.2f}").format(
            count=pictures, price=price, sum=pictures * price
        )
    ]
