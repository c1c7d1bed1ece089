"""Private attributes that a class uses exist.

mypy doesn't check this for classes that inherit from those of GTK and GIMP, which have no types.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = sorted((CHECKOUT / "plugin").rglob("*.py"))


def _missing(code: str) -> Iterator[str]:
    """Yield each class and attribute `_name` that is used on `self` and never defined."""
    for each in ast.walk(ast.parse(code)):
        if not isinstance(each, ast.ClassDef):
            continue
        own = [node for node in ast.walk(each) if isinstance(node, ast.Attribute)]
        on_self = [n for n in own if isinstance(n.value, ast.Name) and n.value.id == "self"]
        known = {node.attr for node in on_self if isinstance(node.ctx, ast.Store)}
        for node in each.body:
            known.add(getattr(node, "name", ""))
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            known.update(target.id for target in targets if isinstance(target, ast.Name))
        used = {node.attr for node in on_self if node.attr.startswith("_")}
        yield from (f"{each.name}.{name}" for name in used - known if not name.startswith("__"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_private_attributes_exist(path: Path) -> None:
    assert not [*_missing(path.read_text("utf-8"))]


def test_a_missing_attribute_is_found() -> None:
    code = "class A:\n def _a(self):\n  self._b = 1\n  return self._b + self._a() + self._c\n"
    assert [*_missing(code)] == ["A._c"]
