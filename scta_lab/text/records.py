"""What one record of a data set says: conversations, questions with their answers, plain text.

Three questions, in this order. Where are the turns: a list of objects that say who speaks? Else, is
there a question and an answer to it? Else, is there a text? A preferred answer wins over any other,
wherever it stands; what is called rejected is not read. What none of this reads is counted by the
names of its keys (`unread`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from scta_lab.text import turns as speech
from scta_lab.text.turns import ROLES, has_text, has_turns, role_of, text_of

# Where people put things, in small letters; the first that is there counts.
TURNS = ("conversations", "messages", "conversation", "dialogue", "dialog", "turns", "contents")
SYSTEM = ("system", "system_prompt", "systeminstruction", "system_instruction")
INPUT = ("input", "inputs")
QUESTION = ("definition", "instruction", "prompt", "question", "query", "problem", *INPUT)
CONTEXT = (*INPUT, "context", "question")  # what a question or an instruction is about
PREFERRED = ("chosen", "chosen_messages", "chosen_response", "chosen_answer", "chosen_output")
PREFERRED += ("preferred", "preferred_output", "preferred_response", "preferred_answer")
REFERENCE = ("reference_answer", "ground_truth")
ANSWER = ("output", "completion", "response", "answer", "solution", "target", "targets", *REFERENCE)
REJECTED = ("rejected", "dispreferred", "non_preferred", "losing", "bad_")  # how these names begin
PLAIN = (*PREFERRED, "text", "content", "document", "body")
_NOTHING = "record without a conversation, an answer or a text"
_MESSAGE = ("role", "from", "thread_ts", "ts", "parent_id", "parent")  # keys of one of a thread
_MARK = re.compile(r"\S*\d\S*")  # a name, a date, an address: no text


def documents_of(
    record: Any, left_out: Counter, unread: Counter | None = None, *, alone: bool = False
) -> Iterator[str]:
    """The document of a record; `left_out` counts what was skipped, and why.

    `unread` counts the characters of what its document does not have, by their keys. A list may be
    one of records. So may the lists in a record that is `alone` in its file, {"version": 1,
    "data": […]}.

    >>> list(documents_of({"prompt": "How do I boil eggs?", "completion": "In water."}, Counter()))
    ['user: How do I boil eggs?\\n\\nassistant: In water.']
    """
    if isinstance(record, dict):
        record = {key.lower(): value for key, value in record.items()}
        if _has_bad_answer(record):
            left_out["record whose answer is labelled a bad one"] += 1
            return
        rejected = {key: record[key] for key in record if key.startswith(REJECTED)}
        copies = [key for key in ANSWER if record.get(key) in rejected.values()]
        record |= dict.fromkeys([*rejected, *copies] if rejected else [])
        turns = _conversation(record)
        document = _document(record, turns, left_out)
        lists = [value for value in _lists(record) if not has_turns(value)] if alone else []
        beside = {key: value for key, value in record.items() if value not in lists}
    else:
        turns = record if has_turns(record) else None
        document = speech.joined(turns, left_out)
        lists = [record] if speech.is_list_of((dict, list), record) else []
        beside = {}
    items = [] if document else list(chain.from_iterable(lists))
    if unread is not None:
        count_unread(beside if items else record, document or "", unread)
    if document:
        yield document
    elif turns:
        left_out["record without a message"] += 1
    elif items:
        for item in items:
            if isinstance(item, list) and not has_turns(item):  # lists within lists are no records
                left_out[_NOTHING] += 1
            else:
                yield from documents_of(item, left_out, unread)
    else:
        left_out[_NOTHING] += 1


def count_unread(record: Any, document: str, unread: Counter) -> None:
    """Counts the characters of a record's strings that its document does not have, by key.

    Of a record without a document it notes all keys.
    """
    if isinstance(record, dict) and not document:
        unread.update({_name(key): 0 for key in record})
    place = 0  # strings stand in a document in the order of the record, mostly
    for key, text in _strings(record):
        text = speech.plain(text).strip()
        if _MARK.fullmatch(text) or text.lower() in ROLES:
            continue
        found = document.find(text, place)
        if found >= 0:
            place = found
        elif text not in document:
            unread[key] += len(text)


def _name(*keys: str) -> str:
    """The keys in a line that may be shown, whatever a file calls them: "messages.content"."""
    return repr(".".join(keys))[1:-1][:60]


def _strings(record: Any) -> Iterator[tuple[str, str]]:
    """The strings in a record, however deep, each with its keys: ("messages.content", "Why?")."""
    waiting = [((), record)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            yield _name(*path), value
        elif isinstance(value, list):
            waiting += [(path, item) for item in reversed(value)]
        elif isinstance(value, dict):
            items = reversed(value.items())
            waiting += [(path if key in path else (*path, key), item) for key, item in items]


def _has_bad_answer(record: dict) -> bool:
    """Whether it is a completion, or a conversation, that is labelled a bad one."""
    label = record.get("kto_tag")
    if any(key in record for key in ("completion", *TURNS)):
        label = record.get("label", label)
    return str(label).lower() == "false"


def _document(record: dict, turns: list | None, left_out: Counter) -> str | None:
    """What the record says, read in one way after the other."""
    document = speech.joined(turns, left_out) or speech.joined(_asked(record), left_out)
    if document:
        return document
    conversations = [value for value in _lists(record) if has_turns(value)]
    text = _string(record, PLAIN)
    if not text and not turns and len(conversations) == 1:  # of two neither is the right one
        return speech.joined(speech.as_turns(conversations[0]), left_out)
    if text and any(record.get(key) for key in _MESSAGE):
        left_out["message that is a record, without its conversation"] += 1
    strings = (value for value in map(record.get, PLAIN) if isinstance(value, str))
    if text and "\n" not in text and any(value.endswith("\n") for value in strings):
        left_out["line of a text that is a record, without the others"] += 1
    return text


def _conversation(record: dict) -> list | None:
    """The turns of a record that has them where turns are.

    A preferred answer takes the place of one that may be the rejected one; if there is none, and
    the last turn is a question, the answer that stands beside them follows.
    """
    preferred = _answers(record, PREFERRED)
    speakers = [role_of(turn) for turn in preferred if role_of(turn) != "system"]
    if speakers and speakers[0] == "user":  # a whole conversation, not its last answer alone
        return _with_system(record, preferred)
    turns = _turns(record)
    if not turns:
        return None
    if preferred and any(key.startswith(REJECTED) for key in record):
        while turns and role_of(turns[-1]) == "assistant":
            turns = turns[:-1]
    last = role_of(turns[-1]) if turns else "user"
    if last == "user":
        turns = turns + (preferred or _answers(record, ANSWER))
    return _with_system(record, turns)


def _turns(record: dict) -> list | None:
    """The first list where turns are; else the first with turns where a question is; or replies."""
    for key in TURNS:
        turns = record.get(key)
        if key == "turns" and speech.are_strings(turns):
            return _asked_in_turn(record, turns)
        if isinstance(turns, list) and turns:
            return speech.as_turns(turns)
    for key in QUESTION:
        asked = record.get(key)
        if has_text(asked) and "replies" in asked:
            return speech.thread(asked)
        turns = asked.get("messages") if isinstance(asked, dict) else asked
        if has_turns(turns):
            return turns
    if has_text(record) and speech.is_list_of(dict, record.get("replies")):
        return speech.thread(record)
    return None


def _asked_in_turn(record: dict, questions: list[str]) -> list[dict]:
    """Questions of a user alone, each with its answer where there are as many of these."""
    answers = speech.first(record, (*ANSWER, "reference"))
    if isinstance(answers, str):
        answers = [answers]
    if speech.are_strings(answers) and len(answers) == len(questions):
        said = zip(questions, answers, strict=True)
        return speech.in_turn(list(chain.from_iterable(said)))
    return [{"role": "user", "content": question} for question in questions]


def _asked(record: dict) -> list | None:
    """A question, with what it is about, and its answer, as turns; before them, earlier ones."""
    question = _string(record, QUESTION)
    answers = _answers(record, PREFERRED + ANSWER)
    if not question or not answers:
        return None
    context = _string(record, CONTEXT)
    if context and context != question:
        question = f"{question}\n\n{context}"
    history = record.get("history")
    turns = speech.as_turns(history) if isinstance(history, list) else []
    return _with_system(record, [*turns, {"role": "user", "content": question}, *answers])


def _answers(record: dict, keys: Sequence[str]) -> list[dict]:
    """The first answer under one of the keys, as turns.

    It is a string, a number, a turn or turns; of several strings the first. A number is none where
    it says which answer is preferred.
    """
    for key in keys:
        value = record.get(key)
        parts = value if isinstance(value, list) else [value]
        turns = [part for part in parts if has_text(part)]
        strings = [part for part in parts if isinstance(part, str) and part.strip()]
        if key not in PREFERRED:
            strings += [str(part) for part in parts if _is_number(part)]
        said = turns or [{"content": string} for string in strings[:1]]
        if said:
            return [turn if role_of(turn) else {**turn, "role": "assistant"} for turn in said]
    return []


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and value == value  # which NaN is not


def _with_system(record: dict, turns: list) -> list:
    """The turns, after what the record says to the system, if they do not begin so."""
    for said in (record.get(key) for key in SYSTEM):
        instruction = text_of([said] if isinstance(said, dict) else said, Counter())
        if instruction and instruction.strip() and role_of(turns[0]) != "system":
            return [{"role": "system", "content": instruction}, *turns]
    return turns


def _lists(record: dict) -> list[list]:
    """The lists of objects, or of lists, in an object."""
    lists = [value for value in record.values() if speech.is_list_of((dict, list), value)]
    if speech.are_strings(record.get("data")):  # {"data": [question, answer, …]}
        lists.append(speech.in_turn(record["data"]))
    return lists


def _string(record: dict, keys: Sequence[str]) -> str | None:
    """The first string under one of the keys, stripped; None if there is none but blanks."""
    strings = [value.strip() for value in map(record.get, keys) if isinstance(value, str)]
    return next(filter(None, strings), None)
