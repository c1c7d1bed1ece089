"""The promise in a part of its matrix, and the check that a broken promise is noticed.

`tests/bench/promise` edits the whole matrix.
"""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import pytest

from installer.private.host import PrivateGimp
from plugin.worker.sandbox import Sandbox
from tests.gimp import promise

_SLICE = {"new-layer": 11, "replace": 7}


def test_every_possible_pair_is_in_the_matrix() -> None:
    cases = promise.cases()
    assert all(promise.possible(case) for case in cases)
    for one, other in itertools.combinations(promise.AXES, 2):
        there = {(case[one], case[other]) for case in cases}
        wanted = set(itertools.product(promise.AXES[one], promise.AXES[other]))
        assert there == {pair for pair in wanted if promise.possible(dict(zip((one, other), pair)))}


@pytest.mark.campaign
@pytest.mark.gimp
def test_a_slice_of_the_matrix(
    gimp: PrivateGimp, sandbox: Sandbox, tmp_path: Path, photo_files: Path
) -> None:
    cases, fixed = promise.cases(), random.Random(3)
    chosen = []
    for output, count in _SLICE.items():
        chosen += fixed.sample([case for case in cases if case["output"] == output], count)
    edited = promise.run(gimp, chosen, tmp_path, photo_files, sandbox.base_url)
    assert len(edited) == sum(_SLICE.values())
    broken = {str(case): words for case in edited if (words := promise.judge(case, tmp_path))}
    assert not broken

    # Change one file at a time that the promise covers. Each change must be noticed.
    case = next(c for c in edited if c["made"][0]["mask"] and c["selection"] != "all")
    files = {layer["name"]: layer["after"] for layer in case["layers"]}
    files |= {"mask": case["made"][0]["mask"], "view": case["sees"]}
    for what, name in files.items():
        shutil.copy(tmp_path / name, tmp_path / "kept")
        data = bytearray((tmp_path / name).read_bytes())
        # The last pixel is in a corner, which is not selected.
        data[-1] ^= 0x41
        (tmp_path / name).write_bytes(data)
        assert promise.judge(case, tmp_path), what
        shutil.copy(tmp_path / "kept", tmp_path / name)
    assert not promise.judge(case, tmp_path)
