#!/usr/bin/env bash
# sentencepiece 0.2.3: a list of one line, with num_threads=1, takes many times as long as the line itself, and far longer while the cores are busy.
#
# Guess: with one thread the caller's own thread does the work, so that a list of one line costs what the line costs and a loop around it.
# Seen: a thread is started and waited for at each call, be it for one line: to read a line takes 9 times as long, 90 us, to write the 14 beginnings of one three times. While other
# threads compute on all cores it waits for its turn, too: in a server that computed on both of two cores those 14 took 0.8 ms. The texts and numbers are the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet sentencepiece==0.2.3
"$folder/env/bin/python" - <<'P'
import io
import random
import statistics
import time

import sentencepiece

draw = random.Random(1)
words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(400)]
lines = [" ".join(draw.choices(words, k=12)) for _ in range(2000)]
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines), model_writer=model, vocab_size=500, model_type="bpe", minloglevel=2
)
processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
line = lines[0]
ids = processor.encode(line)
beginnings = [ids[:count] for count in range(1, 15)]
ways = {
    "read alone": lambda: [processor.encode(line)],
    "read as a list": lambda: processor.encode([line], num_threads=1),
    "14 written one by one": lambda: [processor.decode(one) for one in beginnings],
    "14 written as a list": lambda: processor.decode(beginnings, num_threads=1),
}
assert ways["read alone"]() == ways["read as a list"]()
assert ways["14 written one by one"]() == ways["14 written as a list"]()
taken = {name: [] for name in ways}
for _ in range(300):
    for name, way in ways.items():
        begin = time.perf_counter()
        way()
        taken[name].append(1e6 * (time.perf_counter() - begin))
medians = {name: statistics.median(many) for name, many in taken.items()}
print("sentencepiece", sentencepiece.__version__, {name: f"{median:.0f} us" for name, median in medians.items()})
assert medians["read as a list"] > 3 * medians["read alone"], "this has changed"
P
