"""`score RUN_DIR...`: how probable the models find given targets, a line for each pair or list of candidates."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flax_s2s.answers import layout as layouts
from flax_s2s.answers import pairs
from flax_s2s.answers.files import Files
from flax_s2s.answers.layout import Layout
from flax_s2s.answers.lines import Raw
from flax_s2s.answers.replies import one_line
from flax_s2s.commands import answering
from flax_s2s.commands.answerer import SKIPPED, Answerer, Answers, Made, Verb, first_error
from flax_s2s.commands.wiring import Opened, console, open_runs
from flax_s2s.config import EOS, DecodingConfig, UserError
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.forced import Forced, Scorer
from flax_s2s.decoding.stream import Weights
from flax_s2s.runs.rundir import make_path, read_config

_NATS = "micronats"  # what is counted: minus log-probabilities in millionths of a nat, whole numbers, whose sum no order changes
_NOTHING = Forced(0.0, 0.0)


def run(run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig, files: Files, source: str, target: str) -> int:
    """Scores stdin, files, a folder of files, or two aligned files."""
    files = _with_aligned(files, source, target)

    def open_answerer(interactive: bool) -> tuple[Answerer, dict[str, Any]]:
        opened = open_runs(run_dirs, checkpoint, decoding, join=False)
        names = ("length_penalty", "ensemble", "rows", "max_source_tokens", "max_length_ratio", "max_length_extra")
        settings = {name: getattr(opened.config.decoding, name) for name in names}
        return _Answerer(opened), {"verb": "score", **answering.identify(opened, run_dirs), **settings}

    data = read_config(make_path(run_dirs[0])).data
    sides = layouts.find_sides(data, files)

    def find_layout(name: str, output: str, first: Sequence[str]) -> Layout:
        layout = layouts.find(files, sides, name, first, pairs=True, aligned=bool(target))
        if said := layouts.warn_header(layout, files, data, name, first):
            console().print(said)
        return layout

    return answering.run(files, Verb(find_layout, open_answerer), aligned=target).code


def _with_aligned(files: Files, source: str, target: str) -> Files:
    """What is read, checked: two aligned files, or lines that hold pairs."""
    if not source and not target:
        return files if files.form != "auto" or files.input else dataclasses.replace(files, form="tsv")
    if not (source and target):
        raise UserError("--source and --target belong together: one file of sources, and one of as many targets")
    if files.input:
        raise UserError("--input and --source cannot both be given; give lines that hold pairs, or two aligned files")
    if files.form not in ("auto", "text"):
        raise UserError(f"--form {files.form} is for --input; --source and --target are files of text")
    if make_path(source).is_dir():
        raise UserError(f"--source {source} is a folder; give one file")
    return dataclasses.replace(files, input=(source,))


def score(scorer: Scorer, weights: Sequence[Weights], asked: Sequence[pairs.Asked]) -> list[list[Forced | None]]:
    """Scores each target of each line; None for one that is too long."""
    found: list[list[Forced | None]] = [[_NOTHING] * len(one.targets) for one in asked]
    places = [(i, k) for i, one in enumerate(asked) if one.source.strip() for k in range(len(one.targets))]
    ids = _encode(scorer.vocabularies, [asked[i].source for i, _ in places], [asked[i].targets[k] for i, k in places])
    fits = [number for number, one in enumerate(ids) if len(one) < scorer.most_tokens]
    chosen = [asked[places[n][0]] for n in fits]
    scored = scorer(weights, [one.source for one in chosen], [ids[n] for n in fits], [one.features for one in chosen])
    for i, k in places:
        found[i][k] = None
    for number, one in zip(fits, scored, strict=True):
        found[places[number][0]][places[number][1]] = one
    return found


def _encode(vocabularies: Vocabularies, sources: Sequence[str], targets: Sequence[pairs.Target]) -> list[list[int]]:
    """Tokens of each text, without the end mark: those that `decode` generated, where they make the text."""
    lacking = vocabularies.find_lacking(sources)
    encoded = vocabularies.encode_targets([target.text for target in targets], lacking)
    find, decode = vocabularies.target.find, vocabularies.target.decode
    given = [find(target.pieces, texts) if target.pieces else None for target, texts in zip(targets, lacking, strict=True)]
    texts = decode([ids or [] for ids in given], lacking)
    for number, (ids, text) in enumerate(zip(given, texts, strict=True)):
        if ids and one_line(text) == targets[number].text:
            encoded[number] = ids[:-1] if ids[-1] == EOS else ids
    return encoded


class _Answerer:
    """Answers lines with log-probabilities."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._scorer = Scorer(opened.models, opened.vocabularies, opened.config.decoding, opened.devices)
        self._weights = self._scorer.lay_out(opened.params)

    def answer(self, read: Sequence[Raw], layout: Layout, first_line: int) -> Answers:
        """The scores of lines, and what was seen in them."""
        asked = [pairs.ask(raw, layout) for raw in read]
        counts: Counter[str] = Counter()
        found = score(self._scorer, self._weights, asked)
        for one, forced in zip(asked, found, strict=True):
            counts.update(one.problems)
            for each in forced:
                counts.update(self._count(each))
            counts[SKIPPED] += bool(one.error) or None in forced
            counts["cut sources"] += any(each.cut_source for each in forced if each)
            counts["unknown sources"] += any(each.unknown_source for each in forced if each)
            counts["unknown targets"] += any(each.unknown_target for each in forced if each)
        body = b"".join(pairs.write(*each, layout) for each in zip(asked, found, strict=True))
        return Answers(body, +counts, first_error=first_error(asked, first_line))

    def conclude(self, counts: Counter[str], made: Made | None) -> dict[str, Any]:
        """The counts, the sum of the log-probabilities, and the perplexity per token."""
        nats = counts[_NATS] / 1e6
        said: dict[str, Any] = {name: count for name, count in counts.items() if name != _NATS}
        return said | ({"logp": -nats, "perplexity": math.exp(min(nats / counts["tokens"], 700.0))} if counts["tokens"] else {})

    def _count(self, forced: Forced | None) -> dict[str, int]:
        if forced is None:
            return {"too long": 1}
        return {"targets": 1, "tokens": forced.tokens, _NATS: round(-forced.logp * 1e6)}
