"""Pairs made up from real ones: only what both sides share is new, and it is the same on both."""

import random
from difflib import SequenceMatcher

import numpy as np
import pytest

from flax_s2s.config import UNK, DataConfig, VocabConfig
from flax_s2s.data import vocab_training
from flax_s2s.data.corpus import Pair, Reader
from flax_s2s.data.hallucination import hallucinate
from flax_s2s.data.tokens import Draw, open_tokens


def draw_pairs(seed: int, count: int = 60) -> list[Pair]:
    """Stems with prefixes and endings, some with spaces, hyphens and changes inside."""
    rng = random.Random(seed)
    stems = ["".join(rng.choices("abdegiklmnoprstuvšä -", k=rng.randint(1, 9))) for _ in range(count)]
    return [
        Pair(f"{stem}a", rng.choice(["", "ge"]) + stem[: rng.randint(1, 9)] + rng.choice(["t", "in", "ssa"]), "V;PST") for stem in stems
    ]


@pytest.mark.parametrize("seed", range(10))
def test_what_is_new_is_the_same_on_both_sides_and_inside_of_a_shared_run(seed: int) -> None:
    pairs = draw_pairs(seed)
    made = hallucinate(pairs, 0.8, [seed])
    letters = {letter for pair in pairs for letter in pair.source + pair.target if letter.isalpha()}
    assert made == hallucinate(pairs, 0.8, [seed]) != hallucinate(pairs, 0.8, [seed, 1])
    for old, new in zip(pairs, made, strict=True):
        assert (len(new.source), len(new.target), new.features) == (len(old.source), len(old.target), old.features)
        runs = [run for run in SequenceMatcher(None, old.source, old.target, autojunk=False).get_matching_blocks() if run.size >= 3]
        inside = {run.a + at: run.b + at for run in runs for at in range(1, run.size - 1)}
        changed = [at for at in range(len(old.source)) if new.source[at] != old.source[at]]
        assert {at for at in range(len(old.target)) if new.target[at] != old.target[at]} == {inside[at] for at in changed}
        for at in changed:
            assert old.source[at].isalpha() and new.source[at] in letters
            assert new.source[at] == new.target[inside[at]]


def test_as_many_pairs_are_made_up_as_are_asked_for() -> None:
    """Half of the letters of a run are drawn, a thirtieth or so again as what they were: hardly a pair of ten is as before."""
    pairs = [Pair("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz")] * 2000
    assert hallucinate(pairs, 0.0, [1]) == pairs
    made = sum(one != pairs[0] for one in hallucinate(pairs, 0.3, [1]))
    assert abs(made - 600) < 5 * np.sqrt(2000 * 0.3 * 0.7)
    changed = [sum(a != b for a, b in zip(one.source, pairs[0].source, strict=True)) for one in hallucinate(pairs, 1.0 - 1e-9, [2])]
    assert abs(np.mean(changed) - 24 * 0.5 * 25 / 26) < 0.3


@pytest.mark.parametrize(("source", "target"), [("rumah", "rumah-rumah"), ("sulat", "susulat"), ("talo", "taloon")])
def test_what_a_target_repeats_is_not_taken_apart(source: str, target: str) -> None:
    """A letter of which the target has more is replaced nowhere; the others are the same in every copy."""
    for seed in range(20):
        (made,) = hallucinate([Pair(source, target)], 1.0 - 1e-9, [seed])
        for at, letter in enumerate(source):
            if target.count(letter) > source.count(letter):
                assert made.source[at] == letter
        assert [made.target[at] for at, letter in enumerate(target) if target.count(letter) > source.count(letter)] == [
            letter for letter in target if target.count(letter) > source.count(letter)
        ]


@pytest.mark.parametrize("kind", [{"joint": False}, {"joint": True, "clusters": True}])
def test_what_is_made_up_has_no_more_unknown_tokens(tmp_path, kind) -> None:
    """A letter of one side alone, or a cluster that no text has: the pair stays."""
    rng = random.Random(4)
    pairs = [Pair("".join(rng.choices(["kि", "ग", "टा", "नी", "ल"], k=5)), "", "N") for _ in range(60)]
    pairs = [Pair(one.source, f"{one.source}{rng.choice('xyzw')}", "N") for one in pairs]
    (tmp_path / "train.tsv").write_text("".join(f"{one.source}\t{one.target}\tN\n" for one in pairs))
    data = DataConfig(format="tsv", folder=str(tmp_path), source="0", target="1", features="2", hallucination=0.9)
    vocabularies = vocab_training.train(pairs, VocabConfig(**{"kind": "char", **kind}), bundles=True)
    drawn = open_tokens(Reader(data, "train", 1), vocabularies, data, None, Draw(0.0, 1, 0, (100, 100), 0.9)).pairs
    plain = open_tokens(Reader(data, "train", 1), vocabularies, data, None).pairs
    assert not any((side.flat == UNK).any() for pairs in (drawn, plain) for side in (pairs.source, pairs.target))
    assert not np.array_equal(drawn.source.flat, plain.source.flat)


def test_pairs_that_share_too_little_stay() -> None:
    pairs = [Pair("ab", "ab"), Pair("go", "went"), Pair("a 1", "a 1"), Pair("x", "y"), Pair("1234", "1234")]
    assert hallucinate(pairs, 1.0 - 1e-9, [3]) == pairs


def test_an_epoch_is_drawn_from_the_seed_and_its_number_alone(tmp_path) -> None:
    pairs = draw_pairs(1)
    (tmp_path / "train.tsv").write_text("".join(f"{one.source}\t{one.target}\t{one.features}\n" for one in pairs))
    data = DataConfig(format="tsv", folder=str(tmp_path), source="0", target="1", features="2", hallucination=0.7)
    vocabularies = vocab_training.train(pairs, VocabConfig(kind="char", joint=True), bundles=True)
    reader = Reader(data, "train", 1)

    def drawn(epoch: int, seed: int = 1, longest: tuple[int, int] = (100, 100)) -> list[tuple[str, str]]:
        found = open_tokens(reader, vocabularies, data, None, Draw(0.0, seed, epoch, longest, data.hallucination)).pairs
        sides = [np.split(side.flat, side.starts[1:-1]) for side in (found.source, found.target)]
        texts = [
            vocabulary.decode([[i for i in ids.tolist() if i < len(vocabulary)] for ids in side])
            for vocabulary, side in zip((vocabularies.source, vocabularies.target), sides, strict=True)
        ]
        return list(zip(*texts, strict=True))

    first = drawn(0)
    assert first == drawn(0) and first not in (drawn(1), drawn(0, seed=2))
    plain = open_tokens(reader, vocabularies, data, None)
    assert len(first) == len(plain.pairs)
    assert (
        plain.sha256 == open_tokens(reader, vocabularies, data, None, Draw(0.0, 1, 3, (100, 100), 0.7)).sha256
    )  # of the text that is there
    made = hallucinate([pair for pair in reader], 0.7, [1, 0, 0])
    assert [(" ".join(a.split()), " ".join(b.split())) for a, b in first] == [
        (" ".join(one.source.split()), " ".join(one.target.split())) for one in made
    ]
