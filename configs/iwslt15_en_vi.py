"""English -> Vietnamese talks (IWSLT 2015) after Luong et al. 2015, as tensorflow/nmt's standard setting had it.

2 layers of 512 (one of the encoder's bidirectional), general attention with input feeding, dropout 0.2, SGD at 1.0 halved
every thousand steps after 9,000 of 12,000, batches of about 128 sentences, clipping at norm 5, parameters uniform in +-0.1.
Published with it: 26.1 BLEU on tst2013 (tensorflow/nmt, scaled Luong); JoeyNMT 27.7 with a recurrent model of its own.

    python -m flax_s2s train configs/iwslt15_en_vi.py --run-dir runs/iwslt15 --data.folder FOLDER
    python -m flax_s2s evaluate runs/iwslt15

FOLDER holds train.en, train.vi (133,317 pairs), tst2012.en, tst2012.vi, tst2013.en and tst2013.vi.

Hardware, time, score: not yet run.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="text", folder="iwslt15", train="train", valid="tst2012", test="tst2013", source="en", target="vi", batch_tokens=4096
        ),
        vocab=VocabConfig(size=16_000, joint=False),
        model=ModelConfig(
            embedding_size=512,
            hidden_size=512,
            encoder_layers=2,
            decoder_layers=2,
            attention="general",
            input_feeding=True,
            dropout=0.2,
            init_scale=0.1,
        ),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=1.0,
            schedule="halving",
            halve_from_step=9000,  # the published schedule begins at 8,000, and halves first a thousand later
            halve_every_steps=1000,
            clip_norm=5.0,
            label_smoothing=0.0,
        ),
        training=TrainingConfig(steps=12_000, log_every_steps=100, evaluate_every_steps=1000, save_every_steps=1000, best_metric="bleu"),
        decoding=DecodingConfig(beam_size=10, length_penalty=1.0),
        evaluation=EvaluationConfig(metrics=("bleu", "chrf")),
    )
