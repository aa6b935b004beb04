"""Names of languages, and of sides that are none."""

import pytest

from flax_s2s import languages


@pytest.mark.parametrize(
    ("name", "tag", "script"),
    [
        ("zh", "zh", "Hans"),
        ("zho", "zh", "Hans"),
        ("chi", "zh", "Hans"),
        ("cmn", "cmn", "Hans"),
        ("zho_Hans", "zh-Hans", "Hans"),
        ("zh-TW", "zh-TW", "Hant"),
        ("yue", "yue", "Hant"),
        ("zh_Latn", "zh-Latn", "Latn"),
        ("jpn", "ja", "Jpan"),
        ("tha", "th", "Thai"),
        ("khm", "km", "Khmr"),
        ("bur", "my", "Mymr"),
        ("lao", "lo", "Laoo"),
        ("deu", "de", "Latn"),
        ("pt_BR", "pt-BR", "Latn"),
        ("arb_Arab", "arb-Arab", "Arab"),
        ("izh", "izh", "Latn"),
        ("kpv", "kpv", "Cyrl"),
    ],
)
def test_codes_of_every_kind_are_read_and_inferred(name, tag, script):
    for found in (languages.read(name), languages.infer(name)):
        assert found is not None
        assert (str(found), languages.script(found)) == (tag, script)


@pytest.mark.parametrize("name", ["cn", "lf", "ipa", "cmd", "word", "phones", "source", "target", "summary", "en.tok", "en-", "", " ", "0"])
def test_what_is_no_code_is_no_language(name):
    assert languages.read(name) is None
    assert languages.infer(name) is None


@pytest.mark.parametrize("name", ["src", "tgt", "act", "sum", "lem"])
def test_words_of_the_trade_are_languages_only_where_they_are_said_to_be(name):
    assert languages.read(name) is not None
    assert languages.infer(name) is None
