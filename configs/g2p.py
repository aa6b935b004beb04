"""Pronunciations of a few thousand words: letters in, phones out (WikiPron; SIGMORPHON 2020, task 1).

    python -m flax_s2s train configs/g2p.py --run-dir runs/rum
    python -m flax_s2s evaluate runs/rum --split test

Another language: --data.train hin.train --data.valid hin.valid --data.test hin.test.

`ser` is what the task calls word error rate: words that are wrong; `per` counts phones.

Data: rum.train.tsv, rum.valid.tsv and rum.test.tsv (3,600, 450 and 450 words of Romanian), and so of Hindi (hin), Icelandic (ice) and Lithuanian (lit): a word and its
phones, separated by spaces, a row; from https://github.com/sigmorphon/2020, task 1 (Wiktionary by WikiPron, CC BY-SA 3.0). Where they lie elsewhere: --data.folder FOLDER.

One CPU core in bfloat16, 2026-11-30, other work on the other: 115 to 195 s of processor time a language; test sets, beam 5, three seeds, wrong words (all three as one) and wrong phones: Hindi
6.07 +- 0.34 (5.56), 1.58%; Icelandic 8.74 +- 0.13 (8.44), 1.89%; Lithuanian 19.18 +- 0.90 (18.22), 3.41%; Romanian 9.63 +- 0.89 (9.11), 2.18%; their mean 10.91 +- 0.11 (10.33), 2.27%. One
recipe for all, its first one; monotonic attention was chosen by
the validation sets of Romanian and Hindi. Not compared with the task's own baselines yet.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="tsv",
            folder="../shared/data/g2p",
            origin="SIGMORPHON 2020 task 1 (github.com/sigmorphon/2020; CC BY-SA 3.0): rum.train.tsv, ...: word, phones separated by spaces",
            train="rum.train",
            valid="rum.valid",
            test="rum.test",
            source="0",
            target="1",
            max_source_tokens=64,
            max_target_tokens=64,
            batch_tokens=1024,
        ),
        vocab=VocabConfig(kind="char", target_kind="word", joint=False),
        model=ModelConfig(
            embedding_size=128,
            hidden_size=256,
            attention="general",
            alignment="monotonic",
            attend_embeddings=True,
            dropout=0.3,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=200, beta2=0.98, average_decay=0.99),
        training=TrainingConfig(steps=3000, evaluate_every_steps=500, save_every_steps=500, best_metric="ser"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("ser", "per"), tokenizer="none"),
    )
