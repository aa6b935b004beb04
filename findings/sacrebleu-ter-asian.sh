#!/usr/bin/env bash
# sacreBLEU 2.6.0: TER's Asian support takes Chinese apart into characters, and leaves runs of kana and all of Thai whole.
#
# Guess: with normalized=True and asian_support=True the edits of a Japanese or Thai line are counted in characters.
# Seen: Chinese is counted so. A run of hiragana or katakana is one unit, and a Thai line is: one changed letter makes 100.
# The counts by characters are what one gets from spaces put between them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet sacrebleu==2.6.0
"$folder/env/bin/python" - <<'P'
import sacrebleu

print("sacrebleu", sacrebleu.__version__)
PAIRS = {
    "Chinese": ("他去商店了。", "他去学校了。", 33.33, 33.33),
    "Japanese": ("わたしはカタカナをかく。", "わたしはカタカナをよむ。", 50.00, 16.67),
    "Thai": ("ฉันชอบเขียนหนังสือ", "ฉันชอบอ่านหนังสือ", 100.00, 23.53),
}
for language, (said, right, as_is, by_characters) in PAIRS.items():
    asian = sacrebleu.TER(normalized=True, asian_support=True).corpus_score([said], [[right]]).score
    spaced = sacrebleu.TER().corpus_score([" ".join(said)], [[" ".join(right)]]).score
    print(f"{language:<9} asian_support {asian:6.2f}   by characters {spaced:6.2f}")
    assert (round(asian, 2), round(spaced, 2)) == (as_is, by_characters), "this has changed"
P
