"""English -> Chinese dates, times, durations, intervals, amounts of money and measures, generated from CLDR locale data."""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(format="phrases", source="en", target="zh", max_train_pairs=40_000, batch_tokens=2048, buckets=6),
        vocab=VocabConfig(kind="char", size=500, joint=False),
        model=ModelConfig(embedding_size=64, hidden_size=192, attention="general", dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=100, decay_steps=2000, label_smoothing=0.0),
        training=TrainingConfig(steps=2000, evaluate_every_steps=500, save_every_steps=500, best_metric="exact_match"),
        decoding=DecodingConfig(beam_size=2, rows=128),
        evaluation=EvaluationConfig(metrics=("exact_match", "chrf"), valid_pairs=300),
    )
