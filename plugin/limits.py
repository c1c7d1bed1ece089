"""The limits of the service and of an edit.

They have a module of their own because GIMP imports them whenever it only asks for the arguments
of the procedures. It need not load the modules that use them.
"""

TIERS = ("1k", "2k", "4k")
"""The size classes of an answer, smallest first."""
MOST_PICTURES = 9
"""Largest number of pictures sent with one edit: source, mask and references together."""
MOST_VARIATIONS = 4
MOST_UNASKED = 4
"""Largest number of edits that start at once without a question.

The user must confirm a larger number, because each edit is paid for.
"""
MOST_BLEND = 1000
"""Largest width of the blend, in pixels."""
MOST_PROMPT = 32_000
"""Largest length of a prompt, in characters. A longer text was probably pasted by mistake."""
