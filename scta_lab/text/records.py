"""What one record of a data set says: conversations, questions with their answers, plain text.

Three questions, in this order. Where are the turns: a list of objects that say who speaks? Else, is
there a question and an answer to it? Else, is there a text? A preferred answer that stands beside
the turns belongs to them; what is called rejected is not read. A document is "role: message", blank
line, …, or the text.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, cycle
from typing import Any

# Where people put things, in small letters; the first that is there counts.
TURNS = ("conversations", "messages", "conversation", "dialogue", "dialog", "turns")
ROLE = ("from", "role", "speaker")
TEXT = ("value", "content", "text", "utterance")
SYSTEM = ("system", "system_prompt")
INPUT = ("input", "inputs")
QUESTION = ("definition", "instruction", "prompt", "question", "query", "problem", *INPUT)
CONTEXT = (*INPUT, "context", "question")  # what a question or an instruction is about
ANSWER = ("output", "completion", "response", "answer", "solution", "target", "targets")
PREFERRED = ("chosen", "chosen_messages", "chosen_response", "preferred_output")
REJECTED = ("rejected", "dispreferred", "non_preferred", "losing", "bad_")  # how these names begin
PLAIN = ("text", "content", "document", "body", "chosen")
_USER = ("user", "human", "prompter")
_ASSISTANT = ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "ai")
_ROLES = {"system": "system", **dict.fromkeys(_USER, "user")}
_ROLES |= dict.fromkeys(_ASSISTANT, "assistant")
# Some messages are HTML as a whole; in others < and > are code, and stay.
_HTML = re.compile(r"<(div|p|ul|ol|pre|table|h[1-6]|span)\b[^<>]*>")
_BLOCK_NAMES = "div|p|pre|br|hr|ul|ol|li|h[1-6]|table|tbody|thead|tr|blockquote"
_BLOCKS = re.compile(rf"</?(?:{_BLOCK_NAMES})\b[^<>]*>")
_TAGS = re.compile(r"</?[a-z][a-z0-9]*\b[^<>]*>")
_NOTHING = "record without a conversation, an answer or a text"


def documents_of(record: Any, left_out: Counter, *, alone: bool = False) -> Iterator[str]:
    """The document of a record; `left_out` counts what was skipped, and why.

    A list may be one of records. So may the lists in a record that is `alone` in its file,
    {"version": 1, "data": […]}.

    >>> list(documents_of({"prompt": "How do I boil eggs?", "completion": "In water."}, Counter()))
    ['user: How do I boil eggs?\\n\\nassistant: In water.']
    """
    if isinstance(record, dict):
        record = {key.lower(): value for key, value in record.items()}
        if str(record.get("label", record.get("kto_tag"))).lower() == "false":
            left_out["record whose answer is labelled a bad one"] += 1
            return
        record = {key: value for key, value in record.items() if not key.startswith(REJECTED)}
        turns = _conversation(record)
        document = _document(record, turns, left_out)
        items = list(chain.from_iterable(_lists(record))) if alone else []
    else:
        turns = record if _has_turns(record) else None
        document = _joined(turns, left_out)
        items = record if _is_list_of_objects(record) else []
    if document:
        yield document
    elif turns:
        left_out["record without a message"] += 1
    elif items:
        for item in items:
            if isinstance(item, list) and not _has_turns(item):  # lists within lists are no records
                left_out[_NOTHING] += 1
            else:
                yield from documents_of(item, left_out)
    else:
        left_out[_NOTHING] += 1


def _document(record: dict, turns: list | None, left_out: Counter) -> str | None:
    """What the record says, read in one way after the other."""
    document = (
        _joined(turns, left_out)
        or _joined(_question_and_answer(record), left_out)
        or _string(record, PLAIN)
    )
    conversations = [value for value in _lists(record) if _has_turns(value)]
    if not document and not turns and len(conversations) == 1:  # of two neither is the right one
        return _joined(conversations[0], left_out)
    return document


def _conversation(record: dict) -> list | None:
    """The turns of a record that has them where turns are.

    If the last is a question, with the answer that stands beside them.
    """
    preferred = _answers(record, PREFERRED)
    speakers = [_role(turn) for turn in preferred if _role(turn) != "system"]
    if speakers and speakers[0] == "user":  # a whole conversation, not its last answer alone
        return _with_system(record, preferred)
    turns = _turns(record)
    if not turns:
        return None
    if _role(turns[-1]) == "user":
        turns = turns + _answers(record, PREFERRED + ANSWER)
    return _with_system(record, turns)


def _turns(record: dict) -> list | None:
    """The first list where turns are; else the first with turns where a question is."""
    for key in TURNS:
        turns = record.get(key)
        if isinstance(turns, list) and turns:
            return _in_turn(turns) if _are_strings(turns) else turns
    for key in QUESTION:
        asked = record.get(key)
        turns = asked.get("messages") if isinstance(asked, dict) else asked
        if _has_turns(turns):
            return turns
    return None


def _question_and_answer(record: dict) -> list | None:
    """A question, with what it is about, and its answer, as turns; before them, earlier pairs."""
    question = _string(record, QUESTION)
    answers = _answers(record, ANSWER + PREFERRED)
    if not question or not answers:
        return None
    context = _string(record, CONTEXT)
    if context and context != question:
        question = f"{question}\n\n{context}"
    history = record.get("history")
    pairs = history if isinstance(history, list) else []
    turns = [turn for pair in pairs if _are_strings(pair) for turn in _in_turn(pair)]
    turns.append({"role": "user", "content": question})
    return _with_system(record, turns + answers)


def _in_turn(texts: list[str]) -> list[dict]:
    """What a user and an assistant say in turn, as turns."""
    roles = cycle(("user", "assistant"))
    return [{"role": next(roles), "content": text} for text in texts]


def _answers(record: dict, keys: Sequence[str]) -> list[dict]:
    """The first answer under one of the keys, as turns.

    It is a string, a number, a turn or turns; of several strings the first.
    """
    for key in keys:
        value = record.get(key)
        parts = value if isinstance(value, list) else [value]
        turns = [part for part in parts if _has_text(part)]
        strings = [str(part) for part in parts if type(part) in (str, int, float)]
        strings = [{"content": string} for string in strings if string.strip()]
        if turns or strings:
            said = turns or strings[:1]
            return [turn if _role(turn) else {**turn, "role": "assistant"} for turn in said]
    return []


def _with_system(record: dict, turns: list) -> list:
    """The turns, after what the record says to the system, if they do not begin so."""
    instruction = _string(record, SYSTEM)
    if instruction is None or _role(turns[0]) == "system":
        return turns
    return [{"role": "system", "content": instruction}, *turns]


def _has_text(value: Any) -> bool:
    """Whether it is an object that has a place for what is said."""
    return isinstance(value, dict) and any(key in value for key in TEXT)


def _has_turns(value: Any) -> bool:
    """Whether it is a list in which an object says who speaks, and has a place for what is said."""
    return isinstance(value, list) and any(_has_text(item) and _role(item) for item in value)


def _are_strings(value: Any) -> bool:
    """Whether it is a list of strings, and not empty."""
    return isinstance(value, list) and {type(item) for item in value} == {str}


def _is_list_of_objects(value: Any) -> bool:
    """Whether it is a list that begins with an object, or with a list."""
    return isinstance(value, list) and isinstance(next(iter(value), None), dict | list)


def _lists(record: dict) -> list[list]:
    """The lists of objects, or of lists, in an object."""
    lists = [value for value in record.values() if _is_list_of_objects(value)]
    if _are_strings(record.get("data")):  # {"data": [question, answer, …]}
        lists.append(_in_turn(record["data"]))
    return lists


def _first(record: dict, keys: Sequence[str]) -> Any:
    """The first value under one of the keys, or None."""
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _string(record: dict, keys: Sequence[str]) -> str | None:
    """The first string under one of the keys, stripped; None if there is none but blanks."""
    strings = [value.strip() for value in map(record.get, keys) if isinstance(value, str)]
    return next(filter(None, strings), None)


def _role(turn: Any) -> str | None:
    """Who speaks, in the names that a document has; another's name as it stands."""
    name = _first(turn, ROLE) if isinstance(turn, dict) else None
    if not isinstance(name, str) or not name.strip():
        return None
    return _ROLES.get(name.strip().lower(), name)


def _joined(turns: list | None, left_out: Counter) -> str:
    """The document that the turns are; empty if nobody says anything."""
    messages = [_message(turn, left_out) for turn in turns or []]
    return "\n\n".join(message for message in messages if message)


def _message(turn: Any, left_out: Counter) -> str | None:
    """One turn as "role: text", or None, counted."""
    text = _text(turn, left_out) if isinstance(turn, dict) else None
    if not isinstance(turn, dict):
        reason = "message that is no object"
    elif text is None:
        reason = "message without text"
    elif not isinstance(text, str):
        reason = "message whose text is no string"
    elif not text.strip():
        reason = "empty message"
    else:
        role = _role(turn)
        return f"{role}: {text.strip()}" if role else text.strip()
    left_out[reason] += 1
    return None


def _text(turn: dict, left_out: Counter) -> Any:
    """What is said in a turn, its parts joined, and without the tags if it is HTML."""
    text = _first(turn, TEXT)
    if isinstance(text, list):
        parts = [_part(part, left_out) for part in text]
        text = "\n".join(part for part in parts if part)
    if isinstance(text, str) and _HTML.match(text.lstrip()):
        text = html.unescape(_TAGS.sub("", _BLOCKS.sub("\n", text)))
        text = re.sub(r"\n{3,}", "\n\n", text)
    return text


def _part(part: Any, left_out: Counter) -> str | None:
    """The text of a part of a message, some of which are images and such."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and "text" in str(part.get("type", "text")):
        texts = [part[key] for key in TEXT if isinstance(part.get(key), str)]
        if texts:
            return texts[0]
    left_out["part of a message that is no text"] += 1
    return None
