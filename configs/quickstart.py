"""English -> Chinese dates, times, durations, intervals, amounts of money and measures, made from CLDR locale data.

Not translation quality: the phrases follow known patterns, and the model has to render new ones. They are generated from the locale data of
Unicode CLDR (Unicode License), which Babel brings: no file is needed.

    bash launch/quickstart.sh
    python -m flax_s2s train configs/quickstart.py --run-dir runs/quickstart

Two CPU cores without bfloat16 (float32 products at 138 GFLOP/s), 2026-11-29: exact match 99.5% on 1,000 unseen phrases, the
weakest family (date intervals) 96.0%, beam 2; three seeds 99.27 +- 0.21%, 92.8 to 96.0% of date intervals. Training, scoring and five
translations take 183 s where nothing was compiled before.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(format="phrases", source="en", target="zh", max_train_pairs=40_000, batch_tokens=1024),
        vocab=VocabConfig(kind="char", joint=False),
        model=ModelConfig(embedding_size=64, hidden_size=192, attention="general", input_feeding=True, dropout=0.05),
        optimizer=OptimizerConfig(learning_rate=5e-3, schedule="cosine", warmup_steps=100, beta2=0.98, label_smoothing=0.0),
        training=TrainingConfig(steps=2000, evaluate_every_steps=1000, save_every_steps=500, best_metric="loss"),
        decoding=DecodingConfig(beam_size=2, rows=128),
        evaluation=EvaluationConfig(metrics=("exact_match", "chrf"), valid_pairs=300),
    )
