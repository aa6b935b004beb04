"""An exported folder that answers: its own program translates, without JAX, some sentences of like length at a time.

Enters: wishes. Leaves: answers, with what the folder's search says of them: no constraints, no seed, nothing of other tokens.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_s2s.answers import replies
from flax_s2s.answers.lines import Asked
from flax_s2s.answers.replies import Translated
from flax_s2s.decoding.translate import Translation
from flax_s2s.export.runtime import EOS, UNK, Hypothesis, Model, split_features
from flax_s2s.serving.spelling import source_spans, spans
from flax_s2s.serving.wishes import About, Wish, WishError

_ROWS = 16  # sentences of a turn


class _Job(NamedTuple):
    """A wish on its way."""

    wish: Wish
    ids: list[int]  # of the source


class Exported:
    """The engine of a folder."""

    def __init__(self, name: str, model: Model, languages: tuple[str, str], abstain_below: float, placeholder: str) -> None:
        """The model is loaded; nothing is compiled."""
        self._model, self._abstain_below, self._placeholder = model, abstain_below, placeholder
        self._waiting: deque[tuple[int, _Job]] = deque()
        decoding, attends = model.decoding, model.about["model"]["attention"] != "none"
        most = decoding["beam_size"]
        holds = ["n_best"] * (most > 1) + ["attention"] * attends + ["features"] * bool(model.features)
        self.about = About(name, 0, languages, tuple(holds), bool(model.features), False, decoding["max_source_tokens"], most)

    def warm_up(self) -> None:
        """Translates a word, which is when graphs are laid out."""
        self._model.translate("a")

    def read(self, wishes: Sequence[Wish]) -> list[_Job]:
        """Refuses what the folder cannot do."""
        for wish in wishes:
            asked = {
                "prefix": wish.request.prefix,
                "include": wish.request.include,
                "exclude": wish.request.exclude,
                "seed": wish.request.seed is not None,
                "alternatives": wish.alternatives,
                "beam": wish.beam,
                "attention": wish.attention and "attention" not in self.about.holds,
            }
            for name in (name for name, value in asked.items() if value):
                raise WishError(
                    400, f"{name} is more than an exported folder can do; it has {', '.join(self.about.holds) or 'texts alone'}"
                )
        jobs, most = [_Job(wish, self._number(wish)) for wish in wishes], self.about.source_tokens - 1
        if any(len(job.ids) - 1 > most for job in jobs):
            raise WishError(413, f"the source has more than {most} tokens; split it into sentences")
        return jobs

    def _number(self, wish: Wish) -> list[int]:
        """All tokens of a source."""
        model, request = self._model, wish.request
        words = model.source.number(request.source, model.sizes[0])[0] if model.copy else model.source.encode(request.source)
        bundle = [model.features.get(one, UNK) for one in split_features(request.features)] if model.features else []
        return [*bundle, *words, EOS]

    def put(self, ticket: int, ready: _Job) -> None:
        """Stands in line."""
        self._waiting.append((ticket, ready))

    def withdraw(self, ticket: int) -> None:
        """Leaves the line."""
        self._waiting = deque(one for one in self._waiting if one[0] != ticket)

    def reset(self) -> None:
        """Empties the line."""
        self._waiting.clear()

    @property
    def busy(self) -> bool:
        """Whether someone waits."""
        return bool(self._waiting)

    def turn(self) -> list[tuple[int, dict[str, Any]]]:
        """Translates the one that waits longest, and with it those that are no longer, nor want more."""
        first = self._waiting[0][1]
        alike = (one for one in self._waiting if one[1].wish.n_best == first.wish.n_best and len(one[1].ids) <= len(first.ids))
        chosen = dict(itertools.islice(alike, _ROWS))
        self._waiting = deque(one for one in self._waiting if one[0] not in chosen)
        requests = [job.wish.request for job in chosen.values()]
        sources, bundles = [one.source for one in requests], [one.features for one in requests]
        found = self._model.translate_all(sources, bundles, n_best=first.wish.n_best, batch=_ROWS)
        return [(ticket, self._describe(job, many)) for (ticket, job), many in zip(chosen.items(), found, strict=True)]

    def _describe(self, job: _Job, many: list[Hypothesis]) -> dict[str, Any]:
        (wish, source_ids), model = job, self._model
        request = wish.request
        lacking = model.source.number(request.source, model.sizes[0])[1] if model.copy else []
        unknown = sum(one == UNK or (model.copy and one >= model.sizes[0]) for one in source_ids)
        best, *others = (self._translation(one, unknown, wish.attention) for one in many[: wish.n_best])
        beside = len(split_features(request.features)) if model.features else 0
        found = best._replace(others=tuple(others))
        flags = replies.find_flags(request.source, found, len(source_ids) - 1 - beside)
        abstained = bool(found.tokens) and found.confidence < self._abstain_below
        answer = Translated(Asked(request, id=wish.id), found, flags, found.confidence, abstained)
        record = replies.describe(answer, self._placeholder, features=bool(model.features))
        for one in (record, *record["others"]):  # of which the folder's program says neither
            del one["token_logp"], one["tokens"]
        record = {name: value for name, value in record.items() if name != "id" or value is not None}

        def text(prefixes: Any) -> list[str]:
            return [" ".join(model.target.decode([i for i in ids if i > UNK], lacking).split("\n")) for ids in prefixes]

        record["spans"] = [] if abstained else spans(text, found.ids)
        record["tokens"] = [record["text"][begin:end] for begin, end in record["spans"]]
        if found.attention is not None:
            join = not (model.copy or model.source.apart)
            words = source_spans(request.source, model.source.split(request.source), model.source.knows, join=join)
            end = words[-1][1] if words else 0
            record["source_spans"] = [*[[0, 0]] * beside, *words, [end, end]][: len(source_ids)]
            record["source_tokens"] = [request.source[begin:end] for begin, end in record["source_spans"]]
            record["attention"] = np.round(found.attention.astype(np.float64), 4).tolist()
        return record

    def _translation(self, one: Hypothesis, unknown: int, attention: bool) -> Translation:
        seen = one.attention if attention else None
        return Translation(one.text, one.logp, one.score, len(one.ids), one.finished, False, unknown, one.ids, attention=seen)
