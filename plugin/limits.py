"""The limits of the service and of an edit.

The limits have a module of their own because GIMP often starts the plug-in only to ask for the
arguments of its procedures. The plug-in then needs the limits, but not the modules that use them.
"""

TIERS = ("1k", "2k", "4k")
"""The tiers, which are the size classes of an answer, smallest first. The tier sets the price."""
MOST_PICTURES = 9
"""At most this many pictures are sent with one edit: source, mask and references together."""
PICTURE_BYTES = 20_000_000
"""The service accepts no picture with more bytes."""
TOTAL_BYTES = 31_500_000
"""All pictures of a request together have at most this many bytes.

This is a little below the 32 MB that the service's proxy accepts, because the request also contains
text fields and the boundaries of the form.
"""
MOST_VARIATIONS = 4
"""Largest number of variations of one job."""
MOST_UNASKED = 4
"""At most this many edits start at once without asking the user.

The user must confirm a larger number, because each edit costs money.
"""
MOST_BLEND = 1000
"""Largest width of the blend, in pixels."""
MOST_PROMPT = 32_000
"""Largest length of a prompt, in characters. A longer prompt was probably pasted by mistake."""
