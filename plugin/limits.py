"""What the service takes and what may be asked of it.

Apart from where it is used: GIMP, which only asks for the arguments of the procedures, needn't
wait for the rest.
"""

TIERS = ("1k", "2k", "4k")
"""The resolutions, the smallest first."""
MOST_PICTURES = 9
"""With one edit: source, mask and references together."""
MOST_VARIATIONS = 4
MOST_UNASKED = 4
"""More edits than these at once are confirmed by the user: each is paid for."""
MOST_BLEND = 1000
"""Pixels."""
MOST_PROMPT = 32_000
"""Characters; what is longer was pasted by mistake."""
