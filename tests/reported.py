"""Two seeds of a small run whose sentences would run, were they ever taken for HTML; with features and a further column."""

import json
import re
from pathlib import Path
from typing import Any

from tiny import DEBUG

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'> <!-- & \u2028"
OPTIONS = """--data.format=tsv --data.header --data.source=a --data.target=b --data.features=form --data.train=train --data.valid=valid
    --data.test=test --data.max-train-pairs=0 --data.batch-tokens=2048 --data.max-source-tokens=200 --data.max-target-tokens=200 --data.buckets=1
    --decoding.max-source-tokens=200 --decoding.rows=8 --training.steps=6 --training.log-every-steps=1 --training.evaluate-every-steps=3
    --training.save-every-steps=3 --training.devices=1 --evaluation.valid-pairs=4 --evaluation.metrics exact_match chrf""".split()


def write_corpus(folder: Path) -> None:
    """Writes the corpus: 40, 6 and 12 pairs."""
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("valid", 6), ("test", 12)):
        rows = [f"{'word ' * (1 + i % 5)}{i}\tWORD{i % 7}\tF{i % 2}\tkind{i % 3}" for i in range(count - 1)]
        rows.append(f"{HOSTILE}\t{HOSTILE}\tF0\t<b>kind</b>")
        (folder / f"{split}.tsv").write_bytes(("a\tb\tform\tkind\n" + "".join(f"{row}\n" for row in rows)).encode())


def command(folder: Path, seed: int, *options: str) -> list[str]:
    """What trains a seed in `FOLDER/seed-N` on `FOLDER/corpus`."""
    own = ["--run-dir", str(folder / f"seed-{seed}"), f"--data.folder={folder / 'corpus'}", f"--seed={seed}"]
    return ["train", DEBUG, *own, *OPTIONS, *options]


def read_document(page: Path) -> dict[str, Any]:
    """The data that a page holds."""
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    document = json.loads(found)
    assert isinstance(document, dict)
    return document
