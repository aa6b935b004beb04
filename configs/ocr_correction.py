"""Lines as a scanner, a recognizer of handwriting or a hasty writer left them -> what they should be (OCR, spelling).

    python -m flax_s2s train configs/ocr_correction.py --run-dir runs/ocr --data.folder FOLDER
    python -m flax_s2s evaluate runs/ocr --split test --gain

Data: train.ocr and train.gs, valid and test likewise, aligned line by line, such as those of the ICDAR 2019 competition on post-OCR text correction
(https://zenodo.org/record/3515403, see its license there), whose files have both texts aligned by characters: cut them at white space where both have some, into lines of up to 100
characters.

Most of a line is right already: the model copies it, symbols that no training line has among it. `--gain` says what the lines score as they are, and how
much is won over that; a model that wins nothing does harm.

Hardware, time, score: not yet run.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="text",
            folder="../shared/data/ocr_correction",
            origin="aligned lines of your own, or of ICDAR 2019 (zenodo.org/record/3515403; its license there): train.ocr, train.gs, ...",
            train="train",
            valid="valid",
            test="test",
            source="ocr",
            target="gs",
            max_source_tokens=128,
            max_target_tokens=128,
            max_ratio=2.0,
            batch_tokens=4096,
        ),
        vocab=VocabConfig(kind="char", joint=True, character_coverage=0.9995),
        model=ModelConfig(
            embedding_size=128,
            hidden_size=512,
            encoder_layers=2,
            bidirectional_layers=2,
            decoder_layers=1,
            attention="general",
            input_feeding=True,
            attend_embeddings=True,
            copy=True,
            tie="all",
            dropout=0.2,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=500, beta2=0.98, average_decay=0.999),
        training=TrainingConfig(steps=20_000, evaluate_every_steps=1000, save_every_steps=1000, best_metric="cer"),
        decoding=DecodingConfig(beam_size=5, length_penalty=1.0, max_length_ratio=1.2),
        evaluation=EvaluationConfig(metrics=("cer", "wer", "exact_match"), tokenizer="none"),
    )
