"""English -> German news (WMT 2016): GNMT v2, 4 + 4 layers of 1024.

One bidirectional encoder layer (1024 units in each direction), residual connections from the third layer, additive
attention by the lowest decoder layer, no input feeding; Adam at 2e-3 with warm-up, label smoothing 0.1, dropout 0.2, about 1,024
sentences a batch for 5.4 epochs, the rate halved four times in the last third. After Wu et al. 2016 and NVIDIA's GNMT, whose
published score is 24.42 +- 0.13 BLEU on newstest2014. Other than there: the additive attention is not normalized, and source and
target embeddings are two tables. Where the memory of the devices does not do: --data.batch-tokens 7168 --optimizer.accumulate-batches 4.

    python -m flax_s2s train configs/gnmt_wmt16_en_de.py --run-dir runs/gnmt --data.folder TFDS_DATA_DIR
    sacrebleu --test-set wmt14/full --language-pair en-de --echo src > newstest2014.en
    flax-s2s decode runs/gnmt --input newstest2014.en --output newstest2014.de
    sacrebleu newstest2014.de --test-set wmt14/full --language-pair en-de

`evaluate runs/gnmt` scores newstest2016, which is TFDS' test split.

Data: WMT 2016 news (https://www.statmt.org/wmt16), free for research, as TFDS' wmt16_translate/de-en. Prepared once; the
whole command, and what it may need, is in the message of `train` where they are missing:

    tfds.builder("wmt16_translate/de-en", data_dir=TFDS_DATA_DIR, file_format="array_record").download_and_prepare()

Hardware, time, score: not yet run.
"""

from flax_s2s.config import Config, DataConfig, DecodingConfig, EvaluationConfig, ModelConfig, OptimizerConfig, TrainingConfig, VocabConfig

_SENTENCE_TOKENS = 28  # of the target, about


def config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(
            format="tfds",
            dataset="wmt16_translate/de-en",
            origin="WMT 2016 news, by TFDS (statmt.org/wmt16; free for research), prepared with file_format=array_record in this data_dir",
            train="train",
            valid="validation",
            test="test",
            source="en",
            target="de",
            max_source_tokens=75,
            max_target_tokens=75,
            batch_tokens=28_672,
        ),
        vocab=VocabConfig(kind="bpe", size=32_000, joint=True, character_coverage=0.9999),
        model=ModelConfig(
            embedding_size=1024,
            hidden_size=1024,
            encoder_layers=4,
            decoder_layers=4,
            bidirectional_layers=1,
            bidirectional_size=1024,
            residual_from=3,
            attention="additive",
            bridge="zero",
            dropout=0.2,
            init_scale=0.1,
            compute="bfloat16",
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            schedule="halving",
            warmup_steps=200,
            halve_from_step=16_000,
            halve_every_steps=2_000,
            clip_norm=5.0 / _SENTENCE_TOKENS,  # of the loss per sentence there, per token here
        ),
        training=TrainingConfig(steps=24_000, log_every_steps=100, evaluate_every_steps=2000, save_every_steps=2000, best_metric="bleu"),
        decoding=DecodingConfig(beam_size=5, length_penalty=0.6, coverage_penalty=0.1),
        evaluation=EvaluationConfig(metrics=("bleu", "chrf")),
    )
