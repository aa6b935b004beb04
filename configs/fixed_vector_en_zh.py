"""English -> Chinese through one fixed vector: the founding document's model.

A one-layer LSTM encoder hands its final state to a one-layer LSTM decoder; no attention, Adam, teacher forcing.

    python -m flax_s2s train configs/fixed_vector_en_zh.py --run-dir runs/fixed_vector_en_zh
    python -m flax_s2s evaluate runs/fixed_vector_en_zh --split test

Data: Tatoeba (https://tatoeba.org/downloads), CC BY 2.0 FR: name its authors. Chinese is converted to simplified characters, and no sentence of
valid or test occurs in train. The folder holds train.en, train.zh (29,603 pairs), valid.en, valid.zh, test.en and test.zh (1,000 each): UTF-8,
one sentence a line, not tokenized. Where it lies elsewhere: --data.folder FOLDER.

Two CPU cores without instructions for bfloat16 (float32 products at 114 GFLOP/s), 2026-11-28, in float32: 37 minutes on one of them,
other work on the other; test set, beam 5, one seed: 16.60 +- 1.34 BLEU (sacreBLEU, zh), 15.43 +- 0.94 chrF; greedy 15.6 BLEU, 1.0 less
(p = 0.005, sacreBLEU's `--paired-bs`). With attention, and settings of its own, tatoeba_en_zh scores 33.68.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="text",
            folder="../shared/data/tatoeba-en-zh",
            origin="sentences of tatoeba.org (CC BY 2.0 FR), simplified characters: train.en, train.zh, valid.*, test.*, one sentence a line",
            source="en",
            target="zh",
            batch_tokens=1024,
        ),
        vocab=VocabConfig(kind="bpe", target_kind="char", size=3000, joint=False),
        model=ModelConfig(embedding_size=256, hidden_size=512, bidirectional_layers=0, attention="none", dropout=0.3),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=300, beta2=0.98, average_decay=0.998),
        training=TrainingConfig(steps=4000, evaluate_every_steps=1000, save_every_steps=1000, best_metric="bleu"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("bleu", "chrf"), valid_pairs=500),
    )
