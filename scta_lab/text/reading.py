"""Files in, documents out: JSON, JSON lines, plain text, tables, or a folder of them.

JSON and text may be gzipped. Files are streamed: whoever stops asking for documents stops the
reading, so that a file may be larger than memory. Read whole are a file that is one JSON object,
and each of several text files in a folder.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO, TextIOWrapper
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pandas as pd

from scta_lab.text.records import documents_of

JSON = (".json", ".jsonl", ".ndjson")
TEXT = (".txt", ".md")
TABLES = (".parquet", ".csv", ".tsv")
KINDS = JSON + TEXT + TABLES
_BETWEEN = re.compile(r"[\s,]*")  # the records of a list
_DECODER = json.JSONDecoder(strict=False)  # line breaks within strings are read
_CHUNK = 1 << 20  # characters that are read at a time
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class _NoListError(Exception):
    """A text that begins as a list does, and is none."""


def documents(path: str | Path, left_out: Counter | None = None) -> Iterator[str]:
    """The documents of a file, or of all files in a folder.

    JSON, JSON lines and tables (CSV, TSV; Parquet with the extra "parquet") give the documents of
    their records, as `records.documents_of` reads them. Plain text gives one for each block of
    lines, blank lines between them; of several text files in a folder each is one document. UTF-8
    and UTF-16. `left_out` counts what was skipped, by reason. Raises FileNotFoundError; ValueError,
    which names the file, if it cannot be read or holds no document.
    """
    path = Path(path)
    left_out = Counter() if left_out is None else left_out
    files = files_of(path)
    several = sum(_kind(file) in TEXT for file in files) > 1
    is_empty = True
    for file in files:
        try:
            for document in _of_file(file, left_out, whole=several):
                is_empty = False
                # JSON can spell half a character
                clean = document.encode(errors="replace").decode()
                if clean != document:
                    left_out["document with half a character, now ?"] += 1
                yield clean
        except ValueError:
            if file == path:
                raise
            left_out["file that could not be read to its end"] += 1
    if is_empty:
        counts = ", ".join(f"{count} × {reason}" for reason, count in left_out.items())
        raise _error(
            path,
            f"no usable record ({counts or 'no records'}); expected text, or JSON records with a "
            'conversation, as {"messages": [{"role": "user", "content": "…"}, …]}, with a prompt '
            "and its completion, or with a text",
        )


def files_of(path: Path) -> list[Path]:
    """The file itself; of a folder, the files in it and below that can be read, by their names.

    Hidden files are left out, and what is in hidden folders.
    """
    kinds = ", ".join(KINDS)
    if not path.exists():
        expected = "expected 'installed', 'zipf' or a file or folder"
        raise FileNotFoundError(f"corpus={str(path)!r}: no such file; {expected}")
    if path.is_file() and _kind(path) not in (*KINDS, ""):
        advice = "(any plain text may be named .txt)"
        raise _error(path, f"no kind of file that is read; expected one of {kinds} {advice}")
    if path.is_file():
        return [path]
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file) in KINDS]
    files = [file for file in files if "/." not in f"/{file.relative_to(path).as_posix()}"]
    if not files:
        raise _error(path, f"no file to read; expected one of {kinds}")
    return files


def _error(file: Path, problem: str) -> ValueError:
    return ValueError(f"corpus={str(file)!r}: {problem}")


def _kind(file: Path) -> str:
    """The end of the file's name that says what it holds."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _of_file(file: Path, left_out: Counter, whole: bool) -> Iterator[str]:
    """The documents of a file; of plain text a single one if `whole`."""
    kind = _kind(file)
    if kind == ".parquet":
        yield from _of_records(_parquet(file), left_out)
        return
    with _opened(file) as stream:
        if kind in TABLES:
            yield from _of_records(_table(stream, file), left_out)
            return
        start = _after_blanks(stream)
        if not start:
            raise _error(file, "the file is empty; expected text, JSON or JSON lines")
        if kind in JSON or (kind not in TEXT and start[0] in "[{"):
            records = _records(start, stream, left_out, file)
            first = list(islice(records, 2))
            yield from _of_records(chain(first, records), left_out, alone=len(first) == 1)
        elif whole:
            yield start + stream.read()
        else:
            yield from _blocks(start, stream)


def _of_records(records: Iterable[Any], left_out: Counter, alone: bool = False) -> Iterator[str]:
    for record in records:
        yield from documents_of(record, left_out, alone=alone)


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """The file's text, unzipped and decoded; a ValueError names the file where that fails."""
    with file.open("rb") as raw:
        is_zipped = raw.peek(2).startswith(b"\x1f\x8b")
        try:
            plain = gzip.GzipFile(fileobj=raw) if is_zipped else raw
            yield TextIOWrapper(plain, _encoding(plain))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _error(file, f"a broken gzip file ({error})") from None
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise _error(
                file,
                f"not {error.encoding.upper()}, for it holds the byte 0x{byte:02x} where no "
                "character begins; expected text in UTF-8 or UTF-16: convert any other encoding, "
                "and unpack what is no gzip file",
            ) from None


def _encoding(plain: BinaryIO) -> str:
    """By its mark; else UTF-16 if every other byte is often 0, as in most languages, else UTF-8."""
    start = plain.read(4096)
    plain.seek(0)
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    even, odd = (start[i::2].count(0) > len(start) / 8 for i in (0, 1))
    if even == odd:
        return "utf-8"
    return "utf-16-be" if even else "utf-16-le"


def _after_blanks(stream: TextIO) -> str:
    """The stream's first characters, from the first on that is no white space."""
    start = stream.read(_CHUNK)
    while start.isspace():
        start = stream.read(_CHUNK)
    return start.lstrip()


def _blocks(start: str, stream: TextIO) -> Iterator[str]:
    """The blocks of lines, blank lines between them, of what was read and of what follows it."""
    lines = chain(StringIO(start + stream.readline()), stream)
    for is_blank, block in groupby(lines, lambda line: not line.strip()):
        if not is_blank:
            yield "".join(block).removesuffix("\n")


def _records(start: str, stream: TextIO, left_out: Counter, file: Path) -> Iterator[Any]:
    """The records of a list of records, or of JSON lines, each of which may be a list."""
    # The first lines are whole now, unless they are longer than any record.
    start += stream.readline(1 << 16) + stream.readline(1 << 16)
    line, _, rest = start.partition("\n")
    is_line_of_many = isinstance(_record(line), list) and rest.strip()
    if start[0] == "[" and not is_line_of_many:
        with suppress(_NoListError):
            yield from _elements(start, stream, left_out, file)
            return
    stream.seek(0)
    yield from _json_lines(stream, left_out, file)


def _elements(text: str, stream: TextIO, left_out: Counter, file: Path) -> Iterator[Any]:
    """The records of a list, one after another; _NoListError where the first is none."""
    place = 1  # after the [
    number = 0
    size = _CHUNK
    while True:
        place = _BETWEEN.match(text, place).end()
        if text.startswith("]", place):
            break
        try:
            record, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            more = stream.read(size) if _is_unfinished(error, text) else ""
            if not more and number == 0:
                raise _NoListError from None
            if not more:
                problem = f"no JSON after {number} records of its list ({error})"
                raise _error(file, problem) from None
            text = text[place:] + more
            place = 0
            size *= 2  # so that a long record is not decoded too often
        else:
            yield record
            number += 1
            size = _CHUNK
    rest = text[place + 1 :] + stream.read(_CHUNK)
    if rest.strip():
        left_out["text after the end of the list"] += 1


def _is_unfinished(error: Exception, text: str) -> bool:
    """Whether what follows may make JSON of a text that is none."""
    if isinstance(error, json.JSONDecodeError) and error.pos >= len(text) - len("-Infinity"):
        return True
    return "Unterminated string" in str(error)


def _json_lines(stream: TextIO, left_out: Counter, file: Path) -> Iterator[Any]:
    """The records of JSON lines; where the first two are none, of the one value of the file."""
    lines = filter(str.strip, stream)  # those that are not blank
    first = list(islice(lines, 2))
    lines = chain(first, lines)
    if all(_record(line) is None for line in first):
        stream.seek(0)
        text = stream.read()
        lines = filter(str.strip, text.split("\n")) if _record(text) is None else [text]
    number = 0
    for line in lines:
        record = _record(line)
        if record is None:
            left_out["line that is not a JSON object"] += 1
        else:
            number += 1
            yield record
    if number == 0:
        expected = "expected a list of records, or a record in each line"
        begins = f"(it begins {text.lstrip()[:30]!r})"
        raise _error(file, f"neither JSON nor JSON lines, or cut off; {expected} {begins}")


def _record(text: str) -> dict | list | None:
    """The object or list that a text is as JSON, or None; a comma may follow it."""
    try:
        value = json.loads(text.rstrip().removesuffix(","), strict=False)
    except (ValueError, RecursionError):  # too deeply nested, or a number of too many digits
        return None
    return value if isinstance(value, dict | list) else None


def _table(stream: TextIO, file: Path) -> Iterator[dict]:
    """The rows of a table with a header, comma- or tab-separated, some at a time."""
    separator = "\t" if _kind(file) == ".tsv" else ","
    plain = {"dtype": str, "keep_default_na": False, "index_col": False}
    try:
        for part in pd.read_csv(stream, sep=separator, chunksize=1024, **plain):
            yield from part.to_dict("records")
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise _error(file, f"no table ({str(error).strip()})") from None


def _parquet(file: Path) -> Iterator[dict]:
    """The rows of a Parquet file, some at a time."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise _error(file, "needs pyarrow: pip install 'scta_lite[parquet]'") from None
    try:
        for batch in ParquetFile(file).iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        first_line = str(error).partition("\n")[0]
        raise _error(file, f"not Parquet ({first_line})") from None
