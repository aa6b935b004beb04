"""Where the pairs of a corpus went: a line for what is left out and why, and warnings where that is much, or looks like a mistake.

Enters: a tokenized training corpus, or a validation corpus and what of it fits. Leaves: text for the start of a run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from babel import Locale

from flax_s2s.config import FORMATS, DataConfig
from flax_s2s.data import features
from flax_s2s.data.batching import Shape, TokenPairs
from flax_s2s.data.corpus import Corpus, Pair
from flax_s2s.data.tokens import Tokens, tokenize
from flax_s2s.data.vocab import Vocabularies

_MUCH = 10  # a tenth is worth a warning
_SHOWN_CHARACTERS = 60
# What columns are called, besides languages.
_NAMES = frozenset(
    """source target src tgt trg input output text summary question answer word words lemma form phones phonemes pronunciation ipa
    translation sentence sentence1 sentence2 original reference references query response instruction command actions title document
    prompt completion grapheme graphemes phoneme phone english_text id""".split()
)


def describe_train(tokens: Tokens, name: str, data: DataConfig) -> str:
    """How many pairs are trained on, and where the others are: `950 pairs of train of x; 50 held out; left out: 0 blank, ...`."""
    counts = tokens.counts
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.left_out.items()))
    said = [f"{len(tokens.pairs):,} pairs of {name}"]
    if counts.limited:
        said.append(f"none beyond data.max_train_pairs={data.max_train_pairs}")
    if counts.held_out:
        said.append(f"{counts.held_out:,} held out for validation")
    return "; ".join([*said, f"left out: {reasons}, {tokens.filtered}"])


def describe_valid(valid: Corpus, fitting: TokenPairs) -> str:
    """How many pairs are validated on, and how many of them by translations alone."""
    long = len(valid.pairs) - len(fitting)
    return f"{len(valid.pairs):,} pairs of {valid.name}; left out: {valid.blank:,} blank; {long:,} too long for the shapes, left out of the loss"


def show(pair: Pair) -> str:
    """A pair on one line, shortened: `'A dog.' -> 'Ein Hund.'`, or with features `'Hund' N;PL -> 'Hunde'`."""
    source, target, bundle = (text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..." for text in pair)
    return f"{source!r}{f' {bundle}' if bundle else ''} -> {target!r}"


def warn_train(tokens: Tokens, name: str, data: DataConfig) -> list[str]:
    """A line for each thing that is probably not meant."""
    counts, kept = tokens.counts, len(tokens.pairs)
    blank, further, filtered = counts.left_out["blank"], counts.left_out.get("further source", 0), sum(tokens.filtered)
    found = kept + counts.held_out + blank + further + filtered
    said = []
    if filtered * _MUCH > found:
        options = " ".join(f"--data.{field.replace('_', '-')} {value}" for field, value in tokens.keeping.items())
        limits = ", ".join(f"data.{field}={getattr(data, field)}" for field in tokens.keeping if field != "batch_tokens")
        said.append(f"{_share(filtered, found)} of {name} are left out ({tokens.filtered}) by {limits}; nearly all are kept by {options}")
    if blank * _MUCH > found:
        said.append(f"{_share(blank, found)} of {name} are left out, blank on a side or on both; check data.source and data.target")
    if further * _MUCH > found:
        said.append(
            f"{_share(further, found)} of {name} are not made: of several strings in data.source={data.source!r} the first is taken; "
            "name the feature in data.target, where each makes a pair"
        )
    if counts.held_out * _MUCH > found:
        said.append(
            f"{_share(counts.held_out, found)} of {name} are held out, more than a tenth, because their sources have many targets; "
            "name a validation split in data.valid to train on all"
        )
    if not data.header and is_header(counts.first):
        remedy = "give --data.header" if FORMATS[data.format] == "table" else "remove it where it is none"
        said.append(f"the first pair of {name} looks like names of columns, and is trained on: {show(counts.first)}; {remedy}")
    return [f"WARNING {one}" for one in said]


def warn_valid(valid: Corpus, fitting: TokenPairs, largest: Shape, vocabularies: Vocabularies, data: DataConfig) -> list[str]:
    """The same of a validation corpus, and of what of it fits into the largest shape."""
    found, long = len(valid.pairs) + valid.blank, len(valid.pairs) - len(fitting)
    said = []
    if valid.blank * _MUCH > found:
        said.append(
            f"{_share(valid.blank, found)} of {valid.name} are left out, blank on a side or on both; check data.source and data.target"
        )
    if long * _MUCH > found:
        pairs = tokenize(valid.pairs, vocabularies)
        needs = [int(np.quantile(side.lengths, 0.99, method="higher")) for side in (pairs.source, pairs.target)]
        limits = (data.max_source_tokens, data.max_target_tokens)
        fields = ("--data.max-source-tokens", "--data.max-target-tokens")
        options = [f"{field} {need}" for field, need, limit in zip(fields, needs, limits, strict=True) if need > limit]
        how = f"set {' '.join(options)}, and give" if options else "give"
        said.append(
            f"{_share(long, found)} of {valid.name} have more tokens than any training pair that is kept ({largest.src}+{largest.tgt}) and "
            f"are left out of the loss; {how} training pairs of up to {needs[0]}+{needs[1]} tokens"
        )
    return [f"WARNING {one}" for one in said]


def describe_overlap(train: Iterable[Pair], splits: Sequence[Corpus]) -> list[str]:
    """A line for each split: how much of it stands in the training pairs too, which a score on it does not tell from what is learned.

    Args:
        train: read once.
        splits: of the same corpus.
    """
    wanted = [tuple({part for pair in split.pairs for part in kind(pair)} for kind in _PARTS.values()) for split in splits]
    found = [tuple(set[object]() for _ in _PARTS) for _ in splits]
    asked = [(number, kind) for number, kind in enumerate(_PARTS.values()) if any(all_of[number] for all_of in wanted)]
    for pair in train:
        for number, kind in asked:
            for part in kind(pair):
                for all_of, seen in zip(wanted, found, strict=True):
                    if part in all_of[number]:
                        seen[number].add(part)
    said = []
    for split, all_of, seen in zip(splits, wanted, found, strict=True):
        shares = [
            f"{len(in_train):,} of {len(of):,} {name} ({len(in_train) / len(of):.1%})"
            for name, of, in_train in zip(_PARTS, all_of, seen, strict=True)
            if of
        ]
        said.append(f"{split.name}: {', '.join(shares)} are in train")
    return said


# What is compared, each different one once.
_PARTS: Mapping[str, Callable[[Pair], Iterable[object]]] = {
    "pairs": lambda pair: [pair],
    "sources": lambda pair: [pair.source],
    "targets": lambda pair: [pair.target],
    "bundles": lambda pair: [pair.features] if pair.features else [],
    "features": lambda pair: features.split(pair.features),
}


def is_header(pair: Pair) -> bool:
    """Whether both sides are what columns are called: words of the trade, or languages, as `en`, `German`, `German text`."""
    languages: Mapping[str, str] = Locale("en").languages
    names = _NAMES | {name.casefold() for code_and_name in languages.items() for name in code_and_name}
    return all(
        text.strip() and (text.strip().casefold() in names or {*text.casefold().split()} <= names) for text in (pair.source, pair.target)
    )


def _share(count: int, of: int) -> str:
    return f"{count:,} of {of:,} pairs ({count / of:.0%})"
