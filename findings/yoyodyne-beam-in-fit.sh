#!/usr/bin/env bash
# yoyodyne 0.5.27: a model that is configured with a beam cannot be trained; the same model without one can.
#
# Guessed before: beam_width would be ignored by `fit`, since its documentation says that beam search is for prediction, "not during
# training, validation, or testing", and shows the beam among the model's settings.
# Seen: `fit` ends in the first validation with an AttributeError (a pair of predictions and scores, where one tensor is expected). With
# beam_width left out `fit` ends well, and `predict`, given the same settings and a beam, reads that checkpoint. The model must be
# configured in two ways, which `tests/benchmarks/yoyodyne.py` does.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet yoyodyne==0.5.27
env/bin/python - <<'END'
import random

draws = random.Random(1)
for split, count in (("train", 64), ("valid", 16)):
    words = ["".join(draws.choices("abcd", k=draws.randint(2, 5))) for _ in range(count)]
    with open(f"{split}.tsv", "w") as file:
        file.writelines(f"{word}\t{word[::-1]}\n" for word in words)
END
cat > config.yaml <<'END'
seed_everything: 1
model:
  class_path: yoyodyne.models.SoftAttentionLSTMModel
  init_args:
    source_encoder:
      class_path: yoyodyne.models.modules.LSTMEncoder
      init_args: {embedding_size: 8, hidden_size: 8}
    decoder_hidden_size: 8
    embedding_size: 8
data: {train: train.tsv, val: valid.tsv, predict: valid.tsv, model_dir: out, batch_size: 16}
trainer: {accelerator: cpu, max_epochs: 1, enable_progress_bar: false}
checkpoint: {dirpath: out, filename: best, monitor: val_loss}
prediction: {path: out.tsv}
END
env/bin/pip list 2>/dev/null | grep -iE '^(yoyodyne|torch|lightning) '
env/bin/yoyodyne fit --config config.yaml > without.log 2>&1
echo "without a beam: fit ends well"
if env/bin/yoyodyne fit --config config.yaml --model.init_args.beam_width 5 > with.log 2>&1; then
  echo "with a beam fit ends well, too: this has changed"
  exit 1
fi
tail -n 1 with.log
grep -q "'tuple' object has no attribute 'ndim'" with.log || { echo "it ends otherwise than it did: this has changed"; exit 1; }
env/bin/yoyodyne predict --config config.yaml --model.init_args.beam_width 5 --ckpt_path out/best.ckpt > predict.log 2>&1
echo "predict with a beam writes $(head -n 1 out.tsv | tr '\t' '\n' | wc -l) columns"
