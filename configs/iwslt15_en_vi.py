"""English -> Vietnamese talks (IWSLT 2015) after Luong et al. 2015 and tensorflow/nmt's standard setting.

An encoder layer of 512 units in each direction, two decoder layers of 512, general attention with input feeding, dropout 0.2, SGD
at 1.0 halved every thousand steps after 9,000 of 12,000, batches of about 128 sentences, clipping at norm 5, kernels and embeddings
uniform in +-0.1. That rate and norm are for a loss per sentence; ours is per token, so one is times, the other through, the tokens of a sentence.
Other than there: subwords instead of 17,191 and 7,709 words, and the decoder's layers start from a layer of the encoder's final states.
Published with theirs: 26.1 BLEU on tst2013 (tensorflow/nmt, scaled Luong); JoeyNMT 27.7 with a recurrent model of its own.

    python -m flax_s2s train configs/iwslt15_en_vi.py --run-dir runs/iwslt15 --data.folder FOLDER
    python -m flax_s2s evaluate runs/iwslt15

Data: IWSLT 2015, TED talks from WIT3 (CC BY-NC-ND 4.0), as prepared by Stanford's NLP group (https://nlp.stanford.edu/projects/nmt). FOLDER
holds train.en, train.vi (133,317 pairs), tst2012.en, tst2012.vi, tst2013.en and tst2013.vi.

Hardware, time, score: not yet run.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig

_SENTENCE_TOKENS = 27  # of the target, about


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="text",
            folder="iwslt15",
            origin="IWSLT 2015 English-Vietnamese (nlp.stanford.edu/projects/nmt; CC BY-NC-ND): train.en, train.vi, tst2012.*, tst2013.*",
            train="train",
            valid="tst2012",
            test="tst2013",
            source="en",
            target="vi",
            batch_tokens=4096,
        ),
        vocab=VocabConfig(size=16_000, joint=False),
        model=ModelConfig(
            embedding_size=512,
            hidden_size=512,
            decoder_layers=2,
            bidirectional_size=512,
            attention="general",
            input_feeding=True,
            dropout=0.2,
            bridge="dense",
            init_scale=0.1,
        ),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=1.0 * _SENTENCE_TOKENS,
            schedule="halving",
            halve_from_step=9000,  # the published schedule begins at 8,000, and halves first a thousand later
            halve_every_steps=1000,
            clip_norm=5.0 / _SENTENCE_TOKENS,
            label_smoothing=0.0,
        ),
        training=TrainingConfig(steps=12_000, log_every_steps=100, evaluate_every_steps=1000, save_every_steps=1000, best_metric="bleu"),
        decoding=DecodingConfig(beam_size=10, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("bleu", "chrf")),
    )
