"""The rules that the fields of a configuration keep, one message for each that is broken.

Enters: a `Config` whose fields have the right types. Leaves: the same with what follows from other fields filled in, or a `UserError`.
"""

import dataclasses
import math
import re

from flax_s2s import languages
from flax_s2s.config import (
    FORMATS,
    LEAST_COVERAGE,
    TILE,
    Config,
    DecodingConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    UserError,
    VocabConfig,
    flatten,
)

_POSITIVE = """data.max_source_tokens data.max_target_tokens data.batch_tokens data.row_multiple data.held_out_pairs
    model.embedding_size model.hidden_size model.encoder_layers model.decoder_layers optimizer.learning_rate
    optimizer.accumulate_batches training.steps training.log_every_steps training.evaluate_every_steps
    optimizer.epsilon training.save_every_steps training.keep_last decoding.beam_size decoding.n_best decoding.groups
    decoding.repetition_penalty decoding.top_p decoding.rows decoding.max_source_tokens""".split()
_DROPOUT = "model.dropout model.recurrent_dropout model.word_dropout model.zoneout".split()
_PROBABILITY = [
    *_DROPOUT,
    *"data.hallucination vocab.sampling optimizer.scheduled_sampling optimizer.beta1 optimizer.beta2 optimizer.label_smoothing optimizer.average_decay".split(),
]


_TOO_LARGE = 2**32  # for a whole number: of a seed, and far beyond all sizes and steps
_LEAST_SHORTLIST, _MOST_TOKENS = 16, 1_000_000
_LEAST_VOCABULARY, _MOST_VOCABULARY = 5, 10_000_000
_LONGEST_SYMBOL = 100


def check(config: Config, *, measures: bool = True) -> Config:
    """Returns the configuration if its fields agree with one another; `optimizer.decay_steps=0` is as many as `training.steps` by then.

    Args:
        config: what is checked.
        measures: whether its metrics will be computed, so that they must be defined for the target.

    Raises:
        UserError: the first rule that is broken, with the value got and a remedy.
    """
    leaves = {name: value for name, (value, _) in flatten(config).items()}
    for name, value in leaves.items():
        if isinstance(value, (int, float)) and not (value >= 0 and value != math.inf):
            raise UserError(f"{name}={value} must not be negative and must be finite")
        if isinstance(value, int) and value >= _TOO_LARGE:
            raise UserError(f"{name}={str(value)[:40]} must be less than 2**32")
    for name in _POSITIVE:
        if leaves[name] == 0:
            raise UserError(f"{name}=0 must be greater than 0")
    for name in _PROBABILITY:
        if not 0 <= float(str(leaves[name])) < 1:
            raise UserError(f"{name}={leaves[name]} must be at least 0 and less than 1")
    for name in [*_DROPOUT, "optimizer.scheduled_sampling"]:
        rate = float(str(leaves[name]))
        if rate and not 1 / 256 <= rate <= 255 / 256:
            raise UserError(f"{name}={rate} must be 0, or at least 1/256 and at most 255/256, because one random byte decides")
    _check_data(config)
    _check_vocab(config.vocab)
    kinds = (config.vocab.kind, config.vocab.kind if config.vocab.target_kind == "same" else config.vocab.target_kind)
    if config.data.hallucination and set(kinds) != {"char"}:
        raise UserError(
            f"data.hallucination={config.data.hallucination} replaces letters, and needs vocab.kind=char, got {', '.join(sorted(set(kinds)))}; use 0"
        )
    if config.data.hallucination and config.vocab.symbols:
        raise UserError(
            f"data.hallucination={config.data.hallucination} would replace letters of vocab.symbols={' '.join(config.vocab.symbols)}, too; use one of them"
        )
    _check_model(config.model, config.vocab)
    config = _with_decay(config)
    _check_optimizer(config.optimizer, config.model)
    if config.model.feed_features and not (config.data.features and config.vocab.joint):
        raise UserError(
            f"model.feed_features needs features, and tokens that are the same on both sides, got data.features={config.data.features!r} and "
            f"vocab.joint={config.vocab.joint}; give both, or --model.no-feed-features"
        )
    if config.model.alignment == "monotonic" and config.data.features and not config.model.feed_features:
        raise UserError(
            f"model.alignment=monotonic cannot go back to features, which stand before the text, got data.features={config.data.features!r}; "
            "add --model.feed-features, use hard, or leave them out"
        )
    if config.model.hard and config.optimizer.scheduled_sampling:
        raise UserError(
            f"optimizer.scheduled_sampling={config.optimizer.scheduled_sampling} reads own tokens in one pass more, and model.alignment="
            f"{config.model.alignment} knows them only one after the other; use 0, or model.alignment=soft"
        )
    if config.optimizer.schedule == "cosine" and config.training.steps > config.optimizer.decay_steps:
        raise UserError(
            f"training.steps={config.training.steps} goes beyond optimizer.decay_steps={config.optimizer.decay_steps}, where the learning "
            "rate of schedule=cosine is zero and nothing more is learned; use fewer steps, or for a new run optimizer.decay_steps=0, "
            "which is as many as it has"
        )
    _check_decoding(config.decoding, config.model)
    if measures:
        check_metrics(config.evaluation, config.data.target)
    _check_evaluation(config)
    return config


def _with_decay(config: Config) -> Config:
    """A cosine that is to end with the run ends there."""
    optimizer = config.optimizer
    if optimizer.schedule != "cosine" or optimizer.decay_steps:
        return config
    return dataclasses.replace(config, optimizer=dataclasses.replace(optimizer, decay_steps=config.training.steps))


def find_misfits(config: Config) -> list[str]:
    """What of the schedules does not fit into the run's steps, each with options that do: allowed, but hardly meant.

    Args:
        config: as `check` returns it.
    """
    optimizer, steps = config.optimizer, config.training.steps
    found = []
    if optimizer.warmup_steps > max(steps / 2, 1):
        found.append(
            f"optimizer.warmup_steps={optimizer.warmup_steps} takes more than half of training.steps={steps}; in so many steps "
            f"--optimizer.warmup-steps {max(steps // 10, 1)} would fit"
        )
    if optimizer.schedule == "cosine" and optimizer.decay_steps > steps:
        found.append(
            f"optimizer.decay_steps={optimizer.decay_steps} lies beyond training.steps={steps}, where the learning rate is not yet zero; for a run "
            "that ends there --optimizer.decay-steps 0 would fit"
        )
    if optimizer.schedule == "halving" and optimizer.halve_from_step >= steps:
        found.append(
            f"optimizer.halve_from_step={optimizer.halve_from_step} is not reached in training.steps={steps}, so that the learning rate is never "
            f"halved; --optimizer.halve-from-step {2 * steps // 3} --optimizer.halve-every-steps {max(steps // 12, 1)} would fit"
        )
    if optimizer.scheduled_sampling_steps > steps:
        found.append(
            f"optimizer.scheduled_sampling_steps={optimizer.scheduled_sampling_steps} is not reached in training.steps={steps}; "
            f"--optimizer.scheduled-sampling-steps {steps // 2} would fit"
        )
    return found


def _check_data(config: Config) -> None:
    data = config.data
    longest = max(data.max_source_tokens, data.max_target_tokens)
    if data.batch_tokens < longest * data.row_multiple:
        raise UserError(
            f"data.batch_tokens={data.batch_tokens} must hold {data.row_multiple} rows (data.row_multiple) of the longest pair, "
            f"{longest} tokens; use at least {longest * data.row_multiple}, or lower data.max_source_tokens and data.max_target_tokens"
        )
    if FORMATS[data.format] == "generated" and data.max_train_pairs == 0:
        raise UserError(f"data.format={data.format} generates data.max_train_pairs pairs, got 0; use for example 40000")
    if FORMATS[data.format] == "dataset" and not data.dataset:
        raise UserError(f"data.format={data.format} needs data.dataset, a TFDS name such as wmt14_translate/fr-en")
    if data.header and FORMATS[data.format] != "table":
        raise UserError(f"data.header is of tables, and data.format={data.format} has no row of names; use --data.no-header")
    if not data.train:
        raise UserError("data.train is empty; name the training split")
    if data.source == data.target:
        raise UserError(f"data.source and data.target are both {data.source!r}; they must name two sides")
    source, bundle = ({*name.split("+")} - {""} for name in (data.source, data.features))
    if data.target in source:
        raise UserError(f"data.source={data.source!r} holds the target, data.target={data.target!r}; name what it is joined of without it")
    if bundle & {*source, data.source, data.target}:
        raise UserError(f"data.features={data.features!r} is the source or the target; name what stands beside them, or leave it out")
    if data.features and (FORMATS[data.format] == "generated" or data.format == "tmx"):
        raise UserError(f"data.format={data.format} has no features, got data.features={data.features}; leave it out")
    if FORMATS[data.format] in ("aligned", "generated"):
        sources = data.source.split("+") if FORMATS[data.format] == "aligned" else [data.source]
        for name in (*sources, data.target, *(data.features.split("+") if data.features else [])):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or ".." in name:
                raise UserError(
                    f"side {name!r} must be a file suffix or locale of letters, digits, '.', '_' and '-', such as en or zh_Hans"
                )


def _check_vocab(vocab: VocabConfig) -> None:
    if not LEAST_COVERAGE <= vocab.character_coverage <= 1:
        raise UserError(f"vocab.character_coverage={vocab.character_coverage} must be between {LEAST_COVERAGE} and 1")
    if 0 < vocab.size < _LEAST_VOCABULARY or vocab.size > _MOST_VOCABULARY:
        raise UserError(
            f"vocab.size={vocab.size} must be 0 (char and word: all, else 8000), or {_LEAST_VOCABULARY} to {_MOST_VOCABULARY:,}: four tokens "
            "are special ones"
        )
    if vocab.byte_fallback and 0 < vocab.size < _LEAST_VOCABULARY + 256:
        raise UserError(
            f"vocab.byte_fallback needs vocab.size of at least {_LEAST_VOCABULARY + 256}: four special tokens, 256 bytes and one more, got "
            f"{vocab.size}; use 0, or a larger one"
        )
    for symbol in vocab.symbols:
        odd = re.search("[\\s\0\u2581\ud800-\udfff]", symbol) or (vocab.byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", symbol))
        if odd or not 0 < len(symbol) <= _LONGEST_SYMBOL or vocab.symbols.count(symbol) > 1:
            raise UserError(
                f"vocab.symbols={symbol[:40]!r} must be text without white space, of at most {_LONGEST_SYMBOL} characters, given once; such as <2de> <NUM>"
            )
    if 0 < vocab.size < _LEAST_VOCABULARY + len(vocab.symbols):
        raise UserError(f"vocab.size={vocab.size} must hold {len(vocab.symbols)} vocab.symbols beside others; use 0, or a larger one")
    kinds = {vocab.kind if kind == "same" else kind for kind in (vocab.kind, vocab.target_kind)}
    if vocab.joint and len(kinds) > 1:
        raise UserError(f"vocab.target_kind={vocab.target_kind} is another kind than vocab.kind={vocab.kind} and needs vocab.joint=False")
    if vocab.joint and vocab.target_model:
        raise UserError(
            f"vocab.target_model={vocab.target_model} is of a vocabulary of its own and needs vocab.joint=False; or give vocab.source_model"
        )
    if vocab.unicode_form != "given" and vocab.normalization != "identity":
        raise UserError(
            f"vocab.normalization={vocab.normalization} has a Unicode form of its own, got vocab.unicode_form={vocab.unicode_form}; use one of them"
        )
    if vocab.source_model and (vocab.joint or vocab.target_model):
        usual = VocabConfig()
        for name in ("symbols", "clusters", "byte_fallback", "normalization", "size", "character_coverage"):
            if (value := getattr(vocab, name)) != getattr(usual, name):
                raise UserError(
                    f"vocab.{name}={value} is of vocabularies that are trained, got vocab.source_model; leave it at {getattr(usual, name)}"
                )
    if vocab.clusters and vocab.normalization != "identity":
        raise UserError(f"vocab.clusters are those of the text as it is, got vocab.normalization={vocab.normalization}; use identity")
    if vocab.clusters and "char" not in kinds:
        raise UserError(f"vocab.clusters keeps characters whole and needs vocab.kind=char, got {', '.join(sorted(kinds))}; leave it out")
    if vocab.symbols and kinds == {"word"}:
        raise UserError(f"vocab.kind=word keeps every word whole, so vocab.symbols={vocab.symbols} change nothing; leave them out")
    if vocab.sampling and not kinds <= {"bpe", "unigram"}:
        raise UserError(f"vocab.sampling={vocab.sampling} needs vocab.kind=bpe or unigram, got {', '.join(sorted(kinds))}; use 0")


def _check_model(model: ModelConfig, vocab: VocabConfig) -> None:
    if model.bidirectional_layers > model.encoder_layers:
        raise UserError(
            f"model.bidirectional_layers={model.bidirectional_layers} must be at most model.encoder_layers={model.encoder_layers}"
        )
    if model.bidirectional_layers and not model.bidirectional_size and model.hidden_size % 2:
        raise UserError(
            f"model.hidden_size={model.hidden_size} must be even, so that each direction gets half; use {model.hidden_size + 1}"
        )
    if model.kernel == "cudnn" and model.compute == "bfloat16":
        raise UserError(f"model.kernel=cudnn computes in float32 only, got model.compute={model.compute}; use model.kernel=auto")
    if model.kernel == "pallas":
        _check_pallas(model)
    if model.attention == "none" and model.bridge == "zero":
        raise UserError("model.attention=none with model.bridge=zero shows the decoder nothing of the source; use model.bridge=copy")
    if model.input_feeding and model.attention == "none":
        raise UserError("model.input_feeding needs attention, got model.attention=none; use general")
    if model.coverage and not model.input_feeding:
        raise UserError("model.coverage needs attention step after step, and so model.input_feeding; add --model.input-feeding")
    if model.attend_embeddings and model.attention in ("none", "dot"):
        raise UserError(f"model.attend_embeddings needs a score with parameters, got model.attention={model.attention}; use general")
    for name in ("hard", "reverse_source") if not model.source_end else ():
        if getattr(model, name):
            field = "alignment" if name == "hard" else name
            raise UserError(
                f"model.source_end=False is for soft attention of sources as they stand, got model.{field}={getattr(model, field)}; leave it out"
            )
    if model.hard:
        for name, needed in (("attention", "none"), ("input_feeding", True), ("copy", True)):
            if getattr(model, name) == needed:
                why = {"attention": "is attention", "input_feeding": "feeds no context, so that alignments can be summed over"}
                raise UserError(
                    f"model.alignment={model.alignment} {why.get(name, 'says each token of one position, and copies none')}, got "
                    f"model.{name}={needed}; use {'general' if name == 'attention' else False}, or model.alignment=soft"
                )
    if model.copy and model.attention == "none":
        raise UserError("model.copy copies what attention looks at, got model.attention=none; use general")
    if model.copy and not vocab.joint:
        raise UserError("model.copy needs tokens that are the same on both sides, and so vocab.joint; add --vocab.joint")
    if model.tie == "all" and not vocab.joint:
        raise UserError("model.tie=all shares the source and target tables and needs vocab.joint; use model.tie=softmax")
    both = 2 * (model.bidirectional_size or model.hidden_size // 2)
    wide = model.bidirectional_layers and both != model.hidden_size
    if wide and model.bridge == "copy":
        raise UserError(
            f"model.bridge=copy needs both directions together to be model.hidden_size={model.hidden_size} wide, got {both}; "
            "use model.bridge=dense, or model.bidirectional_size=0"
        )
    if model.residual_from == 1 and model.embedding_size != model.hidden_size:
        raise UserError(
            f"model.residual_from=1 adds embeddings of {model.embedding_size} to states of {model.hidden_size}; use 2 or more, or equal sizes"
        )
    if wide and 0 < model.residual_from <= min(model.bidirectional_layers + 1, model.encoder_layers):
        raise UserError(
            f"model.residual_from={model.residual_from} adds states of {both} and {model.hidden_size}; use at least {model.bidirectional_layers + 2}"
        )
    if wide and model.attention == "dot" and model.bidirectional_layers == model.encoder_layers:
        raise UserError(f"model.attention=dot needs states of one size, got {model.hidden_size} and {both}; use general")


def _check_pallas(model: ModelConfig) -> None:
    for name, wanted in (("cell", "lstm"), ("zoneout", 0.0), ("recompute", False)):
        if (value := getattr(model, name)) != wanted:
            raise UserError(
                f"model.kernel=pallas computes lstms without zoneout, and keeps their gates, got model.{name}={value}; use {wanted}, or model.kernel=auto"
            )
    steps = {"bidirectional_size": TILE} if model.bidirectional_size else {"hidden_size": 2 * TILE}  # of which a direction has half
    steps = steps if model.bidirectional_layers else {}
    if model.encoder_layers > model.bidirectional_layers or not model.input_feeding:
        steps.setdefault("hidden_size", TILE)
    for name, step in steps.items():
        if (units := getattr(model, name)) % step:
            raise UserError(
                f"model.kernel=pallas goes through units in tiles, and needs model.{name} to be a multiple of {step} here, got {units}; use "
                f"{units + -units % step}, or model.kernel=auto"
            )


def _check_optimizer(optimizer: OptimizerConfig, model: ModelConfig) -> None:
    needs = {"inverse_sqrt": "warmup_steps", "halving": "halve_every_steps"}
    name = needs.get(optimizer.schedule)
    if name and getattr(optimizer, name) == 0:
        raise UserError(f"optimizer.schedule={optimizer.schedule} needs optimizer.{name} greater than 0, got 0")
    if 0 < optimizer.spike_factor <= 1:
        raise UserError(
            f"optimizer.spike_factor={optimizer.spike_factor} would skip every update above the usual loss; use 0 (none) or, for example, 3"
        )
    if optimizer.scheduled_sampling_steps and not optimizer.scheduled_sampling:
        raise UserError(
            f"optimizer.scheduled_sampling_steps={optimizer.scheduled_sampling_steps} needs optimizer.scheduled_sampling greater than 0; "
            "give the probability that it rises to, for example 0.2"
        )
    if optimizer.coverage_loss and not model.coverage:
        raise UserError(f"optimizer.coverage_loss={optimizer.coverage_loss} needs model.coverage; add --model.coverage, or use 0")
    if optimizer.weight_decay and optimizer.name != "adamw":
        raise UserError(f"optimizer.weight_decay needs optimizer.name=adamw, got {optimizer.name}")


def _check_decoding(decoding: DecodingConfig, model: ModelConfig) -> None:
    size = decoding.beam_size
    if decoding.n_best > size:
        raise UserError(f"decoding.n_best={decoding.n_best} must be at most decoding.beam_size={size}; use a larger beam")
    if size % decoding.groups:
        raise UserError(
            f"decoding.groups={decoding.groups} must divide decoding.beam_size={size}; use {size} groups of one, or another beam"
        )
    if decoding.temperature and decoding.groups > 1:
        raise UserError(
            f"decoding.groups={decoding.groups} is a kind of search, and decoding.temperature={decoding.temperature} samples; use one"
        )
    if decoding.top_p > 1:
        raise UserError(f"decoding.top_p={decoding.top_p} is a probability, at most 1; use 1 for all tokens")
    if not decoding.temperature and (decoding.top_k or decoding.top_p < 1):
        raise UserError("decoding.top_k and decoding.top_p cut what is sampled from; give decoding.temperature, for example 1.0")
    if decoding.coverage_penalty and model.attention == "none":
        raise UserError(f"decoding.coverage_penalty={decoding.coverage_penalty} needs attention, got model.attention=none; use 0")
    if decoding.compute == "int8" and model.hard:
        raise UserError(f"decoding.compute=int8 is for soft attention, got model.alignment={model.alignment}; use auto")
    if 0 < decoding.shortlist < _LEAST_SHORTLIST:
        raise UserError(
            f"decoding.shortlist={decoding.shortlist} leaves nothing to say; use at least {_LEAST_SHORTLIST}, or 0 for all tokens"
        )
    if decoding.max_source_tokens * decoding.max_length_ratio + decoding.max_length_extra > _MOST_TOKENS:
        raise UserError(
            f"decoding.max_length_ratio={decoding.max_length_ratio} and max_length_extra={decoding.max_length_extra} allow more than "
            f"{_MOST_TOKENS:,} tokens for a source of decoding.max_source_tokens={decoding.max_source_tokens}; use smaller ones"
        )
    if decoding.seed >= 2**31:
        raise UserError(f"decoding.seed={decoding.seed} must be less than 2**31")


def _check_evaluation(config: Config) -> None:
    best, metrics = config.training.best_metric, config.evaluation.metrics
    if best != "loss" and best not in metrics:
        raise UserError(f"training.best_metric={best} must be loss or one of evaluation.metrics: {', '.join(metrics)}; add it there")
    if best != "loss" and config.evaluation.valid_pairs == 0:
        raise UserError(f"training.best_metric={best} needs translations; raise evaluation.valid_pairs from 0")


def check_metrics(evaluation: EvaluationConfig, target: str) -> None:
    """Whether it is clear how each metric takes the target apart."""
    languages.find_target(evaluation, target)
    for metric in evaluation.metrics:
        if lack := languages.find_lack(metric, evaluation, target):
            raise UserError(lack)
