"""`import CHECKPOINT --run-dir DIR`: a run directory with the model of another toolkit."""

import os
from typing import Any

import jax
import numpy as np

from flax_s2s.commands.wiring import begin, console
from flax_s2s.config import (
    UNK,
    Config,
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    OptimizerConfig,
    TrainingConfig,
    UserError,
    VocabConfig,
    to_json,
)
from flax_s2s.data import vocab, vocab_training
from flax_s2s.data.vocab import Vocabularies, Vocabulary
from flax_s2s.export import opennmt
from flax_s2s.export.opennmt import Imported
from flax_s2s.rules import check
from flax_s2s.runs import lease, rundir
from flax_s2s.runs.checkpoint import Checkpoints
from flax_s2s.runs.manifests import Bound
from flax_s2s.runtime import parallel
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import count_parameters, create_state

_NEVER = -30.0  # the softmax layer's bias, whose row is zero, of a piece that the model has none for: it may be learned yet
_SPACE = "\u2581"


def run(checkpoint: str, run_dir: str, source_model: str, target_model: str) -> int:
    """Writes the run.

    Raises:
        UserError: the checkpoint cannot be imported, or the folder holds a run.
    """
    out, folder = console(), rundir.make_path(run_dir)
    if (folder / rundir.CONFIG).exists():
        raise UserError(f"{run_dir} holds a run already; give another --run-dir, so that nothing is lost")
    with out.status(f"reading {checkpoint}"):
        try:
            found = opennmt.convert(opennmt.read(checkpoint))
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise UserError(
                f"{checkpoint} is not as OpenNMT-py 3 saves a model ({type(error).__name__} {error}); it cannot be imported"
            ) from None
    if spoilt := next((name for name, array in found.params.items() if not np.isfinite(array).all()), ""):
        raise UserError(f"{checkpoint} holds numbers that are not finite ({spoilt}); it cannot be imported")
    target_model = target_model or (source_model if any(token.startswith(_SPACE) for token in found.target) else "")
    source, source_rows, lost = _vocabulary(found.source, source_model, "--source-model")
    target, target_rows, more = _vocabulary(found.target, target_model, "--target-model")
    found = _rearrange(found, source_rows, target_rows)
    config = check(_configure(found, source_model, target_model))
    vocabularies = Vocabularies(source, target, ())
    begin(None)
    devices, optimizer = parallel.make_devices(1, {}), make_optimizer(config.optimizer)
    state = create_state(config, vocabularies.sizes, optimizer, devices)
    state = state._replace(params=_fill(state.params, found.params))
    rundir.make_folder(folder)
    with lease.hold(folder, out.print) as held:
        vocab.save(vocabularies, folder / rundir.VOCAB)
        checkpoints = Checkpoints(folder / rundir.CHECKPOINTS, config.training.best_metric, confirm=held.confirm)
        checkpoints.save(state, None, Bound(to_json(config), vocabularies.sha256, ""), lambda _: None)
        checkpoints.close()
        rundir.write_config(folder, config)  # last: without it this is no run, and may be made again
    out.print(
        f"{run_dir}: {count_parameters(state.params):,} parameters, {len(source):,} source and {len(target):,} target tokens\n"
        f"next: flax-s2s decode {run_dir} --compute float32, or train {run_dir} --run-dir NEW --init-from {run_dir} --data.folder ...",
        highlight=False,
    )
    if lost or more:
        out.print(
            f"{len(lost) + len(more)} tokens of the checkpoint are none of the SentencePiece model and are left out: {' '.join([*lost, *more][:10])}"
        )
    return 0


def _vocabulary(tokens: list[str], file: str, option: str) -> tuple[Vocabulary, np.ndarray, list[str]]:
    """The vocabulary, the rows of the checkpoint's tables in its order (-1: it has none), and tokens that are lost."""
    if not file:
        if pieces := [token for token in tokens if token.startswith(_SPACE) and token != _SPACE]:
            raise UserError(
                f"the checkpoint's tokens are pieces of a SentencePiece model, such as {pieces[0]}; give that model: {option} FILE"
            )
        made = vocab_training.from_words(tokens)
        return made, np.arange(len(made)), []
    made = vocab_training.adopt(file, VocabConfig(kind=vocab_training.kind_of(file)))
    places = {token: UNK + 1 + place for place, token in enumerate(tokens)}
    pieces = [made.pieces([i])[0] for i in range(len(made))]
    rows = [place if place <= UNK else places.pop(piece, -1) for place, piece in enumerate(pieces)]
    if 2 * len(places) > len(tokens):
        raise UserError(
            f"{file} lacks {len(places):,} of the checkpoint's {len(tokens):,} tokens, such as {next(iter(places))}; give the SentencePiece model that its corpus was "
            "prepared with"
        )
    return made, np.array(rows), list(places)


def _rearrange(found: Imported, source: np.ndarray, target: np.ndarray) -> Imported:
    """Rows of the tables in the order of the vocabularies; a piece without one is as what is unknown, and never said."""
    params = dict(found.params)
    params["source_table"] = params["source_table"][np.where(source < 0, UNK, source)]
    for name in ("target_table", "output_table", "output_bias"):
        params[name] = params[name][np.where(target < 0, UNK, target)]
    params["output_table"] = np.where(target[:, None] < 0, np.float32(0), params["output_table"])
    params["output_bias"] = np.where(target < 0, np.float32(_NEVER), params["output_bias"])
    return found._replace(params=params)


def _configure(found: Imported, source_model: str, target_model: str) -> Config:
    kinds: list[Any] = [vocab_training.kind_of(file) if file else "word" for file in (source_model, target_model)]
    return Config(
        data=DataConfig(format="text", source="src", target="tgt"),
        vocab=VocabConfig(
            kind=kinds[0],
            target_kind=kinds[1] if kinds[1] != kinds[0] else "same",
            joint=False,
            source_model=_absolute(source_model),
            target_model=_absolute(target_model),
        ),
        model=found.model,
        optimizer=OptimizerConfig(),
        training=TrainingConfig(best_metric="loss"),
        decoding=DecodingConfig(beam_size=5, length_penalty=0.0, max_length_ratio=1.25, max_length_extra=3),
        evaluation=EvaluationConfig(metrics=("chrf",), valid_pairs=0),
    )


def _absolute(file: str) -> str:
    return file if not file or "://" in file else os.path.abspath(file)


def _fill(params: Any, given: dict[str, np.ndarray]) -> Any:
    """The tree of parameters with what was imported.

    Raises:
        UserError: an array is of another shape, or missing.
    """
    left = dict(given)

    def one(path: Any, leaf: Any) -> Any:
        name = "/".join(str(part.key) for part in path)
        if name not in left or left[name].shape != leaf.shape:
            raise UserError(
                f"the checkpoint's {name} has the shape {left[name].shape if name in left else None}, and a model of its options {leaf.shape}"
            )
        return jax.device_put(np.ascontiguousarray(left.pop(name)), leaf.sharding)

    filled = jax.tree_util.tree_map_with_path(one, params)
    if left:
        raise UserError(f"the checkpoint holds {', '.join(left)}, which a model of its options has not; it cannot be imported")
    return filled
