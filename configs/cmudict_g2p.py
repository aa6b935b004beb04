"""English spelling -> phones (CMUdict): letters in, phones out.

    python -m flax_s2s train configs/cmudict_g2p.py --run-dir runs/cmudict_g2p
    python -m flax_s2s evaluate runs/cmudict_g2p --split test --merge-sources --references ../shared/data/cmudict/test.alt.tsv

`ser` is what the task calls word error rate: words whose phones equal none of the listed pronunciations; `per` counts phones.

Hardware, time, score: not yet run.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(format="text", folder="../shared/data/cmudict", source="word", target="phones", batch_tokens=2048, buckets=8),
        vocab=VocabConfig(kind="char", target_kind="word", size=200, joint=False),
        model=ModelConfig(
            embedding_size=128,
            hidden_size=512,
            encoder_layers=2,
            bidirectional_layers=2,
            decoder_layers=1,
            attention="general",
            input_feeding=True,
            dropout=0.3,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="cosine", warmup_steps=500, decay_steps=14_000, beta2=0.98, average_decay=0.999
        ),
        training=TrainingConfig(steps=14_000, evaluate_every_steps=2000, save_every_steps=1000, best_metric="ser"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("ser", "per"), valid_pairs=1000),
    )
