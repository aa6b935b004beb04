"""ROUGE of summaries beside that of each source's first words, as many as the summary has; what a summarizer has to beat.

    python tests/benchmarks/first_words.py RUN_DIR --data-folder ../shared/data/debian-synopsis

Translates the test split as `evaluate` does and prints one line of both, and their difference, for each of the run's metrics.
"""

import argparse

from flax_s2s.commands.wiring import load_split, make_translator, open_runs
from flax_s2s.evaluation.evaluate import translate_together
from flax_s2s.evaluation.metrics import score


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--data-folder", default="")
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    opened = open_runs([arguments.run_dir], "best")
    pairs = load_split(opened.config, "test", arguments.data_folder).pairs
    texts = [found.text for found in translate_together(make_translator(opened), opened.params, [pair.source for pair in pairs])]
    first = [" ".join(pair.source.split()[: len(text.split())]) for pair, text in zip(pairs, texts, strict=True)]
    references, config = [[pair.target] for pair in pairs], opened.config
    ours, theirs = (score(lines, references, config.evaluation, config.data.target, arguments.resamples) for lines in (texts, first))
    for name, value in ours.items():
        other = theirs[name]
        print(
            f"{name:<8}{value.score:6.2f} ± {value.ci:.2f}   first words {other.score:6.2f} ± {other.ci:.2f}   {value.score - other.score:+.2f}"
        )
    print(value.signature)


if __name__ == "__main__":
    main()
