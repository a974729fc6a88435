"""Who says what: the messages of a conversation, in the shapes that they come in.

A document is "role: message", blank line, … . What a tool is called with is text, and so is what it
gives back.
"""

import html
import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, pairwise
from typing import Any

# Where people put things, in small letters; the first that is there counts.
ROLE = ("from", "role", "speaker", "sender", "sender_name", "author", "speaker_id", "agent", "name")
TEXT = ("value", "content", "text", "utterance", "message", "parts")
_CALL = ("function", "custom", "toolUse", "functionCall", "toolResult", "functionResponse")
_ARGUMENTS = ("arguments", "input", "parameters", "args", "response")  # of a tool
_USER = ("user", "human", "prompter")
_ASSISTANT = ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "ai")
ROLES = {"system": "system", **dict.fromkeys(_USER, "user")}
ROLES |= dict.fromkeys(_ASSISTANT, "assistant")
# The keys of an object that has what both say: {"input": …, "output": …}.
_SAID_BY = {**ROLES, **dict.fromkeys(("input", "question", "prompt", "instruction"), "user")}
_SAID_BY |= dict.fromkeys(("output", "answer", "response"), "assistant")
# Some messages are HTML as a whole; in others < and > are code, and stay.
_HTML = re.compile(r"<(div|p|ul|ol|pre|table|h[1-6]|span)\b[^<>]*>")
_BUTTONS = re.compile(r"(<span\b[^<>]*>[^<>]*</span>)?<button\b.*?</button>", re.DOTALL)
_BLOCK_NAMES = "div|p|pre|br|hr|ul|ol|li|h[1-6]|table|tbody|thead|tr|blockquote"
_BLOCKS = re.compile(rf"</?(?:{_BLOCK_NAMES})\b[^<>]*>")
_TAGS = re.compile(r"</?[a-z][a-z0-9]*\b[^<>]*>")


def joined(turns: list | None, left_out: Counter) -> str:
    """The document that the turns are; empty if nobody but a system says anything."""
    turns = turns or []
    roles = _roles(turns)
    texts = [_text(turn, left_out) for turn in turns]
    said = [(role, text) for role, text in zip(roles, texts, strict=True) if text]
    speakers = {role for role, _ in said} - {"system"}
    if not speakers:
        return ""
    if speakers == {"user"}:
        left_out["conversation without an answer"] += 1
    if ("assistant", "assistant") in pairwise(role for role, _ in said):
        left_out["conversation with an answer after an answer"] += 1
    if None in speakers:
        left_out["message without a speaker"] += sum(role is None for role, _ in said)
    return "\n\n".join(f"{role}: {text}" if role else text for role, text in said)


def as_turns(values: list) -> list:
    """The turns that a list is: of turns, of what is said in turn, or of pairs of that."""
    if are_strings(values):
        return in_turn(values)
    turns = []
    for value in values:
        if isinstance(value, list) and all(isinstance(text, str | None) for text in value):
            turns += in_turn(value)
        else:
            turns += _both(value)
    sent = [turn.get("timestamp_ms") for turn in turns if isinstance(turn, dict)]
    if len(sent) > 1 and all(isinstance(ms, int) for ms in sent) and sent[0] > sent[-1]:
        turns.reverse()  # messengers export the last one first
    return turns


def in_turn(texts: list[str | None]) -> list[dict]:
    """What a user and an assistant say in turn, as turns."""
    pairs = zip(cycle(("user", "assistant")), texts, strict=False)
    return [{"role": role, "content": text} for role, text in pairs if text is not None]


def _both(turn: Any) -> list:
    """What a user and an assistant say in one object, as turns; else the turn itself."""
    if not isinstance(turn, dict) or has_text(turn) or role_of(turn):
        return [turn]
    said = [(_SAID_BY.get(key.lower()), value) for key, value in turn.items()]
    turns = [{"role": role, "content": text} for role, text in said if role and text is not None]
    return turns or [turn]


def thread(message: dict) -> list[dict]:
    """A message, the best-ranked of its replies, the best of that one's, and so on."""
    turns = []
    while message:
        turns.append(message)
        replies = message.get("replies")
        replies = replies if is_list_of(dict, replies) else []
        message = min(filter(has_text, replies), key=_rank, default=None)
    return turns


def _rank(reply: dict) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, int | float) else float("inf")


def _roles(turns: list) -> list[str | None]:
    """Who speaks in each turn. A system that answers a user, where nobody else does, assists."""
    roles = [role_of(turn) for turn in turns]
    if "user" not in roles or "assistant" in roles:
        return roles
    asked = roles.index("user")
    answers = ["assistant" if role == "system" else role for role in roles[asked:]]
    return roles[:asked] + answers


def role_of(turn: Any) -> str | None:
    """Who speaks, in the names that a document has; another's name as it stands."""
    name = first(turn, ROLE) if isinstance(turn, dict) else None
    if isinstance(name, dict):
        name = first(name, ROLE)
    if type(name) is int:
        return f"speaker {name}"
    if not isinstance(name, str) or not name.strip():
        return None
    return ROLES.get(name.strip().lower(), name)


def _text(turn: Any, left_out: Counter) -> str | None:
    """What is said in a turn, stripped, and the tools that it calls; None, counted, if nothing."""
    if not isinstance(turn, dict):
        left_out["message that is no object"] += 1
        return None
    said = first(turn, TEXT)
    calls = turn.get("tool_calls") or [turn.get("function_call")]
    called = [_call(call) for call in calls] if isinstance(calls, list) else []
    texts = [part.strip() for part in (text_of(said, left_out), *called) if part]
    if any(texts):
        return "\n".join(filter(None, texts))
    if said is None:
        left_out["message without text"] += 1
    elif not isinstance(said, str | list):
        left_out["message whose text is no string"] += 1
    else:
        left_out["empty message"] += 1
    return None


def text_of(said: Any, left_out: Counter) -> str | None:
    """A text, or what its parts say; without the tags if it is HTML."""
    if isinstance(said, list):
        parts = [part for part in (_part(part, left_out) for part in said) if part]
        is_one_line = any(part != part.strip() for part in parts)
        said = ("" if is_one_line else "\n").join(parts)
    return plain(said) if isinstance(said, str) else None


def plain(text: str) -> str:
    """The text, without its tags if it is HTML as a whole."""
    if not _HTML.match(text.lstrip()):
        return text
    text = _BUTTONS.sub("", text)
    text = html.unescape(_TAGS.sub("", _BLOCKS.sub("\n", text)))
    return re.sub(r"\n{3,}", "\n\n", text)


def _part(part: Any, left_out: Counter) -> str | None:
    """The text of a part of a message, some of which are images and such."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        part = _unwrapped(part)
        kind = str(part.get("type", "text"))
        keys = TEXT if "text" in kind or kind == "tool_result" else ("text",)
        said = _call(part) or text_of(first(part, keys), left_out)
        if said:
            return said
    left_out["part of a message that is no text"] += 1
    return None


def _call(call: Any) -> str | None:
    """The call of a tool as its name and its arguments; or what the tool of that name gives."""
    call = _unwrapped(call) if isinstance(call, dict) else {}
    name = call.get("name")
    arguments = first(call, _ARGUMENTS) if isinstance(name, str) else None
    if arguments is None:
        return None
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f"{name} {arguments}"


def _unwrapped(call: dict) -> dict:
    """The object that holds a call or a result, as {"toolUse": {…}} does; else itself."""
    inner = first(call, _CALL)
    return inner if isinstance(inner, dict) else call


def has_text(value: Any) -> bool:
    """Whether it is an object that has a place for what is said."""
    return isinstance(value, dict) and any(key in value for key in TEXT)


def has_turns(value: Any) -> bool:
    """Whether it is a list in which an object says who speaks, and has a place for what is said."""
    return isinstance(value, list) and any(has_text(item) and role_of(item) for item in value)


def are_strings(value: Any) -> bool:
    """Whether it is a list of strings, not an empty one."""
    return isinstance(value, list) and {type(item) for item in value} == {str}


def is_list_of(kind: Any, value: Any) -> bool:
    """Whether it is a list that begins with something of that kind."""
    return isinstance(value, list) and isinstance(next(iter(value), None), kind)


def first(record: dict, keys: Sequence[str]) -> Any:
    """The first value under one of the keys, or None."""
    return next((record[key] for key in keys if record.get(key) is not None), None)
