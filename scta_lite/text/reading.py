"""Files in, documents out: JSON, JSON lines, plain text and Parquet, or a folder of them; each may be gzipped.

Files are streamed: whoever stops asking for documents stops the reading, so that a file may be larger than memory. Only
a file that is one JSON object, not a list and not lines, is read whole.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from scta_lite.text.records import documents_of, is_turn

JSON = (".json", ".jsonl", ".ndjson")
TEXT = (".txt", ".md")
PARQUET = (".parquet",)
_BETWEEN = re.compile(r"[\s,]*")  # the records of a list
_CHUNK = 1 << 20  # characters that are read at a time
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32",
          b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # fmt: skip


def documents(path: str | Path, left_out: Counter | None = None) -> Iterator[str]:
    """The documents of a file, or of all files in a folder.

    JSON and JSON lines give the documents of their records, as `records.documents_of` reads them, and so does Parquet
    (the extra "parquet"). Plain text gives one for each block of lines, blank lines between them; of several text files
    in a folder each is one document. UTF-8 and UTF-16. `left_out` counts what was skipped, by reason. Raises
    FileNotFoundError; ValueError, which names the file, if it cannot be read or holds no document.
    """
    path, left_out = Path(path), Counter() if left_out is None else left_out
    files = files_of(path)
    several = sum(_kind(file) in TEXT for file in files) > 1
    found = 0
    for file in files:
        for document in _of_file(file, left_out, whole=several):
            found += 1
            yield document
    if not found:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in left_out.items()) or "no records"
        raise ValueError(
            f"corpus={str(path)!r}: no usable record ({reasons}); expected text, or JSON records with a conversation, "
            'as {"messages": [{"role": "user", "content": "…"}, …]}, with a prompt and its completion, or with a text'
        )


def files_of(path: Path) -> list[Path]:
    """The file itself; of a folder, those files in it and below that can be read, in the order of their names."""
    if not path.exists():
        raise FileNotFoundError(f"corpus={str(path)!r}: no such file or folder")
    if path.is_file():
        return [path]
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file) in (*JSON, *TEXT, *PARQUET)]
    if not files:
        kinds = ", ".join((*JSON, *TEXT, *PARQUET))
        raise ValueError(f"corpus={str(path)!r}: no file to read; expected one of {kinds}, or one of them with .gz")
    return files


def _kind(file: Path) -> str:
    """The end of the file's name that says what it holds."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _of_file(file: Path, left_out: Counter, whole: bool) -> Iterator[str]:
    if _kind(file) in PARQUET:
        for record in _rows(file):
            yield from documents_of(record, left_out)
        return
    with _opened(file) as stream:
        start = _after_blanks(stream)
        if not start:
            raise ValueError(f"corpus={str(file)!r}: the file is empty; expected text, JSON or JSON lines")
        if _kind(file) in JSON or (_kind(file) not in TEXT and start[0] in "[{"):
            for record in _records(start, stream, left_out, file):
                yield from documents_of(record, left_out)
        elif whole:
            yield start + stream.read()
        else:
            yield from _blocks(_lines(start, stream))


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """The file's text, unzipped and decoded; what goes wrong on the way is a ValueError that names the file."""
    with file.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            plain = gzip.GzipFile(fileobj=raw) if zipped else raw
            yield TextIOWrapper(plain, _encoding(plain, file))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"corpus={str(file)!r}: a broken gzip file ({error})") from None
        except UnicodeDecodeError as error:
            byte, encoding = error.object[error.start], error.encoding.upper()
            raise ValueError(
                f"corpus={str(file)!r}: not {encoding}, for it holds the byte 0x{byte:02x} where no character begins; "
                "expected UTF-8, or UTF-16 with its mark. If it is Windows-1252 or Latin-1, convert it first"
            ) from None


def _encoding(plain: BinaryIO, file: Path) -> str:
    start = plain.read(4)
    plain.seek(0)
    marked = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if marked == "UTF-32":
        raise ValueError(f"corpus={str(file)!r}: UTF-32; expected UTF-8 or UTF-16")
    nothing = [byte == 0 for byte in start[:2]]  # UTF-16 without a mark, if its first character is an ASCII one
    return marked or {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(tuple(nothing), "utf-8")


def _after_blanks(stream: TextIO) -> str:
    """The stream's first characters, from the first on that is no white space."""
    while (start := stream.read(_CHUNK)) and not start.strip():
        pass
    return start.lstrip()


def _lines(start: str, stream: TextIO) -> Iterator[str]:
    """The lines of what was read and of what follows it."""
    *lines, last = start.split("\n")
    yield from lines
    yield last + stream.readline().removesuffix("\n")
    for line in stream:
        yield line.removesuffix("\n")


def _blocks(lines: Iterator[str]) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def _records(start: str, stream: TextIO, left_out: Counter, file: Path) -> Iterator[Any]:
    """The records of JSON lines, of a list of records, or of one value; the start of the file says which."""
    if start[0] == "[":
        rest = yield from _elements(start, stream, file)
        if not rest.strip():
            return
        start = rest  # lines, the first of which is a list
    yield from _json_lines(start, stream, left_out, file)


def _elements(start: str, stream: TextIO, file: Path) -> Iterator[Any]:
    """The records of a list, one after another. Returns what follows it; all of it where it is no list of records."""
    decoder, at, number, size = json.JSONDecoder(), 1, 0, _CHUNK
    while True:
        at = _BETWEEN.match(start, at).end()
        if start[at : at + 1] == "]":
            return start[at + 1 :]
        try:
            record, end = decoder.raw_decode(start, at)
        except (ValueError, RecursionError) as error:
            more = stream.read(size) if isinstance(error, json.JSONDecodeError) else ""
            if more and number:
                start, at, size = start[at:] + more, 0, 2 * size
                continue
            if more:
                start, size = start + more, 2 * size
                continue
            if not number:
                return start
            raise ValueError(f"corpus={str(file)!r}: no JSON after {number} records of its list ({error})") from None
        if not number and is_turn(record):
            return start  # a list of turns, which is one record
        yield record
        at, number, size = end, number + 1, _CHUNK


def _json_lines(start: str, stream: TextIO, left_out: Counter, file: Path) -> Iterator[Any]:
    """The records of JSON lines; where the first two are none, of the one value that the file is."""
    lines = _lines(start, stream)
    first = list(islice(lines, 2))
    found = 0
    if not any(isinstance(_value(line), dict | list) for line in first):
        text = "\n".join([*first, *lines])
        lines = iter(text.split("\n"))
        whole = _value(text)
        if isinstance(whole, dict | list):
            yield whole
            return
    else:
        lines = chain(first, lines)
    for line in lines:
        record = _value(line)
        if isinstance(record, dict | list):
            found += 1
            yield record
        elif line.strip():
            left_out["line that is not a JSON object"] += 1
    if not found:
        raise ValueError(f"corpus={str(file)!r}: neither JSON nor JSON lines ({_why(start)})")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # too deeply nested, or a number of too many digits
        return None


def _why(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return "a value that is no object and no list"


def _rows(file: Path) -> Iterator[dict]:
    """The rows of a Parquet file, some at a time."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError(f"corpus={str(file)!r}: needs pyarrow: pip install 'scta_lite[parquet]'") from None
    try:
        for batch in ParquetFile(file).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except ArrowException as error:
        raise ValueError(f"corpus={str(file)!r}: not Parquet ({str(error).partition(chr(10))[0]})") from None
