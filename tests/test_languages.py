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
        ("bo", "bo", "Tibt"),
        ("jav_Java", "jv-Java", "Java"),
        ("kor", "ko", "Kore"),
        ("zh_HK", "zh-HK", "Hant"),
        ("sr_ME", "sr-ME", "Latn"),
    ],
)
def test_codes_of_every_kind_are_read_and_inferred(name, tag, script):
    for found in (languages.read(name), languages.infer(name)):
        assert found is not None
        assert (str(found), languages.script(found)) == (tag, script)


@pytest.mark.parametrize(
    "name",
    ["cn", "lf", "ipa", "cmd", "word", "phones", "source", "target", "summary", "en.tok", "en-", "", " ", "0", "mul", "zxx", "und", "mis"],
)
def test_what_is_no_code_is_no_language(name):
    assert languages.read(name) is None
    assert languages.infer(name) is None


@pytest.mark.parametrize("name", ["src", "tgt", "act", "sum", "lem", "phn", "kr"])
def test_words_of_the_trade_are_languages_only_where_they_are_said_to_be(name):
    assert languages.read(name) is not None
    assert languages.infer(name) is None


@pytest.mark.parametrize(
    ("name", "script"), [("cjy", "Hans"), ("rki", "Mymr"), ("ksw", "Mymr"), ("kjg", "Laoo"), ("cdo", "Hans"), ("tlh", "")]
)
def test_the_scripts_of_small_languages_are_known_or_said_to_be_unknown(name, script):
    """langcodes 3.5.1 has likely subtags of 1,866 languages, and gives Latn, of English, for all others (`Language.maximize`)."""
    found = languages.read(name)
    assert found is not None and languages.script(found) == script


@pytest.mark.parametrize(
    ("names", "spacing"),
    [
        ("zh cmn yue zho_Hant lzh zh_Hani zh_Bopo cjy", "Chinese"),
        ("ja jpn_Hira ain_Kana th tts lo km my shn khb_Talu nod tdd blt ii bo dz jv_Java ban_Bali", "none"),
        ("de ko kor_Hang vi zh_Latn ja_Latn jv mn ar hi he kk tlh am", "words"),
    ],
)
def test_what_stands_between_words_follows_from_the_script(names, spacing):
    for name in names.split():
        found = languages.read(name)
        assert found is not None and languages.spacing(found) == spacing, name
