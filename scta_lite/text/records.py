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

# Where people put things; the first that is there counts.
TURNS = ("conversations", "messages", "conversation", "dialogue", "dialog", "turns")  # else any list that has roles
ROLE = ("from", "role", "speaker")
TEXT = ("value", "content", "text")
SYSTEM = ("system", "system_prompt")
QUESTION = ("instruction", "prompt", "question", "query", "input", "inputs")
CONTEXT = ("input", "context")  # what a question is asked about
ANSWER = ("output", "completion", "response", "answer", "target", "targets")
PREFERRED = ("chosen", "chosen_messages")
REJECTED = "rejected"  # how the names begin of what is not read
PLAIN = ("text", "content", "document", "body", "chosen")
_SPEAKERS = {"user": ("user", "human", "prompter"),
             "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"),
             "system": ("system",)}  # fmt: skip
_ROLES = {name: role for role, names in _SPEAKERS.items() for name in names}
# Some messages are HTML as a whole; in others < and > are code, and stay.
_HTML = re.compile(r"<(div|p|ul|ol|pre|table|h[1-6]|span)\b[^<>]*>")
_BLOCKS = re.compile(r"</?(?:div|p|pre|br|hr|ul|ol|li|h[1-6]|table|tbody|thead|tr|blockquote)\b[^<>]*>")
_TAGS = re.compile(r"</?[a-z][a-z0-9]*\b[^<>]*>")


def documents_of(record: Any, left_out: Counter, *, wrapped: bool = False) -> Iterator[str]:
    """The documents of a record: one, or those of the list that it wraps; `left_out` counts what was skipped, and why.

    >>> list(documents_of({"prompt": "How do I boil an egg?", "completion": "In water."}, Counter()))
    ['user: How do I boil an egg?\\n\\nassistant: In water.']
    """
    if (turns := _turns(record)) is not None:
        if document := "\n\n".join(filter(None, (_message(turn, left_out) for turn in turns))):
            yield document
        else:
            left_out["record without a message"] += 1
    elif text := _string(record, PLAIN):
        yield text
    elif not wrapped and len(lists := _lists(record)) == 1:  # {"version": 1, "data": [record, …]}
        for item in lists[0]:
            yield from documents_of(item, left_out, wrapped=True)
    else:
        left_out["record without a conversation, an answer or a text"] += 1


def is_turn(value: Any) -> bool:
    """Whether it is an object that says who speaks."""
    return isinstance(value, dict) and any(isinstance(value.get(key), str) for key in ROLE)


def _turns(record: Any) -> list | None:
    """The turns of a record, a preferred answer among them; None if there are none."""
    if isinstance(record, list):
        return record if any(map(is_turn, record)) else None
    if not isinstance(record, dict):
        return None
    record = {key: value for key, value in record.items() if not key.startswith(REJECTED)}
    turns = _conversation(record) or _asked_and_answered(record)
    said = _string(record, SYSTEM)
    if turns and said and _role(turns[0]) != "system":
        return [{"role": "system", "content": said}, *turns]
    return turns


def _conversation(record: dict) -> list | None:
    """The first list of turns, and the preferred answer to it."""
    preferred = _preferred(record)
    lists = [record[key] for key in TURNS if isinstance(record.get(key), list)]
    lists += [value for key, value in record.items() if key not in PREFERRED and _has_turns(value)]
    lists += [said for said in [record.get("data")] if isinstance(said, list) and all(isinstance(s, str) for s in said)]
    turns = next(filter(None, lists), None)
    if turns is None:
        whole = _has_turns(preferred) and any(_role(turn) == "user" for turn in preferred)
        return preferred if whole else None
    if all(isinstance(turn, str) for turn in turns):  # two who speak in turn
        turns = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    whole = preferred[:1] == turns[:1]  # the preferred conversation, not its last answer alone
    return preferred if whole else turns + preferred


def _asked_and_answered(record: dict) -> list | None:
    """A question, with what it is asked about, and its answer, as turns."""
    question = _string(record, QUESTION)
    answer = _string(record, ANSWER)
    answers = [{"role": "assistant", "content": answer}] if answer else _preferred(record)
    if not question or not answers:
        return None
    context = _string(record, CONTEXT)
    asked = question if context in (None, question) else f"{question}\n\n{context}"
    return [{"role": "user", "content": asked}, *answers]


def _preferred(record: dict) -> list:
    """The turns of the preferred answer: a list of them, one, or a string."""
    found = next((record[key] for key in PREFERRED if record.get(key)), [])
    if isinstance(found, str):
        return [{"role": "assistant", "content": found}]
    return found if isinstance(found, list) else [found]


def _has_turns(value: Any) -> bool:
    return isinstance(value, list) and any(map(is_turn, value))


def _lists(record: Any) -> list[list]:
    """The lists of objects, or of lists, in an object; or the list itself."""
    values = record.values() if isinstance(record, dict) else [record]
    return [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict | list)]


def _string(record: Any, keys: Iterable[str]) -> str | None:
    """The first string of an object under one of the keys, stripped; None if there is none but blanks."""
    values = (record.get(key) for key in keys) if isinstance(record, dict) else ()
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), None)


def _role(turn: Any) -> str | None:
    """Who speaks, in the names that a document has; another's name as it stands."""
    said = next((turn[key] for key in ROLE if turn.get(key) is not None), None) if isinstance(turn, dict) else None
    return _ROLES.get(said.strip().lower(), said) if isinstance(said, str) else None


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
