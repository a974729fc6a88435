import bz2
import gzip
import json
import lzma
import tarfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from conftest import CHAT

from scta_lab import text
from scta_lab.text import formats
from scta_lab.text.records import documents_of

DIALECTS = Path(__file__).parent / "dialects"
BOILED = "user: How do I boil an egg?\n\nassistant: Put it into boiling water for eight minutes."
AND_TWO = "user: And two eggs?\n\nassistant: The same eight minutes."
SHORTER = """user: Shorten the sentence.

Put it into boiling water for eight minutes.

assistant: Boil it for eight minutes."""


@pytest.mark.parametrize(("name", "documents"), [
    ("answer_beside.json", [BOILED]),
    ("bare_lists.json", [f"{BOILED}\n\n{AND_TWO}", BOILED]),
    ("chosen_messages.jsonl", [BOILED]),
    ("instruction_input_output.json", [BOILED, SHORTER]),
    ("items_key.json", [f"{BOILED}\n\n{AND_TWO}"]),
    ("parts_value.jsonl", [BOILED]),
    ("prompt_completion.jsonl", [BOILED, AND_TWO]),
    ("question_answer.jsonl", [BOILED]),
    ("text_only.jsonl",
     ["How do I boil an egg? Put it into boiling water for eight minutes.", "The same eight minutes."]),
    ("upper_roles.json", [BOILED]),
    ("wrapped_in_data.json", [BOILED]),
])  # fmt: skip
def test_dialects(name, documents):
    left_out = Counter()
    assert list(text.documents(DIALECTS / name, left_out)) == documents
    assert left_out == ({"part of a message that is no text": 1} if name == "parts_value.jsonl" else {})


REMARKS = {"conversation without an answer", "message without a speaker"}  # on what is read
ASKED, ANSWERED = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
BECAUSE = "user: Why?\n\nassistant: So."


@pytest.mark.parametrize(("record", "documents"), [
    ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, [BECAUSE]),
    ({"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [ASKED]}, [BECAUSE]),
    ({"prompt": "Why?", "chosen": [ASKED, ANSWERED], "rejected": [ASKED]}, [BECAUSE]),
    ({"messages": [ASKED, ANSWERED], "chosen": [ASKED, ANSWERED], "rejected": []}, [BECAUSE]),
    ({"chosen": "Human: Why? Assistant: So.", "rejected": "Human: Why?"}, ["Human: Why? Assistant: So."]),
    ({"rejected_messages": [ASKED, ANSWERED], "text": "Only this."}, ["Only this."]),
    ({"system": "Be brief.", "messages": [ASKED, ANSWERED]}, [f"system: Be brief.\n\n{BECAUSE}"]),
    ({"system_prompt": "Be brief.", "question": "Why?", "response": "So."}, [f"system: Be brief.\n\n{BECAUSE}"]),
    ({"system": "Be brief.", "messages": [{"role": "system", "content": "Be long."}, ASKED]},
     ["system: Be long.\n\nuser: Why?"]),
    ({"instruction": "Why?", "context": "", "response": "So.", "category": "qa"}, [BECAUSE]),
    ({"instruction": "Why?", "input": "", "output": "So.", "text": "Below is an instruction …"}, [BECAUSE]),
    ({"input": "Why?", "output": "So."}, [BECAUSE]),
    ({"data": ["Why?", "So."], "id": "3"}, [BECAUSE]),
    ({"dialog": ["Why?", "So."]}, [BECAUSE]),
    ({"log": [{"speaker": "USER", "text": "Why?"}, {"speaker": "Bot", "text": "So."}]}, [BECAUSE]),
    ({"question": "Why?", "candidates": [{"text": "wrong"}, {"text": "wrong too"}]}, []),
    ({"info": {"post": "P"}, "summaries": [{"text": "bad"}, {"text": "good"}], "choice": 1}, []),
    ({"conversation_a": [ASKED, ANSWERED], "conversation_b": [ASKED], "winner": "model_a"}, []),
    ({"user": "bob", "text": "a long message", "target": 1}, ["a long message"]),
    ({"input": {"messages": [ASKED]}, "preferred_output": [ANSWERED], "non_preferred_output": [ASKED]}, [BECAUSE]),
    ({"prompt": [ASKED], "chosen": [ANSWERED, ASKED, ANSWERED]}, [f"{BECAUSE}\n\n{BECAUSE}"]),
    ({"prompt": [ASKED], "completion": [ANSWERED], "label": False}, []),
    ({"messages": [ASKED, ANSWERED], "kto_tag": "false"}, []),
    ({"text": "a review", "label": 0}, ["a review"]),
    ({"instruction": "Why?", "output": {"a": 1}, "response": "So."}, [BECAUSE]),
    ({"question": "Why?", "answer": ["So.", "Hence."]}, [BECAUSE]),
    ({"instruction": "Why?", "output": "So.", "history": [["Why?", "So."]]}, [f"{BECAUSE}\n\n{BECAUSE}"]),
    ({"content": "def f(x):\n    return x", "path": "f.py"}, ["def f(x):\n    return x"]),
    ([{"messages": [ASKED, ANSWERED]}], [BECAUSE]),
    ([[[{"text": "too deep"}]]], []),
    ({"messages": [{"role": "tool", "content": "7"}]}, ["tool: 7"]),
    ({"id": 1, "tags": ["a"], "sizes": [{"w": 1}], "more": [{"h": 1}]}, []),
    ({"text": "  "}, []),
    ({"prompt": [ASKED], "completion": [ANSWERED]}, [BECAUSE]),
    ({"prompt": "Why?", "chosen": ["So."]}, [BECAUSE]),
    ({"messages": [ASKED], "chosen": {"text": "So."}}, [BECAUSE]),
    ({"prompt": "Why?", "completion": "So.", "label": True}, [BECAUSE]),
    ({"prompt": "Why?", "completion": "So.", "label": False}, []),
    ({"dispreferred": [ASKED, ANSWERED], "text": "T"}, ["T"]),
    ({"non_preferred_output": [ANSWERED], "preferred_output": [ANSWERED], "prompt": "Why?"}, [BECAUSE]),
    ({"authors": [{"role": "editor", "name": "Bob"}], "text": "T"}, ["T"]),
    ({"annotators": [{"role": "editor", "text": "x"}], "instruction": "Why?", "output": "So."}, [BECAUSE]),
    ({"edges": [{"from": "a", "to": "b"}], "text": "T"}, ["T"]),
    ({"links": [{"from": "x", "to": "y", "text": "label"}], "question": "Why?", "answer": "So."}, [BECAUSE]),
    ({"text": "T", "data": ["x", "y"]}, ["T"]),
    ({"messages": [{"role": "user", "content": "x"}], "text": "T"}, ["user: x"]),
    ({"instruction": "Add.", "question": "2+2", "answer": 4}, ["user: Add.\n\n2+2\n\nassistant: 4"]),
    ({"definition": "Why?", "inputs": "", "targets": "So."}, [BECAUSE]),
    ({"Instruction": "Why?", "Output": "So."}, [BECAUSE]),
    ({"messages": [{"role": "", "content": "x"}]}, ["x"]),
    ({"turns": [{"speaker": "USER", "utterance": "Why?"}]}, ["user: Why?"]),
])  # fmt: skip
def test_records(tmp_path, record, documents):
    lines = [json.dumps(record), json.dumps({"text": "The last one."})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    left_out = Counter()
    assert list(text.documents(tmp_path / "a.jsonl", left_out)) == [*documents, "The last one."]
    assert bool(set(left_out) - REMARKS) is not bool(documents)


CALL = {"function": {"name": "find", "arguments": '{"a": 1}'}}
TURN = [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "7"}, ANSWERED]
CALLED = 'user: Why?\n\nassistant: find {"a": 1}\n\ntool: 7\n\nassistant: So.'
USED = [{"type": "text", "text": "Look."}, {"type": "tool_use", "id": "t", "name": "find", "input": {"a": 1}}]
TOLD = [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "7"}]}]
LOOK, FIND = {"text": "Look."}, {"name": "find"}
REPLIES = [{"text": "No.", "role": "assistant", "rank": 1}, {"text": "So.", "role": "assistant", "rank": 0}]


@pytest.mark.parametrize(("record", "document"), [
    # the preferred answer wins over every other
    ({"instruction": "Why?", "output": "No.", "rejected": "No.", "chosen": "So."}, BECAUSE),
    ({"prompt": "Why?", "completion": "No.", "chosen": "So.", "rejected": "No."}, BECAUSE),
    ({"messages": [ASKED, {"role": "assistant", "content": "No."}], "chosen": ANSWERED, "rejected": "No."}, BECAUSE),
    ({"question": "Why?", "output": "No.", "rejected_answer": "No.", "chosen_answer": "So."}, BECAUSE),
    ({"question": "Why?", "output": "No.", "rejected": "No.", "answer": "So."}, BECAUSE),
    ({"text": "Rejected.", "chosen": "Human: Why?", "rejected": "Rejected."}, "Human: Why?"),
    ({"messages": [ASKED, ANSWERED], "chosen": "model_a"}, BECAUSE),
    # what the system is told, as blocks or as a block
    ({"system": [{"text": "Be brief."}], "messages": [ASKED, ANSWERED]}, f"system: Be brief.\n\n{BECAUSE}"),
    ({"system": {"content": "Be brief."}, "messages": [ASKED, ANSWERED]}, f"system: Be brief.\n\n{BECAUSE}"),
    ({"systemInstruction": {"parts": [{"text": "Be brief."}]}, "messages": [ASKED, ANSWERED]},
     f"system: Be brief.\n\n{BECAUSE}"),
    # of replies the best
    ({"text": "Why?", "role": "prompter", "replies": REPLIES}, BECAUSE),
    ({"prompt": {"text": "Why?", "role": "prompter", "replies": REPLIES}}, BECAUSE),
    ({"text": "Why?", "replies": 3}, "Why?"),
    # pairs as objects
    ({"system": "Be brief.", "conversation": [{"human": "Why?", "assistant": "So."}]},
     f"system: Be brief.\n\n{BECAUSE}"),
    ({"conversation": [{"system": "Be brief.", "input": "Why?", "output": "So."}]},
     f"system: Be brief.\n\n{BECAUSE}"),
    ({"conversations": [["Why?", "So."], ["Why?", "So."]]}, f"{BECAUSE}\n\n{BECAUSE}"),
    # an agent named SYSTEM
    ({"turns": [{"speaker": "USER", "utterance": "Why?"}, {"speaker": "SYSTEM", "utterance": "So."}]}, BECAUSE),
    ({"messages": [{"role": "system", "content": "Be brief."}, ASKED, {"role": "system", "content": "So."}]},
     f"system: Be brief.\n\n{BECAUSE}"),
    # what was said before
    ({"instruction": "Why?", "output": "So.", "history": [ASKED, ANSWERED]}, f"{BECAUSE}\n\n{BECAUSE}"),
    ({"instruction": "Why?", "output": "So.", "history": ["Why?", "So."]}, f"{BECAUSE}\n\n{BECAUSE}"),
    # tools
    ({"messages": TURN}, CALLED),
    ({"messages": [ASKED, {"role": "assistant", "function_call": CALL["function"]}]},
     'user: Why?\n\nassistant: find {"a": 1}'),
    ({"messages": [ASKED, {"role": "assistant", "content": USED}, {"role": "user", "content": TOLD}]},
     'user: Why?\n\nassistant: Look.\nfind {"a": 1}\n\nuser: 7'),
    # the answer of a reference
    ({"messages": [ASKED, {"role": "assistant", "content": [LOOK, {"toolUse": FIND | {"input": {"a": 1}}}]},
                   {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [{"text": "7"}]}}]}]},
     'user: Why?\n\nassistant: Look.\nfind {"a": 1}\n\nuser: 7'),
    ({"contents": [{"role": "user", "parts": [{"text": "Why?"}]},
                   {"role": "model", "parts": [LOOK, {"functionCall": FIND | {"args": {"a": 1}}}]},
                   {"role": "user", "parts": [{"functionResponse": FIND | {"response": {"b": 7}}}]}]},
     'user: Why?\n\nassistant: Look.\nfind {"a": 1}\n\nuser: find {"b": 7}'),
    ({"messages": [ASKED, {"role": "assistant", "tool_calls": [{"type": "custom", "custom": FIND | {"input": "a"}}]}]},
     "user: Why?\n\nassistant: find a"),
    # a user's questions, with as many answers
    ({"turns": ["Why?", "And now?"], "reference": ["So.", "Still."]},
     f"{BECAUSE}\n\nuser: And now?\n\nassistant: Still."),
    ({"turns": ["Why?"], "reference_answer": "So."}, BECAUSE),
    ({"messages": [ASKED], "reference_answer": "So.", "ground_truth": "7"}, BECAUSE),
    # speakers
    ({"messages": [{"sender_name": "Ann", "content": "Hi", "timestamp_ms": 2},
                   {"sender_name": "Bob", "content": "Hey", "timestamp_ms": 1}]}, "Bob: Hey\n\nAnn: Hi"),
    ({"dialog": [{"speaker_id": 0, "text": "Hi"}, {"author": {"role": "assistant"}, "text": "Hey"}]},
     "speaker 0: Hi\n\nassistant: Hey"),
    ({"contents": [{"role": "user", "parts": [{"text": "Why?"}]}, {"role": "model", "parts": [{"text": "So."}]}]},
     BECAUSE),
    # pieces of a line
    ({"messages": [{"from": "Ann", "text": ["Look at ", {"type": "link", "text": "it.org"}, " now"]}]},
     "Ann: Look at it.org now"),
    # labels of a class
    ({"text": "T", "label": False}, "T"),
    ({"question": "Why?", "answer": "So.", "label": "FALSE"}, BECAUSE),
    # HTML's buttons
    ({"messages": [{"from": "gpt", "value": "<div><span>c</span><button>Copy code</button>int i;</div>"}]},
     "assistant: int i;"),
])  # fmt: skip
def test_nothing_is_lost_or_taken_for_another(record, document):
    left_out = Counter()
    assert list(documents_of(record, left_out)) == [document]
    assert not left_out


@pytest.mark.parametrize(("record", "document", "reason"), [
    ({"messages": [ASKED]}, "user: Why?", "conversation without an answer"),
    ({"messages": [{"content": "Hi"}]}, "Hi", "message without a speaker"),
    ({"turns": ["Why?", "And now?"]}, "user: Why?\n\nuser: And now?", "conversation without an answer"),
    ({"messages": [ASKED, ANSWERED, ANSWERED]}, f"{BECAUSE}\n\nassistant: So.",
     "conversation with an answer after an answer"),
    ({"type": "message", "user": "U1", "text": "Hi", "ts": "1.2"}, "Hi",
     "message that is a record, without its conversation"),
    ({"author": "ann", "body": "Hi", "parent_id": "t3_a"}, "Hi", "message that is a record, without its conversation"),
    ({"text": " = Title = \n"}, "= Title =", "line of a text that is a record, without the others"),
    ({"role": "prompter", "text": "Why?"}, "Why?", "message that is a record, without its conversation"),
    ({"messages": [{"role": "system", "content": "Be brief."}]}, None, "record without a message"),
    ({"prompt": "Why?", "completion": float("nan")}, None, "record without a conversation, an answer or a text"),
    ({"prompt": "Why?", "chosen": 0, "rejected": 1}, None, "record without a conversation, an answer or a text"),
    ({"completion": "So.", "prompt": "Why?", "label": "False"}, None, "record whose answer is labelled a bad one"),
])  # fmt: skip
def test_what_a_record_lacks_is_counted(record, document, reason):
    left_out = Counter()
    assert list(documents_of(record, left_out)) == ([document] if document else [])
    assert left_out == {reason: 1}


@pytest.mark.parametrize(("record", "unread"), [
    ({"messages": [ASKED, ANSWERED], "tools": "[find, look up]"}, {"tools": 15}),
    ({"messages": [ASKED, ANSWERED | {"reasoning_content": "Hmm, well."}]}, {"messages.reasoning_content": 10}),
    ({"question": "Why?", "choices": ["As it is", "So."], "answer": 1}, {"choices": 11}),
    ({"prompt": [ASKED], "extra_info": {"answer": "Twenty."}}, {"extra_info.answer": 7}),
    ({"messages": [ASKED, ANSWERED], "id": "x-7", "rejected": "No."}, {}),
    ({"text": "Why?", "replies": [{"text": "So."}, {"text": "No, no."}]}, {"replies.text": 7}),
    ({"Title": "Of it all", "lines": 3}, {"title": 9, "lines": 0}),
    ({"text": "T", "a\nb\x1b[31m": "Red, and more"}, {r"a\nb\x1b[31m": 13}),
    ({"messages": [{"role": "user", "content": [{"json": {"a": "Some more"}}]}, ANSWERED]},
     {"messages.content.json.a": 9}),
])  # fmt: skip
def test_what_no_rule_reads_is_counted_by_its_key(record, unread):
    found = Counter()
    list(documents_of(record, Counter(), found))
    assert found == unread


def test_what_stands_beside_a_list_of_records_is_counted():
    found = Counter()
    whole = {"Definition": "Say why.", "Instances": [{"input": "Why?", "output": "So."}]}
    assert list(documents_of(whole, Counter(), found, alone=True)) == [BECAUSE]
    assert found == {"definition": 8}


def test_sharegpt_reads_what_real_files_hold():
    left_out = Counter()
    documents = list(text.documents(CHAT, left_out))
    assert left_out == {
        "record without a conversation, an answer or a text": 3,  # an empty one, one without the key, a string
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
    ({"from": "Human", "value": "any case"}, "user: any case"),
    ({"role": "user", "content": ["a", {"type": "output_text", "content": "b"}, {"image": "c"}]}, "user: a\nb"),
    ({"from": "gpt", "value": "<ul><li>one</li><li>two</li></ul>a &lt; b<br>c"}, "assistant: one\n\ntwo\n\na < b\nc"),
    ({"from": "gpt", "value": "if a<b && c>d: Map<b> x"}, "assistant: if a<b && c>d: Map<b> x"),
])  # fmt: skip
def test_dialects_of_turns(tmp_path, turn, document):
    (tmp_path / "chat.json").write_text(json.dumps([{"messages": [turn]}]))
    assert list(text.documents(tmp_path / "chat.json")) == [document]


def test_sharegpt_lines_and_gzip_give_the_same_documents(tmp_path):
    records = json.loads(CHAT.read_text(encoding="utf-8"))
    lines = "\n".join(json.dumps(r) for r in records if isinstance(r, dict)) + "\nnot json\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(CHAT.read_bytes()))
    expected, left_out = list(text.documents(CHAT)), Counter()
    assert list(text.documents(tmp_path / "a.jsonl", left_out)) == expected
    assert left_out["line that is not a JSON object"] == 1
    assert list(text.documents(tmp_path / "a.json.gz")) == expected


PACKED = gzip.compress(CHAT.read_bytes(), mtime=0)  # a time would be in names of tests, in which processes must agree


@pytest.mark.parametrize(("content", "message"), [
    (b"", "the file is empty"),
    (b"  \n", "the file is empty"),
    (b"hello, world", "neither JSON"),
    (b'[{"id": 1}', "no JSON after 1 records of its list"),
    (b"[]", "no usable record .no records"),
    (b'[{"conversations": [{"from": "human", "value": ""}]}]', "no usable record .1 × empty message"),
    (b'{"a": 1}', "no usable record"),
    (b"3", "neither JSON nor JSON lines of records, or cut off; expected .*begins '3'"),
    (b'[{"text": "one"}, {"text": ' + b"[" * 100_000, "no JSON after 1 records"),
    (b'{"text": ' + b"[" * 100_000, "neither JSON nor JSON lines"),
    (b'{"n": ' + b"9" * 5000 + b"}", "neither JSON nor JSON lines"),
    (b"\x1f\x8b broken", "a broken gzip file"),
    (b'[{"text": "one"}, {"text": oops}, {"text": "three"}]', "no JSON after 1 records"),
    (PACKED[:-50], "a broken gzip file"),
    (PACKED[:200] + bytes(100), "a broken gzip file"),
    ('{"text": "é"}'.encode("latin-1"), "not UTF-8, for it holds the byte 0xe9"),
    ('{"text": "é"}'.encode("utf-32")[:-1], "not UTF-32"),
    ('{"text": "é"}'.encode("utf-16")[:-1], "not UTF-16"),
    (bz2.compress(b"{}"), "not UTF-8|neither JSON"),
    (b'[{"conversations": [{"from": "human", "value": "only one"}]}]', "1 document"),
])  # fmt: skip
def test_corpus_files_that_cannot_serve(tmp_path, content, message):
    path = tmp_path / "chat.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        text.load(str(path), progress=False)
    assert "corpus=" in str(error.value)
    assert "\n" not in str(error.value)


RECORDS = [{"messages": [{"role": "assistant", "content": f"Number {i}, “ü”"}]} for i in range(40)]
NUMBERS = [f"assistant: Number {i}, “ü”" for i in range(40)]
LINES = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("written", [
    json.dumps(RECORDS), json.dumps(RECORDS, indent=2, ensure_ascii=False), " \n[" + LINES.replace("\n", ",\n") + "]\n",
    LINES, LINES.replace("\n", "\n\n"), LINES.replace("\n", "\r\n"), json.dumps({"version": 1, "data": RECORDS}),
    json.dumps({"data": RECORDS}, indent=1), json.dumps([r["messages"] for r in RECORDS]),
    "\n".join(json.dumps(r["messages"]) for r in RECORDS), f"[{json.dumps(RECORDS[0])}]\n" + LINES.partition("\n")[2],
])  # fmt: skip
def test_lists_and_lines_however_they_are_written(tmp_path, monkeypatch, written, chunk):
    monkeypatch.setattr(formats, "_CHUNK", chunk)
    (tmp_path / "a.json").write_text(written, encoding="utf-8")
    left_out = Counter()
    assert list(text.documents(tmp_path / "a.json", left_out)) == NUMBERS
    assert not left_out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path, encoding):
    for name, content in {"a.jsonl": LINES, "a.txt": "\n\n".join(NUMBERS)}.items():
        (tmp_path / name).write_bytes(content.encode(encoding))
        assert list(text.documents(tmp_path / name)) == NUMBERS


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_encodings_without_a_mark_whatever_the_first_letter(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("Язык and English.\n\nMore.".encode(encoding))
    assert list(text.documents(tmp_path / "a.txt")) == ["Язык and English.", "More."]


@pytest.mark.parametrize("bad", [b"not json", b"[" * 5000, b'{"n": ' + b"9" * 5000 + b"}", b'"text"', b"3"])
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_line_costs_that_line(tmp_path, bad, first):
    lines = LINES.encode().split(b"\n")
    lines.insert(0 if first else 7, bad)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    left_out = Counter()
    assert list(text.documents(tmp_path / "a.jsonl", left_out)) == NUMBERS
    assert left_out == {"line that is not a JSON object": 1}


def test_files_are_read_no_further_than_documents_are_asked_for(tmp_path):
    """What follows the first megabyte is broken, and not met."""
    filler = json.dumps({"text": "x" * 1000})
    for name, start in (("list.json", f"[{filler},"), ("lines.jsonl", f"{filler}\n")):
        (tmp_path / name).write_bytes(
            start.encode() + (filler + ("," if "[" in start else "\n")).encode() * 3000 + b"\xff"
        )
        documents = text.documents(tmp_path / name)
        assert all(len(next(documents)) == 1000 for _ in range(100))
        with pytest.raises(ValueError, match="not UTF-8"):
            list(documents)


def test_plain_text(tmp_path):
    (tmp_path / "one.txt").write_text("\n\n  first\nof two lines\n\n \nsecond\r\n\r\nthird")
    assert list(text.documents(tmp_path / "one.txt")) == ["first\nof two lines", "second", "third"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "two.MD").write_text("a\n\nb")
    (tmp_path / "sub" / "three.jsonl").write_text(LINES)
    (tmp_path / "sub" / "picture.png").write_bytes(b"\x89PNG")
    documents = list(text.documents(tmp_path))  # of several text files each is one document
    assert documents[1:] == [*NUMBERS, "a\n\nb"]
    assert documents[0].split() == "first of two lines second third".split()
    (tmp_path / "no name").write_text("any other file is text too\n\nif it is no JSON")
    assert len(list(text.documents(tmp_path / "no name"))) == 2


def test_a_folder_without_text(tmp_path):
    with pytest.raises(ValueError, match=r"no file to read; expected one of \.json, .*\.parquet"):
        list(text.documents(tmp_path))


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason='the extra "parquet" is not installed')
    pd.DataFrame({"messages": [record["messages"] for record in RECORDS], "n": range(40)}).to_parquet(
        tmp_path / "a.parquet"
    )
    pd.DataFrame({"text": ["one", None, "two"]}).to_parquet(tmp_path / "b.parquet")
    left_out = Counter()
    assert list(text.documents(tmp_path, left_out)) == [*NUMBERS, "one", "two"]
    assert left_out == {"record without a conversation, an answer or a text": 1}
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"corpus='.*a\.parquet': not Parquet"):
        list(text.documents(tmp_path / "a.parquet"))
    assert list(text.documents(tmp_path, left_out)) == ["one", "two"]
    assert left_out["file that could not be read to its end"] == 1


@pytest.mark.parametrize(("suffix", "sep"), [("csv", ","), ("tsv", "\t")])
def test_tables(tmp_path, suffix, sep):
    rows = pd.DataFrame(
        {"instruction": ["Why?", "When,\n\nif ever?"], "input": ["", "NA"], "output": ["So.", 'He said "now".']}
    )
    rows.to_csv(tmp_path / f"a.{suffix}", sep=sep, index=False)
    expected = [BECAUSE, 'user: When,\n\nif ever?\n\nNA\n\nassistant: He said "now".']
    assert list(text.documents(tmp_path / f"a.{suffix}")) == expected
    (tmp_path / f"b.{suffix}").write_text(f"text{sep}n\na{sep}1{sep}2{sep}3\nb{sep}{sep}{sep}{sep}{sep}{sep}")
    left_out = Counter()
    assert list(text.documents(tmp_path / f"b.{suffix}", left_out)) == ["b"]
    assert left_out == {"row that is wider than its table's header": 1}
    (tmp_path / f"b.{suffix}").write_text(f"text{sep}n\na{sep}1{sep}2{sep}3\n")
    with pytest.raises(ValueError, match=r"no usable record .1 × row that is wider"):
        list(text.documents(tmp_path / f"b.{suffix}"))


def test_a_folder_is_read_past_what_is_bad_or_hidden(tmp_path):
    for name, content in {
        "a.jsonl": LINES,
        "b.txt": "",
        "c.json": "3",
        "._d.json": LINES,
        ".git/e.json": LINES,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    left_out = Counter()
    assert list(text.documents(tmp_path, left_out)) == NUMBERS
    assert left_out["file that could not be read to its end"] == 2


@pytest.mark.parametrize("name", ["a.xlsx", "a.pdf", "a.jsonl.bz2"])
def test_kinds_of_files_that_are_not_read(tmp_path, name):
    (tmp_path / name).write_text(LINES)
    with pytest.raises(ValueError, match=r"no kind of file that is read; expected one of \.json, .*\.csv"):
        list(text.documents(tmp_path / name))
    with pytest.raises(ValueError, match="no kind of file"):
        text.load(str(tmp_path / name))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"needs pyarrow: pip install 'scta_lite\[parquet\]'"):
        list(text.documents(tmp_path / "a.parquet"))


def test_the_old_name_still_reads():
    assert list(text.sharegpt(CHAT)) == list(text.documents(CHAT))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(("whole", "documents"), [
    ({"batch": [{"messages": [ASKED, ANSWERED]}, {"text": "And this."}]}, [BECAUSE, "And this."]),
    ({"train": [{"text": "a"}], "test": [{"text": "b"}]}, ["a", "b"]),
    ({"version": 1, "data": [[ASKED, ANSWERED], [ASKED, ANSWERED]]}, [BECAUSE, BECAUSE]),
    ({"log": [{"speaker_id": 0, "text": "Hi"}]}, ["speaker 0: Hi"]),
])  # fmt: skip
def test_lists_of_records_in_an_object_that_is_alone(tmp_path, whole, documents, indent):
    (tmp_path / "a.json").write_text(json.dumps(whole, indent=indent))
    assert list(text.documents(tmp_path / "a.json")) == documents


def test_of_two_conversations_alone_in_a_file_none_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"conversation_a": [ASKED, ANSWERED], "conversation_b": [ASKED]}))
    with pytest.raises(ValueError, match=r"its keys: conversation_a\.content, "):
        list(text.documents(tmp_path / "a.json"))


def test_rows_that_end_in_a_comma(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nhello,1,\nbye,2,\n")
    assert list(text.documents(tmp_path / "a.csv")) == ["hello", "bye"]


def test_flat_records_with_a_role_are_records(tmp_path):
    """Messages that are no conversation, each a record: in a list as in lines."""
    records = [{"message_id": str(i), "role": "prompter", "text": f"message {i}"} for i in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    for name in ("a.json", "a.jsonl"):
        assert list(text.documents(tmp_path / name)) == ["message 0", "message 1", "message 2"]


def test_small_faults_of_json_are_read_over(tmp_path):
    (tmp_path / "tabs.json").write_text('[{"text": "a\tb"},{"text": "c\nd"},] and more')
    (tmp_path / "commas.jsonl").write_text('{"text": "a\tb"},\n{"text": "c"},\n')
    left_out = Counter()
    assert list(text.documents(tmp_path / "tabs.json", left_out)) == ["a\tb", "c\nd"]
    assert left_out == {"text after the end of the list": 1}
    assert list(text.documents(tmp_path / "commas.jsonl")) == ["a\tb", "c"]


def test_a_bad_record_of_a_list_is_told_before_the_rest_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"text": "one"},{"text": oops},' + b'{"text": "x"},' * 200_000 + b"\xff")
    with pytest.raises(ValueError, match="no JSON after 1 records"):
        list(text.documents(tmp_path / "a.json"))


def test_half_a_character_is_mended(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud83d b"}')
    left_out = Counter()
    assert list(text.documents(tmp_path / "a.jsonl", left_out)) == ["a? b"]
    assert left_out == {"document with half a character, now ?": 1}


SHUT = "shut " * 49 + "shut"
QUOTED = ['"Good film, bad sound', "I liked it", 'So he said: "no"', '"Fine" is the word', 'A 5" pipe', "Last one"]


def test_quotes_that_do_not_close_are_letters(tmp_path):
    rows = "\n".join(f"{i}\t{said}\t{i % 2}" for i, said in enumerate(QUOTED))
    (tmp_path / "a.tsv").write_text(f"id\ttext\tlabel\n{rows}\n")
    assert list(text.documents(tmp_path / "a.tsv")) == QUOTED
    open_ones = "\n".join(f'{i},"open' for i in range(3))
    (tmp_path / "a.csv").write_text(f'n,text\n{open_ones}\n4,"closed, and\nlong"\n')
    assert list(text.documents(tmp_path / "a.csv")) == ['"open'] * 3 + ["closed, and\nlong"]
    (tmp_path / "b.csv").write_text('n,text\n1,"open\n' + f"2,{SHUT}\n" * 6000)
    assert Counter(text.documents(tmp_path / "b.csv")) == {'"open': 1, SHUT: 6000}


def test_a_table_of_one_column_has_commas_in_it(tmp_path):
    (tmp_path / "a.csv").write_text('text\nHello, world and all.\n"Quoted, too."\n\nGoodbye, world.\n')
    assert list(text.documents(tmp_path / "a.csv")) == ["Hello, world and all.", "Quoted, too.", "Goodbye, world."]
    (tmp_path / "b.csv").write_text("id,text\n1,Hello, world.\n2,Goodbye\n")
    left_out = Counter()
    assert list(text.documents(tmp_path / "b.csv", left_out)) == ["Goodbye"]
    assert left_out == {"row that is wider than its table's header": 1}


def test_the_end_of_a_text_parts_documents_where_it_is_used(tmp_path):
    stories = "A cat.\n\nIt ran.\n<|endoftext|>\nA dog.\n\nIt sat.<|endoftext|>A cow.\n<|endoftext|>\n"
    (tmp_path / "a.txt").write_text(stories)
    assert list(text.documents(tmp_path / "a.txt")) == ["A cat.\n\nIt ran.", "A dog.\n\nIt sat.", "A cow."]
    (tmp_path / "b.txt").write_text("Another\n\nfile.")
    assert list(text.documents(tmp_path))[2:] == ["A cow.", "Another\n\nfile."]


def test_articles_of_wikitext_are_documents(tmp_path):
    first = " = Du Fu = \n \n Du Fu wrote 1 @,@ 400 works . \n \n = = Life = = \n \n He was <unk> . \n \n"
    (tmp_path / "a.txt").write_text(f" \n{first} = Li Bai = \n \n So did he . \n")
    assert list(text.documents(tmp_path / "a.txt")) == [first.strip("\n").lstrip(), " = Li Bai = \n \n So did he . "]
    (tmp_path / "a.txt").write_text("= =\n\none\n\n = Du Fu = \n")
    assert list(text.documents(tmp_path / "a.txt")) == ["= =", "one", " = Du Fu = "]


@pytest.mark.parametrize("packed", [lzma.compress(b"a text"), b"PK\3\4" + bytes(40) + b"a text", bytes(4096)])
def test_bytes_that_are_no_text_are_refused(tmp_path, packed):
    (tmp_path / "a.txt").write_bytes(packed)
    with pytest.raises(ValueError, match=r"bytes that are no text; expected text"):
        list(text.documents(tmp_path / "a.txt"))


def test_a_folder_of_a_data_set(tmp_path):
    """The card is no text, and what is to test on is not trained on."""
    for name in ("train-00000-of-00001", "test-00000-of-00001", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Card")
    (tmp_path / "latest.jsonl").write_text(json.dumps({"text": "latest"}))
    left_out = Counter()
    assert list(text.documents(tmp_path, left_out)) == ["latest", "train-00000-of-00001"]
    assert left_out == {"card of a data set": 1, "file of a split that is not for training": 2}
    (tmp_path / "train-00000-of-00001.jsonl").unlink()
    (tmp_path / "README.md").write_text("My own notes.\n\nMore.")
    assert list(text.documents(tmp_path)) == ["My own notes.", "More.", "latest", "test-00000-of-00001", "validation"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_what_only_stands_for_a_text_is_refused(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")
    with pytest.raises(ValueError, match=r"a pointer of Git LFS; .*git lfs pull"):
        list(text.documents(tmp_path / name))
    (tmp_path / "in.txt").write_text("a text")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "in.txt")
    (tmp_path / "a.tar.gz").rename(tmp_path / f"{name}.gz")
    with pytest.raises(ValueError, match="a tar archive"):
        list(text.documents(tmp_path / f"{name}.gz"))


LONG = "x" * 3_000_000


@pytest.mark.parametrize(("kind", "written"), [
    ("txt", LONG), ("txt", "x y\n" * 800_000), ("csv", f"text\n{LONG}"), ("tsv", f'text\tn\n"{LONG}'), ("json", LONG),
    ("json", f'{{"text": "{LONG}"}}'), ("json", f'[{{"text": "{LONG}"}}]'),
    ("jsonl", f'{{"text": "a"}}\n{{"text": "{LONG}"}}'), ("json", f'[{{"text": "a"}}, {{"text": "{LONG}"}}]'),
], ids=range(9))  # fmt: skip
def test_a_record_without_end_is_refused_before_it_fills_the_memory(tmp_path, kind, written):
    (tmp_path / f"a.{kind}.gz").write_bytes(gzip.compress(written.encode()))
    with pytest.raises(ValueError, match=r"a record of more than 1,048,576 characters; .*max_characters"):
        list(text.documents(tmp_path / f"a.{kind}.gz", longest=1000))


@pytest.mark.parametrize(("cells", "message"), [
    ([LONG * 2] * 2, r"records of \d,\d+,\d+ bytes; expected at most max_characters=1,048,576"),
    ([LONG] * 64, r"a document of 3,000,000 characters"),
])  # fmt: skip
def test_no_more_of_a_table_is_read_than_may_be_asked_for(tmp_path, cells, message):
    """Parquet keeps equal cells once: a file of some KB may be of any length."""
    arrow = pytest.importorskip("pyarrow", reason='the extra "parquet" is not installed')
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": cells}), tmp_path / "a.parquet", use_dictionary=len(cells) > 2)
    usual = arrow.default_memory_pool()
    pool = arrow.proxy_memory_pool(usual)
    arrow.set_memory_pool(pool)
    try:
        with pytest.raises(ValueError, match=message):
            list(text.documents(tmp_path / "a.parquet", longest=1000))
    finally:
        arrow.set_memory_pool(usual)
    assert pool.max_memory() < 5 * len(LONG)


def test_a_document_longer_than_max_characters_is_refused_with_its_size(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "words" * n}) for n in (5, 300)))
    with pytest.raises(ValueError, match=r"a document of 1,500 characters; expected at most max_characters=1,000"):
        text.load(str(tmp_path / "a.jsonl"), max_characters=1000, progress=False)


def test_a_refusal_names_what_was_found(tmp_path):
    (tmp_path / "a.csv").write_text("Frage;Antwort\n")
    (tmp_path / "b.csv").write_text("Q,A\nWhy?,So.\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({"title": "Why?", "lines": [1]}))
    with pytest.raises(ValueError, match=r"its keys: q, a\)"):
        list(text.documents(tmp_path / "b.csv"))
    with pytest.raises(ValueError, match=r"its keys: title, lines\)"):
        list(text.documents(tmp_path / "c.jsonl"))
