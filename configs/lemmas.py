"""Lemmas: a word of a treebank, with its part of speech and its features -> the form that a dictionary has.

    python -m flax_s2s train configs/lemmas.py --run-dir runs/lemmas --data.folder FOLDER
    python -m flax_s2s evaluate runs/lemmas --split test --by seen

Data: train.conllu, valid.conllu and test.conllu, such as those of Universal Dependencies (https://universaldependencies.org; each treebank under the license of its
makers, mostly CC BY-SA), whose second one is called dev there. Where no features are known when lemmas are asked for: --data.features UPOS; where nothing
is: --data.features ''.

A word that comes a hundred times is learned a hundred times, as in the text. Of what training has not seen, `--by seen` has the scores.

Hardware, time, score: not yet run.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="conllu",
            folder="../shared/data/lemmas",
            origin="a treebank of Universal Dependencies (universaldependencies.org; license of its makers): train.conllu, ...: FORM, LEMMA, UPOS, FEATS",
            train="train",
            valid="valid",
            test="test",
            source="FORM",
            target="LEMMA",
            features="UPOS+FEATS",
            max_source_tokens=64,
            max_target_tokens=64,
            batch_tokens=2048,
        ),
        vocab=VocabConfig(kind="char", joint=True, character_coverage=0.9995),
        model=ModelConfig(
            embedding_size=128,
            hidden_size=256,
            attention="general",
            input_feeding=True,
            attend_embeddings=True,
            copy=True,
            tie="all",
            dropout=0.3,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=200, beta2=0.98, average_decay=0.99),
        training=TrainingConfig(steps=6000, evaluate_every_steps=500, save_every_steps=500, best_metric="exact_match"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("exact_match", "cer"), tokenizer="none"),
    )
