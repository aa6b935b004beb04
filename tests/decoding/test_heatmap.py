import io
import json

import numpy as np
from etils import epath

from flax_s2s.decoding import heatmap

RECORD = {"line": 3, "source": ["▁$x_1$", "\x00", "</s>"], "target": ["我", "</s>"], "attention": [[0.9, 0.1, 0.0], [0.0, 0.25, 0.75]]}


def test_a_character_that_no_font_has_is_written_by_number_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(heatmap, "_system_fonts", lambda: [])
    (tmp_path / "a").write_text(json.dumps(RECORD) + "\n")
    said = list(heatmap.draw(epath.Path(tmp_path / "a"), epath.Path(tmp_path / "drawn"), [3, 9]))
    assert said[0].startswith("1 pictures in")
    assert "no font here has U+6211;" in said[1] and "fonts-noto-cjk" in said[1]
    assert (tmp_path / "drawn/line-3.png").read_bytes().startswith(b"\x89PNG")


def test_fonts_are_added_until_every_character_has_one(monkeypatch):
    has = {"a.ttf": "我你", "b.ttf": "你", "c.ttf": "ก"}
    plain = heatmap._characters
    monkeypatch.setattr(heatmap, "_system_fonts", lambda: list(has))
    monkeypatch.setattr(heatmap, "_characters", lambda path: frozenset(map(ord, has[path])) if path in has else plain(path))
    added = []
    monkeypatch.setattr("matplotlib.font_manager.fontManager.addfont", added.append)
    monkeypatch.setattr("matplotlib.font_manager.FontProperties.get_name", lambda self: str(self.get_file()))
    names, lacking = heatmap.choose_fonts("a我你กᚠ\U0010ffff")
    assert added == names[1:] == ["a.ttf", "c.ttf"]
    assert "\U0010ffff" in lacking and not lacking & set("a我你ก")


def test_a_row_of_attention_is_a_row_of_the_picture():
    from matplotlib import image

    file = io.BytesIO()
    heatmap.draw_one({**RECORD, "attention": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], "target": ["a", "</s>"]}, file)
    file.seek(0)
    dark = image.imread(file)[:, :, :3].sum(axis=2) < 0.9  # the darkest blue
    rows, columns = np.nonzero(dark & (np.arange(dark.shape[1]) > dark.shape[1] * 0.2)[None, :])
    upper, lower = columns[rows < np.median(rows)], columns[rows > np.median(rows)]
    assert upper.mean() < lower.mean()
