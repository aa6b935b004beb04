"""English -> Chinese sentences (Tatoeba, simplified characters): one bidirectional layer, attention with input feeding, characters out.

    python -m flax_s2s train configs/tatoeba_en_zh.py --run-dir runs/tatoeba_en_zh
    python -m flax_s2s evaluate runs/tatoeba_en_zh --split test
    python -m flax_s2s sweep configs/tatoeba_en_zh.py --run-dir runs/tatoeba    # three seeds, and all as one

Data: Tatoeba (https://tatoeba.org/downloads), CC BY 2.0 FR: name its authors. Chinese is converted to simplified characters, and no sentence of
valid or test occurs in train. The folder holds train.en, train.zh (29,603 pairs), valid.en, valid.zh, test.en and test.zh (1,000 each): UTF-8,
one sentence a line, not tokenized. Where it lies elsewhere: --data.folder FOLDER.

Two CPU cores (float32 products at 200 GFLOP/s), 2026-11-24, in bfloat16: 30 minutes a seed with other work beside it; test set, beam 5,
three seeds: 33.68 +- 0.32 BLEU (sacreBLEU, zh), 28.85 +- 0.29 chrF; all three as one 34.85, 29.90. OpenNMT-py 3.5.1 with this vocabulary
and batch, its input feeding, dropout 0.3, 8,000 steps: 22.76, 20.27 (one seed, tests/benchmarks/opennmt_recipe.py); dropout 0.5,
5,000 steps (2026-11-28): 18.39, 16.98.

Thirty thousand short sentences are few: it knows few words.
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
        model=ModelConfig(
            embedding_size=256,
            hidden_size=512,
            attention="general",
            input_feeding=True,
            attend_embeddings=True,
            tie="softmax",
            dropout=0.4,
        ),
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="cosine", warmup_steps=300, beta2=0.98, average_decay=0.998),
        training=TrainingConfig(steps=8000, evaluate_every_steps=1000, save_every_steps=1000, best_metric="bleu"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("bleu", "chrf"), valid_pairs=1000),
    )
