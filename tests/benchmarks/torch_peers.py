"""The PyTorch side of training.py; runs in the peers' environment and knows nothing of this package."""

import argparse
import ctypes
import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

PAD, BOS = 0, 1
EMBEDDING, HIDDEN, DROPOUT = 256, 512, 0.2
LAYERS = {"rows": 64, "steps": 32, "size": 512}


class Seq2Seq(nn.Module):
    """Model R by PyTorch's own layers: whole sentences at once."""

    def __init__(self, vocab):
        super().__init__()
        self.source, self.target = (nn.Embedding(vocab, EMBEDDING) for _ in range(2))
        self.encoder = nn.LSTM(EMBEDDING, HIDDEN // 2, bidirectional=True, batch_first=True)
        self.decoder = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True)
        self.key = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.readout = nn.Linear(2 * HIDDEN, HIDDEN, bias=False)
        self.output = nn.Linear(HIDDEN, vocab)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, src, tgt_in):
        lengths = (src != PAD).sum(1)
        packed = pack_padded_sequence(self.dropout(self.source(src)), lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
        memory, (hidden, cell) = self.encoder(packed)
        memory = self.dropout(pad_packed_sequence(memory, batch_first=True, total_length=src.shape[1])[0])
        start = tuple(torch.cat([part[0], part[1]], dim=-1)[None] for part in (hidden, cell))
        states = self.dropout(self.decoder(self.dropout(self.target(tgt_in)), start)[0])
        scores = torch.bmm(states, self.key(memory).transpose(1, 2)).masked_fill((src == PAD)[:, None, :], -1e9)
        context = torch.bmm(scores.softmax(-1), memory)
        return self.output(self.dropout(torch.tanh(self.readout(torch.cat([states, context], dim=-1)))))


class OpenNMT(nn.Module):
    """Model R by OpenNMT-py's own modules."""

    def __init__(self, vocab, feeding):
        super().__init__()
        from onmt.decoders.decoder import InputFeedRNNDecoder, StdRNNDecoder
        from onmt.encoders.rnn_encoder import RNNEncoder
        from onmt.models import NMTModel
        from onmt.modules import Embeddings

        def embeddings():
            return Embeddings(word_vec_size=EMBEDDING, word_vocab_size=vocab, word_padding_idx=PAD)

        decoder = InputFeedRNNDecoder if feeding else StdRNNDecoder
        self.model = NMTModel(
            RNNEncoder("LSTM", True, 1, HIDDEN, DROPOUT, embeddings()),
            decoder("LSTM", True, 1, HIDDEN, attn_type="general", dropout=DROPOUT, embeddings=embeddings()),
        )
        self.output = nn.Linear(HIDDEN, vocab)

    def forward(self, src, tgt_in):
        # Rows sorted by length, as its own batches are; its forward drops the last token of what it is given.
        lengths, order = (src != PAD).sum(1).clamp(min=1).sort(descending=True)
        whole = torch.cat([tgt_in[order], tgt_in[order][:, -1:]], dim=1)[:, :, None]
        states, _ = self.model(src[order][:, :, None], whole, lengths)
        return self.output(states)[order.argsort()]


def model_work(name, task, file, vocab):
    torch.manual_seed(0)
    model = OpenNMT(vocab, task == "feeding") if "OpenNMT" in name else Seq2Seq(vocab)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    stored = np.load(file)
    batches = [tuple(torch.from_numpy(stored[f"{side}{i}"]).long() for side in ("src", "tgt")) for i in range(len(stored) // 2)]

    def work():
        for src, tgt in batches:
            tgt_in = torch.cat([torch.full_like(tgt[:, :1], BOS), tgt[:, :-1]], dim=1)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "torch bfloat16"):
                logits = model(src, tgt_in)
            loss = nn.functional.cross_entropy(
                logits.float().flatten(0, 1), tgt.flatten(), ignore_index=PAD, label_smoothing=0.1, reduction="sum"
            )
            (loss / (tgt != PAD).sum()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.item()

    return work


def layers_work(name):
    torch.manual_seed(0)
    size = LAYERS["size"]
    lstm = nn.LSTM(size, size, num_layers=2, batch_first=True)
    inputs = torch.randn(LAYERS["rows"], LAYERS["steps"], size, requires_grad=True)

    def work():
        lstm.zero_grad(set_to_none=True)
        inputs.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "torch bfloat16"):
            outputs, _ = lstm(inputs)
        (outputs.float() ** 2).sum().backward()

    return work


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True)
    parser.add_argument("--serve", nargs=3, required=True)
    given = parser.parse_args()
    name, file, vocab = given.serve
    if "kept" in name:
        for setting, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX
            ctypes.CDLL("libc.so.6").mallopt(setting, value)
    work = layers_work(name) if given.task == "layers" else model_work(name, given.task, file, int(vocab))
    work()
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        work()
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
