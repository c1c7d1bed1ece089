"""The plug-in and the worker in other languages, in real GIMPs."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.private.debian import LOCALE
from installer.private.host import PrivateGimp
from plugin.worker.sandbox import Sandbox
from tests.gimp.run_inside import run_inside

pytestmark = pytest.mark.gimp

SENTENCES = {
    "zh_CN": {
        "label": "用 AI 编辑(_E)…",
        "argument": "校正偏移(_A)",
        "empty prompt": "提示词为空",
        "size": "“7”不是有效的大小",
        "another image": "不属于要编辑的图像",
        "refused": "余额已用完，请充值后重试。服务提示：“No money”。",
    },
    "ja": {
        "label": "AI で編集(_E)…",
        "argument": "ずれを補正(_A)",
        "empty prompt": "プロンプトが空です",
        "size": "「7」は正しいサイズではありません",
        "another image": "別の画像に属しています",
        "refused": "もう一度お試しください。サービスからのメッセージ:「No money」",
    },
}
NO_KEY = {"zh_CN": "没有 API 密钥", "ja": "API キーがありません"}


@pytest.mark.parametrize("series", ["3.0", "3.2"])
@pytest.mark.parametrize("language", SENTENCES)
def test_both_sides_speak_the_users_language(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo_files: Path, series: str, language: str
) -> None:
    monkeypatch.setenv("LANG", LOCALE)
    monkeypatch.setenv("LANGUAGE", language)
    answer = (402, {}, {"error": {"message": "No money", "code": "insufficient_balance"}})
    with PrivateGimp(series, shares=[photo_files]) as gimp, Sandbox(answers=[answer]) as service:
        address = {"DIMILINKS_BASE_URL": service.base_url, "DIMILINKS_API_KEY": "test-key"}
        found = run_inside(gimp, tmp_path, photo_files, "words", **address)
        for name, sentence in SENTENCES[language].items():
            assert sentence in found[name], name
        without = run_inside(gimp, tmp_path, photo_files, "words", DIMILINKS_BASE_URL="")
    assert NO_KEY[language] in without["refused"]


def test_the_worker_speaks_as_gimp_does_not_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo_files: Path
) -> None:
    # In the C locale, GIMP ignores LANGUAGE and uses English. Python's gettext would obey it.
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("LANGUAGE", "ja")
    with PrivateGimp("3.0", shares=[photo_files]) as gimp, Sandbox(keys={"other"}) as service:
        address = {"DIMILINKS_BASE_URL": service.base_url, "DIMILINKS_API_KEY": "test-key"}
        found = run_inside(gimp, tmp_path, photo_files, "words", **address)
    assert found["label"] == "_Edit with AI…"
    assert "is not a size" in found["size"]
    assert "doesn't accept the API key" in found["refused"]
