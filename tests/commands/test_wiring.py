"""What is said of a vocabulary before anything is trained with it."""

from pathlib import Path

import pytest

from flax_s2s.commands.wiring import make_ready, warn_of_tokens
from flax_s2s.config import Config, DataConfig, VocabConfig
from flax_s2s.data import corpus

SYLLABLES = [chr(0xAC00 + 10 * number) for number in range(1089)]


def warned(folder: Path, **fields: object) -> list[str]:
    """Of Korean words of three syllables, 1,089 different ones, and of validation words with one that is in no other."""
    words = ["".join(SYLLABLES[i : i + 3]) for i in range(0, 1089, 3)]
    texts = {
        "train.ko": words,
        "train.en": ["a b"] * len(words),
        "valid.ko": [*words[:3], "힣힣"],
        "valid.en": ["a b", "b a", "a\u00a0b", "a"],
    }
    for name, lines in texts.items():
        (folder / name).write_text("".join(line + "\n" for line in lines))
    data = DataConfig(folder=str(folder), source="ko", target="en", test="")
    config = Config(data=data, vocab=VocabConfig(joint=False, **fields))  # type: ignore[arg-type]
    return warn_of_tokens(config, make_ready(config, None), corpus.load(data, "valid", 1).pairs)


def test_a_vocabulary_that_cannot_hold_the_script_is_named_with_the_size_that_can(tmp_path: Path) -> None:
    (found,) = [line for line in warned(tmp_path, kind="char", target_kind="word", size=200) if "of ko" in line]
    assert "of ko in training" in found and "each such character is one unknown token" in found
    assert found.endswith("vocab.size=200 is too small: --vocab.size 0 holds all of them")


@pytest.mark.parametrize("kind", ["char", "word"])
def test_all_of_them_leave_what_training_has_not(tmp_path: Path, kind: str) -> None:
    (found,) = [line for line in warned(tmp_path, kind=kind) if "of ko" in line]
    assert "0.0% of ko in training" in found and "they are not in the training text: --vocab.byte-fallback spells them" in found
    assert not any("of ko" in line for line in warned(tmp_path, kind="char", byte_fallback=True))
