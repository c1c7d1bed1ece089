"""Edits in a real window with a user who goes on working: what must hold, whoever does what.

    cases.case(seed), cases.directed()   what is edited, and what the user does at which moment
    with desk.Desk("3.0") as gimp:       a GIMP in a window, with hands to act in it
        judge.judge(gimp, case)          edits, acts at that moment, and says what is wrong then

What the user does is done once more, in the same order, to a twin of the image that was never
edited: outside of what was selected at *Edit*, every layer must hold the twin's very bytes. What
was undone meanwhile may have been an act of the user's or the edit: then it is each of the twins
that may have come of it.
"""
