"""Model FLOPs: the floating-point operations that the equations ask for, whatever a program does."""

from typing import Any, NamedTuple

import jax

from flax_s2s.config import ModelConfig
from flax_s2s.model.attention import score_products
from flax_s2s.model.sizes import sizes


class Flops(NamedTuple):
    """Multiplications and additions, forward, of the matrix products."""

    source_token: float
    target_token: float
    attended: float  # per source position that a target token attends to

    def training(self, source_tokens: int, target_tokens: int, source_length: int | float) -> float:
        """Of a training step on real tokens; the gradient costs twice the forward pass."""
        attending = target_tokens * source_length * self.attended
        return 3 * (source_tokens * self.source_token + target_tokens * self.target_token + attending)


def count_flops(config: ModelConfig, params: Any) -> Flops:
    """From the kernels' sizes: each is multiplied once with every token of its side.

    Args:
        config: of the model.
        params: its parameters, or their abstract stand-ins.
    """
    source, target = 0, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "kernel" in name and "bridge" not in name and "features" not in name:  # which are once for a sentence
            if "encoder" in name or "kernel_key" in name:
                source += leaf.size
            else:
                target += leaf.size
    output = params["target_table"] if config.tie != "none" else params["output_table"]
    memory = sizes(config).memory
    attended, said = 0, output.size
    if config.attention != "none":  # the score, and the context
        attended = score_products(config.attention, config.hidden_size, memory, config.attention_size or config.hidden_size) + memory
    if config.coverage:  # what a key gains is added to it, or, where keys are multiplied, multiplied once with the query
        size = params["decoder"]["attention"]["cover"].size
        attended, target = (attended + size, target) if config.attention == "additive" else (attended + 1, target + size)
    if config.hard:  # no context, but a softmax; and the source's part of the readout once for each source token
        attended, said, part = attended - memory + said, 0, memory * sizes(config).readout
        source, target = source + part, target - part
    return Flops(2.0 * source, 2.0 * (target + said), 2.0 * attended)
