import io
import json

import numpy as np
import pytest
from etils import epath

from flax_s2s.answers import heatmap

RECORD = {"line": 3, "source": ["▁$x_1$", "\x00", "</s>"], "target": ["我", "</s>"], "attention": [[0.9, 0.1, 0.0], [0.0, 0.25, 0.75]]}


def test_a_character_that_no_font_has_is_written_by_number_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(heatmap, "_system_fonts", lambda: [])
    (tmp_path / "a").write_text(json.dumps(RECORD) + "\n")
    said = list(heatmap.draw(epath.Path(tmp_path / "a"), epath.Path(tmp_path / "drawn"), [3, 9]))
    assert said[0].startswith("1 pictures in")
    assert "no font here has U+6211;" in said[1] and "fonts-noto-cjk" in said[1]
    assert (tmp_path / "drawn/line-3.png").read_bytes().startswith(b"\x89PNG")


def with_fonts(monkeypatch, has):
    """A system with these fonts: name of the face -> its characters."""
    fonts = {heatmap.Font(f"{name.rpartition(' ')[0]}.ttc", i): (name, frozenset(map(ord, has[name]))) for i, name in enumerate(has)}
    characters, name = heatmap._characters, heatmap._name
    monkeypatch.setattr(heatmap, "_system_fonts", lambda: list(fonts))
    monkeypatch.setattr(heatmap, "_characters", lambda font: fonts[font][1] if font in fonts else characters(font))
    monkeypatch.setattr(heatmap, "_name", lambda font: fonts[font][0] if font in fonts else name(font))
    added = []
    monkeypatch.setattr("matplotlib.font_manager.fontManager.addfont", added.append)
    return added


def test_fonts_are_added_until_every_character_has_one(monkeypatch):
    added = with_fonts(monkeypatch, {"A": "我你", "B": "你", "C": "ก"})
    names, lacking = heatmap.choose_fonts("a我你กᚠ\U0010ffff")
    assert names[1:] == ["A", "C"] and added
    assert "\U0010ffff" in lacking and not lacking & set("a我你ก")


CJK = {f"Noto Sans CJK {face}": "直骨门" for face in ("JP", "KR", "SC", "TC", "HK")}


@pytest.mark.parametrize(
    ("side", "face"),
    [("zh", "SC"), ("zh_Hans", "SC"), ("cmn", "SC"), ("zh_TW", "TC"), ("zh-Hant", "TC"), ("ja", "JP"), ("ko", "KR"), ("source", "JP")],
)
def test_the_face_is_that_of_the_language(monkeypatch, side, face):
    """Of Debian's Noto CJK collection (1:20220127) the first face is the Japanese one, in which some Chinese characters look otherwise."""
    with_fonts(monkeypatch, CJK)
    assert heatmap.choose_fonts("直骨门", heatmap._script(side))[0][1:] == [f"Noto Sans CJK {face}"]
    with_fonts(monkeypatch, {"WenQuanYi Zen Hei": "直骨门", "Noto Sans CJK SC": "直", "Noto Sans CJK TC": "直"})
    assert heatmap.choose_fonts("直骨门", heatmap._script(side))[0][1:] == ["WenQuanYi Zen Hei"]  # which has them all


def test_a_row_of_attention_is_a_row_of_the_picture():
    from matplotlib import image

    file = io.BytesIO()
    heatmap.draw_one({**RECORD, "attention": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], "target": ["a", "</s>"]}, file)
    file.seek(0)
    dark = image.imread(file)[:, :, :3].sum(axis=2) < 0.9  # the darkest blue
    rows, columns = np.nonzero(dark & (np.arange(dark.shape[1]) > dark.shape[1] * 0.2)[None, :])
    upper, lower = columns[rows < np.median(rows)], columns[rows > np.median(rows)]
    assert upper.mean() < lower.mean()
