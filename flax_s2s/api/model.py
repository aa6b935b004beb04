"""A trained model in memory: `load` makes it, `translate` and `score` ask it.

Enters: run directories; texts and pairs. Leaves: hypotheses and scores, the same numbers as those of `decode` and `score`.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Unpack, overload

import numpy as np
from jaxtyping import Float

from flax_s2s.answers import lines, pairs
from flax_s2s.answers.lines import LineError
from flax_s2s.answers.replies import one_line
from flax_s2s.api.calls import Path, Settings, as_messages, find_names, settle
from flax_s2s.commands import decode, score, wiring
from flax_s2s.config import EOS, Config, DecodingConfig, UserError, change
from flax_s2s.decoding import translate as translating
from flax_s2s.decoding.forced import Forced, Scorer
from flax_s2s.decoding.requests import Request, draw_seed
from flax_s2s.decoding.translate import Translator

_MOST_SEARCHES = 8  # of a model, each with programs of its own: the settings that were used last


@dataclass(frozen=True)
class Hypothesis:
    """A text that a model found for a source; `str` of it is the text."""

    text: str
    logp: float  # natural log of the probability of the tokens, their end mark included where there is one; 0 for a blank source
    score: float  # what hypotheses are sorted by
    confidence: float  # the geometric mean of the tokens' probabilities, 0 to 1; 1 without tokens
    tokens: tuple[str, ...]  # as the vocabulary writes them; the end mark is the last where the reason is `end`
    token_logp: tuple[float, ...]  # of each
    reason: Literal["end", "limit", "impossible", "blank"]  # why it ends
    unmet: tuple[str, ...]  # what was asked for and could not be had: of prefix, include and exclude
    attention: Float[np.ndarray, "target source"] | None = field(compare=False, repr=False)
    """A row for each token, a column for each token of the source and its end mark; None unless asked for."""
    copied: tuple[float, ...] | None = field(compare=False, repr=False)
    """Of each token how much of its probability copying it from the source has; None unless attention is asked for, of models that copy;
    nor of an ensemble by log-probabilities."""

    def __str__(self) -> str:
        """The text."""
        return self.text


@dataclass(frozen=True)
class Translation(Hypothesis):
    """The best hypothesis of a source, and the others."""

    source: str
    features: str  # the bundle beside the source; empty for models without
    source_tokens: tuple[str, ...]  # those that were read, end mark included: what the columns of attention stand for
    others: tuple[Hypothesis, ...]  # the second best and so on, n_best - 1 or as many as were found
    flags: tuple[str, ...]  # what looks wrong: empty, repetition, copied, length, unknown, unmet
    cut_source: bool  # the source was longer than max_source_tokens, and was read as far


class PairScore(NamedTuple):
    """How probable a model finds a target."""

    logp: float  # natural log of the probability of the target given the source, end mark included
    score: float  # logp over the length penalty
    tokens: tuple[str, ...]  # of the target, end mark included
    token_logp: tuple[float, ...]  # of each
    flags: tuple[str, ...]  # unknown: something of the pair is not in the vocabulary


class TrainedModel:
    """A run, or several as one (an ensemble), in memory; made by `load`.

    Parameters are read once. Each choice of settings has programs of its own, which are compiled when a sentence of a new shape
    first comes, and used again; the last eight choices are kept. Calls from several threads take turns.
    """

    def __init__(self, opened: wiring.Opened, run_dirs: Sequence[str]) -> None:
        self._opened, self._run_dirs, self._lock = opened, run_dirs, threading.Lock()
        self._kept: dict[Any, Any] = {}  # searches and scorers by their settings, the one used last at the end
        self._weights: dict[str, Any] = {}  # the parameters as they are computed with, by the type of products

    @property
    def config(self) -> Config:
        """The configuration of the first run, with the settings that `load` was given."""
        return self._opened.config

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of each run's checkpoint."""
        return tuple(self._opened.steps)

    @overload
    def translate(
        self,
        text: str,
        *,
        features: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        prefix: str | Sequence[str] = "",
        include: str | Sequence[str] | Sequence[Sequence[str]] = (),
        exclude: str | Sequence[str] | Sequence[Sequence[str]] = (),
        seeds: Sequence[int] | None = None,
        attention: bool = False,
        **settings: Unpack[Settings],
    ) -> Translation: ...

    @overload
    def translate(
        self,
        text: list[str] | tuple[str, ...],
        *,
        features: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        prefix: str | Sequence[str] = "",
        include: str | Sequence[str] | Sequence[Sequence[str]] = (),
        exclude: str | Sequence[str] | Sequence[Sequence[str]] = (),
        seeds: Sequence[int] | None = None,
        attention: bool = False,
        **settings: Unpack[Settings],
    ) -> list[Translation]: ...

    def translate(
        self,
        text: str | list[str] | tuple[str, ...],
        *,
        features: Any = None,
        prefix: Any = "",
        include: Any = (),
        exclude: Any = (),
        seeds: Any = None,
        attention: bool = False,
        **settings: Unpack[Settings],
    ) -> Translation | list[Translation]:
        """Translates a text, or several; the results stand in the order of the texts, and depend on each text alone.

        Args:
            text: one gives one result, a list gives a list; a blank one gives an empty translation.
            features: of models that were trained with them: a bundle such as "N;DAT;PL", for one text or for all; of one text also a list of
                features, and of several a list that has for each a bundle or a list of features.
            prefix: what the translation begins with; one for all, or a list with one for each text.
            include: phrases that it must contain; for all, or a list of lists with those of each text.
            exclude: phrases that it must not contain, whatever their case; likewise.
            seeds: of sampling (temperature > 0), each text's own; None: they follow from the setting `seed` and the text.
            attention: whether results come with it.
            **settings: fields of `DecodingConfig`, where they are to differ from the model's.

        Raises:
            UserError: a setting or a wish is not of its kind, or settings contradict each other.
        """
        with as_messages():
            alone = isinstance(text, str)
            texts = [text] if isinstance(text, str) else _listed(text, "text", "a string, or a list of strings")
            decoding = self._settle(settings)
            bundles = self._read_bundles(features, texts, alone)
            wishes = {"prefix": _each(prefix, "prefix", texts), "seed": _each(seeds, "seeds", texts)}
            wishes |= {name: _phrases(value, name, texts) for name, value in (("include", include), ("exclude", exclude))}
            requests = [_request(number, texts, bundles, wishes, decoding.seed) for number in range(len(texts))]
            if attention:
                decode.check_attention(self._run_dirs, self._opened.configs)
            with self._lock:
                translator, weights = self._search(decoding, attention)
                found = decode.translate(translator, weights, requests)
            source_pieces, lacking = (
                self._opened.vocabularies.source_pieces,
                self._opened.vocabularies.find_lacking([one.source for one in requests]),
            )
            most = decoding.max_source_tokens - 1
            results = [
                Translation(
                    **_describe(translation),
                    source=request.source,
                    features=request.features,
                    source_tokens=tuple(source_pieces([*ids[:most], EOS], beyond)) if translation.tokens else (),
                    others=tuple(Hypothesis(**_describe(other)) for other in translation.others),
                    flags=flags,
                    cut_source=translation.cut_source,
                )
                for request, (translation, flags, ids), beyond in zip(requests, found, lacking, strict=True)
            ]
            return results[0] if alone else results

    def score(
        self,
        given: Iterable[tuple[str, str | Hypothesis]],
        *,
        features: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        **settings: Unpack[Settings],
    ) -> list[PairScore]:
        """How probable the model finds targets, in the order of the pairs.

        Args:
            given: pairs of source and target; a hypothesis as target is scored with its own tokens, and an end mark where it has none.
            features: as of `translate`, for all pairs or a list with those of each.
            **settings: fields of `DecodingConfig`; those that matter are length_penalty, ensemble, rows and max_source_tokens.

        Raises:
            UserError: a source is blank and its target is not, a target has more tokens than any source is decoded to, or settings are
                no good.
        """
        with as_messages():
            decoding = self._settle(settings)
            asked = [_pair(number, pair) for number, pair in enumerate(_listed(given, "what is scored", "a list of pairs"))]
            bundles = self._read_bundles(features, asked, alone=False)
            asked = [one._replace(features=bundle) for one, bundle in zip(asked, bundles, strict=True)]
            with self._lock:
                scorer, weights = self._scorer(decoding)
                found = [one for (one,) in score.score(scorer, weights, asked)]
            return [_describe_pair(number, one) for number, one in enumerate(found)]

    def _read_bundles(self, features: Any, texts: Sequence[Any], alone: bool) -> list[str]:
        """The bundle of each text."""
        if not self._opened.vocabularies.features:
            if features is not None:
                raise UserError("features are for models that were trained with data.features, and this one was not; leave them out")
            return [""] * len(texts)
        if features is None:
            raise UserError('the model was trained with features; give them, as features="N;DAT;PL" or a list, or "" for none')
        each = [features] if alone else _each(features, "features", texts)
        found = []
        for number, one in enumerate(each):
            try:
                found.append(lines.read_features(list(one) if isinstance(one, tuple) else one, "features"))
            except LineError as error:
                raise UserError(f"text {number}: {error}") from None
        return found

    def _settle(self, settings: Any) -> DecodingConfig:
        """The settings that hold where these are given."""
        decoding = change(self._opened.config.decoding, settings, "decoding")
        return wiring.settle(self._opened.configs, decoding).decoding

    def _search(self, decoding: DecodingConfig, attention: bool) -> tuple[Translator, Any]:
        decoding = replace(decoding, seed=0)  # each request has its own
        opened = self._with(decoding)
        translator: Translator = self._keep((decoding, attention), lambda: wiring.make_translator(opened, attention=attention))
        return translator, self._laid_out(translator)

    def _scorer(self, decoding: DecodingConfig) -> tuple[Scorer, Any]:
        opened = self._with(decoding)
        scorer: Scorer = self._keep(decoding, lambda: Scorer(opened.models, opened.vocabularies, decoding, opened.devices))
        return scorer, self._laid_out(scorer)

    def _with(self, decoding: DecodingConfig) -> wiring.Opened:
        """The runs with these settings; their parameters are those that are there."""
        config, models = replace(self._opened.config, decoding=decoding), self._opened.models
        if decoding.compute != self._opened.config.decoding.compute:
            models = wiring.make_models(self._opened.configs, decoding, self._opened.vocabularies)
        return self._opened._replace(config=config, models=models)

    def _keep(self, settings: Any, make: Callable[[], Any]) -> Any:
        """What was made for these settings before, or is made now."""
        self._kept[settings] = self._kept.pop(settings, None) or make()
        while len(self._kept) > _MOST_SEARCHES:
            del self._kept[next(iter(self._kept))]
        return self._kept[settings]

    def _laid_out(self, reader: Translator | Scorer) -> Any:
        compute = reader.config.compute
        if compute not in self._weights:
            self._weights[compute] = reader.lay_out(self._opened.params)
        return self._weights[compute]


def load(run_dir: Path | Sequence[Path], checkpoint: str | int = "best", **settings: Unpack[Settings]) -> TrainedModel:
    """Loads a trained run, or several that translate as one (an ensemble).

    Args:
        run_dir: the run directory; or several, trained with one vocabulary.
        checkpoint: best, last, or a step.
        **settings: fields of `DecodingConfig`, where they are to differ from those that the first run was configured with.

    Raises:
        UserError: there is no such run or checkpoint, it is damaged, vocabularies differ, or settings are no good.
    """
    with as_messages():
        run_dirs = find_names(run_dir)
        return TrainedModel(wiring.open_runs(run_dirs, str(checkpoint), settle(run_dirs, settings), join=False), run_dirs)


def _listed(value: Any, name: str, kind: str) -> list[Any]:
    if isinstance(value, (str, bytes, set, frozenset, Mapping)) or not isinstance(value, Iterable):  # which have an order
        raise UserError(f"{name} must be {kind}, got {type(value).__name__}")
    return list(value)


def _each(value: Any, name: str, texts: Sequence[Any]) -> list[Any]:
    """One value for each text, where one for all or a list is given."""
    if value is None or isinstance(value, str):
        return [value] * len(texts)
    values = _listed(value, name, "one for all texts, or a list with one for each")
    if len(values) != len(texts):
        raise UserError(f"{name} has {len(values)} values for {len(texts)} texts; give one for all, or one for each")
    return values


def _phrases(value: Any, name: str, texts: Sequence[Any]) -> list[Any]:
    """The phrases of each text, where some for all or a list of lists is given."""
    if isinstance(value, str):
        return [[value]] * len(texts)
    values = _listed(value, name, "phrases for all texts, or a list with a list for each")
    if all(isinstance(one, str) for one in values):
        return [values] * len(texts)
    return [list(one) if isinstance(one, tuple) else one for one in _each(values, name, texts)]


def _request(number: int, texts: Sequence[Any], bundles: Sequence[str], wishes: Mapping[str, Sequence[Any]], seed: int) -> Request:
    """What is asked for with a text: as a line of JSON would."""
    try:
        request = lines.make_request(texts[number], {name: values[number] for name, values in wishes.items() if values[number] is not None})
    except LineError as error:
        raise UserError(f"text {number}: {error}") from None
    request = request._replace(features=bundles[number])
    return request if request.seed is not None else request._replace(seed=draw_seed(seed, request))


def _pair(number: int, pair: Any) -> pairs.Asked:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        got = f"{len(pair)} of them" if isinstance(pair, (tuple, list)) else type(pair).__name__
        raise UserError(f"pair {number} must be a source and a target, such as ('a', 'b'), got {got}")
    source, target = pair
    try:
        own, target = (target.tokens, target.text) if isinstance(target, Hypothesis) else (None, target)
        asked = pairs.Asked(lines.read_string(source, "source"), (pairs.Target(lines.read_string(target, "target"), own),))
    except (TypeError, ValueError) as error:  # a `LineError` is one, too
        raise UserError(f"pair {number}: {error}; give a source and a target") from None
    if (asked := pairs.check_source(asked)).error:
        raise UserError(f"pair {number}: {asked.error}; leave it out")
    return asked


def _describe(translation: translating.Translation) -> dict[str, Any]:
    """What a hypothesis is made of."""
    return {
        "text": one_line(translation.text),
        "logp": translation.logp,
        "score": translation.score,
        "confidence": translation.confidence,
        "tokens": translation.pieces,
        "token_logp": translation.token_logp,
        "reason": translation.reason,
        "unmet": translation.unmet,
        "attention": translation.attention,
        "copied": translation.copied,
    }


def _describe_pair(number: int, one: Forced | None) -> PairScore:
    if one is None:
        raise UserError(f"pair {number}: {pairs.TOO_LONG}; leave it out, or raise max_source_tokens")
    flags = ("unknown",) if one.unknown_source or one.unknown_target else ()
    return PairScore(one.logp, one.score, one.pieces, one.token_logp, flags)
