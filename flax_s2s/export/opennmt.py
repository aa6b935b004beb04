"""Models that come home: a checkpoint of OpenNMT-py 3 as configuration, parameters and tokens of ours.

Enters: a checkpoint file, read without unpickling anything but arrays and plain values. Leaves: an `Imported`.

Its LSTM has the same gates in the same order (PyTorch's), with two biases of which ours is the sum. Its attention reads context and state in the other order.
Sources have no end mark there (`model.source_end`). After OpenNMT-py 3.5.1: `onmt/modules/global_attention.py`, `onmt/decoders/decoder.py`.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_s2s.config import ModelConfig, UserError

_SPECIAL = ("<blank>", "<s>", "</s>", "<unk>")  # in our order: PAD BOS EOS UNK
# Options and what they must be, for what they do is not done here.
_MUST: dict[str, tuple[Any, ...]] = {
    "model_task": ("seq2seq",),
    "encoder_type": ("rnn", "brnn"),
    "decoder_type": ("rnn",),
    "rnn_type": ("LSTM",),
    "global_attention": ("dot", "general", "none", None),
    "global_attention_function": ("softmax",),
    "bridge": (False,),
    "copy_attn": (False,),
    "coverage_attn": (False,),
    "context_gate": (None,),
    "position_encoding": (False,),
    "generator_function": ("softmax",),
    "n_src_feats": (0,),
    "lora_layers": ([],),
    "lora_embedding": (False,),
    "quant_layers": ([],),
}
_WHY = {"global_attention": " (mlp adds a bias to the query, and its readout has no tanh)"}


class Imported(NamedTuple):
    """A model of another toolkit, in our terms."""

    model: ModelConfig
    params: dict[str, np.ndarray]  # by their paths, rows of tables in the order of the tokens
    source: list[str]  # tokens from the fifth on
    target: list[str]


def read(file: str) -> dict[str, Any]:
    """The contents of a checkpoint.

    Raises:
        UserError: it is not there, is no checkpoint, holds objects, or torch is missing.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            "import reads the checkpoints of PyTorch, for which torch is not installed: pip install 'flax_s2s[import]'"
        ) from None
    if not os.path.isfile(file):
        raise UserError(f"{file} is not there; give a checkpoint of OpenNMT-py, such as model_step_10000.pt")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its readers raise
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f"it holds an object, {found[1]}" if found else f"{type(error).__name__} {str(error).splitlines()[0]}"
        raise UserError(
            f"{file} is no checkpoint of arrays and plain values: {reason}; give one of OpenNMT-py 3 (its own tool converts those of version 2)"
        ) from None
    if not isinstance(found, dict) or not {"vocab", "opt"} <= set(found):
        raise UserError(f"{file} is no checkpoint of OpenNMT-py 3: it must hold opt, vocab, model and generator")
    if not found.get("model"):
        raise UserError(f"{file} holds no weights: they are in a file of safetensors beside it; save with -save_format pytorch")

    def arrays(part: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: value.float().numpy() for name, value in part.items()}

    return {
        "opt": vars(found["opt"]),
        "vocab": found["vocab"],
        "model": arrays(found["model"]),
        "generator": {name.removeprefix("0."): value for name, value in arrays(found.get("generator") or {}).items()},
    }


def convert(found: Mapping[str, Any]) -> Imported:
    """What `read` found, as a model of ours.

    Raises:
        UserError: an option cannot be imported, or a weight is missing.
    """
    opt, arrays, generator, vocab = (found[part] for part in ("opt", "model", "generator", "vocab"))
    _refuse(opt, vocab)
    attends, feeds = _attends(opt), bool(opt["input_feed"])
    layers, both, hidden = opt["dec_layers"], opt["encoder_type"] == "brnn", opt["dec_hid_size"]
    params: dict[str, np.ndarray] = {}

    def take(name: str, part: Mapping[str, np.ndarray] = arrays) -> np.ndarray:
        if name not in part:
            raise UserError(f"the checkpoint lacks {name}, which a model of its options has; it cannot be imported")
        return np.asarray(part[name], np.float32)

    def layer(ours: str, theirs: str, suffix: str) -> None:
        params[f"{ours}/kernel_in"] = take(f"{theirs}weight_ih{suffix}").T
        params[f"{ours}/kernel_rec"] = take(f"{theirs}weight_hh{suffix}").T
        params[f"{ours}/bias"] = take(f"{theirs}bias_ih{suffix}") + take(f"{theirs}bias_hh{suffix}")

    for index in range(layers):
        for direction in range(1 + both):
            layer(f"encoder/layers/{index}/{direction}", "encoder.rnn.", f"_l{index}" + "_reverse" * direction)
        layer(f"decoder/layers/{index}", *((f"decoder.rnn.layers.{index}.", "") if feeds else ("decoder.rnn.", f"_l{index}")))
    sides = {}
    for side, name in (("source", "src"), ("target", "tgt")):
        sides[side], rows = _order(vocab[name], name)
        table = take(f"{'encoder' if side == 'source' else 'decoder'}.embeddings.make_embedding.emb_luts.0.weight")
        params[f"{side}_table"] = table[rows]
    params["output_table"], params["output_bias"] = take("weight", generator)[rows], take("bias", generator)[rows]
    if attends:
        out = take("decoder.attn.linear_out.weight").T
        params["decoder/kernel_readout"] = np.concatenate([out[hidden:], out[:hidden]])
        if opt["global_attention"] == "general":
            params["decoder/attention/kernel_key"] = take("decoder.attn.linear_in.weight")
    model = ModelConfig(
        embedding_size=opt["tgt_word_vec_size"],
        hidden_size=hidden,
        encoder_layers=layers,
        decoder_layers=layers,
        bidirectional_layers=layers if both else 0,
        attention=opt["global_attention"] if attends else "none",
        input_feeding=feeds,
        source_end=False,
        dropout=_rate(opt.get("dropout", 0.0)),
        tie="none",
    )
    return Imported(model, params, sides["source"], sides["target"])


def _refuse(opt: Mapping[str, Any], vocab: Mapping[str, Any]) -> None:
    """Raises where a model of these options is none of ours."""
    for name, allowed in _MUST.items():
        if name in opt and opt[name] not in allowed:
            usual = " or ".join(str(one) for one in allowed if one is not None) or "a model without it"
            raise UserError(
                f"the checkpoint was trained with {name}={opt[name]}{_WHY.get(name, '')}, which cannot be imported; only {usual} can"
            )
    if (start := vocab.get("decoder_start_token", _SPECIAL[1])) != _SPECIAL[1]:
        raise UserError(
            f"the checkpoint begins translations with decoder_start_token={start}, which cannot be imported; only {_SPECIAL[1]} can"
        )
    if opt["src_word_vec_size"] != opt["tgt_word_vec_size"]:
        raise UserError(
            f"the checkpoint has src_word_vec_size={opt['src_word_vec_size']} and tgt_word_vec_size={opt['tgt_word_vec_size']}, and embeddings of "
            "both sides must be of one size here; it cannot be imported"
        )
    if vocab.get("src_feats"):
        raise UserError("the checkpoint reads source features, which cannot be imported")
    attends, feeds = _attends(opt), bool(opt["input_feed"])
    if feeds and not attends:
        raise UserError(
            "the checkpoint has global_attention=none with input_feed=1, which cannot be imported; only input_feed=0 can, without attention"
        )
    if opt["enc_layers"] != opt["dec_layers"] or (opt["dec_layers"] > 1 and attends and not feeds):
        raise UserError(
            f"the checkpoint has enc_layers={opt['enc_layers']}, dec_layers={opt['dec_layers']}, input_feed={opt['input_feed']}; as many layers on both sides "
            "can be imported, of several with attention those with input_feed=1"
        )
    if opt["enc_hid_size"] != opt["dec_hid_size"]:
        raise UserError(
            f"the checkpoint has enc_hid_size={opt['enc_hid_size']} and dec_hid_size={opt['dec_hid_size']}, which must be equal to be imported"
        )


def _attends(opt: Mapping[str, Any]) -> bool:
    return opt.get("global_attention") not in (None, "none")


def _rate(dropout: Any) -> float:
    """Its last value, where there are several for stretches of training."""
    return float(dropout[-1] if isinstance(dropout, Sequence) else dropout)


def _order(tokens: Sequence[str], side: str) -> tuple[list[str], np.ndarray]:
    """Tokens behind the four special ones, and the rows of a table in that order."""
    places = {token: place for place, token in enumerate(tokens)}
    if lacking := [token for token in _SPECIAL if token not in places]:
        raise UserError(f"the checkpoint's vocabulary of {side} lacks {' '.join(lacking)}; it cannot be imported")
    if len(places) < len(tokens):
        raise UserError(f"the checkpoint's vocabulary of {side} has a token twice; it cannot be imported")
    rest = [token for token in tokens if token not in _SPECIAL]
    return rest, np.array([places[token] for token in (*_SPECIAL, *rest)])
