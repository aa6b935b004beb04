"""Every pair is in a split, or counted with its reason; what is much, or looks like a mistake, is a warning."""

import numpy as np
import pytest

from flax_s2s.config import DataConfig, VocabConfig
from flax_s2s.data import account, vocab_training
from flax_s2s.data.batching import choose_shapes
from flax_s2s.data.corpus import Corpus, Pair, Reader, load
from flax_s2s.data.tokens import open_tokens, tokenize

VOCAB = VocabConfig(kind="word", size=4000, joint=False)


def words(count):
    return " ".join(["w"] * count)


def opened(folder, pairs, **fields):
    """The configuration and tokens of a corpus of these pairs."""
    (folder / "train.tsv").write_text("".join(f"{source}\t{target}\n" for source, target, *_ in pairs))
    data = DataConfig(**{"format": "tsv", "folder": str(folder), "source": "0", "target": "1", "valid": "none", **fields})
    reader = Reader(data, "train", 1)
    vocabularies = vocab_training.train(reader, VOCAB)
    return data, open_tokens(reader, vocabularies, data, None), vocabularies


PAIRS = [Pair(f"s{i}", f"t{i}") for i in range(100)]


def test_every_pair_is_told_of(tmp_path):
    pairs = [("", "x"), *PAIRS, ("y y", words(30)), (words(120), words(120)), (words(40), words(120)), ("", "")]
    data, tokens, _ = opened(tmp_path, pairs, valid="", held_out_pairs=5)
    # 103 pairs are not blank; of those that are drawn none is long
    assert account.describe_train(tokens, "train of x", data) == (
        "95 pairs of train of x; 5 held out for validation; left out: 2 blank, 1 long source, 1 long target, 1 length ratio"
    )
    assert account.warn_train(tokens, "train of x", data) == []
    data, tokens, _ = opened(tmp_path, pairs, max_train_pairs=50)
    assert account.describe_train(tokens, "train of x", data) == (
        "50 pairs of train of x; none beyond data.max_train_pairs=50; left out: 1 blank, 0 long source, 0 long target, 0 length ratio"
    )
    data, tokens, _ = opened(tmp_path, PAIRS, max_train_pairs=100)
    assert "max_train_pairs" not in account.describe_train(tokens, "train of x", data)


@pytest.mark.parametrize(
    ("odd", "reasons", "options"),
    [
        ((words(150), words(140)), "12 long source, 0 long target, 0 length ratio", {"max_source_tokens": 151, "max_target_tokens": 141}),
        ((words(40), words(140)), "0 long source, 12 long target, 0 length ratio", {"max_target_tokens": 141}),
        ((words(1), words(30)), "0 long source, 0 long target, 12 length ratio", {"max_ratio": 16.0}),
        (
            (words(1), words(400)),
            "0 long source, 12 long target, 0 length ratio",
            {"max_target_tokens": 401, "max_ratio": 201.0, "batch_tokens": 3208},
        ),
    ],
)
def test_more_than_a_tenth_left_out_is_a_warning_with_values_that_keep_them(tmp_path, odd, reasons, options):
    pairs = [*PAIRS, *[odd] * 12]
    data, tokens, _ = opened(tmp_path, pairs)
    (told,) = account.warn_train(tokens, "train of x", data)
    given = " ".join(f"--data.{name.replace('_', '-')} {value:g}" for name, value in options.items())
    limits = ", ".join(f"data.{name}={getattr(data, name)}" for name in options if name != "batch_tokens")
    assert told == f"WARNING 12 of 112 pairs (11%) of train of x are left out ({reasons}) by {limits}; nearly all are kept by {given}"
    data, tokens, _ = opened(tmp_path, pairs, **options)
    assert (len(tokens.pairs), account.warn_train(tokens, "train of x", data)) == (112, [])
    data, tokens, _ = opened(tmp_path, [*PAIRS, *[odd] * 11])
    assert account.warn_train(tokens, "train of x", data) == []


def test_one_pair_in_a_hundred_decides_no_value(tmp_path):
    pairs = [*PAIRS, *[(words(120), words(110))] * 20, (words(3000), words(3000))]
    _, tokens, _ = opened(tmp_path, pairs)
    assert tokens.keeping == {"max_source_tokens": 121, "max_target_tokens": 111}


def test_blank_and_held_out_pairs_are_warned_of(tmp_path):
    data, tokens, _ = opened(tmp_path, [*PAIRS, *[("x", "")] * 12])
    (told,) = account.warn_train(tokens, "train of x", data)
    assert told == "WARNING 12 of 112 pairs (11%) of train of x are left out, blank on a side or on both; check data.source and data.target"
    data, tokens, _ = opened(tmp_path, [(f"s{i % 3}", f"t{i}") for i in range(99)], valid="", held_out_pairs=5)
    (told,) = account.warn_train(tokens, "train of x", data)
    assert told.startswith("WARNING 33 of 99 pairs (33%) of train of x are held out, more than a tenth, because their sources have")


def test_sources_that_are_not_taken_are_warned_of(tmp_path):
    data, tokens, _ = opened(tmp_path, PAIRS)
    for count, warnings in ((11, 0), (12, 1)):
        counts = tokens.counts._replace(left_out={"blank": 0, "further source": count})
        told = account.warn_train(tokens._replace(counts=counts), "train of x", data)
        assert len(told) == warnings
    assert told[0].startswith("WARNING 12 of 112 pairs (11%) of train of x are not made: of several strings in data.source='0' the first")


def test_validation_pairs_are_told_of(tmp_path):
    data, tokens, vocabularies = opened(tmp_path, [*PAIRS, (words(9), words(9))])
    largest = choose_shapes(tokens.pairs.source.lengths, tokens.pairs.target.lengths, data)[-1]

    def of(*pairs, blank=0):
        valid = Corpus("valid of x", list(pairs), (), blank)
        every = tokenize(valid.pairs, vocabularies)
        fitting = every.take(np.flatnonzero((every.source.lengths <= largest.src) & (every.target.lengths <= largest.tgt)))
        return account.describe_valid(valid, fitting), account.warn_valid(valid, fitting, largest, vocabularies, data)

    line, told = of(*PAIRS[:20], *[Pair(words(12), words(4))] * 2, blank=2)
    assert (line, told) == ("22 pairs of valid of x; left out: 2 blank; 2 too long for the shapes, left out of the loss", [])
    _, told = of(*PAIRS[:20], *[Pair(words(12), words(120))] * 4, blank=4)
    assert told == [
        "WARNING 4 of 28 pairs (14%) of valid of x are left out, blank on a side or on both; check data.source and data.target",
        "WARNING 4 of 28 pairs (14%) of valid of x have more tokens than any training pair that is kept (10+10) and are left out of the loss; "
        "set --data.max-target-tokens 121, and give training pairs of up to 13+121 tokens",
    ]


# Headers


@pytest.mark.parametrize(
    "names",
    [
        ("source", "target"),
        ("Text", "Summary"),
        ("word", "phones"),
        ("en", "zh_Hans"),
        ("English", "german"),
        ("English", "German text"),
        (" input ", "output"),
    ],
)
def test_a_header_that_is_trained_on_is_warned_of(tmp_path, names):
    data, tokens, _ = opened(tmp_path, [names, *PAIRS])
    (told,) = account.warn_train(tokens, "train of x", data)
    assert told.endswith(f"looks like names of columns, and is trained on: {names[0]!r} -> {names[1]!r}; give --data.header")
    data, tokens, _ = opened(tmp_path, [names, *PAIRS], header=True, source=names[0])
    assert (len(tokens.pairs), account.warn_train(tokens, "train of x", data)) == (100, [])


@pytest.mark.parametrize(
    "pair", [("A dog.", "Ein Hund."), ("source", "Quelle"), ("word", "w \u025d d"), ("", ""), ("en passant", "en"), ("en", "answer me")]
)
def test_a_pair_is_no_header(pair):
    assert not account.is_header(Pair(*pair))


def test_a_header_is_found_in_aligned_files_too(tmp_path):
    (tmp_path / "train.en").write_text("en\na\n")
    (tmp_path / "train.de").write_text("de\nb\n")
    data = DataConfig(folder=str(tmp_path), target="de", valid="none")
    reader = Reader(data, "train", 1)
    tokens = open_tokens(reader, vocab_training.train(reader, VOCAB), data, None)
    (told,) = account.warn_train(tokens, reader.name, data)
    assert told.endswith("'en' -> 'de'; remove it where it is none")
    assert load(data, "train", 1).pairs[0] == Pair("en", "de")


def test_a_pair_is_shown_on_one_short_line():
    assert account.show(Pair("\u4e00\tb\x1b[31m", "x" * 100)) == f"'\u4e00\\tb\\x1b[31m' -> '{'x' * 60}...'"
