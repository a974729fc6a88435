"""Files in, documents out: JSON, JSON lines, plain text, tables, or a folder of them; JSON and text may be gzipped.

Files are streamed: whoever stops asking for documents stops the reading, so that a file may be larger than memory. Read
whole are a file that is one JSON object, and each of several text files in a folder.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pandas as pd

from scta_lab.text.records import documents_of

JSON = (".json", ".jsonl", ".ndjson")
TEXT = (".txt", ".md")
TABLES = (".parquet", ".csv", ".tsv")
_BETWEEN = re.compile(r"[\s,]*")  # the records of a list
_DECODER = json.JSONDecoder(strict=False)  # line breaks within strings are read
_CHUNK = 1 << 20  # characters that are read at a time
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def documents(path: str | Path, left_out: Counter | None = None) -> Iterator[str]:
    """The documents of a file, or of all files in a folder.

    JSON, JSON lines and tables (CSV, TSV; Parquet with the extra "parquet") give the documents of their records, as
    `records.documents_of` reads them. Plain text gives one for each block of lines, blank lines between them; of
    several text files in a folder each is one document. UTF-8 and UTF-16. `left_out` counts what was skipped, by
    reason. Raises FileNotFoundError; ValueError, which names the file, if it cannot be read or holds no document.
    """
    path, left_out = Path(path), Counter() if left_out is None else left_out
    files = files_of(path)
    several = sum(_kind(file) in TEXT for file in files) > 1
    found = 0
    for file in files:
        try:
            for document in _of_file(file, left_out, whole=several):
                clean = document.encode(errors="replace").decode()  # JSON can spell half a character
                if clean != document:
                    left_out["document with half a character, now ?"] += 1
                found += 1
                yield clean
        except ValueError:
            if file == path:
                raise
            left_out["file that could not be read to its end"] += 1
    if not found:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in left_out.items()) or "no records"
        raise ValueError(
            f"corpus={str(path)!r}: no usable record ({reasons}); expected text, or JSON records with a conversation, "
            'as {"messages": [{"role": "user", "content": "…"}, …]}, with a prompt and its completion, or with a text'
        )


def files_of(path: Path) -> list[Path]:
    """The file itself; of a folder, those files in it and below that can be read, in the order of their names."""
    kinds = (*JSON, *TEXT, *TABLES)
    if not path.exists():
        raise FileNotFoundError(f"corpus={str(path)!r}: no such file; expected 'installed', 'zipf' or a file or folder")
    if path.is_file():
        if _kind(path) not in (*kinds, ""):
            raise ValueError(
                f"corpus={str(path)!r}: no kind of file that is read; expected one of {', '.join(kinds)} "
                "(any plain text may be named .txt)"
            )
        return [path]
    names = ((file, file.relative_to(path).parts) for file in sorted(path.rglob("*")))
    files = [file for file, parts in names if not any(part.startswith(".") for part in parts)]  # none that is hidden
    files = [file for file in files if file.is_file() and _kind(file) in kinds]
    if not files:
        raise ValueError(f"corpus={str(path)!r}: no file to read; expected one of {', '.join(kinds)}")
    return files


def _kind(file: Path) -> str:
    """The end of the file's name that says what it holds."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _of_file(file: Path, left_out: Counter, whole: bool) -> Iterator[str]:
    if _kind(file) == ".parquet":
        for record in _parquet(file):
            yield from documents_of(record, left_out)
        return
    with _opened(file) as stream:
        if _kind(file) in TABLES:
            for record in _table(stream, file):
                yield from documents_of(record, left_out)
            return
        start = _after_blanks(stream)
        if not start:
            raise ValueError(f"corpus={str(file)!r}: the file is empty; expected text, JSON or JSON lines")
        if _kind(file) in JSON or (_kind(file) not in TEXT and start[0] in "[{"):
            records = _records(start, stream, left_out, file)
            first = list(islice(records, 2))
            for record in chain(first, records):
                yield from documents_of(record, left_out, alone=len(first) == 1)
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
            yield TextIOWrapper(plain, _encoding(plain))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"corpus={str(file)!r}: a broken gzip file ({error})") from None
        except UnicodeDecodeError as error:
            byte, encoding = error.object[error.start], error.encoding.upper()
            raise ValueError(
                f"corpus={str(file)!r}: not {encoding}, for it holds the byte 0x{byte:02x} where no character begins; "
                "expected text in UTF-8 or UTF-16: convert any other encoding, and unpack what is no gzip file"
            ) from None


def _encoding(plain: BinaryIO) -> str:
    """By its mark; else UTF-16 if every other byte is often 0, as it is in most languages' text, else UTF-8."""
    start = plain.read(4096)
    plain.seek(0)
    nothing = [start[i::2].count(0) > len(start) / 8 for i in (0, 1)]
    unmarked = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(tuple(nothing), "utf-8")
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), unmarked)


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
    for has_text, block in groupby(lines, lambda line: bool(line.strip())):
        if has_text:
            yield "\n".join(block)


def _records(start: str, stream: TextIO, left_out: Counter, file: Path) -> Iterator[Any]:
    """The records of a list of records, or of JSON lines, each of which may be a list; the start of the file says."""
    for _ in range(2):  # the first lines whole, unless they are longer than any record
        start += "" if start.count("\n") > 1 else stream.readline(1 << 16)
    line, _, rest = start.partition("\n")
    is_list = start[0] == "[" and not (rest.strip() and isinstance(_value(line), list))
    if is_list:
        start = yield from _elements(start, stream, left_out, file)
    if start:
        yield from _json_lines(start, stream, left_out, file)


def _elements(start: str, stream: TextIO, left_out: Counter, file: Path) -> Iterator[Any]:
    """The records of a list, one after another. Returns what was read where the first is none: it is no list then."""
    at, number, size = 1, 0, _CHUNK
    while True:
        at = _BETWEEN.match(start, at).end()
        if start[at : at + 1] == "]":
            if (start[at + 1 :] + stream.read(_CHUNK)).strip():
                left_out["text after the end of the list"] += 1
            return ""
        try:
            record, at = _DECODER.raw_decode(start, at)
        except (ValueError, RecursionError) as error:
            if _is_unfinished(error, start) and (more := stream.read(size)):
                start, at = (start[at:] + more, 0) if number else (start + more, at)
                size *= 2
                continue
            if not number:
                return start
            raise ValueError(f"corpus={str(file)!r}: no JSON after {number} records of its list ({error})") from None
        yield record
        number, size = number + 1, _CHUNK


def _is_unfinished(error: Exception, text: str) -> bool:
    """Whether what follows may make JSON of a text that is none."""
    at_the_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(text) - len("-Infinity")
    return at_the_end or "Unterminated string" in str(error)


def _json_lines(start: str, stream: TextIO, left_out: Counter, file: Path) -> Iterator[Any]:
    """The records of JSON lines; where the first two are none, of the one value that the file is."""
    lines = _lines(start, stream)
    first = list(islice(lines, 2))
    found = 0
    if not any(isinstance(_value(line), dict | list) for line in first):
        text = "\n".join([*first, *lines])
        lines = iter([text] if isinstance(_value(text), dict | list) else text.split("\n"))
        first = []
    for line in chain(first, lines):
        record = _value(line)
        if isinstance(record, dict | list):
            found += 1
            yield record
        elif line.strip():
            left_out["line that is not a JSON object"] += 1
    if not found:
        raise ValueError(
            f"corpus={str(file)!r}: neither JSON nor JSON lines, or cut off; expected a list of records, or a record "
            f"in each line (it begins {start[:30]!r})"
        )


def _value(text: str) -> Any:
    """The value that a text is as JSON, or None; a comma may follow it."""
    try:
        return json.loads(text.rstrip().removesuffix(","), strict=False)
    except (ValueError, RecursionError):  # too deeply nested, or a number of too many digits
        return None


def _table(stream: TextIO, file: Path) -> Iterator[dict]:
    """The rows of a table with a header, comma- or tab-separated, some at a time."""
    try:
        sep = "\t" if _kind(file) == ".tsv" else ","
        for part in pd.read_csv(stream, sep=sep, dtype=str, keep_default_na=False, index_col=False, chunksize=1024):
            yield from part.to_dict("records")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"corpus={str(file)!r}: no table ({str(error).strip()})") from None


def _parquet(file: Path) -> Iterator[dict]:
    """The rows of a Parquet file, some at a time."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError(f"corpus={str(file)!r}: needs pyarrow: pip install 'scta_lite[parquet]'") from None
    try:
        for batch in ParquetFile(file).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"corpus={str(file)!r}: not Parquet ({str(error).partition(chr(10))[0]})") from None
