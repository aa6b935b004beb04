"""Names into another script: letters in, letters out.

    python -m flax_s2s train configs/transliteration.py --run-dir runs/names --data.folder FOLDER
    python -m flax_s2s evaluate runs/names --split test

Data: train.tsv, valid.tsv and test.tsv, a name and its transliteration a row, such as labels of persons and places in two languages from
https://www.wikidata.org (license: CC0), or those of the NEWS shared tasks (http://workshop.colips.org/news2018, on request). Where a name has several right spellings, any
counts.

Monotonic attention goes through the name from left to right; with `--model.alignment soft --model.input-feeding` it need not.

`ser` is the share of names that are wrong: one minus the task's word accuracy.

Hardware, time, score: not yet run.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="tsv",
            folder="../shared/data/transliteration",
            origin="labels of Wikidata (www.wikidata.org; license CC0), or your own: train.tsv, valid.tsv, test.tsv: name, transliteration",
            train="train",
            valid="valid",
            test="test",
            source="0",
            target="1",
            max_source_tokens=64,
            max_target_tokens=64,
            batch_tokens=1024,
        ),
        vocab=VocabConfig(kind="char", joint=False),
        model=ModelConfig(
            embedding_size=128,
            hidden_size=256,
            attention="general",
            alignment="monotonic",
            attend_embeddings=True,
            dropout=0.3,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=200, beta2=0.98, average_decay=0.99),
        training=TrainingConfig(steps=6000, evaluate_every_steps=500, save_every_steps=500, best_metric="ser"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("ser", "cer"), tokenizer="none", merge_sources=True),
    )
