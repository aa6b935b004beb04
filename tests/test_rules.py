import dataclasses
import math
import typing

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies as st
from tiny import REPOSITORY, changed

from flax_s2s import languages
from flax_s2s.config import Config, Metric, ModelConfig, UserError, VocabConfig, flatten
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.model.sizes import sizes
from flax_s2s.presets import load_preset
from flax_s2s.rules import check, find_misfits

GOOD = Config()


def test_a_consistent_config_is_returned_unchanged():
    assert check(GOOD) is GOOD


NUMBERS = sorted(name for name, (value, _) in flatten(GOOD).items() if isinstance(value, (int, float)) and not isinstance(value, bool))


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_may_be_negative(name):
    kind = type(flatten(GOOD)[name][0])
    with pytest.raises(UserError, match=f"^{name}={kind(-1)} must not be negative"):
        check(changed(GOOD, {name: kind(-1)}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_infinite(value):
    with pytest.raises(UserError, match=f"^model.dropout={value} must not be negative and must be finite"):
        check(changed(GOOD, {"model.dropout": value}))


@pytest.mark.parametrize(
    "name",
    """data.max_source_tokens data.max_target_tokens data.batch_tokens data.row_multiple data.held_out_pairs
    model.embedding_size model.hidden_size model.encoder_layers model.decoder_layers optimizer.learning_rate
    optimizer.accumulate_batches training.steps training.log_every_steps training.evaluate_every_steps
    training.save_every_steps training.keep_last decoding.beam_size decoding.rows decoding.max_source_tokens
    optimizer.epsilon""".split(),
)
def test_a_count_of_nothing_is_refused(name):
    kind = type(flatten(GOOD)[name][0])
    with pytest.raises(UserError, match=f"^{name}=0 must be greater than 0$"):
        check(changed(GOOD, {name: kind(0)}))


@pytest.mark.parametrize(
    "name",
    [
        "model.dropout",
        "model.word_dropout",
        "vocab.sampling",
        "optimizer.beta1",
        "optimizer.beta2",
        "optimizer.label_smoothing",
        "optimizer.average_decay",
    ],
)
def test_a_probability_is_below_one(name):
    assert check(changed(GOOD, {name: 0.99}))
    with pytest.raises(UserError, match=f"^{name}=1.0 must be at least 0 and less than 1$"):
        check(changed(GOOD, {name: 1.0}))


NO_LANGUAGE = (
    "{} goes by the target's language, which data.target={} does not tell; give it by --language (evaluation.language), "
    "a code such as de, zho_Hans or pt-BR"
)
OR_HOW = (
    "; or say how words are found by --tokenizer (evaluation.tokenizer): 13a where spaces are between them, zh for Chinese, "
    "char for Japanese or Thai, none for what is split already"
)
NO_BLEU, NO_TER = (NO_LANGUAGE.format(name, "{}") + OR_HOW for name in ("bleu", "ter"))
NOT_BY_PALLAS = "model.kernel=pallas computes lstms without zoneout, and keeps their gates, got model.{}; use {}, or model.kernel=auto"
NO_TILES = (
    "model.kernel=pallas goes through units in tiles, and needs model.{} to be a multiple of {} here, got {}; use {}, or model.kernel=auto"
)
RULES = [  # fields that break a rule, the whole message, and the remedy it names
    (
        {"data.batch_tokens": 799},
        "data.batch_tokens=799 must hold 8 rows (data.row_multiple) of the longest pair, 100 tokens; use at least 800, or lower "
        "data.max_source_tokens and data.max_target_tokens",
        {"data.batch_tokens": 800},
    ),
    (
        {"data.batch_tokens": 799, "data.max_source_tokens": 10, "data.row_multiple": 10},
        "data.batch_tokens=799 must hold 10 rows (data.row_multiple) of the longest pair, 100 tokens; use at least 1000, or lower "
        "data.max_source_tokens and data.max_target_tokens",
        {"data.max_target_tokens": 79},
    ),
    (
        {"data.max_train_pairs": 0, "data.format": "phrases"},
        "data.format=phrases generates data.max_train_pairs pairs, got 0; use for example 40000",
        {"data.max_train_pairs": 40_000},
    ),
    (
        {"data.format": "tfds"},
        "data.format=tfds needs data.dataset, a TFDS name such as wmt14_translate/fr-en",
        {"data.dataset": "wmt14_translate/fr-en"},
    ),
    (
        {"data.features": "en"},
        "data.features='en' is the source or the target; name what stands beside them, or leave it out",
        {"data.features": "tag"},
    ),
    (
        {"data.features": "tag", "data.format": "phrases", "data.max_train_pairs": 10},
        "data.format=phrases has no features, got data.features=tag; leave it out",
        {"data.features": ""},
    ),
    (
        {"data.features": "tag+zh"},
        "data.features='tag+zh' is the source or the target; name what stands beside them, or leave it out",
        {"data.features": "tag+other"},
    ),
    (
        {"data.source": "en+zh"},
        "data.source='en+zh' holds the target, data.target='zh'; name what it is joined of without it",
        {"data.source": "en+fr"},
    ),
    *(
        (
            {"vocab.symbols": (odd,), "vocab.byte_fallback": True},
            f"vocab.symbols={odd[:40]!r} must be text without white space, of at most 100 characters, given once; such as <2de> <NUM>",
            {"vocab.symbols": ("<unk>", "<s>", ",", '"')},
        )
        for odd in ("", "a\u2581b", "x\0y", "\ud800", "<0x41>", "x" * 101, "a\u3000b")
    ),
    (
        {"vocab.symbols": ("a b",)},
        "vocab.symbols='a b' must be text without white space, of at most 100 characters, given once; such as <2de> <NUM>",
        {"vocab.symbols": ("ab",)},
    ),
    (
        {"vocab.symbols": ("<s>", "<s>")},
        "vocab.symbols='<s>' must be text without white space, of at most 100 characters, given once; such as <2de> <NUM>",
        {"vocab.symbols": ("<s>",)},
    ),
    (
        {"vocab.symbols": ("<1>", "<2>"), "vocab.size": 6},
        "vocab.size=6 must hold 2 vocab.symbols beside others; use 0, or a larger one",
        {"vocab.size": 7},
    ),
    (
        {"vocab.symbols": ("<1>",), "vocab.kind": "word"},
        "vocab.kind=word keeps every word whole, so vocab.symbols=('<1>',) change nothing; leave them out",
        {"vocab.kind": "char"},
    ),
    (
        {"data.header": True, "data.format": "jsonl"},
        "data.header is of tables, and data.format=jsonl has no row of names; use --data.no-header",
        {"data.format": "csv"},
    ),
    ({"data.train": ""}, "data.train is empty; name the training split", {"data.train": "train"}),
    ({"data.source": "zh"}, "data.source and data.target are both 'zh'; they must name two sides", {"data.source": "en"}),
    (
        {"data.format": "text", "data.target": "../zh"},
        "side '../zh' must be a file suffix or locale of letters, digits, '.', '_' and '-', such as en or zh_Hans",
        {"data.target": "zh_Hans"},
    ),
    (
        {"data.source": "e..n"},
        "side 'e..n' must be a file suffix or locale of letters, digits, '.', '_' and '-', such as en or zh_Hans",
        {"data.source": "en"},
    ),
    ({"vocab.character_coverage": 0.9}, "vocab.character_coverage=0.9 must be between 0.98 and 1", {"vocab.character_coverage": 0.98}),
    ({"vocab.character_coverage": 1.5}, "vocab.character_coverage=1.5 must be between 0.98 and 1", {"vocab.character_coverage": 1.0}),
    (
        {"vocab.size": 4},
        "vocab.size=4 must be 0 (char and word: all, else 8000), or 5 to 10,000,000: four tokens are special ones",
        {"vocab.size": 5},
    ),
    (
        {"vocab.size": 2**31 - 1},
        "vocab.size=2147483647 must be 0 (char and word: all, else 8000), or 5 to 10,000,000: four tokens are special ones",
        {"vocab.size": 10_000_000},
    ),
    (
        {"vocab.byte_fallback": True, "vocab.size": 260},
        "vocab.byte_fallback needs vocab.size of at least 261: four special tokens, 256 bytes and one more, got 260; use 0, or a larger one",
        {"vocab.byte_fallback": True, "vocab.size": 261},
    ),
    (
        {"model.bidirectional_layers": 2},
        "model.bidirectional_layers=2 must be at most model.encoder_layers=1",
        {"model.bidirectional_layers": 1},
    ),
    (
        {"model.hidden_size": 255},
        "model.hidden_size=255 must be even, so that each direction gets half; use 256",
        {"model.hidden_size": 256},
    ),
    (
        {"model.input_feeding": True, "model.attention": "none"},
        "model.input_feeding needs attention, got model.attention=none; use general",
        {"model.attention": "general"},
    ),
    (
        {"model.attend_embeddings": True, "model.attention": "dot"},
        "model.attend_embeddings needs a score with parameters, got model.attention=dot; use general",
        {"model.attention": "additive"},
    ),
    (
        {"vocab.unicode_form": "NFD", "vocab.normalization": "nfkc"},
        "vocab.normalization=nfkc has a Unicode form of its own, got vocab.unicode_form=NFD; use one of them",
        {"vocab.normalization": "identity"},
    ),
    (
        {"vocab.clusters": True, "vocab.kind": "bpe"},
        "vocab.clusters keeps characters whole and needs vocab.kind=char, got bpe; leave it out",
        {"vocab.kind": "char"},
    ),
    (
        {"vocab.clusters": True, "vocab.kind": "char", "vocab.normalization": "nfkc"},
        "vocab.clusters are those of the text as it is, got vocab.normalization=nfkc; use identity",
        {"vocab.normalization": "identity"},
    ),
    (
        {"vocab.source_model": "a.model", "vocab.size": 8000},
        "vocab.size=8000 is of vocabularies that are trained, got vocab.source_model; leave it at 0",
        {"vocab.size": 0},
    ),
    (
        {"vocab.target_model": "b.model", "vocab.joint": True},
        "vocab.target_model=b.model is of a vocabulary of its own and needs vocab.joint=False; or give vocab.source_model",
        {"vocab.joint": False},
    ),
    (
        {"vocab.source_model": "a.model", "vocab.byte_fallback": True},
        "vocab.byte_fallback=True is of vocabularies that are trained, got vocab.source_model; leave it at False",
        {"vocab.byte_fallback": False},
    ),
    (
        {"model.alignment": "hard", "decoding.compute": "int8"},
        "decoding.compute=int8 is for soft attention, got model.alignment=hard; use auto",
        {"decoding.compute": "auto"},
    ),
    (
        {"model.alignment": "hard", "model.attention": "none"},
        "model.alignment=hard is attention, got model.attention=none; use general, or model.alignment=soft",
        {"model.attention": "general"},
    ),
    (
        {"model.alignment": "monotonic", "model.input_feeding": True},
        "model.alignment=monotonic feeds no context, so that alignments can be summed over, got model.input_feeding=True; use False, or "
        "model.alignment=soft",
        {"model.input_feeding": False},
    ),
    (
        {"model.alignment": "monotonic", "model.copy": True},
        "model.alignment=monotonic says each token of one position, and copies none, got model.copy=True; use False, or model.alignment=soft",
        {"model.alignment": "soft"},
    ),
    (
        {"model.alignment": "monotonic", "data.features": "c"},
        "model.alignment=monotonic cannot go back to features, which stand before the text, got data.features='c'; add --model.feed-features, use "
        "hard, or leave them out",
        {"model.alignment": "hard"},
    ),
    (
        {"model.alignment": "hard", "optimizer.scheduled_sampling": 0.2},
        "optimizer.scheduled_sampling=0.2 reads own tokens in one pass more, and model.alignment=hard knows them only one after the other; use "
        "0, or model.alignment=soft",
        {"optimizer.scheduled_sampling": 0.0},
    ),
    (
        {"data.hallucination": 0.5, "vocab.kind": "char", "vocab.symbols": ("<a>",)},
        "data.hallucination=0.5 would replace letters of vocab.symbols=<a>, too; use one of them",
        {"vocab.symbols": ()},
    ),
    (
        {"data.hallucination": 0.5, "vocab.kind": "bpe"},
        "data.hallucination=0.5 replaces letters, and needs vocab.kind=char, got bpe; use 0",
        {"vocab.kind": "char"},
    ),
    (
        {"model.feed_features": True},
        "model.feed_features needs features, and tokens that are the same on both sides, got data.features='' and vocab.joint=True; give both, or "
        "--model.no-feed-features",
        {"data.features": "c"},
    ),
    (
        {"model.coverage": True},
        "model.coverage needs attention step after step, and so model.input_feeding; add --model.input-feeding",
        {"model.input_feeding": True},
    ),
    (
        {"optimizer.coverage_loss": 0.5},
        "optimizer.coverage_loss=0.5 needs model.coverage; add --model.coverage, or use 0",
        {"optimizer.coverage_loss": 0.0},
    ),
    (
        {"model.copy": True, "model.attention": "none"},
        "model.copy copies what attention looks at, got model.attention=none; use general",
        {"model.attention": "general"},
    ),
    (
        {"model.copy": True, "vocab.joint": False},
        "model.copy needs tokens that are the same on both sides, and so vocab.joint; add --vocab.joint",
        {"vocab.joint": True},
    ),
    (
        {"model.tie": "all", "vocab.joint": False},
        "model.tie=all shares the source and target tables and needs vocab.joint; use model.tie=softmax",
        {"model.tie": "softmax"},
    ),
    (
        {"model.bidirectional_size": 100},
        "model.bridge=copy needs both directions together to be model.hidden_size=512 wide, got 200; use model.bridge=dense, or "
        "model.bidirectional_size=0",
        {"model.bridge": "dense"},
    ),
    (
        {"model.bidirectional_size": 100},
        "model.bridge=copy needs both directions together to be model.hidden_size=512 wide, got 200; use model.bridge=dense, or "
        "model.bidirectional_size=0",
        {"model.bidirectional_size": 0},
    ),
    (
        {"model.residual_from": 1},
        "model.residual_from=1 adds embeddings of 256 to states of 512; use 2 or more, or equal sizes",
        {"model.residual_from": 2},
    ),
    (
        {"model.residual_from": 1},
        "model.residual_from=1 adds embeddings of 256 to states of 512; use 2 or more, or equal sizes",
        {"model.embedding_size": 512},
    ),
    (
        {"model.residual_from": 2, "model.bidirectional_size": 512, "model.bridge": "dense", "model.encoder_layers": 4},
        "model.residual_from=2 adds states of 1024 and 512; use at least 3",
        {"model.residual_from": 3},
    ),
    (
        {"model.attention": "dot", "model.bidirectional_size": 512, "model.bridge": "dense"},
        "model.attention=dot needs states of one size, got 512 and 1024; use general",
        {"model.attention": "general"},
    ),
    (
        {"optimizer.schedule": "inverse_sqrt"},
        "optimizer.schedule=inverse_sqrt needs optimizer.warmup_steps greater than 0, got 0",
        {"optimizer.warmup_steps": 1},
    ),
    (
        {"optimizer.schedule": "halving"},
        "optimizer.schedule=halving needs optimizer.halve_every_steps greater than 0, got 0",
        {"optimizer.halve_every_steps": 1},
    ),
    (
        {"optimizer.schedule": "cosine", "optimizer.decay_steps": 99, "training.steps": 100},
        "training.steps=100 goes beyond optimizer.decay_steps=99, where the learning rate of schedule=cosine is zero and nothing more "
        "is learned; use fewer steps, or for a new run optimizer.decay_steps=0, which is as many as it has",
        {"training.steps": 99},
    ),
    (
        {"optimizer.schedule": "cosine", "optimizer.decay_steps": 99, "training.steps": 100},
        "training.steps=100 goes beyond optimizer.decay_steps=99, where the learning rate of schedule=cosine is zero and nothing more "
        "is learned; use fewer steps, or for a new run optimizer.decay_steps=0, which is as many as it has",
        {"optimizer.decay_steps": 0},
    ),
    (
        {"model.dropout": 0.997},
        "model.dropout=0.997 must be 0, or at least 1/256 and at most 255/256, because one random byte decides",
        {"model.dropout": 0.996},
    ),
    (
        {"model.recurrent_dropout": 0.999},
        "model.recurrent_dropout=0.999 must be 0, or at least 1/256 and at most 255/256, because one random byte decides",
        {"model.recurrent_dropout": 0.25},
    ),
    (
        {"model.zoneout": 0.003},
        "model.zoneout=0.003 must be 0, or at least 1/256 and at most 255/256, because one random byte decides",
        {"model.zoneout": 0.004},
    ),
    (
        {"optimizer.scheduled_sampling": 0.003},
        "optimizer.scheduled_sampling=0.003 must be 0, or at least 1/256 and at most 255/256, because one random byte decides",
        {"optimizer.scheduled_sampling": 0.0},
    ),
    (
        {"optimizer.scheduled_sampling_steps": 10},
        "optimizer.scheduled_sampling_steps=10 needs optimizer.scheduled_sampling greater than 0; give the probability that it rises to, "
        "for example 0.2",
        {"optimizer.scheduled_sampling": 0.2},
    ),
    (
        {"vocab.kind": "char", "vocab.target_kind": "word"},
        "vocab.target_kind=word is another kind than vocab.kind=char and needs vocab.joint=False",
        {"vocab.joint": False},
    ),
    (
        {"vocab.kind": "char", "vocab.sampling": 0.1},
        "vocab.sampling=0.1 needs vocab.kind=bpe or unigram, got char; use 0",
        {"vocab.kind": "bpe"},
    ),
    ({"seed": 2**32}, "seed=4294967296 must be less than 2**32", {"seed": 2**32 - 1}),
    (
        {"model.hidden_size": 10**30},
        "model.hidden_size=1000000000000000000000000000000 must be less than 2**32",
        {"model.hidden_size": 512},
    ),
    ({"decoding.rows": 2**32}, "decoding.rows=4294967296 must be less than 2**32", {"decoding.rows": 64}),
    (
        {"model.attention": "none", "model.bridge": "zero"},
        "model.attention=none with model.bridge=zero shows the decoder nothing of the source; use model.bridge=copy",
        {"model.bridge": "copy"},
    ),
    (
        {"model.kernel": "cudnn", "model.compute": "bfloat16"},
        "model.kernel=cudnn computes in float32 only, got model.compute=bfloat16; use model.kernel=auto",
        {"model.kernel": "auto"},
    ),
    ({"model.kernel": "pallas", "model.cell": "gru"}, NOT_BY_PALLAS.format("cell=gru", "lstm"), {"model.cell": "lstm"}),
    (
        {"model.kernel": "pallas", "model.cell": "layer_norm_lstm"},
        NOT_BY_PALLAS.format("cell=layer_norm_lstm", "lstm"),
        {"model.kernel": "auto"},
    ),
    ({"model.kernel": "pallas", "model.zoneout": 0.1}, NOT_BY_PALLAS.format("zoneout=0.1", "0.0"), {"model.zoneout": 0.0}),
    ({"model.kernel": "pallas", "model.recompute": True}, NOT_BY_PALLAS.format("recompute=True", "False"), {"model.recompute": False}),
    ({"model.kernel": "pallas", "model.hidden_size": 192}, NO_TILES.format("hidden_size", 128, 192, 256), {"model.hidden_size": 256}),
    (
        {"model.kernel": "pallas", "model.hidden_size": 192},
        NO_TILES.format("hidden_size", 128, 192, 256),
        {"model.bidirectional_layers": 0},
    ),
    (
        {"model.kernel": "pallas", "model.bidirectional_layers": 0, "model.hidden_size": 1000},
        NO_TILES.format("hidden_size", 64, 1000, 1024),
        {"model.input_feeding": False, "model.kernel": "scan"},
    ),
    (
        {"model.kernel": "pallas", "model.bidirectional_size": 40, "model.bridge": "dense"},
        NO_TILES.format("bidirectional_size", 64, 40, 64),
        {"model.bidirectional_size": 64},
    ),
    ({"data.target": "1", "data.format": "tsv"}, NO_BLEU.format("'1'"), {"evaluation.tokenizer": "13a"}),
    ({"data.target": "chinese", "data.format": "jsonl"}, NO_BLEU.format("'chinese'"), {"evaluation.tokenizer": "zh"}),
    ({"data.target": "1", "data.format": "tsv"}, NO_BLEU.format("'1'"), {"evaluation.metrics": ("chrf",)}),
    ({"data.target": "tgt"}, NO_BLEU.format("'tgt'"), {"evaluation.language": "tgt"}),  # Central Tagbanwa, where that is said
    ({"data.target": "cn"}, NO_BLEU.format("'cn'"), {"evaluation.language": "cmn"}),
    ({"data.target": "act"}, NO_BLEU.format("'act'"), {"evaluation.tokenizer": "none"}),
    ({"data.target": "lf"}, NO_BLEU.format("'lf'"), {"evaluation.tokenizer": "flores200"}),
    ({"data.target": "ipa", "evaluation.metrics": ("ter",)}, NO_TER.format("'ipa'"), {"evaluation.language": "deu"}),
    (
        {"data.target": "summary", "evaluation.metrics": ("rouge1",), "evaluation.tokenizer": "13a"},
        NO_LANGUAGE.format("rouge1", "'summary'"),
        {"evaluation.language": "en"},
    ),
    (
        {"evaluation.language": "chinese", "evaluation.metrics": ("wer",)},
        "evaluation.language='chinese' is no language; give its code by ISO 639 or BCP 47, such as zh, deu, pt-BR or zho_Hans",
        {"evaluation.language": "zho_Hans"},
    ),
    (
        {"optimizer.spike_factor": 1.0},
        "optimizer.spike_factor=1.0 would skip every update above the usual loss; use 0 (none) or, for example, 3",
        {"optimizer.spike_factor": 3.0},
    ),
    ({"optimizer.weight_decay": 0.1}, "optimizer.weight_decay needs optimizer.name=adamw, got adam", {"optimizer.name": "adamw"}),
    (
        {"training.best_metric": "wer"},
        "training.best_metric=wer must be loss or one of evaluation.metrics: bleu, chrf, exact_match; add it there",
        {"evaluation.metrics": ("wer",)},
    ),
    (
        {"training.best_metric": "bleu", "evaluation.valid_pairs": 0},
        "training.best_metric=bleu needs translations; raise evaluation.valid_pairs from 0",
        {"evaluation.valid_pairs": 1},
    ),
]


@pytest.mark.parametrize(("fields", "message", "remedy"), RULES, ids=[next(iter(rule[0])) for rule in RULES])
def test_a_broken_rule_is_named_and_its_remedy_works(fields, message, remedy):
    broken = changed(GOOD, fields)
    with pytest.raises(UserError) as error:
        check(broken)
    assert str(error.value) == message
    assert check(changed(broken, remedy))


def test_a_cosine_without_an_end_ends_with_the_steps():
    config = check(changed(GOOD, {"optimizer.schedule": "cosine", "training.steps": 300}))
    assert config.optimizer.decay_steps == 300
    assert check(config) is config  # which is what a run keeps
    assert check(changed(GOOD, {"training.steps": 300})).optimizer.decay_steps == 0


MISFITS = [  # fields that do not fit, the whole warning, and options that do; none where all fits
    (
        {"optimizer.schedule": "cosine", "training.steps": 300, "optimizer.warmup_steps": 500},
        "optimizer.warmup_steps=500 takes more than half of training.steps=300; in so many steps --optimizer.warmup-steps 30 would fit",
        {"optimizer.warmup_steps": 30},
    ),
    (
        {"training.steps": 8, "optimizer.warmup_steps": 5, "optimizer.schedule": "inverse_sqrt"},
        "optimizer.warmup_steps=5 takes more than half of training.steps=8; in so many steps --optimizer.warmup-steps 1 would fit",
        {"optimizer.warmup_steps": 1},
    ),
    (
        {"optimizer.schedule": "cosine", "training.steps": 300, "optimizer.decay_steps": 301},
        "optimizer.decay_steps=301 lies beyond training.steps=300, where the learning rate is not yet zero; for a run that ends there "
        "--optimizer.decay-steps 0 would fit",
        {"optimizer.decay_steps": 0},
    ),
    (
        {"optimizer.schedule": "halving", "training.steps": 300, "optimizer.halve_from_step": 300, "optimizer.halve_every_steps": 9},
        "optimizer.halve_from_step=300 is not reached in training.steps=300, so that the learning rate is never halved; "
        "--optimizer.halve-from-step 200 --optimizer.halve-every-steps 25 would fit",
        {"optimizer.halve_from_step": 200, "optimizer.halve_every_steps": 25},
    ),
    (
        {"optimizer.scheduled_sampling": 0.2, "optimizer.scheduled_sampling_steps": 301, "training.steps": 300},
        "optimizer.scheduled_sampling_steps=301 is not reached in training.steps=300; --optimizer.scheduled-sampling-steps 150 would fit",
        {"optimizer.scheduled_sampling_steps": 150},
    ),
    ({"optimizer.schedule": "cosine", "training.steps": 300, "optimizer.warmup_steps": 150}, "", {}),
    ({"optimizer.schedule": "cosine", "training.steps": 1, "optimizer.warmup_steps": 1}, "", {}),  # no fewer would fit
    ({"training.steps": 300, "optimizer.decay_steps": 301, "optimizer.halve_from_step": 301}, "", {}),  # of no constant rate
]


@pytest.mark.parametrize(("fields", "warning", "remedy"), MISFITS)
def test_a_schedule_that_does_not_fit_the_steps_is_warned_of_with_options_that_do(fields, warning, remedy):
    config = check(changed(GOOD, fields))
    assert find_misfits(config) == ([warning] if warning else [])
    assert find_misfits(check(changed(config, remedy))) == []


@pytest.mark.parametrize("metric", [name for name in typing.get_args(Metric) if name[:5] not in ("bleu", "ter", "rouge")])
def test_what_compares_lines_or_characters_needs_no_language(metric):
    assert check(changed(GOOD, {"data.target": "phones", "evaluation.metrics": (metric,)}))


@pytest.mark.parametrize("target", ["zh", "cmn", "zho_Hans", "yue", "jpn", "tha", "de", "pt_BR", "arb_Arab"])
def test_a_target_that_is_a_language_needs_nothing_else(target):
    assert check(changed(GOOD, {"data.target": target, "evaluation.metrics": typing.get_args(Metric)}))


def test_who_measures_nothing_needs_no_language():
    """Runs of an earlier version decode, whatever they are measured by."""
    old = changed(GOOD, {"data.target": "tgt"})
    with pytest.raises(UserError):
        check(old)
    assert check(old, measures=False) is old


PRESETS = sorted((REPOSITORY / "configs").glob("*.py"))


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_every_preset_says_what_its_target_is(path):
    """So that any other metric may be asked for, and the summary of `decode` has its BLEU; ROUGE where it is text."""
    preset = load_preset(str(path))
    assert preset.training.best_metric == "loss" or preset.training.best_metric in preset.evaluation.metrics
    text = preset.data.target not in ("act", "phones", "1", "LEMMA", "gs")
    every = [name for name in typing.get_args(Metric) if text or name[:5] != "rouge"]
    assert check(changed(preset, {"evaluation.metrics": (*preset.evaluation.metrics, *every)}))
    language = languages.find_target(preset.evaluation, preset.data.target)
    assert (language is not None) == text and (text or preset.evaluation.tokenizer == "none")


@st.composite
def small_models(draw):
    """Models of all kinds whose sizes do not agree by themselves."""
    small = st.integers(1, 4)
    return ModelConfig(
        embedding_size=draw(st.sampled_from([4, 6, 8])),
        hidden_size=draw(st.sampled_from([4, 6, 8])),
        cell=draw(st.sampled_from(["lstm", "layer_norm_lstm", "gru"])),
        zoneout=draw(st.sampled_from([0.0, 0.25])),
        encoder_layers=draw(small),
        decoder_layers=draw(small),
        bidirectional_layers=draw(st.integers(0, 4)),
        bidirectional_size=draw(st.sampled_from([0, 2, 3, 8])),
        residual_from=draw(st.integers(0, 4)),
        reverse_source=draw(st.booleans()),
        attention=draw(st.sampled_from(["none", "dot", "general", "additive"])),
        attention_size=draw(st.sampled_from([0, 5])),
        input_feeding=draw(st.booleans()),
        attend_embeddings=draw(st.booleans()),
        bridge=draw(st.sampled_from(["copy", "dense", "zero"])),
        tie=draw(st.sampled_from(["none", "softmax", "all"])),
        compute=draw(st.sampled_from(["float32", "bfloat16"])),
    )


@hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.filter_too_much])
@hypothesis.given(small_models())
def test_every_model_that_passes_can_be_built(config):
    try:
        check(dataclasses.replace(GOOD, model=config, vocab=VocabConfig(size=20)))
    except UserError:
        hypothesis.reject()
    params = jax.eval_shape(lambda: init_params(config, 20, 20, jax.random.key(0)))
    model = make_model(config, 20, 20)
    ids = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    readouts = jax.eval_shape(lambda params, ids: model.bind(params)(ids, ids), params, ids)
    assert readouts.shape == (2, 3, sizes(config).readout)
