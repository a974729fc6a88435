"""What one record of a data set says: conversations, instructions with their answers, plain text, by rule.

Three questions, in this order. Where are the turns: a list of objects that say who speaks? Else, is there a question
and an answer to it? Else, is there a text? A preferred answer that stands beside the turns belongs to them; what is
called rejected is not read. A document is "role: message", blank line, …, or the text.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

# Where people put things, in small letters; the first that is there counts.
TURNS = ("conversations", "messages", "conversation", "dialogue", "dialog", "turns")
ROLE = ("from", "role", "speaker")
TEXT = ("value", "content", "text", "utterance")
SYSTEM = ("system", "system_prompt")
QUESTION = ("definition", "instruction", "prompt", "question", "query", "problem", "input", "inputs")
CONTEXT = ("input", "inputs", "context", "question")  # what a question or an instruction is about
ANSWER = ("output", "completion", "response", "answer", "solution", "target", "targets")
PREFERRED = ("chosen", "chosen_messages", "chosen_response", "preferred_output")
REJECTED = ("rejected", "dispreferred", "non_preferred", "losing", "bad_")  # how the names begin of what is not read
PLAIN = ("text", "content", "document", "body", "chosen")
_SPEAKERS = {"user": ("user", "human", "prompter"),
             "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"),
             "system": ("system",)}  # fmt: skip
_ROLES = {name: role for role, names in _SPEAKERS.items() for name in names}
# Some messages are HTML as a whole; in others < and > are code, and stay.
_HTML = re.compile(r"<(div|p|ul|ol|pre|table|h[1-6]|span)\b[^<>]*>")
_BLOCKS = re.compile(r"</?(?:div|p|pre|br|hr|ul|ol|li|h[1-6]|table|tbody|thead|tr|blockquote)\b[^<>]*>")
_TAGS = re.compile(r"</?[a-z][a-z0-9]*\b[^<>]*>")


def documents_of(record: Any, left_out: Counter, *, alone: bool = False) -> Iterator[str]:
    """The document of a record; `left_out` counts what was skipped, and why.

    A list may be one of records. So may the lists in a record that is `alone` in its file, {"version": 1, "data": […]}.

    >>> list(documents_of({"prompt": "How do I boil an egg?", "completion": "In water."}, Counter()))
    ['user: How do I boil an egg?\\n\\nassistant: In water.']
    """
    if isinstance(record, dict):
        record = {key.lower(): value for key, value in record.items() if not key.lower().startswith(REJECTED)}
    turns, lists = _conversation(record), _lists(record)
    if isinstance(record, dict) and str(record.get("label", record.get("kto_tag"))).lower() == "false":
        left_out["record whose answer is labelled a bad one"] += 1
    elif document := next(filter(None, _readings(record, turns, lists, left_out)), None):
        yield document
    elif turns:
        left_out["record without a message"] += 1
    elif lists and (alone or isinstance(record, list)):
        for item in (item for records in lists for item in records):
            if isinstance(item, list) and not _has_turns(item):  # lists within lists, however deep, are no records
                left_out["record without a conversation, an answer or a text"] += 1
            else:
                yield from documents_of(item, left_out)
    else:
        left_out["record without a conversation, an answer or a text"] += 1


def _readings(record: Any, turns: list | None, lists: list[list], left_out: Counter) -> Iterator[str | None]:
    """What the record says, read in one way after the other."""
    yield _said(turns, left_out)
    yield _said(_asked_and_answered(record), left_out)
    yield _string(record, PLAIN)
    others = [found for found in lists if _has_turns(found)]
    if turns is None and len(others) == 1:  # of two nobody knows which is the right one
        yield _said(others[0], left_out)


def _conversation(record: Any) -> list | None:
    """The turns of a record that has them where turns are; if the last is a question, with the answer beside them."""
    if isinstance(record, list):
        return record if _has_turns(record) else None
    if not isinstance(record, dict):
        return None
    lists = [record[key] for key in TURNS if isinstance(record.get(key), list) and record[key]]
    asked = [value.get("messages") if isinstance(value, dict) else value for value in map(record.get, QUESTION)]
    lists += filter(_has_turns, asked)
    preferred = _answers(record, PREFERRED)
    roles = [role for role in map(_role, preferred) if role != "system"]
    if roles[:1] == ["user"]:  # the preferred conversation, not its last answer alone
        return _with_system(record, preferred)
    if not lists:
        return None
    turns = lists[0]
    if all(isinstance(turn, str) for turn in turns):
        turns = _in_turn(turns)
    answers = _answers(record, (*PREFERRED, *ANSWER)) if _role(turns[-1]) == "user" else []
    return _with_system(record, turns + answers)


def _asked_and_answered(record: Any) -> list | None:
    """A question, with what it is about, and its answer, as turns; before them, a history of such pairs."""
    question, context = _string(record, QUESTION), _string(record, CONTEXT)
    answers = _answers(record, (*ANSWER, *PREFERRED)) if question else []
    if not answers:
        return None
    asked = question if context in (None, question) else f"{question}\n\n{context}"
    history = record.get("history")
    pairs = [pair for pair in history if isinstance(pair, list)] if isinstance(history, list) else []
    turns = [turn for pair in pairs if all(isinstance(said, str) for said in pair) for turn in _in_turn(pair)]
    return _with_system(record, [*turns, {"role": "user", "content": asked}, *answers])


def _in_turn(said: list[str]) -> list[dict]:
    """What two say in turn, as turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def _answers(record: dict, keys: Iterable[str]) -> list[dict]:
    """The first answer under one of the keys, as turns: a string, a number, a turn or turns; of several strings one."""
    for key in keys:
        found = record.get(key)
        parts = found if isinstance(found, list) else [found]
        parts = [str(part) if isinstance(part, int | float) and not isinstance(part, bool) else part for part in parts]
        strings = [{"content": part} for part in parts if isinstance(part, str) and part.strip()]
        turns = [part for part in parts if isinstance(part, dict) and any(name in part for name in TEXT)]
        if found := turns or strings[:1]:
            return [turn if _role(turn) else {**turn, "role": "assistant"} for turn in found]
    return []


def _with_system(record: dict, turns: list) -> list:
    said = _string(record, SYSTEM)
    return turns if said is None or _role(turns[0]) == "system" else [{"role": "system", "content": said}, *turns]


def _is_turn(value: Any) -> bool:
    """Whether it is an object that says who speaks, and has a place for what is said."""
    return isinstance(value, dict) and _role(value) is not None and any(key in value for key in TEXT)


def _has_turns(value: Any) -> bool:
    return isinstance(value, list) and any(map(_is_turn, value))


def _lists(record: Any) -> list[list]:
    """The lists of objects, or of lists, in an object; or the list itself."""
    values = record.values() if isinstance(record, dict) else [record]
    lists = [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict | list)]
    data = record.get("data") if isinstance(record, dict) else None  # {"data": [question, answer, …]}
    if isinstance(data, list) and data and all(isinstance(said, str) for said in data):
        lists.append(_in_turn(data))
    return lists


def _said(turns: list | None, left_out: Counter) -> str:
    """The document that the turns are; empty if nobody says anything."""
    return "\n\n".join(filter(None, (_message(turn, left_out) for turn in turns or ())))


def _string(record: Any, keys: Iterable[str]) -> str | None:
    """The first string of an object under one of the keys, stripped; None if there is none but blanks."""
    values = (record.get(key) for key in keys) if isinstance(record, dict) else ()
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), None)


def _role(turn: Any) -> str | None:
    """Who speaks, in the names that a document has; another's name as it stands."""
    said = next((turn[key] for key in ROLE if turn.get(key) is not None), None) if isinstance(turn, dict) else None
    return _ROLES.get(said.strip().lower(), said) if isinstance(said, str) and said.strip() else None


def _message(turn: Any, left_out: Counter) -> str | None:
    """One turn as "role: text", or None, counted."""
    if not isinstance(turn, dict):
        left_out["message that is no object"] += 1
        return None
    value = next((turn[key] for key in TEXT if turn.get(key) is not None), None)
    if isinstance(value, list):
        value = "\n".join(filter(None, (_part(part, left_out) for part in value)))
    if not isinstance(value, str):
        left_out["message without text" if value is None else "message whose text is no string"] += 1
        return None
    if _HTML.match(value.lstrip()):
        value = re.sub(r"\n{3,}", "\n\n", html.unescape(_TAGS.sub("", _BLOCKS.sub("\n", value))))
    if not value.strip():
        left_out["empty message"] += 1
        return None
    role = _role(turn)
    return value.strip() if role is None else f"{role}: {value.strip()}"


def _part(part: Any, left_out: Counter) -> str | None:
    """The text of a part of a message, some of which are images and such."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and "text" in str(part.get("type", "text")):
        text = next((part[key] for key in TEXT if isinstance(part.get(key), str)), None)
        if text is not None:
            return text
    left_out["part of a message that is no text"] += 1
    return None
