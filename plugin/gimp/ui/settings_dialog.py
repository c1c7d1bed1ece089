"""Stand-in."""


def show(parent: object) -> None:
    pass
