"""A run, or several as one, that answers: sentences come at any time, and sit in lanes that are moved on in turn.

Enters: wishes. Leaves: answers, the same as `decode` gives, to the byte. What lanes and lengths of sources there may be is known before the
first wish (with and without constraints), so that all programs are compiled before it comes. Each shape has one line, and as many lanes as
move at once, of which one takes from the line when it starts to move. A lane moves by some steps in its turn, in a thread of its own: that
is by how much a long sentence delays those of other shapes. Lines and lanes are looked at in one thread alone, and a lane only while it rests.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from flax_s2s.answers import replies
from flax_s2s.answers.lines import Asked
from flax_s2s.answers.replies import Translated
from flax_s2s.config import EOS, UNK, DecodingConfig, UserError
from flax_s2s.data import features
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding.lanes import Ended, Lane, lanes_at_once
from flax_s2s.decoding.requests import SOURCE_LENGTHS, Ready, Request, Shape
from flax_s2s.decoding.stream import Weights, most_tokens
from flax_s2s.decoding.trace import MOST_ALTERNATIVES, Place, Places, Step, hypotheses, watch
from flax_s2s.decoding.translate import BLANK, Translation, Translator
from flax_s2s.model.seq2seq import Model
from flax_s2s.runtime.parallel import Devices
from flax_s2s.serving.spelling import source_spans, spans
from flax_s2s.serving.wishes import About, Wish, WishError

_STEPS = 8  # that a lane makes in its turn
_PHRASES, _PHRASE_TOKENS, _STATES = 4, 16, 128  # of constraints, see `requests.Shape`

_TOO_MUCH = (
    f"too much is to be included or excluded; at most {_PHRASES} phrases of {_PHRASE_TOKENS} tokens are included, and {_STATES - 1} bytes of "
    "text excluded"
)


class Served(NamedTuple):
    """What is served, and how."""

    name: str
    steps: Sequence[int]  # of each run's checkpoint
    languages: tuple[str, str]
    models: Sequence[Model]
    params: Sequence[Any]
    vocabularies: Vocabularies
    decoding: DecodingConfig
    devices: Devices
    blocklist: Sequence[str]
    abstain_below: float
    placeholder: str
    temperature: float | None  # that the probabilities of tokens were calibrated to


class _Job(NamedTuple):
    """A wish on its way."""

    wish: Wish
    ready: Ready | None  # None: the source is blank


class _Line(NamedTuple):
    """Those of one shape who wait, and the lanes that they go to."""

    translator: Translator
    shape: Shape
    waiting: deque[tuple[int, Ready]]
    lanes: deque[Lane]  # the last has moved last


class Searching:
    """The engine of runs."""

    def __init__(self, served: Served, stopping: Callable[[], bool] = lambda: False) -> None:
        """Compiles nothing yet.

        Args:
            served: the model.
            stopping: says whether all ends, so that no more is compiled.

        Raises:
            UserError: the settings of decoding have no closed set of shapes.
        """
        decoding, vocabularies = served.decoding, served.vocabularies
        if decoding.shortlist:
            raise UserError(
                "decoding.shortlist is for files: serve compiles all shapes before it answers, and a shortlist has many; leave it out"
            )
        if served.blocklist and vocabularies.copy:
            raise UserError("a blocklist has shapes of its own where models copy, and serve compiles all before it answers; leave it out")
        self._served, self._vocabularies, self._stopping = served, vocabularies, stopping
        self._lengths = [length for length in SOURCE_LENGTHS if length < decoding.max_source_tokens]
        self._lengths.append(
            next((length for length in SOURCE_LENGTHS if length >= decoding.max_source_tokens), decoding.max_source_tokens)
        )
        attends = all(model.config.attention != "none" for model in served.models)
        self._plain = self._make_translator(replace(decoding, n_best=1), attention=False, settle=lambda shape: shape)
        self._full = self._make_translator(decoding, attention=attends, settle=self._settle)
        self._weights: list[Weights] = self._plain.lay_out(served.params)
        longest = most_tokens(self._lengths[-1], decoding)  # a translation has as many tokens, and those of its prefix
        self._places_lengths = [*self._lengths, longest + _prefix_tokens(longest)]
        self._places = Places(served.models, vocabularies, decoding, served.devices, self._places_lengths)
        self._lines: dict[tuple[bool, Shape], _Line] = {}
        self._turns: deque[_Line] = deque()  # all of them; a lane of the last has moved last
        self._at_once = lanes_at_once(served.devices)
        self._pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="search")
        self._moving: dict[Future[Ended], tuple[_Line, Lane]] = {}
        self._jobs: dict[int, _Job] = {}
        self._blank: deque[int] = deque()
        self._found: dict[int, Translation] = {}  # what nobody has been answered with yet
        self._watched: tuple[list[int], Iterator[None], list[list[Step]]] | None = None
        holds = ["prefix", "include", "exclude", "seed", "alternatives", "beam"]
        self.about = About(
            served.name,
            served.steps[0],
            served.languages,
            tuple(holds + ["n_best"] * (decoding.n_best > 1) + ["attention"] * attends + ["features"] * bool(vocabularies.features)),
            bool(vocabularies.features),
            served.temperature is not None,
            decoding.max_source_tokens,
            decoding.n_best,
        )

    def _make_translator(self, decoding: DecodingConfig, *, attention: bool, settle: Callable[[Shape], Shape]) -> Translator:
        served = self._served
        return Translator(
            served.models,
            served.vocabularies,
            decoding,
            served.devices,
            blocklist=served.blocklist,
            attention=attention,
            lengths=self._lengths,
            settle=settle,
        )

    def _settle(self, shape: Shape) -> Shape:
        """The shape with all that constraints of its kind may take; larger ones stay as they are, and are refused.

        Every search has room for a prefix, and one with phrases to include room for what is excluded: neither changes what is found.
        """
        longest = most_tokens(shape.src, self._served.decoding)
        return shape._replace(
            prefix=max(shape.prefix, _prefix_tokens(longest)),
            phrases=max(shape.phrases, _PHRASES) if shape.phrases else 0,
            phrase_tokens=max(shape.phrase_tokens, _PHRASE_TOKENS) if shape.phrases else 0,
            states=max(shape.states, _STATES) if shape.states or shape.phrases else 0,
        )

    def warm_up(self) -> None:
        """Compiles all, as many at once as there are cores."""
        searched = self._served.decoding.groups == 1 and not self._served.decoding.temperature  # see `requests.Request`
        kinds = [(self._plain, False, False), (self._full, False, False), (self._full, False, True)]
        kinds += [(self._full, True, True)] * searched
        made = {(*kind, length): self._any_request(*kind, length) for kind, length in product(kinds, self._lengths)}
        searches = {(kind[0], kind[0].shape(one)): (kind[0], one) for kind, one in made.items()}  # the longest of each
        encoders = [(kind[0], one) for kind, one in made.items() if (kind[0], one) not in searches.values()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = [pool.submit(self._compile, *one) for one in searches.values()]
            done += [pool.submit(self._compile_places, length) for length in self._places_lengths]
            for one in done:
                one.result()
            for one in [pool.submit(self._compile, *one) for one in encoders]:  # whose searches are compiled by now
                one.result()

    def _any_request(self, translator: Translator, phrases: bool, states: bool, length: int) -> Ready:
        one = translator.read({0: Request("a", exclude=("a",) if states else (), features="")})[0]
        src = [*[UNK + 1] * (length - 1), EOS]
        return one._replace(src=src, length=length, include=[[[UNK + 1]]] if phrases else [])

    def _compile(self, translator: Translator, one: Ready) -> None:
        """Halts a search before its first step."""
        if self._stopping():
            return
        lane = translator.make_lane(translator.shape(one))
        lane.put(0, one)
        lane.go(self._weights, 0)

    def _compile_places(self, length: int) -> None:
        if not self._stopping():
            self._places(self._weights, ["a"], [[UNK + 1] * (length - 1)], [""])

    def read(self, wishes: Sequence[Wish]) -> list[_Job]:
        """Refuses what is too long, and what has no shape that was compiled."""
        for wish in wishes:
            excluded = sum(len(phrase.casefold().encode()) for phrase in wish.request.exclude)
            if len(wish.request.include) > _PHRASES or excluded >= _STATES:
                raise WishError(413, _TOO_MUCH)
        ready = self._full.read({i: one.request for i, one in enumerate(wishes) if one.request.source.strip()})
        for one in ready.values():
            if one.cut_source:
                most = self._served.decoding.max_source_tokens - 1
                raise WishError(413, f"the source has more than {most} tokens; split it into sentences")
            shape = self._full.shape(one)
            largest = self._settle(Shape(shape.src, 0, bool(shape.phrases), bool(shape.phrases), bool(shape.states), 0))
            if shape.prefix > largest.prefix:
                raise WishError(413, "the prefix is longer than any translation of this source; leave it out")
            if shape != largest:
                raise WishError(413, _TOO_MUCH)
        if (most := max((one.alternatives for one in wishes), default=0)) > MOST_ALTERNATIVES:
            raise WishError(400, f"alternatives={most} are more than the {MOST_ALTERNATIVES} that are found at a place")
        return [_Job(wish, ready.get(i)) for i, wish in enumerate(wishes)]

    def put(self, ticket: int, ready: _Job) -> None:
        """Stands a sentence in the line of its lane; a blank one is answered at once."""
        self._jobs[ticket] = ready
        if ready.ready is None:
            self._blank.append(ticket)
            return
        plain = ready.wish.plain
        translator = self._plain if plain else self._full
        shape = translator.shape(ready.ready)
        if (plain, shape) not in self._lines:
            self._lines[plain, shape] = _Line(translator, shape, deque(), deque())
            self._turns.append(self._lines[plain, shape])
        self._lines[plain, shape].waiting.append((ticket, ready.ready))

    def withdraw(self, ticket: int) -> None:
        """Leaves the line; who is in a lane already is searched for to the end, and nothing made of it."""
        for line in self._lines.values():
            for one in [one for one in line.waiting if one[0] == ticket]:
                line.waiting.remove(one)
        self._jobs.pop(ticket, None)
        self._found.pop(ticket, None)
        self._blank = deque(one for one in self._blank if one != ticket)

    def reset(self) -> None:
        """Makes new lanes: the arrays of one that failed are gone."""
        wait(self._moving)
        for kept in (self._moving, self._lines, self._turns, self._jobs, self._blank, self._found):
            kept.clear()
        self._watched = None

    @property
    def busy(self) -> bool:
        """Whether some wish is not answered."""
        return bool(self._jobs or self._moving) or any(lane.busy for line in self._turns for lane in line.lanes)

    def turn(self) -> list[tuple[int, dict[str, Any]]]:
        """Waits for a lane that moves, starts those that are next, and looks meanwhile at what was found."""
        answers = [(ticket, self._describe(ticket, BLANK)) for ticket in self._blank]
        self._blank.clear()
        self._start()
        halted = [(self._moving.pop(one)[0], one.result()) for one in wait(self._moving, return_when=FIRST_COMPLETED).done]
        self._start()
        for line, ended in halted:
            for ticket, found in zip(ended.tickets, line.translator.translations(ended), strict=True):
                if ticket in self._jobs:  # else it was withdrawn
                    self._found[ticket] = found
        ready = [ticket for ticket in self._found if not self._jobs[ticket].wish.beam]
        answers += self._complete(ready, {})
        return answers + self._watch()

    def _start(self) -> None:
        """Starts to move lanes on, as many as move at once; lines take turns, and so do the lanes of each."""
        while len(self._moving) < self._at_once:
            for _ in range(len(self._turns)):
                self._turns.rotate(-1)
                if lane := self._next_lane(self._turns[-1]):
                    self._moving[self._pool.submit(lane.go, self._weights, _STEPS)] = self._turns[-1], lane
                    break
            else:
                return

    def _next_lane(self, line: _Line) -> Lane | None:
        """The lane of a line that has rested longest and has someone to search for, by those who wait or without them."""
        resting = [lane for lane in line.lanes if not any(lane is moving for _, moving in self._moving.values())]
        resting = resting if line.waiting else [lane for lane in resting if lane.busy]
        if not resting and line.waiting and len(line.lanes) < self._at_once:
            resting = [line.translator.make_lane(line.shape)]
            line.lanes.append(resting[0])
        if not resting:
            return None
        lane = resting[0]
        line.lanes.remove(lane)
        line.lanes.append(lane)
        while line.waiting and lane.free > -line.translator.rows:  # as many again are encoded ahead
            lane.put(*line.waiting.popleft())
        return lane

    def _watch(self) -> list[tuple[int, dict[str, Any]]]:
        """Searches once more for those whose beam is wanted, a step in a turn."""
        if self._watched is None:
            tickets = [ticket for ticket in self._found if self._jobs[ticket].wish.beam][:1]
            if not tickets:
                return []
            steps: list[list[Step]] = [[]]
            ready = self._jobs[tickets[0]].ready
            assert ready is not None  # a blank one has been answered
            self._watched = tickets, watch(self._full, self._weights, {0: ready}, steps), steps
        tickets, walk, steps = self._watched
        for _ in walk:
            return []
        self._watched = None
        tickets = [ticket for ticket in tickets if ticket in self._jobs]
        return self._complete(tickets, dict(zip(tickets, steps, strict=False)))

    def _complete(self, tickets: Sequence[int], steps: dict[int, list[Step]]) -> list[tuple[int, dict[str, Any]]]:
        """The answers of some whose translation is there."""
        found = {ticket: self._found.pop(ticket) for ticket in tickets}
        looked = [ticket for ticket in tickets if self._jobs[ticket].wish.alternatives and found[ticket].tokens]
        sources = [self._jobs[ticket].wish.request for ticket in looked]
        targets = [found[ticket].ids[:-1] if found[ticket].finished else found[ticket].ids for ticket in looked]
        places = self._places(
            self._weights,
            [one.source for one in sources],
            targets,
            [one.features for one in sources],
            self._served.temperature or 1.0,
        )
        by_ticket = dict(zip(looked, places, strict=True))
        return [(ticket, self._describe(ticket, found[ticket], by_ticket.get(ticket), steps.get(ticket))) for ticket in tickets]

    def _describe(
        self, ticket: int, found: Translation, places: list[Place] | None = None, steps: list[Step] | None = None
    ) -> dict[str, Any]:
        """An answer, and the end of its job."""
        wish, ready = self._jobs.pop(ticket)
        request, vocabularies, served = wish.request, self._vocabularies, self._served
        lacking = () if ready is None else ready.lacking
        source_ids = [] if ready is None else ready.src
        beside = len(features.split(request.features)) if vocabularies.features else 0  # tokens that are no text
        flags = replies.find_flags(request.source, found, len(source_ids) - 1 - beside)
        if not wish.attention:
            found = found._replace(attention=None, others=tuple(other._replace(attention=None) for other in found.others))
        found = found._replace(others=found.others[: wish.n_best - 1])
        abstained = bool(found.tokens) and found.confidence < served.abstain_below
        answer = Translated(Asked(request, id=wish.id), found, flags, found.confidence, abstained)
        record = replies.describe(answer, served.placeholder, features=bool(vocabularies.features))
        record = {name: value for name, value in record.items() if name != "id" or value is not None}

        def text(ids: Sequence[Sequence[int]]) -> list[str]:
            decoded = vocabularies.target.decode(ids, [lacking] * len(ids))
            return [replies.one_line(" ".join(one.split("\n"))) for one in decoded]

        record["spans"] = [] if abstained else spans(text, found.ids)
        if found.attention is not None:
            record["source_tokens"] = list(vocabularies.source_pieces(source_ids, lacking))
            record["source_spans"] = self._source_spans(request.source, source_ids, beside)
            record["attention"] = np.round(found.attention.astype(np.float64), 4).tolist()
            if found.copied is not None:
                record["copied"] = [round(share, 4) for share in found.copied]
        if places is not None:
            record["token_confidence"] = [place.probability for place in places[: found.tokens]]
            record["alternatives"] = self._alternatives(found, places, wish.alternatives, lacking, text)
        if steps is not None:
            record["beam"] = self._tree(found, steps, lacking, text)
        return record

    def _source_spans(self, text: str, ids: Sequence[int], beside: int) -> list[list[int]]:
        """Of each token of a source which characters it stands for; features and the end mark stand for none."""
        source, join = self._vocabularies.source, not (self._vocabularies.copy or self._vocabularies.source.apart)
        found = source_spans(text, source.split([text])[0], lambda piece: not source.lacks([piece]), join=join)
        end = found[-1][1] if found else 0
        return [*[[0, 0]] * beside, *found, [end, end]][: len(ids)]

    def _alternatives(
        self, found: Translation, places: Sequence[Place], count: int, lacking: Sequence[str], text: Any
    ) -> list[list[dict[str, Any]]]:
        """At each place the likeliest tokens, and the translation up to and with each."""
        asked = [(at, token, probability) for at, place in enumerate(places) for token, probability in place.alternatives[:count]]
        asked = [one for one in asked if one[1] > UNK or one[1] == EOS]
        prefixes = text([[*found.ids[:at], *([token] if token != EOS else [])] for at, token, _ in asked]) if asked else []
        pieces = self._vocabularies.target.pieces([token for _, token, _ in asked], lacking)
        listed: list[list[dict[str, Any]]] = [[] for _ in places[: found.tokens]]
        for (at, _, probability), prefix, piece in zip(asked, prefixes, pieces, strict=True):
            if at < len(listed):
                listed[at].append({"token": piece, "probability": probability, "prefix": prefix})
        return listed

    def _tree(self, found: Translation, steps: Sequence[Step], lacking: Sequence[str], text: Any) -> list[list[dict[str, Any]]]:
        """The live hypotheses after each step, with their texts; and which of them became the translation."""
        listed = []
        for number, (step, now) in enumerate(zip(steps, hypotheses(steps), strict=True), 1):
            pieces = self._vocabularies.target.pieces([branch.token for branch in step], lacking)
            listed.append(
                [
                    {"parent": branch.parent, "token": piece, "logp": branch.logp, "text": said, "kept": ids == found.ids[:number]}
                    for branch, piece, said, ids in zip(step, pieces, text(now) if now else [], now, strict=True)
                ]
            )
        return listed


def _prefix_tokens(longest: int) -> int:
    """Room for a prefix of a translation of so many tokens."""
    return 1 << (longest - 1).bit_length()
