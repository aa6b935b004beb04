"""Makes torch_parity.npz and torch_gru_parity.npz: what torch.nn.LSTM and GRU compute, for test_lstm.py to compare with.

Run once, where torch is installed (made with torch 2.13.0):

    python tests/model/make_torch_parity.py

Two bidirectional layers (of a GRU one, in one direction) over padded rows of several lengths. Weights and inputs are float32 numbers; torch computes with
them in float64, and what it finds is stored rounded to float32.
"""

from pathlib import Path

import numpy as np
import torch

ROWS, STEPS, INPUTS, HIDDEN, LAYERS = 4, 6, 5, 3, 2
LENGTHS = [6, 1, 4, 3]


def main():
    torch.manual_seed(20_26)
    save("torch_parity.npz", torch.nn.LSTM(INPUTS, HIDDEN, num_layers=LAYERS, batch_first=True, bidirectional=True))
    save("torch_gru_parity.npz", torch.nn.GRU(INPUTS, HIDDEN, batch_first=True))


def save(name, module):
    module = module.double()
    for weight in module.parameters():
        weight.data = (2 * weight.data).float().double()  # twice torch's range, so that the gates leave their linear part
    inputs = torch.randn(ROWS, STEPS, INPUTS).double().requires_grad_()
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    outputs, final = module(packed)
    states = {"hidden": final} if isinstance(final, torch.Tensor) else dict(zip(("hidden", "cell"), final, strict=True))
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=STEPS)

    made = {"outputs": outputs, **states}
    asked = {name: torch.randn(value.shape).double() for name, value in made.items()}  # the loss is sum(asked * made)
    sum((asked[name] * value).sum() for name, value in made.items()).backward()

    arrays = {"inputs": inputs, "lengths": torch.tensor(LENGTHS), "gradient/inputs": inputs.grad, **made}
    arrays |= {f"asked/{name}": value for name, value in asked.items()}
    for weight_name, weight in module.named_parameters():
        arrays |= {f"weight/{weight_name}": weight, f"gradient/{weight_name}": weight.grad}
    arrays = {key: value.detach().numpy() for key, value in arrays.items()}
    arrays = {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in arrays.items()}
    np.savez_compressed(Path(__file__).with_name(name), **arrays)


if __name__ == "__main__":
    main()
