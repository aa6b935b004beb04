"""Summarization: the first paragraph of a Debian package's description -> its synopsis of one line.

    python -m flax_s2s train configs/synopsis.py --run-dir runs/synopsis
    python -m flax_s2s evaluate runs/synopsis --split test
    python tests/benchmarks/first_words.py runs/synopsis    # what it must beat: as many of the text's first words

Data: descriptions of Debian's packages (https://packages.debian.org), each under its package's license, all free by Debian's guidelines. The folder
holds train.text.gz, train.summary.gz (54,461 pairs), valid.text, valid.summary, test.text and test.summary (1,000 each): UTF-8, a
paragraph a line, and its synopsis. Where it lies elsewhere: --data.folder FOLDER.

Two CPU cores (float32 products at 200 GFLOP/s), 2026-11-24, in bfloat16, 67 minutes on one of them with other work on the other; test set, beam 5, one
seed: ROUGE-1 43.5 ± 1.7, ROUGE-2 24.5 ± 1.7, ROUGE-L 40.5 ± 1.6; as many of the text's first words: 26.2, 10.0, 23.0.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="text",
            folder="../shared/data/debian-synopsis",
            origin="descriptions of Debian's packages (their licenses, all free): train.text.gz, train.summary.gz, valid.*, test.*, one a line",
            source="text",
            target="summary",
            batch_tokens=2048,
            max_source_tokens=160,
            max_target_tokens=40,
            max_ratio=40.0,
        ),
        vocab=VocabConfig(kind="bpe", size=8000, joint=True),
        model=ModelConfig(
            embedding_size=256, hidden_size=512, attention="general", input_feeding=True, attend_embeddings=True, tie="all", dropout=0.3
        ),
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine", warmup_steps=500, beta2=0.98, average_decay=0.998),
        training=TrainingConfig(steps=8000, evaluate_every_steps=1000, save_every_steps=1000, best_metric="rougeL"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0, max_length_ratio=0.0, max_length_extra=40),
        evaluation=EvaluationConfig(metrics=("rouge1", "rouge2", "rougeL"), language="en", valid_pairs=500),
    )
