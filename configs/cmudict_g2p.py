"""English spelling -> phones (CMUdict): letters in, phones out.

    python -m flax_s2s train configs/cmudict_g2p.py --run-dir runs/cmudict_g2p
    python -m flax_s2s evaluate runs/cmudict_g2p --split test --merge-sources --references ../shared/data/cmudict/test.alt.tsv

`ser` is what the task calls word error rate: words whose phones equal none of the listed pronunciations; `per` counts phones.

Data: CMUdict (https://github.com/cmusphinx/cmudict), under a license like BSD's with two clauses, without stress marks. The folder holds train.word,
train.phones (118,049 words), valid.* (2,600) and test.* (12,000): a word a line, its phones separated by spaces; test.alt.tsv has a further right
pronunciation a line (word, tab, phones). No word is in two splits. Where it lies elsewhere: --data.folder FOLDER.

Two CPU cores (float32 products at 200 GFLOP/s), 2026-11-24, in bfloat16, on one of them with other work on the other: 79 minutes; test set, beam 5, one
seed: 25.68 ± 0.83% wrong words, 5.94 ± 0.22% wrong phones. Published on this list: 30.2% (Transformer), 33.9% (Phonetisaurus).
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="text",
            folder="../shared/data/cmudict",
            origin="CMUdict without stress (github.com/cmusphinx/cmudict; BSD): train.word, train.phones, valid.*, test.*, a word or its phones a line",
            source="word",
            target="phones",
            batch_tokens=1024,
        ),
        vocab=VocabConfig(kind="char", target_kind="word", joint=False),
        model=ModelConfig(
            embedding_size=128,
            hidden_size=512,
            encoder_layers=2,
            bidirectional_layers=2,
            decoder_layers=1,
            attention="general",
            input_feeding=True,
            attend_embeddings=True,
            dropout=0.1,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=500, beta2=0.98, average_decay=0.999),
        training=TrainingConfig(steps=16_000, evaluate_every_steps=2000, save_every_steps=1000, best_metric="ser"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("ser", "per"), tokenizer="none", valid_pairs=1000),
    )
