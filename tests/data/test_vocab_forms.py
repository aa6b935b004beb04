"""Tokens as given: Unicode forms, grapheme clusters, and SentencePiece models of one's own."""

import io
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
from tiny import DEBUG

import flax_s2s
from flax_s2s.cli.verbs import main
from flax_s2s.config import BOS, EOS, PAD, UNK, UserError, VocabConfig
from flax_s2s.data.corpus import Pair
from flax_s2s.data.vocab import Vocabulary, load, save
from flax_s2s.data.vocab_training import train
from flax_s2s.evaluation.evaluate import make_examples

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
KOREAN = ["되다 국어", "한국", "새로운 낱말", "값이", "닭고기"]


def of_lines(lines, **fields):
    return train([Pair(line, line) for line in lines], VocabConfig(**{"kind": "char", "joint": True, **fields})).source


def test_hangul_as_jamo_is_few_symbols_and_comes_back_composed(tmp_path):
    given, apart = of_lines(KOREAN), of_lines(KOREAN, unicode_form="NFD")
    assert len(given) == 4 + len({one for line in KOREAN for one in f"▁{line.replace(' ', '▁')}"})
    decomposed = {one for line in KOREAN for one in unicodedata.normalize("NFD", line.replace(" ", "▁"))} | {"▁"}
    assert len(apart) == 4 + len(decomposed)
    unseen = "독닭"  # of jamo that training has
    assert UNK in given.encode([unseen])[0]
    assert apart.decode(apart.encode([*KOREAN, unseen])) == [*KOREAN, unseen]
    assert apart.encode([unicodedata.normalize("NFD", KOREAN[0])]) == apart.encode([KOREAN[0]])
    assert "".join(apart.pieces(apart.encode(["값"])[0])) == unicodedata.normalize("NFD", "▁값")
    # It is the vocabulary itself that knows: kept and loaded, or alone.
    save(train([Pair(line, line) for line in KOREAN], VocabConfig(kind="char", unicode_form="NFD")), tmp_path_epath(tmp_path))
    assert load(tmp_path_epath(tmp_path), True).source.decode(apart.encode([unseen])) == [unseen]
    assert Vocabulary(apart.model).encode([unseen]) == apart.encode([unseen])
    assert apart.sha256 != given.sha256


def tmp_path_epath(tmp_path):
    from etils import epath

    return epath.Path(tmp_path)


def test_composed_text_is_one_whatever_it_was():
    composed = of_lines(["e\u0301te\u0301", "\u00e9t\u00e9"], unicode_form="NFC")
    assert composed.encode(["e\u0301t"]) == composed.encode(["\u00e9t"])
    assert composed.decode(composed.encode(["e\u0301t"])) == ["\u00e9t"]
    assert of_lines(["e\u0301te\u0301"]).decode(of_lines(["e\u0301te\u0301"]).encode(["e\u0301t"])) == ["e\u0301t"]  # as given


def test_a_cluster_is_one_token():
    lines = ["नमस्ते दुनिया", "हिन्दी", "e\u0331x", "👩\u200d🚀 a", "plain"]
    whole, apart = of_lines(lines, clusters=True), of_lines(lines)
    pieces = whole.pieces(whole.encode(["हिन्दी"])[0])
    assert pieces[:2] == ["▁", "हि"]
    assert len(whole.encode(["e\u0331x"])[0]) == 3
    assert len(apart.encode(["e\u0331x"])[0]) == 4
    assert len(whole.encode(["👩\u200d🚀"])[0]) == 2
    assert whole.decode(whole.encode(lines)) == lines
    assert whole.pieces(whole.encode(["x\u0331"])[0]) == ["▁", "x", "\u0331"]  # though the sign was never there alone
    assert len(of_lines(lines, clusters=True, symbols=("<N>", "e\u0331"))) == len(whole) + 1
    assert of_lines(lines, clusters=True).model == whole.model


def own_model(file, **options):
    made = io.BytesIO()
    lines = ["hello world, this is a model of my own", "it has pieces of its own and they are few"] * 30
    defaults = {"vocab_size": 45, "model_type": "bpe", "hard_vocab_limit": False, "minloglevel": 3}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=made, **defaults | options)
    file.write_bytes(made.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model_type": "unigram", "pad_id": 0, "unk_id": 3, "bos_id": 1, "eos_id": 2},
        {"byte_fallback": True, "vocab_size": 320},
        {"user_defined_symbols": ["<2de>"], "normalization_rule_name": "identity"},
    ],
    ids=["as it comes", "other ids", "bytes", "symbols"],
)
def test_a_model_of_ones_own_splits_as_it_does(tmp_path, options):
    processor = own_model(tmp_path / "mine.model", **options)
    config = VocabConfig(joint=False, kind=options.get("model_type", "bpe"), size=24, source_model=str(tmp_path / "mine.model"))
    made = train([Pair("hello", f"ein anderer Text {i}") for i in range(9)], config)
    lines = ["hello world", "my own pieces <2de> few", "this is it"]
    ours, theirs = made.source.encode(lines), processor.encode(lines, out_type=str)
    assert [made.source.pieces(ids) for ids in ours] == [
        ["<unk>" if processor.piece_to_id(piece) == processor.unk_id() else piece for piece in row] for row in theirs
    ]
    assert made.source.decode(ours[:1]) == ["hello world"]
    assert made.source.pieces([PAD, BOS, EOS, UNK]) == ["<pad>", "<s>", "</s>", "<unk>"]
    assert not any(i in (PAD, BOS, EOS) for row in ours for i in row)
    assert made.target.model != made.source.model


def test_a_model_that_does_not_go_with_the_configuration_is_refused(tmp_path):
    own_model(tmp_path / "mine.model")
    pairs, own = [Pair("hello", "hello")], {"source_model": str(tmp_path / "mine.model"), "joint": True}
    with pytest.raises(UserError, match=r"mine\.model is a model of the kind bpe, got char; give --vocab\.kind bpe"):
        train(pairs, VocabConfig(kind="char", **own))
    with pytest.raises(UserError, match=r"brings text into a form of its own \(nmt_nfkc\), got vocab\.unicode_form=NFD; use given"):
        train(pairs, VocabConfig(kind="bpe", unicode_form="NFD", **own))
    own_model(tmp_path / "plain.model", normalization_rule_name="identity")
    first = train(pairs, VocabConfig(kind="bpe", unicode_form="NFD", joint=True, source_model=str(tmp_path / "plain.model"))).source
    (tmp_path / "again.model").write_bytes(first.model)
    again = VocabConfig(kind="bpe", unicode_form="NFD", joint=True, source_model=str(tmp_path / "again.model"))  # a run's own, once more
    assert train(pairs, again).source.model == first.model
    with pytest.raises(
        UserError, match=r"again\.model is of a run with vocab\.unicode_form=NFD, got given; give --vocab\.unicode-form NFD"
    ):
        train(pairs, replace(again, unicode_form="given"))


def test_symbols_and_clusters_stand_in_the_form_of_the_text_and_fit(tmp_path):
    made = of_lines(["\u00e9t\u00e9 a"], unicode_form="NFD", symbols=("\u00e9t",))
    assert made.pieces(made.encode(["\u00e9t\u00e9"])[0]) == ["\u2581", "e\u0301t", "e", "\u0301"]
    lines = ["हिन्दी नमस्ते दुनिया"] * 50 + ["x\u0331"]
    rare = of_lines(lines, clusters=True, character_coverage=0.99)
    assert "x\u0331" not in rare.pieces(range(len(rare)))
    assert "x\u0331" in of_lines(lines, clusters=True).pieces(range(len(of_lines(lines, clusters=True))))
    with pytest.raises(UserError, match=r"vocab\.size=8 must hold \d clusters and symbols of the text beside others; use 0"):
        of_lines(lines, clusters=True, size=8)


def test_references_are_compared_as_translations_are_written():
    pairs = [Pair("a", "e\u0301"), Pair("b", "\u0958")]  # the second is excluded from composition
    composed = make_examples(pairs, False, form="NFD")
    assert [one.references for one in composed] == [("\u00e9",), ("\u0915\u093c",)]
    assert [one.references for one in make_examples(pairs, False)] == [("e\u0301",), ("\u0958",)]
    made = train(pairs, VocabConfig(kind="char", unicode_form="NFD")).source
    assert made.decode(made.encode(["e\u0301", "\u0958"])) == ["\u00e9", "\u0915\u093c"]


@pytest.mark.parametrize("content", [b"", b"no model at all", None], ids=["empty", "text", "missing"])
def test_what_is_no_model_is_said(tmp_path, content):
    if content is not None:
        (tmp_path / "odd.model").write_bytes(content)
    config = VocabConfig(source_model=str(tmp_path / "odd.model"))
    with pytest.raises(
        UserError, match=r"odd\.model (is no SentencePiece model; give|cannot be read: No such file.*;) .*that spm_train wrote"
    ):
        train([Pair("a", "b")], config)


def test_a_run_is_trained_with_it_and_keeps_it(tmp_path, capsys):
    """From jamo, with a blocklist that is written composed; and of one's own model, which may be gone when the run goes on."""
    rows = [(word, word[::-1]) for word in KOREAN] * 8
    (tmp_path / "pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in rows))
    options = f"""--data.folder={tmp_path} --data.format=tsv --data.source=0 --data.target=1 --data.train=pairs.tsv --data.valid= --data.test=
        --data.max-train-pairs=0 --data.held-out-pairs=4 --vocab.kind=char --vocab.unicode-form=NFD --evaluation.metrics exact_match""".split()
    run = ["train", DEBUG, "--run-dir", str(tmp_path / "run"), *options]
    assert main([*run, "--training.steps=3"]) == 0
    model = flax_s2s.load(tmp_path / "run")
    blocked_one = False
    for word in KOREAN:
        begun = model.translate(word, prefix="국가")
        assert begun.text.startswith("국가")
        assert begun.text == unicodedata.normalize("NFC", begun.text)
        assert begun.unmet == ()
        free = model.translate(word, prefix="국", min_tokens=9, max_length_extra=20)
        if free.text[1:].strip():
            blocked_one = True
            assert free.text[1:] not in model.translate(word, prefix="국", min_tokens=9, max_length_extra=20, exclude=[free.text[1:]]).text
        assert model.translate(word, include=["낱말"]).unmet == ()
    assert blocked_one
    assert model.translate("국어", include=["각"], exclude=["가"]).unmet == ("각",)  # in NFD the one begins with the other
    own_model(tmp_path / "mine.model")
    run = [
        "train",
        DEBUG,
        "--run-dir",
        str(tmp_path / "own"),
        f"--vocab.source-model={tmp_path / 'mine.model'}",
        "--vocab.joint",
        "--vocab.kind=bpe",
        "--vocab.size=0",
    ]
    few = ["--training.steps=2", "--data.max-train-pairs=40", "--data.held-out-pairs=4"]
    assert main([*run, *few]) == 0
    (tmp_path / "mine.model").unlink()
    assert main([*run, *few, "--training.steps=3"]) == 0
    assert main(["inspect", str(tmp_path / "own")]) == 0
    capsys.readouterr()
    assert (
        main(["inspect", DEBUG, f"--vocab.source-model={tmp_path / 'mine.model'}", "--vocab.joint", "--vocab.kind=bpe", "--vocab.size=0"])
        == 2
    )
    assert "mine.model cannot be read: No such file or directory; give a SentencePiece model" in " ".join(capsys.readouterr().err.split())


def test_a_cluster_that_no_line_has_is_taken_apart_into_parts_that_clusters_have():
    lines = ["\u0915\u093f \u0917\u0940 \u091f\u093e"] * 5  # three letters, each with another sign
    made = of_lines(lines, clusters=True)
    new = "\u091f\u093f"  # the third letter with the first one's sign
    pieces = [made.pieces([i])[0] for i in made.encode([new])[0]]
    assert pieces == ["\u2581", "\u091f", "\u093f"] and made.decode(made.encode([new])) == [new]
