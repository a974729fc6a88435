from collections import Counter

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from scta_lab.text import vocabulary as module
from scta_lab.text.vocabulary import BYTES, LONGEST, learn, number, split

TALK = ["the cat sat on the mat. the cat sat on the hat. ", "the dog sat on the mat, the dog and the cat. \n\nthe end"]
SENTENCE = "the cat and the dog sat on the zebra. the end"


@pytest.fixture(scope="module")
def talk():
    return learn(*number(TALK))[0]


def entries_of(vocabulary):
    """Each entry as its words' ids, to its id."""
    found = {}
    for i in range(BYTES, len(vocabulary)):
        pieces, at = [], i
        while at >= vocabulary.phrases_from:
            at, last = divmod(int(vocabulary.phrases[at - vocabulary.phrases_from]), 1 << 32)
            pieces.append(last)
        found[(at, *reversed(pieces))] = i
    return found


def sizes(vocabulary):
    return range(BYTES + 1, len(vocabulary) + 1)


def test_ids_are_bytes_then_words_by_frequency_then_phrases(talk):
    counts = Counter(word for text in TALK for word in split(text))
    frequencies = [counts[word] for word in talk.words]
    assert [talk.token(i) for i in range(BYTES)] == [bytes([i]) for i in range(BYTES)]
    assert frequencies == sorted(frequencies, reverse=True)
    assert min(frequencies) == 2
    assert set(counts) - set(talk.words) == {word for word, count in counts.items() if count == 1}
    assert all(len(entry) > 1 for entry, i in entries_of(talk).items() if i >= talk.phrases_from)


def test_phrases_are_all_n_grams_by_documents_then_count_prefixes_first(talk):
    ids = {word: i for i, word in enumerate(talk.words, BYTES)}
    counts, documents = Counter(), {}
    for text in TALK:
        words = [ids.get(word) for word in split(text)]
        for n in range(2, LONGEST + 1):
            for i in range(len(words) - n + 1):
                gram = tuple(words[i : i + n])
                if None not in gram:
                    counts[gram] += 1
                    documents.setdefault(gram, set()).add(text)
    entries = entries_of(talk)
    phrases = [gram for gram in entries if len(gram) > 1]
    ranks = [(len(documents[gram]), counts[gram]) for gram in phrases]
    assert set(phrases) == set(counts)
    assert ranks == sorted(ranks, reverse=True)
    assert all(entries[gram[:-1]] < entries[gram] for gram in phrases)


def test_a_phrase_of_one_document_comes_after_all_of_two():
    texts = ["so be it. " + "let it go " * 9, "so be it! let us go"]
    vocabulary = learn(*number(texts))[0]
    phrases = [vocabulary.decode([i]) for i in range(vocabulary.phrases_from, len(vocabulary))]
    assert phrases.index(" be it") < phrases.index(" let it")  # twice, in two documents, and nine times in one


def test_encoding_is_greedy_longest_match_over_whole_words_and_nested(talk):
    entries = entries_of(talk)
    for vocab in sizes(talk):
        part = talk.first(vocab)
        words = [part.words.index(word) + BYTES if word in part.words else word for word in split(SENTENCE)]
        expected = reference.greedy(
            words, {gram: i for gram, i in entries.items() if i < vocab}, reference.spell(part.words)
        )
        assert len(part) == vocab
        assert part.encode(SENTENCE).tolist() == expected
        assert part.decode(expected) == SENTENCE


def test_a_word_is_spelled_by_the_longest_words_and_bytes():
    vocabulary = learn(*number([" in in ter ter inter inter est est e e"]))[0]
    said = {i: vocabulary.decode([i]) for i in vocabulary.encode(" interesting ü").tolist()}
    assert vocabulary.decode(vocabulary.encode(" interesting")) == " interesting"
    pieces = [vocabulary.token(i) for i in vocabulary.encode(" interesting").tolist()]
    assert pieces == [b" inter", *[bytes([c]) for c in b"esting"]]  # " est" begins with a space, "esting" does not
    assert [vocabulary.token(i) for i in vocabulary.encode("ü").tolist()] == [b"\xc3", b"\xbc"]
    assert len(said) > 2


def test_pieces_of_a_word_make_no_phrase(talk):
    """ " the cat" is a phrase; "the" and " cat" are joined where they are words, not where one is part of another."""
    vocabulary = learn(*number(["the cat the cat thecat thecat s cat s cat"]))[0]
    assert len(vocabulary.encode(" cats cat")) == len([" cat", "s", " cat"])
    assert [vocabulary.decode([i]) for i in vocabulary.encode("s cat").tolist()][:1] != [" cat"]


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 10**6))
def test_decoding_gives_every_text_back(sentence, size):
    vocabulary = learn(*number(TALK))[0]
    part = vocabulary.first(BYTES + 1 + size % (len(vocabulary) - BYTES))
    ids = part.encode(sentence)
    assert part.decode(ids) == sentence
    assert ids.dtype == np.int32
    assert len(ids) <= len(sentence.encode())
    assert part.lengths()[:, ids].sum(1).tolist() == [len(sentence), len(sentence.encode())]


@pytest.mark.parametrize(
    "sentence", ["", "a", "\0", "\x1c\x85\u2028", "  \n\n\t x_1__y  9876543 naïve 一点半 e\u0301 —", "a\r\nb"]
)
def test_splitting_loses_nothing(talk, sentence):
    assert "".join(split(sentence)) == sentence
    assert talk.decode(talk.encode(sentence)) == sentence


@pytest.mark.parametrize(("sentence", "at"), [("\ud83d", 0), ("an \udc00 end", 3)])
def test_half_a_character_is_refused(talk, sentence, at):
    with pytest.raises(ValueError, match=f"^text=.* at {at}: expected no lone surrogate"):
        talk.encode(sentence)


def test_bytes_that_are_no_character_read_as_such(talk):
    assert talk.decode([0xC3, 0xBC, 0xC3]) == "ü�"


def test_lengths_are_those_of_the_tokens(talk):
    vocabulary = learn(*number(["größer größer als ü ü"]))[0]
    for entries in (talk, vocabulary):
        characters, size = entries.lengths().tolist()
        assert size == [len(entries.token(i)) for i in range(len(entries))]
        assert characters[BYTES:] == [len(entries.decode([i])) for i in range(BYTES, len(entries))]
    assert vocabulary.lengths()[0, [0x61, 0xC3, 0xBC]].tolist() == [1, 1, 0]  # ü begins with its first byte


def test_encoding_in_blocks_loses_nothing(talk, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 3)
    assert talk.decode(talk.encode(SENTENCE)) == SENTENCE
    assert len(talk.encode("")) == 0


def test_phrases_are_learnt_from_the_start_of_a_long_text(monkeypatch):
    monkeypatch.setattr(module, "LEARNT", 4)
    vocabulary = learn(*number([" a b a b c d c d"]))[0]
    phrases = [vocabulary.decode([i]) for i in range(vocabulary.phrases_from, len(vocabulary))]
    assert phrases == [" a b", " b a", " a b a", " b a b", " a b a b"]
    monkeypatch.setattr(module, "LARGEST", 1)
    assert len(learn(*number([" a b a b c d c d"]))[0].phrases) == 1


def test_sizes_that_it_has_not(talk):
    with pytest.raises(ValueError, match=rf"^vocab=9999999: expected at most {len(talk)}.*zipf"):
        talk.first(9_999_999)
    for vocab in (256, 300.0, "300"):
        with pytest.raises(ValueError, match=rf"^vocab={vocab!r}: expected an integer from 257 up"):
            talk.first(vocab)
    for i in (-1, len(talk)):
        with pytest.raises(ValueError, match=f"^id={i}: expected an integer from 0 to V - 1 = {len(talk) - 1}"):
            talk.decode([i])


def test_words_that_are_as_frequent_come_as_they_first_stand():
    assert learn(*number([" b a b a", " c c"]))[0].words == [" b", " a", " c"]


def test_scripts_without_spaces_make_phrases_of_their_characters():
    vocabulary = learn(*number(["一点半 一点半，カタカナ", "一点半"]))[0]
    assert "一点半" in [vocabulary.decode([i]) for i in range(vocabulary.phrases_from, len(vocabulary))]
    assert len(vocabulary.encode("一点半")) == 1


def test_no_word_is_longer_than_64():
    assert max(map(len, split("=" * 999 + "x" * 999 + " " * 999 + "_" * 999 + "1" * 999))) == 64


def test_no_phrase_goes_from_one_document_into_the_next():
    vocabulary = learn(*number([" a b", " c d"] * 3))[0]
    phrases = [vocabulary.decode([i]) for i in range(vocabulary.phrases_from, len(vocabulary))]
    assert phrases == [" a b", " c d"]


@pytest.mark.parametrize("said", [
    "हिन्दी भाषा है", "தமிழ் மொழி", "العَرَبِيَّة لغة", "กำลังใจ ที่", "cafe\u0301 a\u030a", "می\u200cخواهم او", "শ্রী ক্\u200dষ",
])  # fmt: skip
def test_marks_belong_to_their_letter(said):
    first, *others = said.split(" ")
    assert split(said) == [first, *(f" {word}" for word in others)]
    marked = "क" + "\u093e" * 200  # none is longer than 64
    assert [len(word) for word in split(marked)] == [63, 63, 63, 12]
    assert "".join(split(marked)) == marked


def test_marks_without_a_letter_are_punctuation():
    assert split("❤\ufe0f ok 1\ufe0f\u20e3") == ["❤\ufe0f", " ok", " 1", "\ufe0f\u20e3"]
