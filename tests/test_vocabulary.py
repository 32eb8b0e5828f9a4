import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from data.words.vocabulary import END, PAD, START, UNKNOWN, Vocabulary, tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (
            "A black dog is running after a white dog in the snow .",
            "a black dog is running after a white dog in the snow",
        ),
        ("The dog's toy, isn't it?", "the dog 's toy is n't it"),
        ('A man in a T-shirt says "hi" -- loudly!', "a man in a t-shirt says hi loudly"),
        ("A 4-wheeler and 1,000 people at the U.S. border", "a 4-wheeler and 1,000 people at the u.s. border"),
        ("Mr. Smith’s café", "mr. smith 's café"),
        ("犬 🐶 собака", "犬 🐶 собака"),
        (" ...  ", ""),
    ],
)
def test_tokens_are_lower_case_words_without_punctuation(text, tokens):
    assert tokenize(text) == tokens.split()


def test_tokens_agree_with_the_coco_tokeniser():
    pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap (pip install 'saywhy[metrics]')")
    import shutil

    if shutil.which("java") is None:
        pytest.skip("needs Java")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = [
        "Two dogs of different breeds looking at each other's tails on the road .",
        "A man doesn't look ; he 's wearing a t-shirt & jeans , and holding up # 5 .",
        'A girl ( in a blue-and-white dress ) says " hello " !',
        "A merry-go-round , a see-saw , a 3rd base and a D.C. sign .",
    ]
    theirs = PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(captions)})
    dropped = {"-lrb-", "-rrb-"}  # brackets, which that tokeniser means to drop but spells in capitals
    for i, caption in enumerate(captions):
        assert tokenize(caption) == [t for t in theirs[i][0].split() if t not in dropped]


@given(st.text(max_size=200))
def test_any_text_becomes_tokens_that_stay_what_they_are(text):
    tokens = tokenize(text)
    assert all(token and not token.isspace() for token in tokens)


def test_words_are_numbered_by_frequency_then_name_and_rare_ones_left_out():
    sentences = [["b", "a", "c"], ["b", "a"], ["b", "d"]]
    vocabulary = Vocabulary.build(sentences, minimum=2)
    assert vocabulary.words[4:] == ("b", "a")
    assert vocabulary.encode(["a", "c", "b"]) == [5, UNKNOWN, 4]
    assert vocabulary.unknown(["c", "a", "d", "c"]) == ["c", "d"]


def test_decoding_stops_at_the_end_and_leaves_out_padding():
    vocabulary = Vocabulary.build([["dog", "runs"]], minimum=1)
    ids = [START, *vocabulary.encode(["dog", "runs"]), END, 4, PAD]
    assert vocabulary.decode(ids) == ["dog", "runs"]


def test_a_vocabulary_with_a_word_twice_is_refused():
    with pytest.raises(UserError, match="'dog'"):
        Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "dog", "dog"])


def test_fingerprints_tell_vocabularies_apart():
    one, other = Vocabulary.build([["a", "b"]], 1), Vocabulary.build([["a", "c"]], 1)
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == Vocabulary(one.words).fingerprint
