import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import sides

from flax_s2s.config import EOS, UNK, DataConfig, UserError, VocabConfig
from flax_s2s.data import tokens, vocab, vocab_training
from flax_s2s.data.batching import Filtered
from flax_s2s.data.corpus import Counts, Pair, Reader
from flax_s2s.data.tokens import Draw, open_tokens

PAIRS = [Pair(" ".join(f"w{i * j % 17}" for j in range(1 + i % 9)), " ".join(f"v{i % 13}" for _ in range(1 + i % 4))) for i in range(300)]
VOCAB = VocabConfig(kind="word", size=400, joint=False)


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    for index, side in enumerate(("en", "de")):
        (tmp_path / f"train.{side}").write_text("".join(f"{pair[index]}\n" for pair in PAIRS) + "\n")
    return DataConfig(format="text", folder=str(tmp_path), source="en", target="de", max_source_tokens=8, max_ratio=3.0)


@pytest.fixture
def kept_in(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


class Counting(Reader):
    """A reader that counts how often it is read."""

    times = 0

    def __iter__(self):
        self.times += 1
        return super().__iter__()


def opened(config, kept_in, vocabularies=None):
    """The tokens, and whether the corpus was read for them."""
    reader = Counting(config, "train", 1)
    vocabularies = vocabularies or vocab_training.train(Reader(config, "train", 1), VOCAB)
    return open_tokens(reader, vocabularies, config, kept_in), reader.times


def as_lists(ragged):
    return [ragged.flat[start:end].tolist() for start, end in zip(ragged.starts, ragged.starts[1:], strict=False)]


def same(one, two):
    pairs = zip((one.pairs.source, one.pairs.target), (two.pairs.source, two.pairs.target), strict=True)
    return one[1:] == two[1:] and all(as_lists(a) == as_lists(b) for a, b in pairs)


@pytest.mark.parametrize("at_once", [7, 10_000])
def test_tokens_are_those_of_the_pairs_that_fit(config, kept_in, monkeypatch, at_once):
    monkeypatch.setattr(tokens, "_PAIRS_AT_ONCE", at_once)
    vocabularies = vocab_training.train(PAIRS, VOCAB)
    made, _ = opened(config, kept_in, vocabularies)
    lengths = [(len(s.split()) + 1, len(t.split()) + 1) for s, t in sides(PAIRS)]
    fitting = [i for i, (s, t) in enumerate(lengths) if s <= 8 and max(s, t) <= 3 * min(s, t)]
    for side, vocabulary, ragged in zip((0, 1), vocabularies[:2], (made.pairs.source, made.pairs.target), strict=True):
        assert as_lists(ragged) == [[*vocabulary.encode([PAIRS[i][side]])[0], EOS] for i in fitting]
    long = sum(s > 8 for s, _ in lengths)
    assert made.filtered == Filtered(long, 0, len(PAIRS) - len(fitting) - long)
    assert made.filtered.ratio > 0
    assert made.counts == Counts({"blank": 1}, 0, False, PAIRS[0])
    assert made.unknown == (0, 0)


@pytest.mark.parametrize("at_once", [7, 10_000])
def test_tokens_of_an_epoch_spell_the_same_text(config, kept_in, monkeypatch, at_once):
    monkeypatch.setattr(tokens, "_PAIRS_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcde"), random.integers(2, 8))) for _ in range(40)]
    pairs = [Pair(*(" ".join(random.choice(words, random.integers(1, 8))) for _ in range(2))) for _ in range(300)]
    for index, side in enumerate(("en", "de")):
        (Path(config.folder) / f"train.{side}").write_text("".join(f"{pair[index]}\n" for pair in pairs))
    vocabularies = vocab_training.train(pairs, VocabConfig(kind="bpe", size=80, joint=False))
    config = dataclasses.replace(config, max_source_tokens=12, max_target_tokens=11)
    longest = (18, 15)

    def drawn(draw):
        return open_tokens(Reader(config, "train", 1), vocabularies, config, kept_in, draw)

    always, first = drawn(None), drawn(Draw(0.2, 1, 0, longest))
    assert len(first.pairs) == len(always.pairs) > 100
    assert first[1:4] == always[1:4]
    fallen_back = 0
    for side, vocabulary in enumerate(vocabularies[:2]):
        texts = [vocabulary.decode(as_lists((made.pairs.source, made.pairs.target)[side])) for made in (always, first)]
        assert texts[0] == texts[1]
    for one, two in zip(
        zip(*map(as_lists, (always.pairs.source, always.pairs.target)), strict=True),
        zip(*map(as_lists, (first.pairs.source, first.pairs.target)), strict=True),
        strict=True,
    ):
        assert len(two[0]) <= longest[0]
        assert len(two[1]) <= longest[1]
        fallen_back += one == two
    assert 0 < fallen_back < len(first.pairs) / 2
    assert same(first, drawn(Draw(0.2, 1, 0, longest)))
    for other in (Draw(0.2, 1, 1, longest), Draw(0.2, 2, 0, longest), Draw(0.1, 1, 0, longest)):
        assert as_lists(drawn(other).pairs.source) != as_lists(first.pairs.source)
    assert len(list(kept_in.iterdir())) == 1  # what is drawn is not kept


def test_unknown_tokens_are_counted(config, kept_in):
    vocabularies = vocab.Vocabularies(
        *(vocab_training.train(PAIRS, VocabConfig(kind="word", size=size, joint=False))[side] for side, size in enumerate((12, 400)))
    )
    made, _ = opened(config, kept_in, vocabularies)
    assert made.unknown == (int((np.asarray(made.pairs.source.flat) == UNK).sum()), 0)
    assert made.unknown[0] > 100


def test_a_second_start_reads_no_text(config, kept_in):
    first, times = opened(config, kept_in)
    assert times == 1
    second, times = opened(config, kept_in)
    assert times == 0
    assert same(first, second)
    assert isinstance(second.pairs.source.flat, np.memmap)


def test_other_text_vocabulary_or_limits_are_other_tokens(config, kept_in, tmp_path):
    opened(config, kept_in)
    assert opened(dataclasses.replace(config, max_source_tokens=5), kept_in)[1] == 1
    assert opened(config, kept_in, vocab_training.train(PAIRS, VocabConfig(kind="char", size=60)))[1] == 1
    (tmp_path / "train.de").write_text((tmp_path / "train.de").read_text().replace("v3", "v4"))
    assert opened(config, kept_in)[1] == 1
    assert len(list(kept_in.iterdir())) == 4


def test_without_a_folder_the_tokens_are_the_same(config, kept_in):
    assert same(opened(config, None)[0], opened(config, kept_in)[0])


@pytest.mark.parametrize("file", ["description.json", "source.ids", "target.lengths"])
@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-4]), lambda path: path.write_bytes(b"")]
)
def test_damaged_tokens_are_made_again(config, kept_in, file, damage):
    first, _ = opened(config, kept_in)
    first = first._replace(pairs=None), as_lists(first.pairs.source), as_lists(first.pairs.target)
    (folder,) = kept_in.iterdir()
    damage(folder / file)
    again, times = opened(config, kept_in)
    assert times == 1
    assert first == (again._replace(pairs=None), as_lists(again.pairs.source), as_lists(again.pairs.target))
    assert [path.name for path in kept_in.iterdir()] == [folder.name]


def test_an_interruption_leaves_nothing_half_made(config, kept_in, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tokens, "keep_fitting", interrupt)
    with pytest.raises(KeyboardInterrupt):
        opened(config, kept_in)
    assert list(kept_in.iterdir()) == []


def test_what_a_killed_process_left_is_swept_after_a_day(config, kept_in):
    for name in ("partial-new", "partial-old"):
        (kept_in / name).mkdir()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(kept_in / "partial-old", (two_days_ago, two_days_ago))
    opened(config, kept_in)
    assert sorted(path.name for path in kept_in.iterdir())[1:] == ["partial-new"]


def test_of_two_processes_the_faster_ones_tokens_stay(config, kept_in, monkeypatch):
    first, _ = opened(config, kept_in)
    (folder,) = kept_in.iterdir()
    elsewhere = folder.rename(kept_in.parent / "elsewhere")
    rename = Path.rename

    def overtaken(partial, target):
        shutil.copytree(elsewhere, folder)
        return rename(partial, target)

    monkeypatch.setattr(Path, "rename", overtaken)
    assert same(opened(config, kept_in)[0], first)
    assert [path.name for path in kept_in.iterdir()] == [folder.name]


def test_a_large_vocabulary_takes_wider_numbers(config, kept_in):
    class Large:
        sha256 = "large"

        def __len__(self):
            return 1 << 17

        def encode(self, lines):
            return [[100_000 + len(line)] for line in lines]

    made, _ = opened(config, kept_in, vocab.Vocabularies(Large(), Large()))
    assert as_lists(made.pairs.source)[0] == [100_000 + len(PAIRS[0].source), EOS]
    (folder,) = kept_in.iterdir()
    assert json.loads((folder / "description.json").read_text())["dtype"] == "int32"


def test_the_hash_is_of_the_exact_pairs_in_order(tmp_path, kept_in):
    vocabularies = vocab_training.train(PAIRS, VOCAB)

    def digest(*pairs):
        for index, side in enumerate(("en", "de")):
            (tmp_path / f"train.{side}").write_text("".join(f"{pair[index]}\n" for pair in pairs))
        config = DataConfig(format="text", folder=str(tmp_path), source="en", target="de", max_ratio=100.0)
        return open_tokens(Reader(config, "train", 1), vocabularies, config, kept_in).sha256

    different = [[("a", "bc")], [("ab", "c")], [("a", "b"), ("c", "d")], [("c", "d"), ("a", "b")], [("a", "b1 1 cd")], [("b", "a")]]
    assert len({digest(*pairs) for pairs in different}) == len(different)
    assert digest(("a", "b"), (" ", "x"), ("c", "d")) == digest(("a", "b"), ("c", "d"))  # a blank pair is none


def test_nothing_left_is_the_users_error(config, kept_in):
    with pytest.raises(
        UserError,
        match=r"^all 300 pairs were left out \(300 long source, 0 long target, 0 length ratio\); raise data.max_source_tokens to 10, data.max_ratio to 5$",
    ):
        opened(dataclasses.replace(config, max_source_tokens=1), kept_in)
    assert list(kept_in.iterdir()) == []
