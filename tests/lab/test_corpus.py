import json
import os
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import CHAT

from scta_lab import sweep, text, train
from scta_lab.text import building, repeats
from scta_lab.text import corpus as corpus_module
from scta_lab.text.vocabulary import number, split

module = sys.modules["scta_lab.text.examples"]  # scta_lab.text.examples is its function


def test_missing_corpus():
    with pytest.raises(FileNotFoundError, match=r"corpus='no/such/file.json': no such file"):
        text.load("no/such/file.json")


@pytest.mark.parametrize("address", ["https://a.org/b.jsonl", "hf://datasets/a/b"])
def test_an_address_is_no_corpus(address):
    with pytest.raises(ValueError, match=rf"^corpus='{address}': an address; expected a file or folder .*download"):
        text.load(address)


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


WORDS = [f"{a}{b}{c}" for a in "bcdfgh" for b in "aeiou" for c in "klmnp"]


def paragraph(seed, words=60):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture
def load(tmp_path):
    """Makes a corpus of documents; `about` says what became of them."""

    def loaded(documents, **how):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        path.write_text("\n".join(json.dumps({"text": d}) for d in documents))
        return text.load(str(path), progress=False, **how)

    return loaded


def test_a_run_of_words_counts_if_an_earlier_document_has_it():
    words = np.array([1, 2, 3, 4, 9, 1, 2, 3, 7, 1, 2, 3, 2, 3, 4])
    document = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2])
    found = repeats.repeated(words, document, document, 3)
    assert found.tolist() == [False] * 5 + [True] * 3 + [False] + [True] * 6
    assert not repeats.repeated(words, document, np.zeros(15, int), 3).any()  # a document may repeat itself
    assert not repeats.repeated(words[:2], document[:2], document[:2], 3).any()


@pytest.mark.parametrize("run", [1, 2, 5, 13])
def test_runs_are_those_of_a_slow_search(run):
    generator = np.random.default_rng(0)
    words, document = generator.integers(0, 3, 300), np.sort(generator.integers(0, 9, 300))
    seen, expected = {}, np.zeros(300, dtype=bool)
    for i in range(300 - run + 1):
        inside = document[i] == document[i + run - 1]
        if inside and seen.setdefault(tuple(words[i : i + run]), document[i]) < document[i]:
            expected[i : i + run] = True
    assert np.array_equal(repeats.repeated(words, document, document, run), expected)


def paragraphs(*texts):
    """Words, documents and borders as `repeats.fresh` takes them, of documents each of a list of paragraphs."""
    spelled, words, document = number("\n\n".join(text) + "\n\n" for text in texts)
    return words, document, np.array([word.count("\n") > 1 for word in spelled])


def left(*texts):
    """What `fresh` leaves, as numbers of document and paragraph."""
    words, document, ends = paragraphs(*texts)
    kept, found = repeats.fresh(words, document, document, ends), set()
    for i in np.flatnonzero(ends[words] & kept):
        found.add((int(document[i]), int(ends[words[:i]][document[:i] == document[i]].sum())))
    return found


def test_a_paragraph_is_new_if_little_of_it_stands_in_an_earlier_document():
    licence, idiom, label = paragraph(0), paragraph(1, 14), "user:"  # 60 words, and 14
    assert left([licence, paragraph(2)], [paragraph(3), licence]) == {(0, 0), (0, 1), (1, 0)}
    assert left([licence, licence]) == {(0, 0), (0, 1)}  # a document may repeat itself
    assert left([f"{idiom} {paragraph(4, 190)}"], [f"{idiom} {paragraph(5, 190)}"]) == {(0, 0), (1, 0)}  # 14 of 204
    assert left([f"{idiom} {paragraph(6, 60)}"], [f"{idiom} {paragraph(7, 60)}"]) == {(0, 0)}  # 14 of 74
    assert left([licence, f"{label} {paragraph(8, 9)}"], [licence, f"{label} {paragraph(9, 9)}"]) == {
        (0, 0),
        (0, 1),
        (1, 1),
    }  # the label goes on a run that began in the licence; the question is new
    assert left([licence, "the end", paragraph(10)], [licence, "the end", paragraph(11)]) == {
        (0, 0), (0, 1), (0, 2), (1, 2)}  # a short one, all of it in a run # fmt: skip


def test_each_held_out_token_is_of_its_document(load):
    corpus = load([f"{paragraph(i, 9 + i % 40)} ¿é{i}" for i in range(200)])
    found = corpus.examples(330, 16, 1)
    vocabulary = corpus.vocabulary(330)
    assert found.documents.shape == found.heldout.shape
    said = [vocabulary.decode(found.heldout[found.documents == i]) for i in range(6)]
    assert all(part.count("¿") == 1 and part.endswith("\n\n") for part in said[:-1])  # the last is cut at T
    assert len(set(said)) == 6


def test_a_text_of_ones_own_is_trained_on_as_it_is(load):
    system = paragraph(0)
    documents = [
        f"{system}\n\nuser: {paragraph(2 * i, 9)}\n\nassistant: {paragraph(2 * i + 1, 20)}" for i in range(1, 99)
    ]
    corpus = load(documents)
    said = [corpus.vocabulary(400).decode(part) for part in corpus.ids(400)]
    assert [part.count(system) for part in said] == [95, 0]
    assert [part.count("user: ") for part in said] == [95, 3]
    assert corpus.about["taken_out"]["training"] == 0
    assert 0.3 < corpus.about["taken_out"]["held out"] < 0.9
    assert corpus.about["repeated"]["before"]["13"] > 0.3
    assert corpus.about["repeated"]["after"]["13"] < 0.1


def test_of_copies_in_a_cleaned_text_training_loses_its_own():
    words, document, ends = paragraphs(*([paragraph(i)] for i in (1, 2, 2, 3, 1)))
    kept = building._kept(words, document, ends, 4, True)
    assert [bool(kept[document == i].all()) for i in range(5)] == [False, True, False, True, True]
    kept = building._kept(words, document, ends, 3, False)  # document 4 is a copy of 0, and 3 is new
    assert [bool(kept[document == i].all()) for i in range(5)] == [True, True, True, True, False]


def test_what_a_corpus_says_of_itself_is_what_a_slow_count_finds(load):
    """Runs within a document alone: the end of one and the start of the next, alike in all, are none."""
    ending = paragraph(0, 8)
    documents = [f"{paragraph(i % 37, 20)}\n\n{paragraph(100 + i, 9)} {ending}" for i in range(150)]
    corpus = load(documents)
    split_up = [split(document + "\n\n") for document in sorted(documents, key=lambda d: building._digest(d))]
    held = max(1, round(0.03 * len(documents)))
    training = {tuple(d[i : i + 13]) for d in split_up[:-held] for i in range(len(d) - 12)}
    before, after = [], []
    for document in split_up[-held:]:
        seen = [False] * len(document)
        for i in range(len(document) - 12):
            if tuple(document[i : i + 13]) in training:
                seen[i : i + 13] = [True] * 13
        before += seen
        first = document.index("\n\n") + 1  # of the two paragraphs the first may be one of training's
        parts = [seen[:first], seen[first:]]
        after.append([not (sum(part) >= 13 and sum(part) > 0.1 * len(part)) for part in parts for _ in part])
    assert corpus.about["repeated"]["before"]["13"] == pytest.approx(np.mean(before))
    assert corpus.about["taken_out"]["held out"] == pytest.approx(1 - np.mean(np.concatenate(after)))
    assert corpus.about["repeated"]["after"]["13"] == 0


def test_held_out_text_made_of_templates_is_kept_and_said(load):
    corpus = load([f"{paragraph(0)} number {i}" for i in range(50)])
    assert corpus.about["taken_out"] == {"training": 0, "held out": 0}
    assert corpus.about["repeated"]["after"]["13"] > 0.9
    said = corpus.examples(400, 8, 1).caveats(1, evaluate=True)
    assert [words.partition(": ")[2] for words in said] == [
        f"{corpus.about['repeated']['after']['13']:.0%} of its held-out words lie in runs of 13 that training has too: "
        "what is measured is partly memory"]  # fmt: skip


def test_words_of_held_out_text_have_no_say_in_the_vocabulary(load):
    corpus = load([" ".join(np.random.default_rng(i).permutation(WORDS)[:70]) for i in range(120)])
    train, heldout = corpus.ids(corpus.about["largest_vocab"])
    vocabulary = corpus.vocabulary(corpus.about["largest_vocab"])
    counts = Counter(word for word in split(vocabulary.decode(train)))
    assert [counts[word] for word in vocabulary.words] == sorted((c for c in counts.values() if c > 1), reverse=True)
    first = {word: i for i, word in reversed(list(enumerate(split(vocabulary.decode(train)))))}
    assert vocabulary.words == sorted(vocabulary.words, key=lambda word: (-counts[word], first[word]))
    assert len(heldout) > 0


def test_no_more_than_max_characters_are_read(load):
    documents = [paragraph(i) for i in range(100)]
    whole, part = load(documents), load(documents, max_characters=2000)
    assert whole.about["whole"]
    assert not part.about["whole"]
    assert whole.about["documents"] == 100
    assert 2000 <= part.about["characters"] < 2000 + len(documents[0]) + 50
    assert part.about["documents"] < 15
    assert part.fingerprint != whole.fingerprint
    with pytest.raises(ValueError, match=r"max_characters=0: expected an integer from 1 up"):
        load(documents, max_characters=0)


def test_half_a_character_becomes_a_question_mark(load):
    corpus = load([f"{paragraph(i)} \ud83d" for i in range(10)])
    assert corpus.about["left_out"] == {"document with half a character, now ?": 10}
    assert " ?\n\n" in corpus.vocabulary(300).decode(corpus.ids(300)[0])


def test_documents_that_are_there_twice(load):
    assert load([paragraph(i % 10) for i in range(20)]).about["left_out"] == {"document that stood before": 10}


def test_the_ids_say_the_text_at_every_size():
    corpus = text.load(str(CHAT), progress=False)
    said = [corpus.vocabulary(257).decode(part) for part in corpus.ids(257)]
    for vocab in (258, 300, 500, corpus.about["largest_vocab"]):
        assert [corpus.vocabulary(vocab).decode(part) for part in corpus.ids(vocab)] == said


def test_statistics_count_what_is_in_the_text(load):
    corpus = load([f"{paragraph(i)} ü{'xyz' * i}" for i in range(40)])
    vocab, entries = 300, corpus.vocabulary(300)
    for (_, row), ids in zip(corpus.statistics(vocab, 8).iterrows(), corpus.ids(vocab), strict=True):
        said, words = entries.decode(ids), split(entries.decode(ids))
        rare = [word for word in words if word not in entries.words]
        assert row.tokens_per_character == pytest.approx(len(ids) / len(said))
        assert row.words_per_token == pytest.approx(len(words) / len(ids))
        assert row.spelled == pytest.approx(len(rare) / len(words))
        assert row.bytes == pytest.approx((ids < 256).mean())
        assert row.examples == len(ids) // 8
        counts = Counter(ids.tolist())
        assert row.top_share * len(ids) == max(counts.values()) == counts[row.top_id]
        assert entries.encode(row.top).tolist() == [row.top_id]


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


@pytest.mark.parametrize(("array", "error"), [
    (np.asfortranarray(np.zeros((3, 4), dtype=np.int32)), "an array in Fortran's order"),
    (np.zeros(0, dtype=np.int32), "expected integer ids"),
    (np.zeros(9), "expected integer ids"),
    (np.array([None, 1], dtype=object), "expected a .npy file of integers"),
])  # fmt: skip
def test_arrays_that_are_no_ids(tmp_path, array, error):
    np.save(tmp_path / "ids.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=f"^corpus='ids.npy': .*{error}"):
        text.load(str(tmp_path / "ids.npy")).ids(50)


@pytest.mark.parametrize("name", ["", None, 5])
def test_names_of_corpora_that_are_none(name):
    with pytest.raises(ValueError, match=rf"^corpus={name!r}: expected 'installed'"):
        text.load(name)


def test_zipf_ids_are_made_some_at_a_time(monkeypatch):
    monkeypatch.setattr(corpus_module, "BLOCK", 1000)
    ids = text.load("zipf").ids(77, needed=3500)[0]
    assert len(ids) == 3500
    assert len({ids[i : i + 50].tobytes() for i in range(0, 3500, 50)}) == 70


def test_a_cache_that_was_cut_off_is_told(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(100))
    stored = module.Stored(tmp_path / "ids.npy")
    (tmp_path / "ids.npy").write_bytes((tmp_path / "ids.npy").read_bytes()[:-80])
    with pytest.raises(ValueError, match=r"^ids\.npy: ends before example 9; remove it"):
        stored.rows(np.array([0, 9]), 10)


def test_examples_have_exactly_t_ids():
    cut = text.examples(np.arange(100), 9)
    assert cut.shape == (11, 9)
    assert np.array_equal(cut.ravel(), np.arange(99))


@pytest.mark.parametrize("where", [0, 3, 6])
def test_stored_examples_are_read_as_they_lie(tmp_path, where, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 11)
    ids = np.random.default_rng(0).integers(0, 99, 200).astype(np.int16)
    np.save(tmp_path / "ids.npy", ids)
    stored = module.Stored(tmp_path / "ids.npy", where, 150)
    part = ids[where:150]
    assert len(stored) == len(part)
    assert np.array_equal(stored.array(), part)
    assert np.array_equal(np.concatenate(list(stored.blocks())), part)
    assert np.array_equal(np.concatenate(list(stored.blocks(70))), part[:70])
    rows = np.array([5, 0, 5, 12])
    assert np.array_equal(stored.rows(rows, 9), text.examples(part, 9)[rows])


def test_examples_count_the_training_ids_that_are_used():
    corpus = text.load(str(CHAT), progress=False)
    for used in (5, 10**6):
        examples = corpus.examples(400, 8, used)
        cut = text.examples(corpus.ids(400)[0], 8)
        assert len(examples) == len(cut)
        assert torch.equal(examples.counts, torch.from_numpy(np.bincount(cut[:used].ravel(), minlength=400)))
    assert torch.equal(examples.rows(torch.tensor([3, 1]), torch.device("cpu")), torch.from_numpy(cut[[3, 1]]).long())
    assert examples.caveats(len(cut), evaluate=False) == []
    said = (
        f"it has {len(cut):,} examples of 8 tokens at V = 400; an epoch of {3 * len(cut):,} goes through them 3.0 times"
    )
    assert said in examples.caveats(3 * len(cut), evaluate=False)[0]
    with pytest.raises(ValueError, match=r"^seq_len=100000: expected at most \d+, the length of the text in ids"):
        corpus.examples(400, 100_000, 1)


def test_a_text_that_is_too_short_is_said_once_in_words(tiny, tmp_path, capsys, here):
    kept = {"corpus": str(CHAT), "max_characters": 5000}
    specs = [tiny(**kept, vocab=400, examples=5000, steps=2, seed=seed) for seed in range(2)]
    with pytest.warns(UserWarning, match="an epoch of 5,000 goes through them"):
        result = train(specs[0])
    runs = sweep(specs, tmp_path)
    assert capsys.readouterr().out.count("an epoch of 5,000 goes through them") == 1
    assert set(runs.examples_available) == {result.examples_available}
    assert result.examples_available < 5000
    assert set(runs.fingerprint) == {text.load(str(CHAT), max_characters=5000).fingerprint}


def test_many_examples_take_no_more_memory_than_a_few(tmp_path):
    """As text of 64 million ids is trained on: only the examples of the next steps are read."""
    peaks = {}
    for examples in (20_000, 400_000):
        np.save(
            tmp_path / "ids.npy",
            np.random.default_rng(0).integers(0, 300, 64 * examples * 100 // 97 + 1, dtype=np.int32),
        )
        words = f"--method semantic --vocab 300 --hidden 16 --examples {examples} --steps 50 --device cpu --threads 1"
        command = [sys.executable, "-m", "scta_lite.train", *words.split(), "--corpus", str(tmp_path / "ids.npy")]
        subprocess.run([*command, "--out", str(tmp_path / str(examples))], check=True, capture_output=True)
        run = json.loads(next((tmp_path / str(examples)).glob("*.json")).read_text())
        assert run["examples_available"] >= examples
        peaks[examples] = run["peak_memory_bytes"]
    assert peaks[400_000] < 1.1 * peaks[20_000]


@pytest.fixture(scope="module")
def installed():
    """Real text, where a reader's own cache is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XDG_CACHE_HOME")
        yield text.load("installed", progress=False)


def test_the_installed_corpus_fills_a_million_ids(installed):
    examples = installed.examples(1_000_000, 64, 20_000)
    assert len(examples) >= 20_000
    assert len(examples.heldout) >= 512
    vocabulary = installed.vocabulary(1_000_000)
    assert len(vocabulary) == 1_000_000
    said = vocabulary.decode(installed.ids(1_000_000)[0][:20_000])
    assert sum(word in said for word in (" the", " return", "self", " is")) == 4


def test_held_out_text_of_the_installed_corpus_is_new_to_training(installed):
    assert installed.about["repeated"]["after"]["13"] < 0.02 < installed.about["repeated"]["before"]["13"]


def test_nothing_of_the_installed_corpus_is_unknown(installed):
    """No token stands for all that is rare: at 8,192 the most frequent one is a word, and bytes are few."""
    table = installed.statistics(8192)
    assert (table.top_id >= 256).all()
    assert (table.bytes < 0.02).all()
    assert (table.spelled > 0.01).all()
    half = installed.statistics(200_000).words_per_token
    assert half["held out"] == pytest.approx(half["training"], rel=0.1)


HARM = {
    "zeroed": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "one bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "garbage": lambda data: b"\x80garbage",
    "missing": None,
}


@pytest.mark.parametrize("name", [*building.KEPT, "train_400.npy", "heldout_400.npy"])
@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_file_of_the_cache_is_made_anew(tmp_path, monkeypatch, name, harm):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    corpus = text.load(str(CHAT), progress=False)
    expected = [part.tolist() for part in corpus.ids(400)]
    path = corpus.folder / name
    before = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(HARM[harm](before))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again = text.load(str(CHAT), progress=False)
        assert [part.tolist() for part in again.ids(400)] == expected
    assert again == corpus
    assert path.read_bytes() == before
    aside = path.with_name(f"{name}.set-aside")
    if harm == "missing":
        assert not told
        assert not aside.exists()
    else:
        assert [str(w.message) for w in told] == [f"{name} is damaged: it is {aside} now, and it is made anew"]
        assert aside.read_bytes() == HARM[harm](before)


def test_ids_without_text_are_drawn_up_to_a_bound(tmp_path, monkeypatch):
    """As for 20,000 examples of 200,000 tokens: what does not fit is cycled, and said."""
    monkeypatch.setattr(corpus_module, "MAX_DRAWN", 5_000)
    examples = text.load("zipf").examples(300, 1_000, 20_000)
    assert len(examples) == 5
    assert examples.counts.sum() == 5_000
    assert examples.caveats(20_000, False) == [
        "corpus='zipf': it has 5 examples of 1000 tokens at V = 300; an epoch of 20,000 goes through them 4000.0 times"
    ]


def test_what_was_not_read_is_said_in_a_line(tmp_path, tiny, here):
    """By `about`, by the corpus, in a training and in a sweep alike."""
    asked = [{"role": "user", "content": paragraph(0)}]
    records = [{"messages": [*asked, {"role": "assistant", "content": paragraph(i)}]} for i in range(1, 80)]
    records = [{**record, "tools": "[find, look up]", "id": "x-1"} for record in records] + [{"messages": asked}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    corpus = text.load(str(tmp_path / "a.jsonl"), progress=False)
    share = 15 * 79 / (corpus.about["characters"] + 15 * 79)
    line = (
        f"80 documents; left out: 1 × conversation without an answer; not read: tools ({share:.0%} of the characters)"
    )
    assert corpus.about["not_read"] == line
    assert corpus.remarks == [f"a.jsonl: {line}"]
    with pytest.warns(UserWarning, match=r"a\.jsonl: 80 documents; left out: .* not read: tools"):
        train(tiny(corpus=str(tmp_path / "a.jsonl"), vocab=400, steps=2))


def test_a_text_cut_into_bytes_is_said(load):
    corpus = load([paragraph(k) for k in range(50)])
    said = corpus.examples(257, 8, 100).caveats(100, evaluate=False)
    assert "% of its tokens at V = 257 are single bytes" in said[0]
    assert corpus.examples(corpus.about["largest_vocab"], 8, 10).caveats(10, evaluate=False) == []


def test_a_text_replaced_by_one_of_its_size_and_time_is_read_anew(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(paragraph(i) for i in range(9)))
    stat, before = path.stat(), text.load(str(path), progress=False)
    path.write_text("\n\n".join(paragraph(i)[::-1] for i in range(9)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert text.load(str(path), progress=False).fingerprint != before.fingerprint


def test_a_name_that_is_not_utf_8_is_refused_before_a_training(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.json")
    with pytest.raises(ValueError, match=r"corpus='.*caf.udce9\.json': its name is not UTF-8"):
        text.load(path)
