import gzip
import re
import threading
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
from etils import epath
from hypothesis import strategies as st

from flax_s2s.config import BOS, EOS, PAD, UNK, UserError, VocabConfig
from flax_s2s.data.corpus import Pair
from flax_s2s.data.files import read_lines
from flax_s2s.data.vocab import Vocabulary, load, save
from flax_s2s.data.vocab_training import train

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the corpora of {SHARED} are not here")

KINDS = ["unigram", "bpe", "char", "word"]
FILLER = ["a black dog runs", "two dogs play in the snow", "ein Hund läuft", "“你好”，世界！（测试）　全角…"] * 5

# U+2581 stands for a space; U+2585 (with its whole line) and U+001F are reserved; a line's end takes \r along.
LINES = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0\x1f\u2581\u2585"), max_size=30)


def pairs_of(lines):
    return [Pair(line, line[::-1]) for line in lines]


def one(lines, **fields):
    """A vocabulary of these lines, of the size asked for or, where it does not fit, the size that the error names."""
    pairs, fields = [Pair(line, "") for line in lines], {"kind": "char", "size": 5000, **fields}
    try:
        return train(pairs, VocabConfig(**fields)).source
    except UserError as error:
        number = re.search(r"use at (?:most|least) (\d+)", str(error))
        return train(pairs, VocabConfig(**fields | {"size": int(number[1])})).source


def assert_exact(vocabulary, lines):
    ids = vocabulary.encode(lines)
    assert [(line, back) for line, back in zip(lines, vocabulary.decode(ids), strict=True) if line != back] == []
    assert not any(UNK in row for row in ids)


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.lists(LINES, min_size=1, max_size=8))
def test_every_line_it_was_trained_on_comes_back(kind, lines):
    assert_exact(one(lines + FILLER, kind=kind), lines + FILLER)


SPACED = [
    "  two  spaces ",
    " a",
    "a ",
    "   ",
    "\t",
    "a\tb",
    "\u3000",
    "a\u3000\u3000b",
    "no\u00a0break",
    "（全角）， ！",
    "e\u0301 é",
    "a\rb",
    "",
]


@pytest.mark.parametrize("kind", KINDS)
def test_spaces_and_full_width_punctuation_are_kept(kind):
    assert_exact(one(SPACED + FILLER, kind=kind), SPACED)


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_looks_like_a_special_token_is_text(kind):
    lines = ["a <unk> b", "<s>", "</s>", "<pad>", "<pad> </s>", "<s><s>"]
    vocabulary = one(lines + FILLER, kind=kind)
    assert_exact(vocabulary, lines)
    assert min(min(row) for row in vocabulary.encode(lines)) > UNK


def test_a_literal_space_sign_is_read_as_a_space():
    vocabulary = one(["a\u2581b", *FILLER])
    assert vocabulary.decode(vocabulary.encode(["a\u2581b"])) == ["a b"]


def test_reserved_characters_are_unknown():
    """What the limits of `LINES` stand for."""
    vocabulary = one(["a\x1fb", "a\u2585b", "a\r", *FILLER])
    assert [UNK in row for row in vocabulary.encode(["a\x1fb", "a\u2585b", "a\r", "ab"])] == [True, True, True, False]


@pytest.mark.parametrize(("normalization", "expected"), [("identity", "（全角），ｱ"), ("nfkc", "(全角),ア"), ("nmt_nfkc", "(全角),ア")])
def test_only_identity_keeps_the_text(normalization, expected):
    vocabulary = one(["（全角），ｱ", "(全角),ア", *FILLER], normalization=normalization)
    assert vocabulary.decode(vocabulary.encode(["（全角），ｱ"])) == [expected]


def lines_of(folder):
    return [line for file in sorted(folder.iterdir()) if ".tsv" not in file.name for line in read_lines(str(file))]


@needs_shared
@pytest.mark.parametrize("folder", ["cmudict", "debian-synopsis", "multi30k", "scan/length", "scan/simple", "tatoeba-en-zh"])
def test_every_line_of_a_corpus_comes_back(folder):
    lines = lines_of(SHARED / folder)
    assert_exact(one(lines, kind="char", size=20_000), lines)


@needs_shared
def test_every_line_comes_back_through_subwords():
    lines = [line for name in ("test.en", "test.zh", "valid.en", "valid.zh") for line in read_lines(str(SHARED / "tatoeba-en-zh" / name))]
    assert_exact(one(lines, kind="unigram", size=3000), lines)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_the_ids_that_every_room_knows(kind):
    vocabulary = one(FILLER, kind=kind)
    assert vocabulary.pieces([PAD, BOS, EOS, UNK]) == ["<pad>", "<s>", "</s>", "<unk>"]
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sampled_tokens_spell_the_line_and_depend_on_the_seed_alone(kind):
    lines = [f"{line} {number}" for number, line in enumerate(FILLER * 3)]
    vocabulary = one(lines, kind=kind)
    always, sampled = vocabulary.encode(lines), vocabulary.sample(lines, 0.3, 7)
    assert vocabulary.decode(sampled) == lines
    assert sampled == vocabulary.sample(lines, 0.3, 7)
    in_a_thread = []
    thread = threading.Thread(target=lambda: in_a_thread.append(vocabulary.sample(lines, 0.3, 7)))
    thread.start()
    thread.join()
    assert in_a_thread == [sampled]
    assert sampled == Vocabulary(vocabulary.model).sample(lines, 0.3, 7)
    assert len({str(one) for one in (always, sampled, vocabulary.sample(lines, 0.3, 8))}) == 3
    assert vocabulary.encode(lines) == always


def test_bpe_dropout_leaves_out_so_many_merges():
    lines = FILLER * 5
    vocabulary = one(lines, kind="bpe")
    assert vocabulary.sample(lines, 1e-9, 1) == vocabulary.encode(lines)
    counts = [sum(map(len, vocabulary.sample(lines, rate, 1))) for rate in (0.05, 0.2, 0.6)]
    assert counts == sorted(counts)
    assert sum(map(len, vocabulary.encode(lines))) < counts[0]
    assert counts[-1] < sum(map(len, one(lines, kind="char", size=200).encode(lines))) * 1.2


def test_the_target_may_have_another_kind_of_tokens():
    pairs = [Pair("cat's", "K AE T S"), Pair("dog", "D AO G")] * 20
    made = train(pairs, VocabConfig(kind="char", target_kind="word", size=100, joint=False))
    assert [len(side.encode([text])[0]) for side, text in zip(made[:2], pairs[0][:2], strict=True)] == [
        6,
        4,
    ]  # with the space before a line
    assert made.target.decode(made.target.encode(["D AO G"])) == ["D AO G"]


def test_a_line_break_is_a_space_as_a_corpus_is_read():
    made = one(["one two", "three"])
    assert made.encode(["one\ntwo", "one\r\n\ntwo"]) == made.encode(["one two"] * 2)


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
def test_symbols_stay_whole_wherever_they_stand_and_come_back(kind):
    lines = [f"<2de> the dog {i} has <NUM>bones<NUM> and runs away" for i in range(40)]
    plain, made = (one(lines, kind=kind, size=0 if kind == "char" else 60, symbols=symbols) for symbols in ((), ("<2de>", "<NUM>", "@@")))
    assert_exact(made, [*lines, "<NUM>", "<2de><2de> dog", " <NUM>  dog<NUM>"])
    for line in [*lines, "dog@@s"]:
        found = made.pieces(made.encode([line])[0])
        assert [piece for piece in found if "<" in piece or "@" in piece] == (["@@"] if "@" in line else ["<2de>", "<NUM>", "<NUM>"])
    assert not {"<2de>", "<NUM>", "@@"} & {*plain.pieces(range(len(plain)))}
    if kind != "char":
        assert "<NUM>" in made.pieces(made.sample([lines[0]], 0.3, 1)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_lines_are_read_and_written_as_among_many(kind):
    """SentencePiece is asked for few one by one, for many at once."""
    made, lines = one(FILLER, kind=kind), [*SPACED, *FILLER, "unknown: \u00fc\u00df", ""] * 4
    ids, pieces = made.encode(lines), made.split(lines)
    assert len(lines) > 64
    assert [made.encode([line])[0] for line in lines] == ids
    assert [made.split([line])[0] for line in lines] == pieces
    assert [made.decode([row])[0] for row in ids] == made.decode(ids)


def test_special_tokens_leave_no_trace():
    vocabulary = one(FILLER)
    ids = vocabulary.encode(["a dog"])[0]
    assert vocabulary.decode([[BOS, *ids[:3], UNK, *ids[3:], EOS, PAD, PAD], []]) == ["a dog", ""]


def test_every_id_has_a_piece_and_the_pieces_spell_the_line():
    vocabulary = one(FILLER, kind="bpe", size=60)
    assert len(vocabulary) == 60
    assert len(set(vocabulary.pieces(range(60)))) == 60
    assert "".join(vocabulary.pieces(vocabulary.encode(["two dogs"])[0])) == "▁two▁dogs"
    assert vocabulary.find(vocabulary.pieces(range(60))) == list(range(60))
    assert vocabulary.find(["▁two", "no piece"]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pairs_give_the_same_bytes(kind):
    assert one(FILLER, kind=kind).model == one(FILLER, kind=kind).model


def test_other_pairs_give_another_hash():
    config = VocabConfig(kind="char", size=100)
    first, second = train(pairs_of(FILLER), config), train(pairs_of([*FILLER, "xyz"]), config)
    assert first.sha256 != second.sha256
    assert first.source.sha256 != second.source.sha256
    assert first.sha256 == train(pairs_of(FILLER), config).sha256


def test_joint_is_one_object_and_separate_are_two():
    pairs = [Pair("abc", "xyz")] * 9
    joint = train(pairs, VocabConfig(kind="char", size=50, joint=True))
    assert joint.joint
    assert joint.source is joint.target
    assert_exact(joint.source, ["abc", "xyz"])
    separate = train(pairs, VocabConfig(kind="char", size=50, joint=False))
    assert not separate.joint
    assert_exact(separate.source, ["cab"])
    assert_exact(separate.target, ["zyx"])
    assert UNK in separate.source.encode(["x"])[0]
    assert UNK in separate.target.encode(["a"])[0]
    assert separate.sha256 != separate._replace(source=separate.target, target=separate.source).sha256


@pytest.mark.parametrize("joint", [True, False])
def test_load_gives_back_what_save_wrote(tmp_path, joint):
    made = train(pairs_of(FILLER), VocabConfig(kind="char", size=100, joint=joint))
    folder = epath.Path(tmp_path) / "new" / "vocab"
    save(made, folder)
    assert sorted(file.name for file in folder.iterdir()) == (["joint.model"] if joint else ["source.model", "target.model"])
    found = load(folder, joint)
    assert (found.joint, found.source.model, found.target.model) == (joint, made.source.model, made.target.model)
    assert found.sha256 == made.sha256
    assert load(folder, not joint) is None


def test_half_a_vocabulary_is_none(tmp_path):
    folder = epath.Path(tmp_path)
    assert load(folder, True) is None
    save(train(pairs_of(FILLER), VocabConfig(kind="char", size=100, joint=False)), folder)
    (folder / "target.model").unlink()
    assert load(folder, False) is None


def test_a_damaged_file_is_the_users_error(tmp_path):
    folder = epath.Path(tmp_path)
    made = train(pairs_of(FILLER), VocabConfig(kind="char", size=100))
    for content in (b"", b"no model", made.source.model[:-7], gzip.compress(made.source.model)):
        (folder / "joint.model").write_bytes(content)
        with pytest.raises(UserError, match="holds a damaged vocabulary; restore it from a copy of the run directory"):
            load(folder, True)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_a_size_that_does_not_fit_is_answered_with_the_next_that_does(kind, byte_fallback):
    fields = {"kind": kind, "byte_fallback": byte_fallback}
    pairs = pairs_of(FILLER)
    with pytest.raises(UserError, match=r"^vocab.size=5000 is larger than the text allows; use at most (\d+)$") as error:
        train(pairs, VocabConfig(size=5000, **fields))
    most = int(re.search(r"at most (\d+)", str(error.value))[1])
    with pytest.raises(UserError, match=r"^vocab.size=8 is too small for the characters of the text; use at least (\d+), or ") as error:
        train(pairs, VocabConfig(size=8, **fields))
    least = int(re.search(r"at least (\d+)", str(error.value))[1])
    assert 8 < least < most < 5000
    for size in (least, most):
        assert_exact(train(pairs, VocabConfig(size=size, **fields)).source, FILLER)
    for size in (least - 1, most + 1):
        with pytest.raises(UserError, match=str(least if size < least else most)):
            train(pairs, VocabConfig(size=size, **fields))


UNUSABLE = {
    "blank": ([""], "all 1 lines of the source are blank"),
    "too long": (["ba " * 30_000] * 3, "all 3 lines of the source are longer than 65,536 bytes"),
    "reserved": (["a \u2585 b"], "all 1 lines of the source are lines with a U.2585, which SentencePiece keeps for itself"),
    "some of each": (["", "ba " * 30_000], "of 2 1 are longer than 65,536 bytes, 1 are blank"),
    "half a pair": (["a\ud800"], "the source holds half of a surrogate pair, U.D800"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lines", "message"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_a_corpus_without_a_usable_line_is_the_users_error(kind, lines, message):
    """SentencePiece 0.2.3 (trainer_interface.cc) says `!sentences_.empty()` of all but the last, a TypeError of pybind11 of that."""
    with pytest.raises(UserError, match=message):
        train([Pair(line, line) for line in lines], VocabConfig(kind=kind, size=100, joint=False))


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({}, r"use at least \d+, or lower vocab.character_coverage and set vocab.byte_fallback$"),
        ({"byte_fallback": True, "size": 270}, r"use at least \d+, or lower vocab.character_coverage$"),
        ({"byte_fallback": True, "size": 270, "character_coverage": 0.98}, r"use at least \d+$"),
    ],
)
def test_what_is_done_already_is_no_remedy(fields, remedy):
    lines = ["".join(chr(0x4E00 + i + 50 * line) for i in range(50)) for line in range(8)]
    with pytest.raises(UserError, match=remedy):
        train([Pair(line, line) for line in lines], VocabConfig(**{"kind": "bpe", "size": 40, **fields}))


def test_each_side_is_named():
    with pytest.raises(UserError, match="all 2 lines of the target are blank"):
        train([Pair("a", ""), Pair("b", "")], VocabConfig(kind="char", joint=False))


def test_a_word_that_sentencepiece_cannot_read_is_named():
    """It trains with the word, and then its own model is `piece is too long` (0.2.3, found by running: 7,996 bytes are read)."""
    assert len(train([Pair("x" * 7_996, "a")], VocabConfig(kind="word")).source) == 6
    with pytest.raises(UserError, match=r"the text has a word of 7,998 bytes, and a token has at most 7,996; vocab.kind=word splits at"):
        train([Pair("é" * 3_999, "a")], VocabConfig(kind="word"))


@pytest.mark.parametrize("kind", ["char", "word"])
def test_spaces_that_are_spelled_in_bytes_are_spaces(kind):
    """SentencePiece 0.2.3 spells the space before an unknown word in the bytes of its own sign for it, and reads that sign back."""
    vocabulary = one(FILLER, kind=kind, size=261, byte_fallback=True)
    assert_exact(vocabulary, ["two  cats é dogs", "unknown", "  two", *FILLER])


def syllables(count):
    return [" ".join(chr(0xAC00 + 7 * i + j) for j in range(3)) for i in range(count // 3)]


@pytest.mark.parametrize("kind", ["char", "word"])
def test_size_0_holds_every_character_and_every_word(kind):
    lines = syllables(1089)
    assert UNK in one(lines, kind=kind, size=200).encode(["".join(lines)])[0]
    everything = one(lines, kind=kind, size=0)
    assert_exact(everything, lines)
    assert len(everything) == 4 + 1089 + (kind == "char")
    assert everything.sha256 == one(lines, kind=kind, size=5000).sha256


def test_size_0_is_8000_subwords():
    for kind in ("unigram", "bpe"):
        with pytest.raises(UserError, match=r"vocab.size=8000 is larger than the text allows"):
            train(pairs_of(FILLER), VocabConfig(kind=kind))


@pytest.mark.parametrize("kind", ["char", "word"])
def test_size_is_an_upper_limit_for_characters_and_words(kind):
    full = one(FILLER, kind=kind, size=5000)
    assert len(full) < 100
    assert len(one(FILLER, kind=kind, size=12)) == 12


def test_bytes_spell_unknown_characters():
    line = "雪 🐕 ñ"
    assert UNK in one(FILLER, kind="unigram").encode([line])[0]
    assert_exact(one(FILLER, kind="unigram", byte_fallback=True), [line])
    assert_exact(one(FILLER, kind="bpe", byte_fallback=True), [line])


def test_coverage_leaves_rare_characters_unknown():
    lines = ["ab" * 50] * 4 + ["c"]
    assert_exact(one(lines, character_coverage=1.0), ["c"])
    assert UNK in one(lines, character_coverage=0.99).encode(["c"])[0]


def test_words_are_split_at_spaces():
    vocabulary = one(FILLER, kind="word")
    words = Counter(word for line in FILLER for word in line.split(" "))
    assert len(vocabulary) == 4 + len(words)
    for line in FILLER[:3]:
        assert vocabulary.pieces(vocabulary.encode([line])[0]) == [f"▁{word}" for word in line.split(" ")]
    assert vocabulary.encode(["two cats"])[0][1:] == [UNK]
    assert vocabulary.joined_words == ["▁“你好”，世界！（测试）\u3000全角…"]
    joined = one([f"a{space}b  c" for space in "\t\u00a0\u3000"], kind="word", size=0)  # SentencePiece 0.2.3 splits at U+0020 alone
    assert sorted(joined.joined_words) == ["▁a\tb", "▁a\u00a0b", "▁a\u3000b"]


def test_a_vocabulary_is_made_from_its_bytes():
    vocabulary = one(FILLER)
    again = Vocabulary(vocabulary.model)
    assert (len(again), again.sha256) == (len(vocabulary), vocabulary.sha256)
    assert again.encode(FILLER) == vocabulary.encode(FILLER)
