"""Edits in a real window while the user goes on working, and a judge of the outcome.

    cases.case(seed), cases.directed()   what is edited, and what the user does at which moment
    with desk.Desk("3.0") as gimp:       a GIMP in a window, with processes that act in it
        judge.judge(gimp, case)          makes the edit, acts at that moment, finds what is wrong

What the user does is repeated in the same order on a twin, which is a copy of the image that is
never edited. Outside of what was selected when the edit began, every layer must be equal to the
twin's, byte for byte. An undo may have reverted a deed of the user or the edit. Then there is a
twin for each possibility, and the image must match one of them.
"""
