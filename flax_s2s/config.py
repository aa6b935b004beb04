"""What a run is made of: one frozen dataclass per room, and its exact JSON form; the names that fields may have, and their tables.

Enters: a preset, a `config.json`, or nothing (the defaults). Leaves: a `Config` whose fields have the types and names that are
declared here; `rules.check` says whether they agree.

Every field is either *identity* (it decides what is learned: a run directory keeps it for life) or *operational*
(it may change when the run is continued). Only the standard library is imported here, by design: everyone imports
this module.
"""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

_SHOWN = 80  # characters of a value in a message
_LARGEST_INT = 2**1023  # that is a float

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Ids of padding, start, end and the unknown token: the same in every vocabulary, known to every room."""
LEAST_COVERAGE = 0.98
"""The least vocab.character_coverage, which SentencePiece sets."""
TILE = 64
"""Units of a layer, or of one direction of it, are a multiple of this where model.kernel=pallas computes it."""


class UserError(Exception):
    """A mistake the user can correct: printed as one message (what, got, rule, remedy), exit code 2."""


class Failure(Exception):  # noqa: N818  # not the program's error, nor the user's
    """Something outside failed (a peer, a network): printed as one message, exit code 1, worth trying again."""


Metric: TypeAlias = Literal["bleu", "chrf", "chrf++", "exact_match", "wer", "cer", "ter", "per", "ser", "rouge1", "rouge2", "rougeL"]


class MetricTraits(NamedTuple):
    """What must be known of a metric besides how it is computed, which is `evaluation.metrics.measure`'s."""

    worst: float
    """In percent, where every translation is wrong; infinite where it can always be worse. Above 0, lower is better."""
    needs: Literal["nothing", "spacing", "tokenizer", "language"] = "nothing"
    """What it must know of the target to find words. spacing, tokenizer: the language, or a tokenizer that says what stands between words
    or that takes them apart; language: the language, always."""
    any_right: bool = False
    """Whether it compares a translation with one target: then any right target of the same source counts."""


METRICS: Mapping[Metric, MetricTraits] = {
    "bleu": MetricTraits(0.0, needs="tokenizer"),
    "chrf": MetricTraits(0.0),
    "chrf++": MetricTraits(0.0),
    "exact_match": MetricTraits(0.0, any_right=True),
    "wer": MetricTraits(math.inf, any_right=True),
    "cer": MetricTraits(math.inf, any_right=True),
    "ter": MetricTraits(math.inf, needs="spacing"),
    "per": MetricTraits(math.inf, any_right=True),
    "ser": MetricTraits(100.0, any_right=True),
    "rouge1": MetricTraits(0.0, needs="language"),
    "rouge2": MetricTraits(0.0, needs="language"),
    "rougeL": MetricTraits(0.0, needs="language"),
}

Scoring: TypeAlias = Literal["dot", "general", "additive"]
"""Attention's scores: `model.attention` is where they are computed."""
Cell: TypeAlias = Literal["lstm", "layer_norm_lstm", "gru"]
"""`model.cells` is where they are computed."""

UnicodeForm: TypeAlias = Literal["given", "NFC", "NFD"]
"""`data.vocab` is where text is brought into one."""

Format: TypeAlias = Literal["text", "tsv", "csv", "jsonl", "json", "conllu", "tmx", "parquet", "tfds", "phrases"]
FormatKind: TypeAlias = Literal["aligned", "table", "objects", "dataset", "generated"]
FORMATS: Mapping[Format, FormatKind] = {
    "text": "aligned",
    "tsv": "table",
    "csv": "table",
    "jsonl": "objects",
    "json": "objects",
    "conllu": "objects",
    "tmx": "objects",
    "parquet": "objects",
    "tfds": "dataset",
    "phrases": "generated",
}
"""What a corpus is: a file for each side, rows of cells or objects with fields in a file named like the format, a TFDS dataset, or made.
Words of CoNLL-U, units of TMX and rows of Parquet are objects, too: with a field for each column or language."""


def identity(default: T) -> T:
    """A field that decides what is learned; continuing a run with another value is an error."""
    return dataclasses.field(default=default, metadata={"role": "identity"})


def newer(default: T) -> T:
    """A field that decides what is learned, and that a run begun before there was such a field has at its default."""
    return dataclasses.field(default=default, metadata={"role": "identity", "newer": True})


def operational(default: T) -> T:
    """A field that may change when a run is continued; the change is applied and logged."""
    return dataclasses.field(default=default, metadata={"role": "operational"})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the pairs come from, which are kept, and how they are put into batches."""

    format: Format = operational("text")  # noqa: RUF009  # ruff does not see that the name stands for a Literal
    """Kind of corpus: aligned text files, TSV, CSV (RFC 4180), JSONL, JSON (one array of objects), CoNLL-U (a word a pair), TMX,
    Parquet, a TFDS dataset, or phrases generated from CLDR."""
    folder: str = operational("")
    """Folder of the files, relative to the working directory; for tfds the data_dir (empty: TFDS' default)."""
    origin: str = operational("")
    """Where the data come from and how the folder is laid out, for the message where it is missing."""
    dataset: str = operational("")
    """TFDS name, such as wmt14_translate/fr-en; only for tfds."""
    train: str = operational("train")
    """Training split: file name without suffix (text: NAME.SIDE, or {side} inside the name; .gz, .bz2, .xz and .zst are found; parquet:
    also all of NAME-00000-of-00003.parquet and so on), or TFDS split."""
    valid: str = operational("valid")
    """Validation split, named like train; empty: held_out_pairs are taken out of train."""
    test: str = operational("test")
    """Test split, named like train; empty: there is none."""
    source: str = identity("en")
    """Source side: file suffix, column of TSV or CSV (a number from 0, or with header a name), field of JSON or Parquet (translation.en
    inside another), column of CoNLL-U (FORM), language of TMX, TFDS feature, or locale; also its language. Several, such as 0+2 or question+context, are joined by a space."""
    target: str = identity("zh")
    """Target side, named like source."""
    features: str = newer("")
    """Features of each pair beside its source, named like it: bundles such as UniMorph's N;DAT;PL, of which each feature becomes a token of
    the source; empty: there are none."""
    header: bool = operational(False)
    """The first row of TSV and CSV files holds the names of the columns; else it is a pair."""
    max_train_pairs: int = identity(0)
    """Pairs of train that are used, from its beginning (phrases: how many are generated); 0: all."""
    held_out_pairs: int = identity(1000)
    """Pairs taken out of train for validation where valid is empty, at most a tenth of it: drawn with all pairs of the same sources, until
    they are so many, so that no source of theirs stays in train."""
    hallucination: float = newer(0.0)
    """Probability that a training pair of characters is, in an epoch, one that is made up from it: letters that source and target share are replaced, on both
    sides alike (Anastasopoulos and Neubig 2019). For word forms and lemmas with few pairs."""
    max_source_tokens: int = identity(100)
    """Training pairs with a longer source (in tokens, its end mark included) are left out."""
    max_target_tokens: int = identity(100)
    """Training pairs with a longer target (in tokens, its end mark included) are left out."""
    max_ratio: float = identity(9.0)
    """Training pairs with one side more than this many times as long as the other (in tokens) are left out."""
    batch_tokens: int = identity(2048)
    """Padded tokens of a batch, counted on its longer side: rows = batch_tokens / length."""
    row_multiple: int = identity(8)
    """Rows of every batch are a multiple of this; the number of devices must divide it."""
    buckets: int = identity(0)
    """Batch shapes (source length, target length, rows) at most, each a program of its own; 0: up to 12, as many as save a CPU more work
    in the steps of training than it takes to compile them. A run keeps the number that it was begun with."""


@dataclasses.dataclass(frozen=True)
class VocabConfig:
    """The SentencePiece vocabulary, trained from the training pairs."""

    kind: Literal["unigram", "bpe", "char", "word"] = identity("unigram")
    """Kind of token; word splits at spaces (U+0020), and at no other white space."""
    target_kind: Literal["same", "unigram", "bpe", "char", "word"] = identity("same")
    """Kind of the target's tokens, where it is another one (letters to phones: char, word); not with joint."""
    size: int = identity(0)
    """Tokens in each vocabulary, the four special ones included; for char and word an upper limit. 0: of char and word all, else 8000."""
    joint: bool = identity(True)
    """One vocabulary for both sides; else one for each."""
    unicode_form: UnicodeForm = newer("given")  # noqa: RUF009
    """Unicode form that text is split in: given, as it is; NFC, composed; NFD, taken apart (accents, Hangul as jamo). Output is NFC then."""
    clusters: bool = newer(False)
    """With char: what readers take for one character (an extended grapheme cluster, such as a letter with its signs) is one token, not its code points; one that training lacks
    is taken apart into them."""
    source_model: str = newer("")
    """SentencePiece model of one's own, a file, in place of one that is trained; with joint of both sides. The run keeps a copy."""
    target_model: str = newer("")
    """The same of the target; not with joint."""
    symbols: tuple[str, ...] = newer(())
    """Texts that are one token wherever they stand, such as <2de> or <NUM>, on both sides but those whose tokens are words or that have a model
    of their own."""
    character_coverage: float = identity(1.0)
    """Share of the training text's characters that get a token of their own (0.98 to 1)."""
    byte_fallback: bool = identity(False)
    """Spell unknown characters, and words, as UTF-8 bytes (256 more tokens) instead of the unknown token."""
    normalization: Literal["identity", "nfkc", "nmt_nfkc"] = identity("identity")
    """Unicode normalization before tokenizing; anything but identity changes the text that is learned and scored."""
    sampling: float = identity(0.0)
    """Training text is split into other tokens in every epoch: with bpe, the probability of leaving a merge out (BPE dropout,
    Provilkov et al. 2020); with unigram, the exponent of a splitting's probability (Kudo 2018), smaller is wilder; each epoch begins with
    tokenizing the corpus again. 0: always the best splitting."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The LSTM encoder-decoder."""

    embedding_size: int = identity(256)
    """Features of a token's embedding."""
    hidden_size: int = identity(512)
    """Units of each layer."""
    cell: Cell = identity("lstm")  # noqa: RUF009
    """What a layer computes at each step; layer_norm_lstm normalizes each gate's sums (after Ba et al. 2016); gru: Cho et al. 2014."""
    encoder_layers: int = identity(1)
    """Recurrent layers of the encoder."""
    decoder_layers: int = identity(1)
    """Recurrent layers of the decoder."""
    bidirectional_layers: int = identity(1)
    """How many encoder layers, from the lowest, read in both directions."""
    bidirectional_size: int = identity(0)
    """Units per direction of a bidirectional layer; 0: half of hidden_size, so that both together match the decoder."""
    residual_from: int = identity(0)
    """First layer (counted from 1; in the decoder at least 2) whose input is added to its output, and so all above; 0: none."""
    source_end: bool = newer(True)
    """The encoder reads the end mark of a source; False: nothing looks at it, as in OpenNMT-py."""
    reverse_source: bool = identity(False)
    """Read the source sentence backwards (Sutskever et al. 2014, section 3.3)."""
    attention: Literal["none", Scoring] = identity("general")
    """Score between decoder state and source position; none is the fixed-vector model."""
    alignment: Literal["soft", "hard", "monotonic"] = newer("soft")
    """What a token is said of: soft, a mean over the source; hard, one position, all of which are summed over; monotonic, none behind the one
    before (Wu and Cotterell 2019). Hard ones cost a softmax for each position: for characters and phones."""
    alignment_order: Literal["zeroth", "first"] = newer("first")
    """Hard attention: a position is chosen also by how far it is from the one before, or (zeroth) for itself: monotonic, that sees little but the end."""
    attention_size: int = identity(0)
    """Units of the additive score's hidden layer; 0: hidden_size."""
    feed_features: bool = newer(False)
    """The decoder reads the features at every step, too, as a map of the sum of their embeddings; needs data.features and vocab.joint."""
    input_feeding: bool = identity(False)
    """Feed the attentional state into the next step (Luong et al. 2015); slower: attention runs inside the loop."""
    attend_embeddings: bool = identity(False)
    """Attention reads each source token's embedding beside the encoder's output (Kuang et al. 2018, source-side bridging)."""
    coverage: bool = newer(False)
    """Attention knows how much it has looked at each position before (See et al. 2017), so that nothing is said twice or left out; needs input_feeding."""
    copy: bool = newer(False)
    """Copy symbols of the source (pointer-generator, See et al. 2017), those too that the vocabulary lacks: let it lack rare ones
    (vocab.character_coverage below 1, of words a vocab.size), so that this is learned. Needs attention and vocab.joint."""
    bridge: Literal["copy", "dense", "zero"] = identity("copy")
    """How the decoder starts: the encoder's final states, a tanh layer of them, or zeros."""
    tie: Literal["none", "softmax", "all"] = identity("none")
    """Shared tables: target embedding = softmax, or source = target = softmax (needs vocab.joint)."""
    dropout: float = identity(0.2)
    """Probability of dropping a feature, at embeddings, between layers and before the softmax (in steps of 1/256)."""
    dropout_masks: Literal["step", "sentence"] = identity("step")
    """Drawn for each step, or once for all steps of a sentence (Gal and Ghahramani 2016)."""
    recurrent_dropout: float = identity(0.0)
    """Probability of dropping a feature of a hidden state on its way to the layer's next step; drawn once for all steps of a sentence."""
    word_dropout: float = identity(0.0)
    """Probability of dropping a token's whole embedding, of source and of target inputs."""
    zoneout: float = identity(0.0)
    """Probability that a unit of a state keeps its old value at a step (Krueger et al. 2017); in decoding the mean of both values."""
    init_scale: float = identity(0.0)
    """Kernels and embeddings start uniform in +-init_scale, biases at 0 (but see forget_bias, and those of alignment); 0: Glorot uniform kernels, embeddings of variance 1/embedding_size."""
    forget_bias: float = identity(1.0)
    """Start of the biases of an LSTM's forget gates (Jozefowicz et al. 2015)."""
    compute: Literal["auto", "float32", "bfloat16"] = identity("auto")
    """Type of the matrix products; parameters, cell states, sums, softmax and loss stay float32. auto: bfloat16 where the device is faster in it."""
    kernel: Literal["auto", "scan", "cudnn", "pallas"] = operational("auto")
    """What runs an LSTM layer over time; auto: cudnn on NVIDIA GPUs in float32, else scan. pallas: one kernel for all steps, for small layers on
    NVIDIA GPUs from Ampere on; it has been compiled for them and measured on none."""
    recompute: bool = operational(False)
    """Compute gates (with input_feeding whole steps) again for the gradient instead of keeping them: slower, less memory for long inputs."""

    @property
    def hard(self) -> bool:
        """Whether attention is hard."""
        return self.alignment != "soft"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """From gradients to the next parameters."""

    name: Literal["adam", "adamw", "sgd"] = identity("adam")
    """Update rule."""
    learning_rate: float = identity(1e-3)
    """Peak learning rate."""
    schedule: Literal["constant", "inverse_sqrt", "cosine", "halving"] = identity("constant")
    """Learning rate after the warm-up."""
    warmup_steps: int = identity(0)
    """Steps of linear warm-up from zero; inverse_sqrt falls as sqrt(warmup_steps / step) after them."""
    decay_steps: int = identity(0)
    """Step at which cosine reaches zero; 0: the last one, training.steps as the run is begun with."""
    halve_from_step: int = identity(0)
    """Step of the first halving (Luong, Sutskever)."""
    halve_every_steps: int = identity(0)
    """Steps between halvings."""
    beta1: float = identity(0.9)
    """Adam's decay of the first moment."""
    beta2: float = identity(0.999)
    """Adam's decay of the second moment."""
    epsilon: float = identity(1e-8)
    """Adam's epsilon."""
    weight_decay: float = identity(0.0)
    """AdamW's decay per step, as a multiple of the learning rate."""
    clip_norm: float = identity(1.0)
    """Largest global norm of the gradient of the loss per token; 0: no clipping."""
    label_smoothing: float = identity(0.1)
    """Probability mass spread evenly over the vocabulary (Szegedy et al. 2016)."""
    coverage_loss: float = newer(0.0)
    """Weight of attention that lies where it lay before, added to the loss of each token (See et al. 2017, equation 12); needs model.coverage; 0: none."""
    scheduled_sampling: float = identity(0.0)
    """Probability that the decoder reads the token it finds likeliest instead of the right one (Bengio et al. 2015); costs a pass more."""
    scheduled_sampling_steps: int = identity(0)
    """Steps over which that probability rises to it from 0; 0: it is there from the first step on."""
    accumulate_batches: int = identity(1)
    """Batches whose gradients are summed before one update."""
    spike_factor: float = identity(0.0)
    """An update whose loss per token is more than this many times the usual one is skipped, like one that is not finite; 0: none."""
    average_decay: float = identity(0.0)
    """Decay of the moving average of the parameters that is used for evaluation and decoding; 0: none."""
    frozen: tuple[str, ...] = identity(())
    """Parameters that stay as they are, by the beginning of their path, such as encoder or decoder/layers/0."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, how often, and on what."""

    steps: int = operational(10_000)
    """Updates in all."""
    log_every_steps: int = operational(50)
    """Updates between two lines of progress; the first update has one too."""
    evaluate_every_steps: int = operational(500)
    """Updates between two evaluations of the validation set; the last step is always evaluated."""
    save_every_steps: int = operational(500)
    """Updates between two checkpoints; the last step is always saved."""
    keep_last: int = operational(2)
    """Newest checkpoints that are kept."""
    keep_best: int = operational(1)
    """Checkpoints that are kept besides because they are the best by best_metric."""
    best_metric: Literal["loss", Metric] = operational("loss")
    """Metric of the validation set that ranks checkpoints and stops early."""
    verify_checkpoints: bool = operational(True)
    """Compare every file of a checkpoint with its sha256 before it is used (about 2 GB/s); off: only that all files are there."""
    roll_back_after: int = operational(5)
    """Bad updates in a row (not finite, or a spike) after which training goes back to the last good checkpoint; 0: never."""
    max_rollbacks: int = operational(3)
    """How often training may go back; once more is an error."""
    patience: int = operational(0)
    """Evaluations without a better best_metric after which training stops, counted once it is not at its worst (BLEU of 0); 0: never."""
    devices: int = operational(0)
    """Accelerators to use; 0: all."""
    whole_graphs: bool = operational(False)
    """NVIDIA GPUs: start a train step as one CUDA graph, with all its loops in it. Compiled and counted so far, not measured on a GPU."""


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """From parameters to text."""

    beam_size: int = operational(5)
    """Live hypotheses of a sentence; 1 is greedy search."""
    n_best: int = operational(1)
    """Hypotheses given out for a sentence, at most beam_size: different texts, fewer where no more are found; samples may be equal."""
    length_penalty: float = operational(1.0)
    """Exponent alpha of the length penalty ((5 + length) / 6) ** alpha (Wu et al. 2016, equation 14)."""
    coverage_penalty: float = operational(0.0)
    """Weight beta of the coverage penalty (Wu et al. 2016, equation 14); needs attention; 0: none."""
    min_tokens: int = operational(0)
    """Least tokens of a translation, the end mark not counted."""
    max_length_ratio: float = operational(2.0)
    """A translation has at most max_length_ratio * source tokens + max_length_extra tokens; the end mark counts in the source."""
    max_length_extra: int = operational(10)
    """See max_length_ratio."""
    end_threshold: float = operational(0.0)
    """An end mark only where its log-probability is above so many times that of the likeliest other token, as 1.5; 0: wherever it ranks."""
    no_repeat_ngram: int = operational(0)
    """No sequence of so many tokens twice in a translation; 0: any."""
    repetition_penalty: float = operational(1.0)
    """Factor on the log-probability of tokens that the translation has already (Keskar et al. 2019); 1: none."""
    groups: int = operational(1)
    """Groups of a diverse beam (Vijayakumar et al. 2018); they divide beam_size."""
    diversity: float = operational(0.5)
    """What a token loses for each hypothesis of an earlier group that chose it at the same step."""
    temperature: float = operational(0.0)
    """Sampling instead of search: beam_size draws from the probabilities at this temperature; 0: search."""
    top_k: int = operational(0)
    """Sampling from the so many likeliest tokens alone; 0: all."""
    top_p: float = operational(1.0)
    """Sampling from the fewest likeliest tokens that have this probability together; 1: all."""
    seed: int = operational(1)
    """Seed of sampling; a sentence's draws depend on it and on the source alone."""
    ensemble: Literal["probabilities", "log-probabilities"] = operational("probabilities")
    """What is averaged over several runs."""
    shortlist: int = operational(0)
    """Target tokens tried for a sentence, by the run's shortlist, at best a multiple of 64; 0: the whole vocabulary."""
    compute: Literal["auto", "float32", "bfloat16", "int8"] = operational("auto")
    """Type of products; auto: bfloat16 on CPUs with instructions for it, on which batch size changes no translation then, else float32;
    int8, on CPUs: the search's weights in 8 bits, which is faster, and another translation here and there."""
    rows: int = operational(64)
    """Sentences decoded at once by each device; on CPUs, where there are more of them, so many by each core, of eight at most."""
    max_source_tokens: int = operational(512)
    """Longer sources are cut to this many tokens, and counted."""


Tokenizer: TypeAlias = Literal["auto", "13a", "intl", "zh", "char", "none", "flores200", "ja-mecab", "ko-mecab"]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on translations."""

    metrics: tuple[Metric, ...] = operational(("bleu", "chrf", "exact_match"))
    """Metrics that are computed. wer: edits over words; cer, per: the same, of characters (grapheme clusters) and phones; chrf++: with words; ser: share of wrong lines. bleu, ter and rouge need the target's
    language; rouge is the reference implementation's for English, elsewhere of BLEU's words."""
    language: str = operational("")
    """Language of the target (ISO 639 or BCP 47), where its name does not say it; empty: data.target."""
    tokenizer: Tokenizer = operational("auto")  # noqa: RUF009  # ruff does not see that the name stands for a Literal
    """sacreBLEU's tokenizer; auto: by the language's script, zh for Chinese, char for Japanese, Thai and others without spaces, else 13a.
    flores200, ja-mecab and ko-mecab need a file or packages, which are named where they are missing."""
    merge_sources: bool = operational(False)
    """Pairs with the same source are one sentence, as in a pronunciation dictionary; else each is its own, of which only exact_match, ser,
    wer, cer and per take all right targets of the source."""
    valid_pairs: int = operational(1000)
    """Validation pairs, from all over the split, translated (greedily) at each evaluation during training; 0: none."""
    samples: int = operational(3)
    """Sample translations printed at each evaluation, and given to TensorBoard, with a picture of what the first one looked at."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = identity(1)
    """Seed of parameters, dropout and data order."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    vocab: VocabConfig = dataclasses.field(default_factory=VocabConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    decoding: DecodingConfig = dataclasses.field(default_factory=DecodingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


def nearest(name: str, names: Iterable[str]) -> str:
    """The remedy clause for a misspelt name: `; did you mean 'hidden_size'?`, or nothing when none is near."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


# The strict reader -------------------------------------------------------------------------------------------------


def to_json(config: Config) -> str:
    """The configuration as indented JSON; `from_json` is its exact inverse."""
    return json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
        UserError: not JSON, an unknown key (the nearest is named), a missing key, a wrong type, a number that is not finite, or a
            bad choice.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"config.json is not JSON: {error}") from None
    return _read(tree)


def from_python(made: object) -> Config:
    """Reads a `Config` that someone's Python has made as strictly as `from_json` reads a file: Python itself checks no type.

    Raises:
        UserError: as `from_json`; or a room of another class, or a list where a tuple is due.
    """
    return _read(_as_json(Config, made, ""))


def change(room: T, fields: Mapping[str, object], name: str) -> T:
    """A room, such as `config.decoding`, with other values in some fields, which are read as strictly; `name` is what messages call it.

    Raises:
        UserError: as `from_json`.
    """
    changed = _build(type(room), {**vars(room), **fields}, name)
    assert isinstance(changed, type(room))
    return changed


def _read(tree: object) -> Config:
    config = _build(Config, tree, "")
    assert isinstance(config, Config)
    return config


def _as_json(hint: Any, value: object, path: str) -> object:
    """A value that was made in Python, as JSON holds it."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if type(value) is not hint:
            raise UserError(f"{path or 'what config() returns'} must be a {hint.__name__}, got {type(value).__name__}")
        hints = typing.get_type_hints(hint)
        return {key: _as_json(hints.get(key), inner, _join(path, key)) for key, inner in vars(value).items()}
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            raise UserError(f"{path}={_shown(value)} must be a tuple, such as ('one',) or ('one', 'two'), got {type(value).__name__}")
        return list(value)
    return value


def _build(cls: type, tree: object, path: str) -> object:
    if not isinstance(tree, dict):
        raise UserError(f"{path or 'config'} must be an object of fields, got {type(tree).__name__}")
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in hints:
            raise UserError(f"unknown field {_join(path, key)!r}{nearest(key, hints)}")
    known = {field.name: field.metadata for field in dataclasses.fields(cls)}
    for key in hints:
        if key not in tree and known[key].get("role") != "operational" and not known[key].get("newer"):  # which take their defaults
            raise UserError(f"field {_join(path, key)!r} is missing")
    return cls(**{key: _convert(hint, tree[key], _join(path, key)) for key, hint in hints.items() if key in tree})


def _convert(hint: Any, value: object, path: str) -> object:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, value, path)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if not isinstance(value, str) or value not in choices:
            near = nearest(value, choices) if isinstance(value, str) else ""
            raise UserError(f"{path}={_shown(value)} is not one of {', '.join(choices)}{near}")
        return str(value)  # which another kind of string than Python's may be
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{path} must be a list, got {_shown(value)}")
        return tuple(_convert(typing.get_args(hint)[0], item, path) for item in value)
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < _LARGEST_INT else math.inf
    if type(value) is not hint:
        raise UserError(f"{path}={_shown(value)} must be of type {hint.__name__}, got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}={value} must be finite")
    return value


def _shown(value: object) -> str:
    """What was got, on one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# Differences -------------------------------------------------------------------------------------------------------


def flatten(config: Any, path: str = "") -> dict[str, tuple[object, str]]:
    """Every leaf field as `{"model.hidden_size": (512, "identity")}`."""
    leaves: dict[str, tuple[object, str]] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), _join(path, field.name)
        if dataclasses.is_dataclass(value):
            leaves |= flatten(value, name)
        else:
            leaves[name] = (value, field.metadata["role"])
    return leaves


def differences(old: Config, new: Config, role: str) -> list[str]:
    """The fields of a role that differ, as lines `model.hidden_size: 512 -> 256`."""
    was, now = flatten(old), flatten(new)
    return [f"{name}: {was[name][0]!r} -> {now[name][0]!r}" for name in was if was[name] != now[name] and was[name][1] == role]
