"""English -> French with one fixed vector (Sutskever, Vinyals & Le 2014, section 3.4): 4 layers of 1000, reversed source.

SGD without momentum at 0.7, halved every half epoch after 5 epochs; batches of about 128 sentences; 7.5 epochs; kernels and
embeddings uniform in +-0.08; gradients clipped at norm 5. That rate and norm are for a loss per sentence; ours is per token, so one is times,
the other through, the tokens of a sentence. Other than in the paper: subwords instead of 160,000 and 80,000 words, and all 40.8 M
pairs of TFDS' dataset instead of 12 M chosen ones. Published: 30.59 BLEU on newstest2014 for one model, 34.81 for an ensemble of 5.

    python -m flax_s2s train configs/sutskever2014_wmt14_en_fr.py --run-dir runs/sutskever2014 --data.folder TFDS_DATA_DIR
    python -m flax_s2s evaluate runs/sutskever2014

Data: WMT 2014 news (https://www.statmt.org/wmt14), free for research, as TFDS' wmt14_translate/fr-en. Prepared once; the
whole command, and what it may need, is in the message of `train` where they are missing:

    tfds.builder("wmt14_translate/fr-en", data_dir=TFDS_DATA_DIR, file_format="array_record").download_and_prepare()

Hardware, time, score: not yet run. An epoch is about 340,000 steps.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig

_EPOCH_STEPS = 340_000
_SENTENCE_TOKENS = 35  # of the target, about


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="tfds",
            dataset="wmt14_translate/fr-en",
            origin="WMT 2014 news, by TFDS (statmt.org/wmt14; free for research), prepared with file_format=array_record in this data_dir",
            train="train",
            valid="validation",
            test="test",
            source="en",
            target="fr",
            batch_tokens=4096,
        ),
        vocab=VocabConfig(size=32_000, joint=False, character_coverage=0.9999),
        model=ModelConfig(
            embedding_size=1000,
            hidden_size=1000,
            encoder_layers=4,
            decoder_layers=4,
            bidirectional_layers=0,
            reverse_source=True,
            attention="none",
            dropout=0.0,
            init_scale=0.08,
            forget_bias=0.0,
        ),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.7 * _SENTENCE_TOKENS,
            schedule="halving",
            halve_from_step=5 * _EPOCH_STEPS,
            halve_every_steps=_EPOCH_STEPS // 2,
            clip_norm=5.0 / _SENTENCE_TOKENS,
            label_smoothing=0.0,
        ),
        training=TrainingConfig(steps=int(7.5 * _EPOCH_STEPS), log_every_steps=100, evaluate_every_steps=5000, save_every_steps=5000),
        decoding=DecodingConfig(beam_size=12, length_penalty=0.0),
        evaluation=EvaluationConfig(metrics=("bleu", "chrf")),
    )
