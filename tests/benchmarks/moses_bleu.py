"""BLEU as papers before sacreBLEU gave it: lowercased, tokenized by Moses' rules, no tokenization in the metric.

python -m venv PEER && PEER/bin/pip install sacremoses sacrebleu
PEER/bin/python tests/benchmarks/moses_bleu.py LANGUAGE REFERENCES TRANSLATIONS...
"""

import argparse
from pathlib import Path

import sacrebleu
from sacremoses import MosesTokenizer


def tokenize(path, language):
    """Lines, lowercased, their tokens between single spaces."""
    tokenizer = MosesTokenizer(lang=language)
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [tokenizer.tokenize(line.lower(), return_str=True, escape=False) for line in lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language")
    parser.add_argument("references", type=Path)
    parser.add_argument("translations", type=Path, nargs="+")
    arguments = parser.parse_args()
    references, bleu = tokenize(arguments.references, arguments.language), sacrebleu.BLEU(tokenize="none", force=True)
    for path in arguments.translations:
        print(f"{bleu.corpus_score(tokenize(path, arguments.language), [references]).score:.2f} {path} {bleu.get_signature()}")


if __name__ == "__main__":
    main()
