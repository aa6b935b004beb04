"""Question and passage -> answer (SQuAD 1.1, generated, not pointed at).

    python -m flax_s2s train configs/squad_qa.py --run-dir runs/squad_qa --data.folder TFDS_DATA_DIR
    python -m flax_s2s evaluate runs/squad_qa --split valid

Data: SQuAD 1.1 (https://rajpurkar.github.io/SQuAD-explorer, Rajpurkar et al. 2016), CC BY-SA 4.0, as TFDS' squad/v1.1. Prepared once; the
whole command, and what it may need, is in the message of `train` where they are missing:

    tfds.builder("squad/v1.1", data_dir=TFDS_DATA_DIR, file_format="array_record").download_and_prepare()

The source is the question and, after a space, the passage. A question of the validation split has several right answers, and the
best one counts, as in the task's own scores; these also drop case, punctuation and articles, which `exact_match` does not, and
`rouge1` is near to their F1 of words.

Hardware, time, score: not yet run.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="tfds",
            dataset="squad/v1.1",
            origin="SQuAD 1.1, by TFDS (rajpurkar.github.io/SQuAD-explorer; CC BY-SA 4.0), prepared with file_format=array_record in this data_dir",
            train="train",
            valid="validation",
            test="",
            source="question+context",
            target="answers/text",
            max_source_tokens=400,
            max_target_tokens=40,
            max_ratio=400.0,
            batch_tokens=16_384,
        ),
        vocab=VocabConfig(kind="bpe", size=16_000, joint=True, character_coverage=0.9995),
        model=ModelConfig(
            embedding_size=256,
            hidden_size=512,
            encoder_layers=2,
            decoder_layers=1,
            bidirectional_layers=2,
            attention="general",
            input_feeding=True,
            tie="all",
            dropout=0.3,
        ),
        optimizer=OptimizerConfig(schedule="cosine", warmup_steps=1000, beta2=0.98, average_decay=0.999),
        training=TrainingConfig(steps=30_000, evaluate_every_steps=2000, save_every_steps=2000, best_metric="exact_match"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0, max_length_ratio=0.0, max_length_extra=40),
        evaluation=EvaluationConfig(metrics=("exact_match", "rouge1"), language="en", merge_sources=True, valid_pairs=1000),
    )
