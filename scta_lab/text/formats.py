"""What stands in a file: the records of JSON, JSON lines and tables, the blocks of plain text.

Text is streamed, and no line or record is longer than the stream allows (`Bounded`).
"""

import csv
import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO, TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

_BETWEEN = re.compile(r"[\s,]*")  # the records of a list
_DECODER = json.JSONDecoder(strict=False)  # line breaks within strings are read
_CHUNK = 1 << 20  # characters that are read at a time
_ROWS = 16  # of a Parquet file, which are read at a time: a cell may be long
END = "<|endoftext|>"  # parts documents where it is used
_ARTICLE = re.compile(r" ?= (?!= ).+ = \n")  # the title of one, as WikiText has them
csv.field_size_limit(1 << 30)  # the stream's bound is the one that counts


class _NoListError(Exception):
    """A text that begins as a list does, and is none."""


class Bounded(TextIOWrapper):
    """A text of which no line, nor all of it, may be read where it has more than `longest`."""

    def __init__(self, plain: BinaryIO, encoding: str, longest: int):
        super().__init__(plain, encoding)
        self.longest = longest

    def readline(self, size: int = -1) -> str:
        return self.checked(super().readline(self.longest + 1 if size < 0 else size))

    def read(self, size: int | None = -1) -> str:
        is_all = size is None or size < 0
        return self.checked(super().read(self.longest + 1 if is_all else size))

    def checked(self, text: str) -> str:
        """The text; ValueError where it is longer than allowed."""
        if len(text) > self.longest:
            expected = "expected no document or record of more; max_characters allows it"
            raise ValueError(f"a record of more than {self.longest:,} characters; {expected}")
        return text


def after_blanks(stream: Bounded) -> str:
    """The stream's first characters, from the first on that is no white space."""
    start = stream.read(_CHUNK)
    while start.isspace():
        start = stream.read(_CHUNK)
    return start.lstrip()


def blocks(start: str, stream: Bounded) -> Iterator[str]:
    """The blocks of lines, blank lines between them, of what was read and of what follows it.

    Where <|endoftext|> is used it parts them, and blank lines do not; nor where a text begins with
    a title as in WikiText, " = Title = ", before each of which a document ends.
    """
    has_mark = END in start
    has_titles = _ARTICLE.match(start) is not None
    block: list[str] = []
    size = 0
    for line in chain(StringIO(start + stream.readline()), stream):
        if has_titles:
            pieces = ["", line] if _ARTICLE.fullmatch(line) else [line]
        elif has_mark:
            pieces = line.split(END)
        else:
            pieces = [line] if line.strip() else ["", ""]
        for piece in pieces[:-1]:
            yield "".join([*block, piece])
            block, size = [], 0
        block.append(pieces[-1])
        size += len(line)
        if size > stream.longest:
            stream.checked("".join(block))
    yield "".join(block)


def records(start: str, stream: Bounded, left_out: Counter) -> Iterator[Any]:
    """The records of a list of records, or of JSON lines, each of which may be a list."""
    # The first lines are whole now, unless they are longer than any record.
    start += stream.readline(1 << 16) + stream.readline(1 << 16)
    line, _, rest = start.partition("\n")
    is_line_of_many = isinstance(_record(line), list) and rest.strip()
    if start[0] == "[" and not is_line_of_many:
        with suppress(_NoListError):
            yield from _elements(start, stream, left_out)
            return
    stream.seek(0)
    yield from _json_lines(stream, left_out)


def _elements(text: str, stream: Bounded, left_out: Counter) -> Iterator[Any]:
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
                raise ValueError(f"no JSON after {number} records of its list ({error})") from None
            text = stream.checked(text[place:]) + more
            place = 0
            size = min(2 * size, stream.longest)  # so that a long one is not decoded too often
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


def _json_lines(stream: Bounded, left_out: Counter) -> Iterator[Any]:
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
        expected = "expected a list of records, or an object or a list in each line"
        begins = f"(it begins {first[0].lstrip()[:30]!r})"
        raise ValueError(f"neither JSON nor JSON lines of records, or cut off; {expected} {begins}")


def _record(text: str) -> dict | list | None:
    """The object or list that a text is as JSON, or None; a comma may follow it."""
    try:
        value = json.loads(text.rstrip().removesuffix(","), strict=False)
    except (ValueError, RecursionError):  # too deeply nested, or a number of too many digits
        return None
    return value if isinstance(value, dict | list) else None


def table(stream: Bounded, separator: str, left_out: Counter) -> Iterator[dict]:
    """The rows of a table with a header; one that is wider than it is left out."""
    rows = filter(None, _rows(stream, separator))
    header = next(rows, None)
    if header is None:
        raise ValueError("no table (it is empty); expected a header and rows")
    for row in rows:
        if len(header) == 1:
            row = [separator.join(row)]
        if any(row[len(header) :]):
            left_out["row that is wider than its table's header"] += 1
        else:
            yield dict(zip(header, row, strict=False))


def _rows(stream: Bounded, separator: str) -> Iterator[list[str]]:
    """The fields of each row. A quote that does not close, or far away, is a letter of its line."""
    ahead: deque[str] = deque()  # lines that were read to look for the end of a quoted field
    while line := ahead.popleft() if ahead else stream.readline():
        row, size = [line], len(line)
        fields = _fields(line, separator)
        while fields is None:
            if len(row) > len(ahead):
                ahead.append(stream.readline())
            more = ahead[len(row) - 1]
            row.append(more)
            size += len(more)
            if not more or size > _CHUNK:
                fields = []
            elif '"' in more:
                fields = _fields("".join(row), separator)
        if fields:
            for _ in row[1:]:
                ahead.popleft()
        yield fields or line.removesuffix("\n").split(separator)


def _fields(row: str, separator: str) -> list[str] | None:
    """The fields of a row; none where its quotes are letters; None where a quoted one is open."""
    try:
        fields = next(csv.reader([row], delimiter=separator, strict=True))
    except csv.Error as error:
        return None if "unexpected end" in str(error) else []
    is_many_rows = separator == "\t" and any("\n" in x and "\t" in x for x in fields)
    return [] if is_many_rows else fields


def parquet(file: Path, longest: int) -> Iterator[dict]:
    """The rows of a Parquet file, some at a time, or one where together they may be `longest`."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError("needs pyarrow: pip install 'scta_lite[parquet]'") from None
    try:
        table = ParquetFile(file)
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group)
            size = rows.total_byte_size  # a cell may be as long
            mean = size // max(1, rows.num_rows)
            if mean > 4 * longest:  # a character has up to 4 bytes
                expected = f"expected at most max_characters={longest:,} in each"
                raise ValueError(f"records of {mean:,} bytes; {expected}")
            at_once = longest // max(1, size)
            at_once = min(max(1, at_once), _ROWS)
            for batch in table.iter_batches(at_once, row_groups=[group]):
                yield from batch.to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"not Parquet ({first_line})") from None
