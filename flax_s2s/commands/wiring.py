"""What several verbs need: a corpus made ready for a model, and a trained run opened for decoding."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.console import Console

from flax_s2s.config import UNK, Config, DecodingConfig, Metric, Tokenizer, UserError, VocabConfig
from flax_s2s.data import features, vocab, vocab_training
from flax_s2s.data.batching import Shape, TokenPairs, choose_shapes
from flax_s2s.data.corpus import Corpus, Pair, Reader, Split, load
from flax_s2s.data.pipeline import Pipeline, Share
from flax_s2s.data.tokens import Draw, Tokens, open_tokens, tokenize
from flax_s2s.data.vocab import Vocabularies
from flax_s2s.decoding import shortlist
from flax_s2s.decoding.requests import SOURCE_LENGTHS
from flax_s2s.decoding.translate import Translator
from flax_s2s.evaluation.metrics import check_metrics
from flax_s2s.model.flops import count_flops
from flax_s2s.model.seq2seq import Model, abstract_params, make_model
from flax_s2s.rules import check
from flax_s2s.runs import rundir
from flax_s2s.runs.inventory import Inventory
from flax_s2s.runtime import caches, cluster, job, processor, programs
from flax_s2s.runtime.parallel import Devices, make_decoding_devices, place
from flax_s2s.runtime.runlog import make_console
from flax_s2s.training.state import Params

_MOST_UNKNOWN = 0.01  # of the tokens, before it is said
_PROGRAM_FLOPS = 5e11  # of training, which take a CPU as long as it takes to compile the gradient of a shape: 4 to 8 s on two cores
_MOST_FEATURES = 2_000  # all of UniMorph has fewer
_UNITS = {"char": "character"}


def begin(flags: cluster.Flags | None = None, *, join: bool = True) -> None:
    """What comes before any use of a device: the folder of compiled programs, and the other processes where they work together."""
    programs.keep()
    if join:
        job.join(cluster.find(os.environ, flags))


class Ready(NamedTuple):
    """A training corpus as the step sees it."""

    train: Reader
    vocabularies: Vocabularies
    tokens: Tokens  # as the text is always split
    shapes: list[Shape]
    draw: Callable[[int], TokenPairs] | None  # the pairs of an epoch, where they differ from epoch to epoch

    def make_pipeline(self, seed: int, share: Share | None = None) -> Pipeline:
        """The training stream."""
        return Pipeline(self.draw or self.tokens.pairs, self.shapes, seed, share)


def make_ready(
    config: Config, vocab_folder: epath.Path | None, doing: Callable[[str], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
) -> Ready:
    """Reads, tokenizes, filters and buckets the training corpus; the vocabularies are those kept in a folder, or new ones.

    `doing` says what goes on.
    """
    with doing("reading the training pairs"):
        train = Reader(config.data, "train", config.seed)
        kept_there = vocab.load(vocab_folder, config.vocab.joint, config.model.copy) if vocab_folder else None
    with doing("learning the vocabulary"):
        vocabularies = kept_there or vocab_training.train(train, config.vocab, bool(config.data.features), config.model.copy)
    with doing("tokenizing the training pairs"):
        tokens = open_tokens(train, vocabularies, config.data, caches.folder("tokens"))
    lengths = tokens.pairs.source.lengths, tokens.pairs.target.lengths
    if not (config.vocab.sampling or config.data.hallucination):
        with doing("choosing the shapes of batches"):
            return Ready(train, vocabularies, tokens, _choose_shapes(config, vocabularies, *lengths), None)

    def draw(longest: tuple[int, int], epoch: int) -> TokenPairs:
        how = Draw(config.vocab.sampling, config.seed, epoch, longest, config.data.hallucination)
        return open_tokens(train, vocabularies, config.data, None, how).pairs

    with doing("drawing the first epoch's pairs, and choosing the shapes of batches"):
        drawn = draw((config.data.max_source_tokens, config.data.max_target_tokens), 0)
        longer = np.maximum(lengths[0], drawn.source.lengths), np.maximum(lengths[1], drawn.target.lengths)
        shapes = _choose_shapes(config, vocabularies, *longer)
    return Ready(train, vocabularies, tokens, shapes, partial(draw, (shapes[-1].src, shapes[-1].tgt)))


def _choose_shapes(config: Config, vocabularies: Vocabularies, source: np.ndarray, target: np.ndarray) -> list[Shape]:
    """As many as are asked for, or as save more work in all steps than it takes to compile them."""
    if config.data.buckets:
        return choose_shapes(source, target, config.data)
    steps = config.training.steps * config.optimizer.accumulate_batches
    epochs = steps * config.data.batch_tokens / int(np.maximum(source, target).sum())
    return choose_shapes(source, target, config.data, tokens_of_a_program(config, vocabularies) / epochs)


def keep_buckets(kept: Config, config: Config) -> Config:
    """`data.buckets=0` is as many as were kept."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, buckets=config.data.buckets or kept.data.buckets))


def choose_evaluation_shapes(config: Config, vocabularies: Vocabularies, pairs: TokenPairs) -> list[Shape]:
    """The shapes in which a split's loss is computed: no more than there are of training, and as many as three evaluations can pay for.

    However many there will be: a run that goes on for more steps must measure the same, to the bit.
    """
    return choose_shapes(pairs.source.lengths, pairs.target.lengths, config.data, tokens_of_a_program(config, vocabularies) / 3)


def tokens_of_a_program(config: Config, vocabularies: Vocabularies) -> float:
    """Tokens of either side whose training takes as long as compiling; or whose evaluation does, since both take a third."""
    model = dataclasses.replace(config.model, kernel="auto")  # no device is needed to count
    flops = count_flops(model, abstract_params(model, *vocabularies.sizes))
    return _PROGRAM_FLOPS / (1.5 * (flops.source_token + flops.target_token))


def warn_of_tokens(config: Config, ready: Ready, valid: Sequence[Pair]) -> list[str]:
    """What a vocabulary cannot say of the training and the validation text, a line for each fault that is more than an odd one."""
    warnings = []
    train, found = ready.tokens.pairs, tokenize([pair._replace(features="") for pair in valid], ready.vocabularies)
    if new := sorted({one for pair in valid for one in features.split(pair.features)} - {*ready.vocabularies.features}):
        warnings.append(
            f"{len(new):,} features of the validation pairs are not in the vocabulary, such as {', '.join(map(repr, new[:3]))}: each is an "
            "unknown token, of which nothing is learned"
        )
    if len(ready.vocabularies.features) > _MOST_FEATURES:
        warnings.append(
            f"there are {len(ready.vocabularies.features):,} features, such as {ready.vocabularies.features[0]!r}, each with an embedding; "
            f"data.features={config.data.features} may name a text, or numbers"
        )
    first = ready.vocabularies.sizes[0]
    if config.model.copy and (lacking := int((found.source.flat >= first).sum())) and not (train.source.flat >= first).any():
        warnings.append(
            f"the vocabulary lacks {lacking:,} symbols of {config.data.source} in validation and none in training, so that nothing is learned of "
            "copying such: --vocab.character-coverage 0.9995, or of words a --vocab.size, leaves rare ones out, to be copied"
        )
    sides = ((config.data.source, train.source, found.source), (config.data.target, train.target, found.target))
    for number, (side, in_train, in_valid) in enumerate(sides):
        vocabulary, unknown = (
            (ready.vocabularies.source, ready.vocabularies.target)[number],
            (ready.tokens.unknown[number], int((in_valid.flat == UNK).sum())),
        )
        shares = [count / max(1, len(of.flat)) for count, of in zip(unknown, (in_train, in_valid), strict=True)]
        kind = config.vocab.kind if number == 0 or config.vocab.target_kind == "same" else config.vocab.target_kind
        if max(shares) > _MOST_UNKNOWN:
            warnings.append(
                f"the vocabulary cannot say {shares[0]:.1%} of {side} in training, {shares[1]:.1%} in validation: each such {_UNITS.get(kind, kind)} "
                f"is one unknown token, which is never learned or generated; {_remedy(config.vocab, kind, vocabulary, shares[0])}"
            )
        if kind == "word" and (joined := vocabulary.joined_words):
            warnings.append(
                f"{len(joined):,} words of {side} hold white space other than U+0020, such as {joined[0]!r}: vocab.kind=word does not "
                "split there; write spaces in the text instead"
            )
    return warnings


def _remedy(config: VocabConfig, kind: str, vocabulary: vocab.Vocabulary, in_training: float) -> str:
    """What makes unknown tokens fewer."""
    if config.source_model or config.target_model:
        return f"a model of your own ({config.source_model or config.target_model}) says which there are: train one of this text"
    if in_training > _MOST_UNKNOWN and kind in ("char", "word") and len(vocabulary) == config.size:
        return f"vocab.size={config.size} is too small: --vocab.size 0 holds all of them"
    if in_training > _MOST_UNKNOWN and config.character_coverage < 1:
        return f"vocab.character_coverage={config.character_coverage} leaves them out: --vocab.character-coverage 1 holds all of them"
    other = " or subwords (--vocab.kind bpe)" if kind == "word" else ""
    return f"they are not in the training text: --vocab.byte-fallback spells them{other}"


class Opened(NamedTuple):
    """Trained runs, ready to decode as one."""

    config: Config  # of the first run, with the settings of decoding that were asked for
    configs: list[Config]  # of each run, as it was trained
    vocabularies: Vocabularies
    models: list[Model]
    params: list[Params]
    devices: Devices
    steps: list[int]
    folder: epath.Path  # of the first run


def open_runs(run_dirs: Sequence[str], checkpoint: str, decoding: DecodingConfig | None = None, *, join: bool = True) -> Opened:
    """Loads configurations, vocabulary and parameters, and nothing else.

    Args:
        run_dirs: the run directories, one or more, with one vocabulary.
        checkpoint: best, last, or a step.
        decoding: how to decode; None: as the first run is configured.
        join: whether the processes of this place work together.

    Raises:
        UserError: one of them is no complete run, or they have different vocabularies.
    """
    begin(join=join)
    folders = [rundir.make_path(run_dir) for run_dir in run_dirs]
    configs = [rundir.read_config(folder) for folder in folders]
    config = settle(configs, decoding or configs[0].decoding)
    devices = make_decoding_devices(config.training.devices)
    training = config.training
    found = [Inventory(folder / rundir.CHECKPOINTS, training.best_metric, verify=training.verify_checkpoints) for folder in folders]
    steps = [checkpoints.choose(checkpoint) for checkpoints in found]
    vocabularies = load_vocabularies(folders[0])
    models, params = make_models(configs, config.decoding, vocabularies), []
    for folder, one in zip(folders, configs, strict=True):
        if one.model.copy != configs[0].model.copy:
            raise UserError(
                f"{folder} has model.copy={one.model.copy}, and {folders[0]} {configs[0].model.copy}; of runs that translate as one all copy, or none"
            )
    for folder, model, checkpoints, step in zip(folders, models, found, steps, strict=True):
        if load_vocabularies(folder).sha256 != vocabularies.sha256:
            raise UserError(f"{folder} has another vocabulary than {folders[0]}; runs that translate as one must share theirs")
        abstract = place(abstract_params(model.config, *vocabularies.sizes), devices)
        params.append(checkpoints.load_params(step, abstract, vocabularies.sha256))
    return Opened(config, configs, vocabularies, models, params, devices, steps, folders[0])


def settle(configs: Sequence[Config], decoding: DecodingConfig) -> Config:
    """The first run's configuration with these settings of decoding, once they have been found good for all runs.

    Raises:
        UserError: they are not.
    """
    # How it is measured is checked by who measures: any run decodes.
    checked = [check(dataclasses.replace(config, decoding=decoding), measures=False) for config in configs]
    return dataclasses.replace(
        checked[0], decoding=dataclasses.replace(decoding, compute=_fast_compute() if decoding.compute == "auto" else decoding.compute)
    )


def make_models(configs: Sequence[Config], decoding: DecodingConfig, vocabularies: Vocabularies) -> list[Model]:
    """The runs' models as they decode: anywhere, whatever they were trained with."""
    sizes = vocabularies.sizes
    compute = _fast_compute() if decoding.compute == "int8" else decoding.compute  # of what has no weights in 8 bits
    return [make_model(dataclasses.replace(config.model, kernel="auto", compute=compute), *sizes) for config in configs]


def _fast_compute() -> Literal["float32", "bfloat16"]:
    """bfloat16 where it is faster and a product's rows do not depend on how many there are: on GPUs other kernels sum otherwise."""
    return "bfloat16" if jax.default_backend() == "cpu" and processor.multiplies_bfloat16() else "float32"


def load_vocabularies(folder: epath.Path) -> Vocabularies:
    """A run's vocabularies.

    Raises:
        UserError: there are none.
    """
    config = rundir.read_config(folder)
    found = vocab.load(folder / rundir.VOCAB, config.vocab.joint, config.model.copy)
    if found is None:
        raise UserError(f"{folder / rundir.VOCAB} has no vocabulary; the run directory is not complete: restore it from a copy")
    return found


def keep_calibration(folder: epath.Path, states: Sequence[str], temperature: float) -> bool:
    """Keeps in the first run's folder the temperature that these checkpoints were calibrated to; False where it cannot be written."""
    record = {"states_sha256": list(states), "temperature": temperature}
    try:
        with rundir.writing(str(folder / rundir.CALIBRATION)) as file:
            write_json(file, record)
    except (OSError, UserError):  # a run that is only read is evaluated all the same
        return False
    return True


def read_calibration(folder: epath.Path, states: Sequence[str]) -> float | None:
    """The temperature that these checkpoints, as one, were calibrated to; None: they were not."""
    try:
        found = json.loads((folder / rundir.CALIBRATION).read_text())
        return float(found["temperature"]) if found["states_sha256"] == list(states) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_translator(
    opened: Opened, blocklist: Sequence[str] = (), *, attention: bool = False, lengths: Sequence[int] = SOURCE_LENGTHS
) -> Translator:
    """A translator with the settings of decoding, and with the run's shortlist where those ask for it; `lengths` as in `Translator`."""
    size, chosen = opened.config.decoding.shortlist, None
    if size:
        chosen = shortlist.load(opened.folder / rundir.SHORTLIST, min(size, len(opened.vocabularies.target)))
    decoding = opened.config.decoding
    return Translator(
        opened.models,
        opened.vocabularies,
        decoding,
        opened.devices,
        blocklist=blocklist,
        shortlist=chosen,
        attention=attention,
        lengths=lengths,
    )


def load_split(config: Config, split: Split, folder: str) -> Corpus:
    """A split of a run's corpus, which lies in another folder where one is given."""
    data = dataclasses.replace(config.data, folder=folder) if folder else config.data
    return load(data, split, config.seed)


def choose_metrics(config: Config, metrics: Sequence[Metric], merge_sources: bool, language: str, tokenizer: Tokenizer) -> Config:
    """The configuration with other metrics, where any are given, and with sources merged where that is asked for.

    Raises:
        UserError: a metric is not defined for the target, or its tokenizer is not installed.
    """
    evaluation, merge = config.evaluation, merge_sources or config.evaluation.merge_sources
    metrics = tuple(metrics) or evaluation.metrics
    chosen = dataclasses.replace(evaluation, metrics=metrics, merge_sources=merge, language=language, tokenizer=tokenizer)
    check_metrics(chosen, config.data.target)
    return dataclasses.replace(config, evaluation=chosen)


def optional_file(name: str) -> contextlib.AbstractContextManager[Any]:
    """A file for a result, see `rundir.writing`; None where it has no name."""
    return rundir.writing(name) if name else contextlib.nullcontext()


def write_json(file: Any, result: dict[str, Any]) -> None:
    """A verb's result, for programs, into a file open for bytes."""
    file.write((json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode())


def measure_products(rounds: int = 5) -> float:
    """FLOP/s of a float32 matrix product of 2048 x 2048 on one device: the best of several."""
    size = 2048
    square = jnp.full((size, size), 0.5, jnp.float32)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(square))
    return 2 * size**3 / min(measure(lambda: product(square)) for _ in range(rounds))


def measure(work: Callable[[], Any]) -> float:
    """Seconds that the work takes until its result is there."""
    begin = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begin


def console() -> Console:
    """Where a verb says what it does; its result goes to stdout."""
    return make_console(stderr=True, speaks=jax.process_index() == 0)
