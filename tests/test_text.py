import gzip
import json
from collections import Counter

import numpy as np
import pytest
import reference
from conftest import CHAT

from scta_lite import text
from scta_lite.text import corpus
from scta_lite.text.vocabulary import LONGEST, UNKNOWN, learn, split

TALK = ["the cat sat on the mat. the cat sat on the hat. ", "the dog sat on the mat, the dog and the cat. \n\nthe end"]


def entries_of(vocabulary):
    """Each entry as its words' ids, from the decoded pieces."""
    found = {}
    for i in range(1, len(vocabulary)):
        pieces, at = [], i
        while at >= len(vocabulary.words):
            at, last = divmod(int(vocabulary.phrases[at - len(vocabulary.words)]), 1 << 32)
            pieces.append(last)
        found[(at, *reversed(pieces))] = i
    return found


@pytest.fixture(scope="module")
def talk():
    return learn(TALK)


def test_lengths_are_those_of_the_decoded_tokens(talk):
    vocabulary, _ = talk
    assert vocabulary.lengths().tolist() == [0] + [len(vocabulary.decode([i])) for i in range(1, len(vocabulary))]
    assert max(vocabulary.lengths()) > 10


def test_words_come_first_and_by_frequency(talk):
    vocabulary, (ids, _) = talk
    counts = Counter(w for t in TALK for w in split(t))
    frequencies = [counts[w] for w in vocabulary.words[1:]]
    assert vocabulary.words[0] == UNKNOWN
    assert frequencies == sorted(frequencies, reverse=True)
    assert min(frequencies) == 2
    assert len(ids) == sum(counts.values())


def test_phrases_are_all_n_grams_by_frequency_prefixes_first(talk):
    vocabulary, (words, _) = talk
    grams = Counter()
    for n in range(2, LONGEST + 1):
        for i in range(len(words) - n + 1):
            gram = tuple(words[i : i + n].tolist())
            if 0 not in gram:
                grams[gram] += 1
    entries = entries_of(vocabulary)
    phrases = [gram for gram in entries if len(gram) > 1]
    assert set(phrases) == set(grams)
    assert [grams[p] for p in phrases] == sorted(grams.values(), reverse=True)
    assert all(entries[p[:-1]] < entries[p] for p in phrases)


def test_encoding_is_greedy_longest_match_nested_and_decodable(talk):
    vocabulary, _ = talk
    sentence = "the cat and the dog sat on the zebra. the end"
    for vocab in range(2, len(vocabulary) + 1):
        part = vocabulary.first(vocab)
        ids = part.encode(sentence)
        words = [part.words.index(w) if w in part.words else 0 for w in split(sentence)]
        assert len(part) == vocab
        assert ids.tolist() == reference.greedy(words, {g: i for g, i in entries_of(vocabulary).items() if i < vocab})
        assert ids.max() < vocab
        assert part.decode(ids) == "".join(w if w in part.words else UNKNOWN for w in split(sentence))


def test_more_entries_than_there_are(talk):
    with pytest.raises(ValueError, match=f"expected at most {len(talk[0])}.*zipf"):
        talk[0].first(len(talk[0]) + 1)


@pytest.mark.parametrize("sentence", ["", "a", "  \n\n\t x_1__y  9876543 naïve 一点半 e\u0301 —", "a\r\nb\x00c"])
def test_splitting_loses_nothing(sentence):
    assert "".join(split(sentence)) == sentence


def test_sharegpt_reads_what_real_files_hold():
    left_out = Counter()
    documents = list(text.sharegpt(CHAT, left_out))
    assert left_out == {
        "record without a conversation": 3,  # an empty one, one without the key, a string
        "empty message": 1,
        "message without text": 1,
    }
    assert len(documents) == 96 - 3
    assert documents[0].startswith("user: ")
    assert "assistant: " in documents[0]
    assert any(d.startswith("assistant: ") for d in documents)
    assert any("system: " in d for d in documents)
    assert any("¿Qué hora es?" in d for d in documents)
    assert not any("<div" in d or "<p>" in d for d in documents)


@pytest.mark.parametrize(("turn", "document"), [
    ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]}, "user: a\nb"),
    ({"from": None, "role": "gpt", "value": None, "content": "both keys"}, "assistant: both keys"),
    ({"value": "no role"}, "no role"),
    ({"from": "gpt", "value": "<ul><li>one</li><li>two</li></ul>a &lt; b<br>c"}, "assistant: one\n\ntwo\n\na < b\nc"),
    ({"from": "gpt", "value": "if a<b && c>d: Map<b> x"}, "assistant: if a<b && c>d: Map<b> x"),
])  # fmt: skip
def test_dialects_of_turns(tmp_path, turn, document):
    (tmp_path / "chat.json").write_text(json.dumps([{"messages": [turn]}]))
    assert list(text.sharegpt(tmp_path / "chat.json")) == [document]


def test_sharegpt_lines_and_gzip_give_the_same_documents(tmp_path):
    records = json.loads(CHAT.read_text(encoding="utf-8"))
    lines = "\n".join(json.dumps(r) for r in records if isinstance(r, dict)) + "\nnot json\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(CHAT.read_bytes()))
    expected, left_out = list(text.sharegpt(CHAT)), Counter()
    assert list(text.sharegpt(tmp_path / "a.jsonl", left_out)) == expected
    assert left_out["line that is not a JSON object"] == 1
    assert list(text.sharegpt(tmp_path / "a.json.gz")) == expected


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"  \n", "the file is empty"),
    (b"hello, world", "neither JSON"),
    (b'[{"id": 1}', "no usable record|neither JSON"),
    (b"[]", "no usable record .no records"),
    (b'[{"conversations": [{"from": "human", "value": ""}]}]', "no usable record .1 × empty message"),
    (b'{"a": 1}', "no usable record"),
    (b"3", "no usable record"),
    (b"\x1f\x8b broken", "a broken gzip file"),
    (b'[{"conversations": [{"from": "human", "value": "only one"}]}]', "1 document"),
])  # fmt: skip
def test_corpus_files_that_cannot_serve(tmp_path, content, message):
    path = tmp_path / "chat.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        text.load(str(path), progress=False)
    assert "corpus=" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_corpus():
    with pytest.raises(FileNotFoundError, match=r"corpus='no/such/file.json': no such file"):
        text.load("no/such/file.json")


def test_corpus_ids_are_cached_below_v_and_split_by_document():
    corpus = text.load(str(CHAT), progress=False)
    assert corpus.name == "chat.json"
    train, heldout = corpus.ids(500)
    assert train.max() < 500
    assert heldout.max() < 500
    assert train.dtype == np.int32
    assert isinstance(corpus.ids(500)[0], np.memmap)
    assert text.load(str(CHAT)) == corpus  # and now from the cache
    vocabulary = corpus.vocabulary(len(corpus.vocabulary(500)))
    assert corpus.about["held_out_documents"] == 3
    said = vocabulary.decode(train)
    first = vocabulary.decode(heldout).split("\n\n")[1]
    assert first not in said


def test_a_changed_file_is_another_corpus(tmp_path):
    path = tmp_path / "chat.json"
    path.write_bytes(CHAT.read_bytes())
    before = text.load(str(path), progress=False)
    assert before.fingerprint == text.load(str(CHAT), progress=False).fingerprint  # the same content, another path
    path.write_text(json.dumps(json.loads(path.read_text())[:40]))
    assert text.load(str(path), progress=False).fingerprint != before.fingerprint


def test_paragraphs_are_kept_once():
    licence, seen, left_out = "All rights reserved. " * 5, set(), Counter()
    first = corpus._without_repeats(f"one\n\n{licence}\n\ntwo", seen, left_out)
    second = corpus._without_repeats(f"three\n\n{licence}\n\none", seen, left_out)
    assert licence in first
    assert second == "three\n\none"  # a short paragraph may come again
    assert left_out == {"paragraph that stood before": 1}


def test_zipf_ids():
    train, heldout = text.load("zipf").ids(1000, needed=5000)
    assert len(train) == 5000
    assert train.max() < 1000
    assert train.min() == 0
    assert np.array_equal(train, text.load("zipf").ids(1000, needed=5000)[0])
    counts = np.bincount(text.load("zipf").ids(1000, needed=400_000)[0], minlength=1000)
    assert counts[0] / counts[9] == pytest.approx(np.log(2) / np.log(11 / 10), rel=0.1)
    assert not np.array_equal(train[:100], heldout[:100])
    with pytest.raises(ValueError, match="ids but no text"):
        text.load("zipf").vocabulary(10)


def test_ids_made_elsewhere(tmp_path):
    path = tmp_path / "ids.npy"
    np.save(path, np.arange(1000).reshape(10, 100) % 97)
    train, heldout = text.load(str(path)).ids(97)
    assert (len(train), len(heldout)) == (970, 30)
    with pytest.raises(ValueError, match="integer ids from 0 to vocab - 1 = 49"):
        text.load(str(path)).ids(50)


def test_examples_have_exactly_t_ids():
    cut = text.examples(np.arange(100), 9)
    assert cut.shape == (11, 9)
    assert np.array_equal(cut.ravel(), np.arange(99))


def test_the_installed_corpus_fills_a_million_ids(monkeypatch):
    """Real text, where a reader's own cache is: at least 20,000 examples of 64 tokens at V = 1,000,000."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    corpus = text.load("installed", progress=False)
    train, heldout = corpus.ids(1_000_000)
    assert len(text.examples(train, 64)) >= 20_000
    assert len(text.examples(heldout, 64)) >= 256
    vocabulary = corpus.vocabulary(1_000_000)
    assert len(vocabulary) == 1_000_000
    said = vocabulary.decode(train[:20_000])
    assert sum(word in said for word in (" the", " return", "self", " is")) == 4
    assert (train == 0).mean() < 0.03
