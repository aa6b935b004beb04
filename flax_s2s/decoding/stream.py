"""Sentences streaming through the rows of one search: where one is done, the next takes its place.

Enters: parameters, and sentences as arrays of one shape. Leaves: hypotheses. `make_lay_out` makes parameters ready, once for all
shapes. Two programs: `admit` encodes sentences of one length, and `go` seats some of them where rows are free, and searches until some rows are
done. `go` is one for each shape of a search, `admit` one for each length of a source as well.

What is made for the same models and settings is the same: who opens a run again in one process compiles nothing again.

The encoder reads a source padded to its own length; what it leaves of a short one is padded further, to a `memory_length` that all short ones
share: a search costs about the same then, and sentences of different lengths share its rows and its program.

Every device has rows of its own and looks at no other's, so a sentence's result depends neither on their number nor on its
place: only on the shape (rows, source length, ...), which depends on the sentence alone.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from flax_s2s.config import BOS, EOS, PAD, UNK, DecodingConfig, ModelConfig, UserError
from flax_s2s.decoding import beam, constraints
from flax_s2s.decoding.beam import Hypotheses, Next
from flax_s2s.decoding.constraints import Automaton, Steps
from flax_s2s.decoding.lexical import Phrases
from flax_s2s.decoding.sampling import sample
from flax_s2s.model import alignment
from flax_s2s.model.copying import extend
from flax_s2s.model.decoder import Memory
from flax_s2s.model.product import Quantized, multiply, multiply_quantized
from flax_s2s.model.seq2seq import Model, Seq2Seq, StepWeights
from flax_s2s.model.sizes import sizes
from flax_s2s.runtime import lowered
from flax_s2s.runtime.parallel import AXIS, Devices

_UNSAID = (PAD, BOS, UNK)  # tokens that are never generated
_STEPS_AT_ONCE = 4
"""Where the host decides whether a loop goes on, as with GPUs, it waits for the device then: so not at every step. More would lose what
they win, since rows that are done wait for the next look."""
_TAKEN, _EVEN = 16, 32  # vectors that a product in bfloat16 takes at once; a size of vectors that it likes
_SHORT = 48  # tokens of a source up to which a search costs about the same
KEPT = 8
"""Programs of as many choices of models and settings are kept, those that were used last."""


class Weights(NamedTuple):
    """A model's parameters as the search reads them."""

    params: Any  # kernels are rounded to the type of the products
    step: StepWeights


class Sentences(NamedTuple):
    """What is asked for, a row each: arrays of NumPy on the way in, of jax inside. What is None none of them asks for."""

    src_ids: Any  # [batch src]; of models that copy with what the vocabulary lacks, see `data.vocab.Vocabularies`
    limit: Any  # [batch] most tokens, end mark included; 0 for a row without a sentence
    prefix: Any = None  # [batch prefix]
    prefix_length: Any = None  # [batch]
    include: Phrases | None = None
    exclude: Automaton | None = None
    seed: Any = None  # [batch]
    candidates: Any = None  # [batch shortlist] tokens that may be generated, in order, filled up with PAD
    blocked: Automaton | None = None  # the blocklist's, of tokens that sentences have beyond the vocabulary, where models copy


class Rows(NamedTuple):
    """Sentences in search; every leaf begins with the axis batch."""

    sentences: Sentences
    memories: tuple[Memory, ...]  # of each model
    layers: tuple[tuple[Array, Array], ...] | None  # of each model the softmax layer of the candidates
    state: Any  # beam.State


class Once:
    """Has each program compiled once: of several threads that come to it first all but one wait."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._known: set[Hashable] = set()
        self._locks: dict[Hashable, threading.Lock] = {}

    @contextlib.contextmanager
    def __call__(self, program: Hashable) -> Iterator[None]:
        """Stands around a call of the program of this name."""
        if program in self._known:
            yield
            return
        with self._locks.setdefault(program, threading.Lock()):
            yield
            self._known.add(program)


class Stream(NamedTuple):
    """The programs, jitted; arrays are spread over the devices by row, those of NumPy as they come in."""

    admit: Callable[..., Rows]
    """`(Weights of each model, blocklist, Sentences) -> Rows` after the first step"""
    go: Callable[..., Any]
    """`(Weights of each model, blocklist, rows, waiting, index [batch], take [batch], until [devices], most [devices]) -> rows, done [batch],
    Hypotheses`; where `take` is set the waiting row `index` is seated, and each device searches until so many of its rows are done, or for
    so many steps"""
    empty: Callable[[Rows], Rows]
    """Rows like these, as many as are searched at once, all of them free; they lie where `go` leaves its own, which is else compiled twice."""
    once: Once
    """Stands around each call, since sentences of one shape may be searched for by several threads."""


@lru_cache(KEPT)
def make_lay_out(models: tuple[Model, ...], compute: str = "auto") -> Callable[[Sequence[Any]], list[Weights]]:
    """Makes `params of each model -> Weights of each model`, jitted: once for all that is searched or scored with them.

    Args:
        models: what reads them.
        compute: as `DecodingConfig` has it; all but int8 is the models' own affair.

    Raises:
        UserError: int8 is asked for, and this is no CPU.
    """
    quantized = compute == "int8"
    if quantized and jax.default_backend() != "cpu":
        raise UserError(f"decoding.compute=int8 is for CPUs, got {jax.devices()[0].device_kind}; use auto")

    def rounded(bound: Seq2Seq, path: Any, leaf: Array) -> Array:
        return leaf.astype(bound.compute) if path[-1].key.startswith("kernel") else leaf

    def lay_out(params: Sequence[Any]) -> list[Weights]:
        bound = [model.bind(own) for model, own in zip(models, params, strict=True)]
        ready = [jax.tree_util.tree_map_with_path(partial(rounded, one), own) for one, own in zip(bound, params, strict=True)]
        return [Weights(own, one.lay_out(quantized)) for one, own in zip(bound, ready, strict=True)]

    return lowered.jit(lay_out, ([model.config for model in models], quantized))


class _Last(NamedTuple):
    """With hard attention: of the last token, but for which it is."""

    where: Any  # [batch beam src] the log-probability of where it looks
    state: Any  # [batch beam readout] see `alignment.Aim`
    total: Any  # [batch beam src] the softmax' logsumexp


def start_carry(bound: Seq2Seq, memory: Memory, beams: int) -> Any:
    """The carry before the first step of `make_logp_fn`."""
    carry = bound.start(memory, beams)
    if not bound.config.hard:
        return carry
    where, (batch, _, readout) = alignment.start(memory.mask, beams), memory.values.shape
    return carry, _Last(where, jnp.zeros((batch, beams, readout)), jnp.zeros_like(where))


def make_logp_fn(
    bound: Seq2Seq, weights: StepWeights, memory: Memory, src_ids: Any = None, candidates: Any = None, layer: Any = None
) -> Callable[[Any, Any], tuple[Any, Any, Any]]:
    """Makes `(carry, last tokens) -> carry, log-probabilities of the next token, attention or None` of one model.

    See `_make_said_fn`.
    """
    said_fn = _make_said_fn(bound, weights, memory, src_ids, candidates, layer)

    def logp_fn(carry: Any, ids: Any) -> tuple[Any, Any, Any]:
        carry, said = said_fn(carry, ids)
        return carry, said.logp, said.attention

    return logp_fn


class _Said(NamedTuple):
    logp: Any  # [batch beam vocab]
    attention: Any = None  # [batch beam src], or None
    maxima: Any = None  # [batch beam blocks] of the log-probabilities, see `beam.block_width`; None: not known


def _make_said_fn(
    bound: Seq2Seq, weights: StepWeights, memory: Memory, src_ids: Any = None, candidates: Any = None, layer: Any = None
) -> Callable[[Any, Any], tuple[Any, _Said]]:
    """Makes `(carry, last tokens) -> carry, what is said of the next`.

    Args:
        bound: the model.
        weights: of the model's steps.
        memory: of the sources.
        src_ids: the sources, of a model that copies. Then what the vocabulary lacks follows it, and attention has two parts: the
            attention, and the probability that each source position is copied.
        candidates: tokens that may be generated, [batch shortlist], see `with_lacking`; then tokens are counted among those.
        layer: kernel and bias of the candidates, [batch readout shortlist] and [batch shortlist].
    """
    step, bias, dtype = bound.make_step(weights, memory), bound.output()[1], memory.values.dtype
    copied_ids = bound.as_targets(src_ids) if bound.config.copy else None
    if copied_ids is not None and candidates is not None:  # all that can be copied is a candidate
        copied_ids = jnp.argmax(candidates[:, None, :] == copied_ids[:, :, None], axis=-1)

    def said_fn(carry: Any, ids: Any) -> tuple[Any, _Said]:
        tokens = ids if candidates is None else jnp.take_along_axis(candidates, ids, axis=1)
        if bound.config.hard:
            return hard_said_fn(carry, ids, tokens)
        carry, readouts, attention = step(carry, tokens)
        logp, maxima = softmax(readouts)
        if copied_ids is not None and attention is not None:
            logp, copied = extend(logp, bound.gate(readouts), attention, copied_ids)
            attention, maxima = jnp.concatenate([attention, copied], axis=-1), None
        return carry, _Said(logp, attention, maxima)

    def hard_said_fn(carry: Any, ids: Any, tokens: Any) -> tuple[Any, _Said]:
        """Which position a token was said of is only known when it is chosen: so what it takes to know that is carried."""
        inner, last = carry
        before, _ = alignment.say(last.where, logits_of(alignment.readouts(last.state, memory.values, dtype), ids) - last.total)
        inner, aim, _ = step(inner, tokens)
        where, read = alignment.move(bound.config, aim, memory.mask, before), alignment.readouts(aim.state, memory.values, dtype)
        logits = compute_logits(read.reshape(read.shape[0], -1, read.shape[-1])).reshape(*read.shape[:3], -1)
        total = jax.nn.logsumexp(logits, axis=-1)
        logp = jax.nn.logsumexp(logits + (where - total)[..., None], axis=2)
        return (inner, _Last(where, aim.state, total)), _Said(logp, jnp.exp(where))

    def logits_of(read: Any, ids: Any) -> Any:
        """Of one token of each hypothesis, at every source position."""
        if layer is None:
            assert not isinstance(weights.softmax, Quantized)  # see `rules`
            columns, added = weights.softmax[:, ids], bias[ids]  # [readout batch beam]
            return jnp.einsum("bksr,rbk->bks", read, columns, preferred_element_type=jnp.float32) + added[:, :, None]
        columns, added = (jnp.take_along_axis(part, at, axis=-1) for part, at in zip(layer, (ids[:, None], ids), strict=True))
        return jnp.einsum("bksr,brk->bks", read, columns, preferred_element_type=jnp.float32) + added[:, :, None]

    def softmax(readouts: Any) -> tuple[Any, Any]:
        logits = compute_logits(readouts)
        if (width := beam.block_width(logits.shape[-1])) is None:
            return logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True), None
        # The largest logits are needed here, for numbers that do not overflow, and by the search: they are looked for once.
        maxima = lax.optimization_barrier(logits.reshape(*logits.shape[:2], -1, width).max(axis=3))
        largest = maxima.max(axis=2, keepdims=True)
        largest = jnp.where(jnp.isfinite(largest), largest, 0.0)  # a model without measure: what is finite has no chance beside it
        total = jnp.log(jnp.exp(logits - largest).sum(axis=2, keepdims=True)) + largest
        return logits - total, maxima - total

    def compute_logits(readouts: Any) -> Any:
        kernel, added = (weights.softmax, bias[None, None, :]) if layer is None else (layer[0], layer[1][:, None, :])
        if isinstance(kernel, Quantized):
            return multiply_quantized(readouts, kernel) + added
        # What reads products this large shall add and subtract as it reads: log_softmax would write them twice more.
        return lax.optimization_barrier(multiply(readouts, kernel)) + added

    return said_fn


def make_step_fn(bound: Seq2Seq, *source: Any) -> beam.StepFn:
    """The step function of one model, see `make_logp_fn`; some tokens are never generated."""
    said_fn = _make_said_fn(bound, *source)

    def step_fn(carry: Any, ids: Any) -> tuple[Any, Next]:
        carry, (logp, attention, maxima) = said_fn(carry, ids)
        never = jnp.isin(jnp.arange(logp.shape[-1]), jnp.array(_UNSAID))
        rank = jnp.where(never[None, None, :], -jnp.inf, logp)
        if maxima is not None:  # in which blocks those tokens are count others alone
            width = logp.shape[2] // maxima.shape[2]
            many = max(_UNSAID) // width + 1
            others = rank[:, :, : many * width].reshape(*rank.shape[:2], many, width).max(axis=3)
            maxima = jnp.concatenate([others, maxima[:, :, many:]], axis=2)
        return carry, Next(logp, rank, attention, maxima=maxima)

    return step_fn


@lru_cache(KEPT)
def make_stream(models: tuple[Model, ...], config: DecodingConfig, devices: Devices, keep_attention: bool = False) -> Stream:
    """Makes the programs of a search with these settings; each shape is compiled when it first comes."""
    by_row, everywhere = PartitionSpec(AXIS), PartitionSpec()
    steps_at_once = _STEPS_AT_ONCE if devices.mesh.devices.flat[0].platform == "gpu" else 1
    spread = partial(jax.shard_map, mesh=devices.mesh, out_specs=by_row, check_vma=False)

    def how(sentences: Sentences) -> beam.Search:
        most = most_tokens(sentences.src_ids.shape[1], config) + (0 if sentences.prefix is None else sentences.prefix.shape[1])
        sampled = config.temperature > 0
        groups, diversity = (config.beam_size, 0.0) if sampled else (config.groups, config.diversity)
        kept = 0 if sampled or config.n_best == 1 else _spare(config.beam_size // groups, groups)
        size, penalty, n_best = config.beam_size, config.length_penalty, config.n_best
        return beam.Search(size, most, BOS, EOS, penalty, n_best, groups, diversity, keep_attention, kept, steps_at_once)

    def steps(weights: Sequence[Weights], blocklist: Automaton | None, rows: Rows, beams: int) -> Steps:
        members = []
        for index, (model, own) in enumerate(zip(models, weights, strict=True)):
            bound, memory, layer = model.bind(own.params), rows.memories[index], None if rows.layers is None else rows.layers[index]
            step_fn = make_step_fn(bound, own.step, memory, rows.sentences.src_ids, rows.sentences.candidates, layer)
            members.append(Steps(step_fn, start_carry(bound, memory, beams)))
        said = members[0] if len(members) == 1 else constraints.ensemble(members, config.ensemble)
        lacking = rows.sentences.src_ids.shape[1] if models[0].config.copy else 0
        return _lay_rules(said, rows, blocklist, config, beams, how(rows.sentences).max_steps, lacking)

    @partial(spread, in_specs=(everywhere, everywhere, by_row))
    def admit(weights: Sequence[Weights], blocklist: Any, sentences: Sentences) -> Rows:
        bound, count = [model.bind(own.params) for model, own in zip(models, weights, strict=True)], sentences.limit.shape[0]
        more = rows_alike(models, count, 1, sentences.src_ids.shape[1], how(sentences).groups) - count
        sentences = jax.tree.map(lambda part: jnp.concatenate([part, jnp.repeat(part[:1], more, axis=0)]), sentences)
        longer = memory_length(models, sentences.src_ids.shape[1]) - sentences.src_ids.shape[1]
        memories = tuple(_lengthen(one.encode(sentences.src_ids), longer) for one in bound)
        sentences = sentences._replace(src_ids=jnp.pad(sentences.src_ids, ((0, 0), (0, longer)), constant_values=PAD))
        layers, chosen = None, sentences.candidates
        if chosen is not None and bound[0].config.copy:
            sentences = sentences._replace(candidates=with_lacking(chosen, sentences.src_ids, bound[0]))
        if chosen is not None:
            filler = jnp.where((chosen == PAD) & (jnp.arange(chosen.shape[1]) > 0)[None, :], -jnp.inf, 0.0)
            tables = [one.output() for one in bound]
            kernels = [table[chosen].swapaxes(1, 2).astype(one.compute) for (table, _), one in zip(tables, bound, strict=True)]
            layers = tuple((kernel, bias[chosen] + filler) for kernel, (_, bias) in zip(kernels, tables, strict=True))
        search, rows = how(sentences), Rows(sentences, memories, layers, None)
        first = steps(weights, blocklist, rows, search.groups)
        seen = sentences.src_ids.shape[1] * (1 + bound[0].config.copy)  # see `make_step_fn`
        state = beam.start(first.step_fn, first.carry, sentences.limit, search, sentences.include, seen)
        return jax.tree.map(lambda part: part[:count], rows._replace(state=state))

    @partial(spread, in_specs=(everywhere, everywhere, by_row, by_row, by_row, by_row, by_row, by_row))
    def go(
        weights: Any, blocklist: Any, rows: Rows, waiting: Rows, index: Any, take: Any, until: Any, most: Any
    ) -> tuple[Rows, Any, Hypotheses]:
        rows = beam.put(take, jax.tree.map(lambda part: part[index], waiting), rows)
        search = how(rows.sentences)
        step_fn = steps(weights, blocklist, rows, config.beam_size).step_fn
        state = beam.run(step_fn, rows.state, search, rows.sentences.include, until[0], most[0])
        return rows._replace(state=state), state.done, beam.finish(state, search, rows.sentences.include)

    def empty(rows: Rows) -> Rows:
        count = rows_per_device(config, config.beam_size, models) * devices.count
        free = jax.tree.map(lambda part: jnp.zeros((count, *part.shape[1:]), part.dtype), rows)
        return free._replace(state=free.state._replace(done=jnp.ones_like(free.state.done)))

    about = ([model.config for model in models], config, keep_attention)
    same, rows = devices.replicated, devices.by_row
    return Stream(
        lowered.jit(admit, about, in_shardings=(same, same, rows)),
        lowered.jit(go, about, in_shardings=(same, same, *[rows] * 6), donate_argnums=2),
        lowered.jit(empty, about, out_shardings=rows),
        Once(),
    )


def memory_length(models: Sequence[Model], tokens: int) -> int:
    """How long a source of so many tokens is to a search, padding included.

    Where a step looks at every position in a way that costs more than the rest of it, no longer than its encoder reads.
    """
    if any(model.config.hard or model.config.attention == "additive" for model in models):
        return tokens
    return max(tokens, _SHORT)


def _lengthen(memory: Memory, more: int) -> Memory:
    """With so many positions more, at which nothing is looked at."""
    values, keys, mask = (jnp.pad(part, ((0, 0), (0, more), *((0, 0),) * (part.ndim - 2))) for part in memory[:3])
    return memory._replace(values=values, keys=keys, mask=mask)


def with_lacking(candidates: Any, src_ids: Any, bound: Seq2Seq) -> Any:
    """Candidates, and behind them a token for each symbol that a source may hold and the vocabulary lacks."""
    rows, src = src_ids.shape
    lacking = bound.output()[0].shape[0] + jnp.arange(src, dtype=candidates.dtype)
    return jnp.concatenate([candidates, jnp.broadcast_to(lacking, (rows, src))], axis=1)


def _spare(size: int, groups: int) -> int:
    """Ended hypotheses that a group keeps where several are given out: some have the same text, above all those of different groups.

    Of "May 14, 2023", by a model of the quickstart, four groups of two have 17 different ones so, and 3 if they keep two each.
    """
    return 1 if size == 1 else size * (2 if groups == 1 else 4)  # greedy search is over with its first end


def _lay_rules(
    steps: Steps, rows: Rows, blocklist: Automaton | None, config: DecodingConfig, size: int, max_steps: int, lacking: int
) -> Steps:
    """What the settings and the sentences ask for, over a model or several; `lacking` is how many tokens there may be beyond the vocabulary."""
    sentences, batch = rows.sentences, rows.sentences.limit.shape[0]
    if config.repetition_penalty != 1 or config.no_repeat_ngram:
        steps = constraints.avoid_repetition(steps, config.no_repeat_ngram, config.repetition_penalty, EOS, size, max_steps)
    if config.end_threshold:
        steps = constraints.end_if_likely(steps, config.end_threshold, EOS)
    if config.min_tokens:
        steps = constraints.end_after(steps, jnp.full(batch, config.min_tokens + 1), EOS, size)
    if blocklist is not None:
        steps = constraints.block(steps, blocklist, size, batch, sentences.candidates, sentences.blocked, lacking)
    if sentences.exclude is not None:  # which knows all tokens
        steps = constraints.block(steps, sentences.exclude, size, batch, sentences.candidates)
    if config.coverage_penalty:
        steps = constraints.cover(steps, rows.memories[0].mask, config.coverage_penalty, size)
    if sentences.seed is not None:
        steps = sample(steps, sentences.seed, size, config.temperature, config.top_k, config.top_p)
    if sentences.prefix is not None:
        steps = constraints.force_prefix(steps, sentences.prefix, sentences.prefix_length, size)
    return steps


def rows_per_device(config: DecodingConfig, beams: int, models: Sequence[Model]) -> int:
    """As many as are asked for, or the few more that `rows_alike` wants; `beams` vectors of each are multiplied at once."""
    return rows_alike(models, config.rows, beams)


def rows_alike(models: Sequence[Model], count: int, *vectors: int) -> int:
    """The least number of rows, from a count on, with which products have as many vectors as give each the same bits as any other number does.

    The vectors of a product are taken by sixteens. Few that are left over, or few in all, are multiplied by other instructions on CPUs with
    AMX, which sum in another order: one or two, or up to five where their size is no multiple of 32. Everywhere it is so with one in all.

    Args:
        models: that multiply.
        count: rows that are wanted.
        vectors: of each row in a product, one number for each kind of product.
    """
    most = 2 if all(size % _EVEN == 0 for model in models for size in _vector_sizes(model.config)) else 5
    return next(rows for rows in itertools.count(count) if not any(0 < rows * many % _TAKEN <= most for many in vectors))


def _vector_sizes(config: ModelConfig) -> list[int]:
    """What is multiplied has one of these sizes, or several together."""
    return [config.embedding_size, config.hidden_size, *sizes(config)]


def most_tokens(source_tokens: int, config: DecodingConfig) -> int:
    """Limit of a translation, end mark included, for a source of that many tokens."""
    return int(source_tokens * config.max_length_ratio) + config.max_length_extra + 1
