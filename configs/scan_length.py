"""SCAN commands -> actions, the length split: up to 22 actions in training, 24 to 48 in the test.

    python -m flax_s2s train configs/scan_length.py --run-dir runs/scan_length
    python -m flax_s2s evaluate runs/scan_length --split test
    python -m flax_s2s sweep configs/scan_length.py --run-dir runs/scan_length_seeds

Data: SCAN, the length split (https://github.com/brendenlake/SCAN, Lake & Baroni 2018), BSD license. The folder holds train.cmd, train.act (16,990 pairs),
test.cmd and test.act (3,920): a command a line, and its actions separated by spaces. Where it lies elsewhere: --data.folder FOLDER.

Published (Lake & Baroni 2018, exact match): 13.8%, at best 20.8%. An LSTM is expected to fail it.

Two CPU cores without instructions for bfloat16 (float32 products at 114 GFLOP/s), 2026-11-28, in float32: 14 to 20 minutes a seed on one of
them, other work on the other; test set, greedy, exact match: 84.46, 13.88 and 50.97%, mean 49.77 +- 35.31: chance decides. All three
have learned every held-out pair of the lengths of training, and nearly none of more than 33 actions is right with any of them (the first: 2
of 448). It is no leak: no command of the test set is one of train, the longest target in train has 22 actions (batches have room
for 23 tokens), the second and third were trained where there was no file of the test set, and `decode` of the commands alone gives the same.
Pairs with the target of a held-out one were then left out of training; now only the held-out commands are.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="text",
            folder="../shared/data/scan/length",
            origin="SCAN, length split (github.com/brendenlake/SCAN; BSD): train.cmd, train.act, test.cmd, test.act, one a line",
            source="cmd",
            target="act",
            valid="",  # there is none: pairs are held out of train
            held_out_pairs=300,
            batch_tokens=1024,
        ),
        vocab=VocabConfig(kind="word", joint=False),
        model=ModelConfig(embedding_size=128, hidden_size=256, attention="general", input_feeding=True, dropout=0.3),
        optimizer=OptimizerConfig(schedule="cosine", warmup_steps=200, beta2=0.98, label_smoothing=0.0, average_decay=0.998),
        training=TrainingConfig(steps=6000, evaluate_every_steps=1000, save_every_steps=1000, best_metric="exact_match"),
        decoding=DecodingConfig(beam_size=1, length_penalty=0.0, max_length_extra=40),  # up to 48 actions for 9 words
        evaluation=EvaluationConfig(metrics=("exact_match",), tokenizer="none", valid_pairs=300),
    )
