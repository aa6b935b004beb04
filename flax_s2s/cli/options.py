"""What each verb can be told: one dataclass a verb, whose fields are its options and whose docstrings are its help.

Fields that hold another dataclass (`config`, `decoding`, `files`, `place`) take its fields as options of their own.
"""

import dataclasses
from typing import Annotated, Literal

import tyro

from flax_s2s.answers.files import Files
from flax_s2s.config import Config, DecodingConfig, Metric, Tokenizer
from flax_s2s.runtime.cluster import Flags


@dataclasses.dataclass
class Train:
    """Trains a model, or goes on with a run: by the same command again, or by `train RUN_DIR` alone.

    Most used; all options are explained below:
      --run-dir DIR                     folder of the run
      --init-from RUN_DIR               begin a new run with what another one has learned (fine-tuning)
      --data.folder DIR                 where the corpus is
      --data.source en                  its sides: file suffixes, columns or fields
      --data.target de
      --evaluation.language de          the target's, where its side is not called so
      --training.steps 3000             how long
      --optimizer.learning-rate 1e-3    how fast
      --model.hidden-size 512           how large
      --vocab.kind bpe                  what the tokens are

    Where a run is there, options change only what decides nothing of what is learned: steps, intervals, folders, devices. More
    steps train it further, as long as its learning rate is not zero. With schedule=cosine it is zero at the end, which is
    where the run was begun to end; what it has learned is trained further as a new run:
      train RUN_DIR --run-dir NEW --init-from RUN_DIR --optimizer.decay-steps 0 --training.steps 3000
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str
    """Folder of the run."""
    init_from: str = ""
    """Folder of another run, whose parameters and vocabulary a new run starts from (fine-tuning); empty: they are new."""
    report: bool = False
    """At the end write `report.html` into the run, see `report --help`."""
    place: Annotated[Flags, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Flags)


@dataclasses.dataclass
class Inspect:
    """Says what a configuration amounts to, without training it.

    Most used; all options are explained below:
      --data.folder DIR            where the corpus is; without one there are no shapes and no memory
      --data.batch-tokens 2048     how many tokens a batch has
      --model.hidden-size 512      how large the model is
      --no-memory                  quicker: nothing is compiled
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    memory: bool = True
    """Compile the train step of every shape and say the memory it takes."""


@dataclasses.dataclass
class Bench:
    """Measures training and decoding, and prints one JSON line.

    Most used; all options are explained below:
      --rounds 5                   how often each is measured
      --data.folder DIR            where the corpus is
      --data.batch-tokens 2048     how many tokens a batch has
      --model.hidden-size 512      how large the model is
      --training.devices 1         how many devices
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    rounds: int = 5
    """Measurements of each kind; medians are printed."""


@dataclasses.dataclass
class Sweep:
    """Trains with several seeds, evaluates each run and all as one, and prints one table.

    The same command goes on where it was stopped.

    Most used; all options are explained below:
      --run-dir DIR                folder of the sweep
      --seeds 1 2 3                one run each
      --each izh mlt               a corpus each, put in place of {each} as in --data.train {each}.train
      --split test                 what is translated
      --metrics bleu chrf          what is measured
      --json FILE                  where all scores are written
      --data.folder DIR            where the corpus is
      --training.steps 3000        how long each run is
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str
    """Folder of the sweep; each run is a folder in it."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of parameters, dropout and data order."""
    each: tuple[str, ...] = ()
    """Names, such as of languages, that are put in place of {each} in fields of the data: all seeds for each, and the mean over them; none: one corpus."""
    ensemble: bool = True
    """Evaluate all runs as one, too."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to translate."""
    metrics: tuple[Metric, ...] = ()
    """Metrics; none: as configured."""
    merge_sources: bool = False
    """Pairs with the same source are one sentence with several right targets, also where evaluation.merge_sources does not say so."""
    references: tuple[str, ...] = ()
    """Files of further references, see `evaluate --help`."""
    json: str = ""
    """File that all scores are written to; empty: none."""
    report: bool = True
    """At the end write `report.html` of all runs into the folder, see `report --help`."""


@dataclasses.dataclass
class VerifyResume:
    """Trains twice, straight through and killed at random moments, and compares the final states bit by bit.

    Most used; all options are explained below:
      --run-dir DIR                      folder for both runs
      --kills 5                          how often
      --training.steps 3000              how long the runs are
      --training.save-every-steps 100    how often they are saved
      --data.folder DIR                  where the corpus is
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    run_dir: str
    """Folder for both runs; it must not exist yet."""
    kills: int = 5
    """How often the second run is killed; by each process, where a place starts several."""
    seed_of_kills: int = 1
    """Seed of the moments."""


@dataclasses.dataclass
class Evaluate:
    """Translates a split of the corpus and scores it; several runs translate as one.

    Most used; all options are explained below:
      --split test             what is translated
      --metrics bleu chrf      what is measured
      --beam-size 5            how wide the search is
      --samples 10             translations that are printed
      --references FILE        further right answers
      --json FILE              where the scores are written
      --checkpoint last        another checkpoint than the best one
      --data-folder DIR        where the corpus has moved to
      --calibration FILE       how sure the model is, as a picture
      --macro                  each run by itself, and the mean
    """

    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")]
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to translate."""
    macro: bool = False
    """Evaluate each run by itself on its own split, such as a run a language: a row for each, and the mean."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""
    samples: int = 0
    """Translations printed next to their references."""
    metrics: tuple[Metric, ...] = ()
    """Metrics, see `train CONFIG --help`; none: as configured."""
    merge_sources: bool = False
    """Pairs with the same source are one sentence with several right targets, also where evaluation.merge_sources does not say so."""
    language: str = ""
    """Language of the target (ISO 639 or BCP 47), where data.target does not say it."""
    tokenizer: Tokenizer = "auto"
    """sacreBLEU's tokenizer, see `train CONFIG --help`."""
    references: tuple[str, ...] = ()
    """Files of further references, a line for each pair of the split; a blank line is none. A .tsv has lines of a source, a tab and a
    right target of it instead, in any order."""
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals; 0: no intervals."""
    calibration: str = ""
    """Picture (.png, .pdf or .svg) of how often the model is right at a given confidence, for which a temperature is fitted on the
    validation split; it is also printed, and written to --json. Empty: none."""
    by: tuple[str, ...] = ()
    """Scores of each part of the split: by length (tokens of the source), seen (whether source and features are in the training pairs), features, or a
    column of the corpus, named like data.source, such as a category."""
    gain: bool = False
    """Say too what the sources would score as they are, and the gain over that (OCR, spelling)."""
    json: str = ""
    """File that the scores are written to; empty: none."""


@dataclasses.dataclass
class Compare:
    """Translates a split of the corpus with two runs, and says where they differ and whether chance explains it.

    Most used; all options are explained below:
      --split test             what is translated
      --metrics bleu chrf      what is measured
      --beam-size 5            how wide the search is
      --samples 10             sentences that are printed
      --json FILE              where the comparison is written
      --checkpoint last        another checkpoint than the best one
      --data-folder DIR        where the corpus has moved to
    """

    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")]
    checkpoint: str = "best"
    """Checkpoint of each run to use: best, last, or a step."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to translate."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""
    samples: int = 3
    """Sentences printed where the second run is better by most, and as many where the first is."""
    metrics: tuple[Metric, ...] = ()
    """Metrics, see `train CONFIG --help`; none: as configured."""
    merge_sources: bool = False
    """Pairs with the same source are one sentence with several right targets, also where evaluation.merge_sources does not say so."""
    language: str = ""
    """Language of the target (ISO 639 or BCP 47), where data.target does not say it."""
    tokenizer: Tokenizer = "auto"
    """sacreBLEU's tokenizer, see `train CONFIG --help`."""
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals and p-values."""
    json: str = ""
    """File that the comparison is written to; empty: none."""


@dataclasses.dataclass
class Decode:
    """Translates lines, one out for each one in, in order; several runs translate as one.

    Most used; all options are explained below, those of the search last:
      --input FILE             files to read; else stdin
      --output FILE            file to write; else stdout
      --form jsonl             objects in and out, with scores, tokens and flags
      --output-form nbest      another form of the output than of the input
      --beam-size 5            how wide the search is
      --n-best 5               how many translations of a line
      --length-penalty 1.0     larger: longer translations
      --temperature 1.0        sampling instead of search
      --checkpoint last        another checkpoint than the best one
      --shard 0/8              a part of a large job
    """

    output_form: Literal["auto", "text", "jsonl", "nbest"] = "auto"
    """Text, JSON objects, or an n-best list as of Moses (number ||| text ||| logp= tokens= ||| score); auto: as the input, or by the output's
    ending .jsonl."""
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    language: str = ""
    """Language of the references (ISO 639 or BCP 47), where data.target does not say it."""
    tokenizer: Tokenizer = "auto"
    """sacreBLEU's tokenizer for them, see `train CONFIG --help`."""
    blocklist: str = ""
    """File of phrases, one a line, that no translation contains, whatever their case; empty: none."""
    abstain_below: float = 0.0
    """The placeholder instead of a translation whose confidence, the mean probability of a token, is below this; 0: never."""
    placeholder: str = "[uncertain]"
    """What stands for a translation that is not confident enough."""
    attention: str = ""
    """File for what each translation looked at, one JSON object a line; empty: none."""
    pictures: str = ""
    """Folder for pictures of that; empty: none."""
    picture_lines: tuple[int, ...] = tuple(range(1, 11))
    """Numbers of the lines that are drawn, from 1."""
    files: Annotated[Files, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Files)
    """The target of columns is a reference: where every line has one, the summary has BLEU and chrF. Objects have a source, and by choice id, prefix, include, exclude, seed; objects answer them."""
    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=DecodingConfig)


@dataclasses.dataclass
class Serve:
    """Serves a model over HTTP: the interface of LibreTranslate, one with all that `decode` knows, and a page to look at translations.

    RUN_DIR is a run, several that translate as one, or a folder that `export` wrote. The environment variable FLAX_S2S_API_KEY holds the key
    that clients must show; without it anyone who reaches the server may ask, by default this machine alone.

    Most used; all options are explained below:
      --port 8000              where it listens; 0: any that is free
      --host 0.0.0.0           for other machines too
      --side-by-side           several models beside each other, not as one
      --languages en zh        what clients call the languages
      --n-best 5               the most translations of a sentence
      --abstain-below 0.5      a placeholder where the model is less sure
      --blocklist FILE         phrases that are never said
    """

    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8000
    """Port to listen at; 0: any that is free."""
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    side_by_side: bool = False
    """Each run is a model of its own, named by its folder, with the first run's settings of decoding; else all are one."""
    languages: tuple[str, ...] = ()
    """What clients call the languages, source and target; none: as the sides of the corpus are called."""
    blocklist: str = ""
    """File of phrases, one a line, that no translation contains, whatever their case; empty: none."""
    abstain_below: float = 0.0
    """The placeholder instead of a translation whose confidence, the mean probability of a token, is below this; 0: never."""
    placeholder: str = "[uncertain]"
    """What stands for a translation that is not confident enough."""
    cors_origin: tuple[str, ...] = ()
    """Origins whose web pages may ask, as https://example.org; none: only the server's own."""
    most_body_bytes: int = 1 << 20
    """Largest request, in bytes."""
    most_lines: int = 256
    """Most sentences of a request."""
    most_waiting: int = 1024
    """Most sentences that wait for an answer; further requests get the status 429 and when to ask again."""
    timeout_secs: float = 60.0
    """Seconds after which a request is given up."""
    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=DecodingConfig)


@dataclasses.dataclass
class LearnShortlist:
    """Learns from a run's training pairs which target tokens are worth trying for a source; `decode RUN_DIR --shortlist 256` then uses it."""

    run_dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a trained run."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""


@dataclasses.dataclass
class Export:
    """Writes a folder that translates without JAX (ONNX graphs; `python translate.py < in > out`), and compares its translations with those of `decode`.

    Most used; all options are explained below:
      --output FOLDER          the folder
      --beam-size 5            how wide its search is
      --checkpoint last        another checkpoint than the best one
      --parity FILE            lines to compare on, where validation pairs are not at hand
      --quantize int8          a quarter of the size, and what that costs
    """

    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")]
    output: str = ""
    """Folder to write; it must not be there yet."""
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""
    parity: str = ""
    """File of lines that are translated for comparison, with features a bundle and a tab before each; empty: 200 of the validation pairs."""
    quantize: Literal["none", "int8"] = "none"
    """`int8`: weights in 8 bits, and products with them in the search too; what it changes is printed, and said in parity.json."""


@dataclasses.dataclass
class Import:
    """Makes a run of a checkpoint of OpenNMT-py 3 (LSTM, attention dot or general): decode it, train it further, export it.

    Its search is ours: it never says <unk>, and its beam goes on until no longer translation can be likelier.

    Most used; all options are explained below:
      --run-dir DIR            the run
      --source-model FILE      the SentencePiece model that its corpus was prepared with
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """File that `onmt_train` saved, such as model_step_10000.pt."""
    run_dir: str
    """Folder of the run that is made."""
    source_model: str = ""
    """SentencePiece model of the source; empty: lines are tokens with spaces between, as `onmt_translate` reads them."""
    target_model: str = ""
    """SentencePiece model of the target; empty: that of the source, where the target's tokens are pieces, too."""


@dataclasses.dataclass
class Report:
    """Writes one page that opens offline: what runs were trained on, their curves, scores, calibration, and sentences to look at.

    Several runs are shown beside each other, and those that differ in their seed alone as one, with a band. A run may be training meanwhile.

    Most used; all options are explained below:
      --output FILE            the page
      --split valid            what is translated
      --sentences 500          how many are shown with attention, alternatives and the beam
      --by COLUMN              scores of parts of the split
      --checkpoint last        another checkpoint than the best one
      --data-folder DIR        where the corpus has moved to
    """

    output: str = "report.html"
    """File to write; one that is there is replaced."""
    split: Literal["auto", "train", "valid", "test"] = "auto"
    """Split to translate; auto: test, or valid where the run has no test split."""
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    data_folder: str = ""
    """Folder of the corpus, where it has moved; empty: as configured."""
    sentences: int = 200
    """Sentences, the most telling ones, that come with attention, alternatives and where the reference fell out of the beam."""
    by: tuple[str, ...] = ()
    """Scores of further parts of the split than by length and features: seen, or a column of the corpus, see `evaluate --help`."""
    resamples: int = 1000
    """Bootstrap resamples for the confidence intervals; 0: no intervals."""


@dataclasses.dataclass
class Score:
    """Natural log-probability of each target given its source, one line out for each one in, and the perplexity; several runs score as one.

    Most used; all options are explained below:
      --source FILE            lines of sources
      --target FILE            and their targets
      --input FILE             or pairs in one file; else stdin
      --output FILE            file to write; else stdout
      --form jsonl             objects in and out, with candidates
      --length-penalty 1.0     of the scores by which candidates are sorted
      --checkpoint last        another checkpoint than the best one
      --shard 0/8              a part of a large job
    """

    length_penalty: float
    """Exponent of the length penalty, over which the log-probability is the score; candidates are sorted by it."""
    ensemble: Literal["probabilities", "log-probabilities"]
    """What is averaged over several runs."""
    rows: int
    """Pairs scored at once by each device."""
    checkpoint: str = "best"
    """Checkpoint to use: best, last, or a step."""
    source: str = ""
    """File of source lines, instead of --input."""
    target: str = ""
    """File of as many target lines."""
    files: Annotated[Files, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Files)
    """stdin holds columns too, unless --form says otherwise. Objects have a source, and a target or a list of candidates, or are what
    `decode` writes as JSONL; objects answer them, the best candidate first."""
