"""LSTM sequence-to-sequence models in JAX: text -> tokens -> batches -> model -> loss -> update -> checkpoint -> hypotheses -> score.

The legend of axes, used in every shape annotation of the package:

    batch   rows of a batch, one sentence pair each (filler rows are all PAD)
    src     positions of a source sentence        tgt     positions of a target sentence
    time    positions of either                   emb     features of an embedding or a layer's input
    hid     features of a hidden state            gates   4 * hid: input, forget, cell, output
    vocab   token ids                             beam    live hypotheses of one sentence
    layer   a stack's layers, lowest first

The public face of the package: `load`, `train`, `evaluate` and `inspect`, what they return, and what a `Config` is made of.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flax_s2s.api.calls import Settings
    from flax_s2s.api.model import Hypothesis, PairScore, TrainedModel, Translation, load
    from flax_s2s.api.verbs import Evaluation, Inspection, Reached, Score, evaluate, inspect, train
    from flax_s2s.config import (
        Config,
        DataConfig,
        DecodingConfig,
        EvaluationConfig,
        Failure,
        ModelConfig,
        OptimizerConfig,
        TrainingConfig,
        UserError,
        VocabConfig,
    )
    from flax_s2s.presets import load_preset
else:

    def __getattr__(name: str) -> Any:
        """Imported is what is used: a command begins as two processes (see `processor`), and who loads a model trains none."""
        if name in ("config", "presets"):
            return importlib.import_module(f"flax_s2s.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        modules = (importlib.import_module(f"flax_s2s.{place}") for place in ("config", "presets", "api.model", "api.verbs"))
        return next(getattr(module, name) for module in modules if hasattr(module, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"
__all__ = [
    "Config",
    "DataConfig",
    "DecodingConfig",
    "Evaluation",
    "EvaluationConfig",
    "Failure",
    "Hypothesis",
    "Inspection",
    "ModelConfig",
    "OptimizerConfig",
    "PairScore",
    "Reached",
    "Score",
    "Settings",
    "TrainedModel",
    "TrainingConfig",
    "Translation",
    "UserError",
    "VocabConfig",
    "evaluate",
    "inspect",
    "load",
    "load_preset",
    "train",
]
