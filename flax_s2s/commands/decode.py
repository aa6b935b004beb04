"""`decode RUN_DIR...`: translates lines, one out for each one in, in order: as they come, or files as jobs that may be killed."""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from flax_s2s import rundir
from flax_s2s.commands import answering
from flax_s2s.commands.wiring import Opened, make_translator, open_runs
from flax_s2s.config import DecodingConfig, UserError
from flax_s2s.data.files import read_lines
from flax_s2s.decoding import lines
from flax_s2s.decoding.lines import Raw, Translated
from flax_s2s.files import Files, Form, find_form, find_inputs


class Options(NamedTuple):
    """What is asked of the translations."""

    blocklist: str
    abstain_below: float
    placeholder: str


def run(run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig, files: Files, options: Options) -> int:
    """Translates stdin, files or a folder of files."""
    _check(options, decoding, files)
    blocked = [line for line in read_lines(options.blocklist) if line.strip()] if options.blocklist else []

    def open_answer(interactive: bool) -> tuple[answering.Answer, dict[str, Any]]:
        chosen = dataclasses.replace(decoding, rows=1) if interactive else decoding
        opened = open_runs(run_dirs, checkpoint, chosen, join=False)
        return _Answerer(opened, options, blocked), _identify(opened, run_dirs, options, blocked)

    return answering.run(files, open_answer)


class _Answerer:
    """Answers lines with a model."""

    def __init__(self, opened: Opened, options: Options, blocked: Sequence[str]) -> None:
        self._opened, self._options = opened, options
        self._translator = make_translator(opened, blocked)

    def __call__(self, read: Sequence[Raw], form: Form) -> tuple[bytes, Counter[str]]:
        """The translations of lines, and what was seen in them."""
        asked = [lines.ask(raw, form) for raw in read]
        found = self._translator(self._opened.params, [one.request for one in asked])
        source_tokens = [len(ids) for ids in self._opened.vocabularies.source.encode([one.request.source for one in asked])]
        counts: Counter[str] = Counter()
        answers = []
        for one, translation, tokens in zip(asked, found, source_tokens, strict=True):
            flags = lines.find_flags(one.request.source, translation, tokens)
            confidence = math.exp(translation.logp / translation.tokens) if translation.tokens else 1.0
            abstained = bool(translation.tokens) and confidence < self._options.abstain_below
            answers.append(Translated(one, translation, flags, confidence, abstained))
            counts.update(one.problems)
            counts.update(flags)
            counts["tokens"] += translation.tokens
            counts["cut sources"] += translation.cut_source
            counts["cut translations"] += translation.reason == "limit"
            counts["impossible"] += translation.reason == "impossible"
            counts["abstained"] += abstained
        pieces = self._opened.vocabularies.target.pieces
        return b"".join(lines.write(answer, form, self._options.placeholder, pieces) for answer in answers), +counts


def _check(options: Options, decoding: DecodingConfig, files: Files) -> None:
    if decoding.n_best > 1 and any(find_form(files, source) != "jsonl" for source in find_inputs(files) or [None]):
        raise UserError(f"n_best={decoding.n_best} needs --form jsonl, which has a place for the others")
    if not 0 <= options.abstain_below <= 1:
        raise UserError(f"--abstain-below {options.abstain_below} is a probability, from 0 to 1")
    if "\n" in options.placeholder:
        raise UserError("--placeholder must be one line")


def _identify(opened: Opened, run_dirs: Sequence[str], options: Options, blocked: Sequence[str]) -> dict[str, Any]:
    """What the translations depend on besides the input."""
    settings = dataclasses.asdict(opened.config.decoding)
    if opened.config.decoding.shortlist:
        settings["shortlist_sha256"] = hashlib.sha256((opened.folder / rundir.SHORTLIST).read_bytes()).hexdigest()
    settings |= {"blocklist_sha256": hashlib.sha256(json.dumps(list(blocked)).encode()).hexdigest()}
    settings |= {"abstain_below": options.abstain_below, "placeholder": options.placeholder}
    return {**answering.identify(opened, run_dirs), **settings}
