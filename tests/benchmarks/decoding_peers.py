"""The PyTorch side of decoding.py; runs in the peers' environment and knows nothing of this package."""

import argparse
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

PAD, BOS, EOS, UNK = 0, 1, 2, 3
ALPHA = 1.0


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def load_lstm(lstm, suffix, weights, prefix):
    """Our layer into PyTorch's: the gates stand in the same order."""
    bias = weights[f"{prefix}/bias"]
    for name, value in (
        ("weight_ih", weights[f"{prefix}/kernel_in"].T),
        ("weight_hh", weights[f"{prefix}/kernel_rec"].T),
        ("bias_ih", bias),
        ("bias_hh", np.zeros_like(bias)),
    ):
        getattr(lstm, name + suffix).data.copy_(tensor(value))


class OpenNMT:
    """OpenNMT-py's own model and Translator."""

    def __init__(self, weights, beam):
        from onmt.decoders.decoder import InputFeedRNNDecoder
        from onmt.encoders.rnn_encoder import RNNEncoder
        from onmt.models import NMTModel
        from onmt.modules import Embeddings
        from onmt.translate import GNMTGlobalScorer
        from onmt.translate.translator import Translator

        vocab, size = weights["target_table"].shape
        hidden = weights["decoder/layers/0/kernel_rec"].shape[0]

        def embeddings(table):
            made = Embeddings(word_vec_size=size, word_vocab_size=vocab, word_padding_idx=PAD)
            made.word_lut.weight.data.copy_(tensor(weights[table]))
            return made

        encoder = RNNEncoder("LSTM", True, 1, hidden, 0.0, embeddings("source_table"))
        load_lstm(encoder.rnn, "_l0", weights, "encoder/layers/0/0")
        load_lstm(encoder.rnn, "_l0_reverse", weights, "encoder/layers/0/1")
        decoder = InputFeedRNNDecoder("LSTM", True, 1, hidden, attn_type="general", embeddings=embeddings("target_table"))
        load_lstm(decoder.rnn.layers[0], "", weights, "decoder/layers/0")
        decoder.attn.linear_in.weight.data.copy_(tensor(weights["decoder/attention/kernel_key"]))
        # It reads context and state in the other order.
        readout = weights["decoder/kernel_readout"]
        decoder.attn.linear_out.weight.data.copy_(tensor(np.concatenate([readout[hidden:], readout[:hidden]]).T))
        model = NMTModel(encoder, decoder)
        model.generator = nn.Linear(hidden, vocab)
        model.generator.weight.data.copy_(tensor(weights["output_table"]))
        model.generator.bias.data.copy_(tensor(weights["output_bias"]))
        model.eval()
        self.rows_sorted = True

        class Words:
            ids = (("<blank>", PAD), ("<s>", BOS), ("</s>", EOS))

            def lookup_token(self, token):
                return dict(self.ids).get(token, UNK)

            def __len__(self):
                return vocab

        words = {"src": Words(), "tgt": Words(), "decoder_start_token": "<s>"}
        scorer = GNMTGlobalScorer(ALPHA, 0.0, "wu", "none")
        self.translator = Translator(
            model, words, beam_size=beam, max_length=250, max_length_ratio=2.0, global_scorer=scorer, ban_unk_token=True
        )

    def __call__(self, batch):
        lengths = torch.tensor([len(ids) for ids in batch])
        src = torch.full((len(batch), int(lengths.max()), 1), PAD)
        for row, ids in enumerate(batch):
            src[row, : len(ids), 0] = torch.tensor(ids)
        with torch.inference_mode():
            found = self.translator.translate_batch({"src": src, "srclen": lengths}, attn_debug=False)
        return [[int(token) for token in best[0] if token not in (PAD, EOS)] for best in found["predictions"]]


class Joey:
    """JoeyNMT's own model and search; it hands on the cell too, which the original leaves out, and its softmax has a bias."""

    def __init__(self, weights, beam):
        from joeynmt.decoders import RecurrentDecoder
        from joeynmt.embeddings import Embeddings
        from joeynmt.encoders import RecurrentEncoder
        from joeynmt.model import Model
        from joeynmt.search import search

        vocab, size = weights["target_table"].shape
        hidden = weights["decoder/layers/0/kernel_rec"].shape[0]
        cells = {}

        class Encoder(RecurrentEncoder):
            def forward(self, *arguments, **more):
                keep = self.rnn.register_forward_hook(lambda *found: cells.update(last=found[2][1][1]))
                found = super().forward(*arguments, **more)
                keep.remove()
                return found

        class Decoder(RecurrentDecoder):
            def _init_hidden(self, encoder_final=None):
                hidden, _ = super()._init_hidden(encoder_final)
                return hidden, torch.cat([cells["last"][0], cells["last"][1]], dim=1)[None]

        encoder = Encoder("lstm", hidden // 2, size, 1)
        load_lstm(encoder.rnn, "_l0", weights, "encoder/layers/0/0")
        load_lstm(encoder.rnn, "_l0_reverse", weights, "encoder/layers/0/1")
        decoder = Decoder("lstm", size, hidden, encoder, "luong", 1, vocab, init_hidden="last", input_feeding=True)
        load_lstm(decoder.rnn, "_l0", weights, "decoder/layers/0")
        decoder.attention.key_layer.weight.data.copy_(tensor(weights["decoder/attention/kernel_key"].T))
        decoder.att_vector_layer.weight.data.copy_(tensor(weights["decoder/kernel_readout"].T))
        decoder.att_vector_layer.bias.data.zero_()
        decoder.output_layer = nn.Linear(hidden, vocab)
        decoder.output_layer.weight.data.copy_(tensor(weights["output_table"]))
        decoder.output_layer.bias.data.copy_(tensor(weights["output_bias"]))
        tables = []
        for name in ("source_table", "target_table"):
            tables.append(Embeddings(size, False, vocab, PAD))
            tables[-1].lut.weight.data.copy_(tensor(weights[name]))
        words = SimpleNamespace(
            pad_index=PAD, bos_index=BOS, eos_index=EOS, unk_index=UNK, sep_index=None, specials=[], lang_tags=[], lookup=None
        )
        self.model = Model(encoder, decoder, *tables, words, words)
        self.model.eval()
        self.search, self.beam = search, beam

    def __call__(self, batch):
        lengths = torch.tensor([len(ids) for ids in batch])
        src = torch.full((len(batch), int(lengths.max())), PAD)
        for row, ids in enumerate(batch):
            src[row, : len(ids)] = torch.tensor(ids)
        given = SimpleNamespace(src=src, src_length=lengths, src_mask=(src != PAD)[:, None, :], has_trg=False, trg_prompt_mask=None)
        found, _, _ = self.search(self.model, given, -1, self.beam if self.beam > 1 else 0, ALPHA, generate_unk=False)
        return [[int(token) for token in row if token not in (PAD, EOS)] for row in cut(found)]


def cut(rows):
    """Up to the first end mark."""
    for row in rows.tolist():
        yield row[: row.index(EOS)] if EOS in row else row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--beams", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--serve", nargs=2, required=True)
    given = parser.parse_args()
    name, folder = given.serve
    weights = dict(np.load(f"{folder}/weights.npz"))
    sentences = json.loads(Path(folder, "source.json").read_text())
    translate = (OpenNMT if name == "OpenNMT-py" else Joey)(weights, given.beams)

    def work(chosen):
        order = sorted(range(len(chosen)), key=lambda i: -len(chosen[i]))
        results = [None] * len(chosen)
        for start in range(0, len(order), given.rows):
            batch = order[start : start + given.rows]
            for i, ids in zip(batch, translate([chosen[i] for i in batch]), strict=True):
                results[i] = ids
        return results

    found = work(sentences)
    Path(folder, f"{name}.json").write_text(json.dumps(found))
    print(json.dumps({"tokens": sum(len(ids) + 1 for ids in found), "threads": torch.get_num_threads()}), flush=True)
    for command in sys.stdin:
        what, _, count = command.strip().partition(" ")
        if what == "all":
            begin = time.perf_counter()
            work(sentences * int(count))
            print(json.dumps([time.perf_counter() - begin]), flush=True)
            continue
        seconds = []
        for ids in sentences[: int(count)]:
            begin = time.perf_counter()
            translate([ids])
            seconds.append(time.perf_counter() - begin)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
