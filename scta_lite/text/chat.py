"""Chat files as people share them: records of turns, in several dialects, with everything that real files hold."""

import gzip
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

# Some messages are HTML as a whole; in others < and > are code, and stay.
_HTML = re.compile(r"<(div|p|ul|ol|pre|table|h[1-6]|span)\b[^<>]*>")
_BLOCKS = re.compile(r"</?(?:div|p|pre|br|hr|ul|ol|li|h[1-6]|table|tbody|thead|tr|blockquote)\b[^<>]*>")
_TAGS = re.compile(r"</?[a-z][a-z0-9]*\b[^<>]*>")
_KEYS = ("from", "role"), ("value", "content")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}


def sharegpt(path: str | Path, left_out: Counter | None = None) -> Iterator[str]:
    """Documents of a chat file: JSON, JSON lines, either one gzipped; a document is "role: message", blank line, ….

    Reads `conversations` with `from`/`value` and `messages` with `role`/`content`, where a content may be a list of
    parts; a message that begins with an HTML tag is turned into text. `left_out` counts the records and messages that
    it skipped, by reason. ValueError if the file holds no usable record.
    """
    left_out = Counter() if left_out is None else left_out
    found = 0
    for record in _records(Path(path), left_out):
        turns = (record.get("conversations") or record.get("messages")) if isinstance(record, dict) else None
        if not isinstance(turns, list):
            left_out["record without a conversation"] += 1
            continue
        messages = [m for m in (_message(turn, left_out) for turn in turns) if m]
        if messages:
            found += 1
            yield "\n\n".join(messages)
        else:
            left_out["record without a message"] += 1
    if not found:
        raise ValueError(
            f"corpus={str(path)!r}: no usable record ({_reasons(left_out)}); expected a JSON list or JSON lines of "
            '{"conversations": [{"from": "human", "value": "…"}, …]}'
        )


def _records(path: Path, left_out: Counter) -> Iterable:
    if not path.is_file():
        raise FileNotFoundError(f"corpus={str(path)!r}: no such file")
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError) as error:
        raise ValueError(f"corpus={str(path)!r}: a broken gzip file ({error})") from None
    text = raw.decode("utf-8-sig", errors="replace").strip()
    if not text:
        raise ValueError(f"corpus={str(path)!r}: the file is empty; expected JSON or JSON lines")
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError as error:
        lines = list(filter(None, map(str.strip, text.split("\n"))))
        records = [record for record in map(_json_object, lines) if record is not None]
        if not records:
            raise ValueError(f"corpus={str(path)!r}: neither JSON ({error}) nor JSON lines") from None
        left_out["line that is not a JSON object"] += len(lines) - len(records)
        return records


def _json_object(line: str) -> dict | None:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _message(turn: object, left_out: Counter) -> str | None:
    """One turn as "role: text", or None, counted."""
    if not isinstance(turn, dict):
        left_out["message that is no object"] += 1
        return None
    role, value = (next((turn[k] for k in keys if turn.get(k) is not None), None) for keys in _KEYS)
    if isinstance(value, list):  # of parts, some of which may be images
        value = "\n".join(
            part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if not isinstance(value, str):
        left_out["message without text" if value is None else "message whose text is no string"] += 1
        return None
    if _HTML.match(value.lstrip()):
        value = re.sub(r"\n{3,}", "\n\n", html.unescape(_TAGS.sub("", _BLOCKS.sub("\n", value))))
    if not value.strip():
        left_out["empty message"] += 1
        return None
    return f"{_ROLES.get(role, role)}: {value.strip()}" if isinstance(role, str) else value.strip()


def _reasons(left_out: Counter) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in left_out.items()) or "no records"
