"""A tiny model on a few phrases: everything a run does, in seconds.

    python -m flax_s2s train configs/debug.py --run-dir runs/debug

Two CPU cores: half a minute, most of it compilation; it learns too little for a score to mean anything.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="phrases", max_train_pairs=2_000, max_source_tokens=48, max_target_tokens=48, batch_tokens=768, row_multiple=8, buckets=2
        ),
        vocab=VocabConfig(kind="char", joint=True),
        model=ModelConfig(embedding_size=16, hidden_size=32, tie="all", dropout=0.1, compute="float32"),
        optimizer=OptimizerConfig(learning_rate=5e-3, schedule="constant", average_decay=0.9),
        training=TrainingConfig(steps=40, log_every_steps=10, evaluate_every_steps=20, save_every_steps=20, best_metric="exact_match"),
        decoding=DecodingConfig(beam_size=2, rows=16, max_length_ratio=1.0, max_source_tokens=48),
        evaluation=EvaluationConfig(metrics=("exact_match", "chrf", "wer"), valid_pairs=32, samples=1),
    )
