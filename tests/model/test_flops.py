"""FLOPs of small models, counted by hand: a product of [m] with [m n] costs 2 m n."""

import jax
import pytest

from flax_s2s.config import ModelConfig
from flax_s2s.model.flops import Flops, count_flops
from flax_s2s.model.seq2seq import init_params

SMALL = dict(embedding_size=3, hidden_size=4, dropout=0.0)
VOCAB = 10  # of the target; the source has 7, and its table is looked up, not multiplied with


def counted(**fields):
    config = ModelConfig(**SMALL | fields)
    return count_flops(config, jax.eval_shape(lambda: init_params(config, 7, VOCAB, jax.random.key(0))))


def test_fixed_vector_model():
    # Encoder: x W_in is 3 x 16, h W_rec 4 x 16. Decoder: the same, and the softmax layer 10 x 4.
    assert counted(attention="none", bidirectional_layers=0) == Flops(2.0 * (48 + 64), 2.0 * (48 + 64 + 40), 0.0)


def test_general_attention_and_two_layers():
    # Encoder: 2 directions of 2 units, each 3 x 8 + 2 x 8; layer 2: 4 x 16 + 4 x 16; the keys: 4 x 4.
    # Decoder: 3 x 16 + 4 x 16; layer 2 also reads the context: 8 x 16 + 4 x 16; readout 8 x 4; softmax 10 x 4.
    # Each attended position: a score of 4 products, and 4 for the context.
    found = counted(encoder_layers=2, decoder_layers=2, bidirectional_layers=1)
    assert found == Flops(2.0 * (2 * 40 + 128 + 16), 2.0 * (112 + 192 + 32 + 40), 2.0 * 8)


@pytest.mark.parametrize("bridge", ["copy", "dense", "zero"])
def test_additive_attention_with_input_feeding_and_tied_tables(bridge):
    # Keys 4 x 5; decoder (3 + 3) x 16 + 4 x 16, query 4 x 5, readout 8 x 3, softmax 10 x 3; a position: 5 + 4.
    # A bridge runs once for a sentence, not for a token: not counted.
    found = counted(attention="additive", attention_size=5, input_feeding=True, tie="softmax", bridge=bridge)
    assert found == Flops(2.0 * (2 * 40 + 20), 2.0 * (160 + 20 + 24 + 30), 2.0 * 9)


def test_hard_attention_asks_for_a_softmax_of_each_position():
    # Layer 2 of the decoder reads no context: 4 x 16 + 4 x 16; the readout 4 x 4 of a state, 4 x 4 of a source token; shifts 4 x 11.
    # A position: a score of 4 products, and the softmax 10 x 4.
    found = counted(decoder_layers=2, alignment="monotonic", alignment_order="first")
    assert found == Flops(2.0 * (2 * 40 + 16 + 16), 2.0 * (112 + 128 + 16 + 44), 2.0 * 44)


def test_attention_that_reads_embeddings_too():
    # A position has 4 + 3 features: keys 7 x 4, context 7, readout (4 + 7) x 4.
    found = counted(attend_embeddings=True)
    assert found == Flops(2.0 * (2 * 40 + 28), 2.0 * (112 + 44 + 40), 2.0 * 11)


def test_training_costs_three_forward_passes():
    assert Flops(10.0, 20.0, 2.0).training(source_tokens=5, target_tokens=4, source_length=3) == 3 * (50 + 80 + 24)
    assert Flops(10.0, 20.0, 2.0).training(source_tokens=5, target_tokens=4, source_length=2.5) == 3 * (50 + 80 + 20)
