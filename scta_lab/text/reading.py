"""Files in, documents out: JSON, JSON lines, plain text, tables, or a folder of them.

JSON and text may be gzipped. Files are streamed: whoever stops asking for documents stops the
reading, so that a file may be larger than memory. Read whole are a file that is one JSON object,
and each of several text files in a folder.
"""

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from scta_lab.base.spec import MAX_CHARACTERS
from scta_lab.text import formats
from scta_lab.text.formats import Bounded
from scta_lab.text.records import documents_of

JSON = (".json", ".jsonl", ".ndjson")
TEXT = (".txt", ".md")
TABLES = (".csv", ".tsv")
KINDS = (*JSON, *TEXT, ".parquet", *TABLES)
SHORTEST = 1 << 20  # characters that a line may have, however few are asked for: it may be a record
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xef\xbb\xbf": "utf-8-sig"}
_MARKS |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # the longer ones come first
_SPLIT = re.compile(r"(?<![a-z])(train|test|validation|valid|val|dev)(?![a-z])")


def documents(
    path: str | Path,
    left_out: Counter | None = None,
    unread: Counter | None = None,
    longest: int = MAX_CHARACTERS,
) -> Iterator[str]:
    """The documents of a file, or of all files in a folder.

    JSON, JSON lines and tables (CSV, TSV; Parquet with the extra "parquet") give the documents of
    their records, as `records.documents_of` reads them. Plain text gives one for each block of
    lines, blank lines or <|endoftext|> between them; of several text files in a folder each is one
    document. UTF-8, UTF-16 and UTF-32. `left_out` counts what was skipped, by reason; `unread` the
    characters of what no rule reads, by key. Raises FileNotFoundError; ValueError, which names the
    file, if it cannot be read, holds no document, or one of more than `longest` characters.
    """
    path = Path(path)
    left_out = Counter() if left_out is None else left_out
    unread = Counter() if unread is None else unread
    files = _training(files_of(path), path, left_out)
    several = sum(_kind(file) in TEXT for file in files) > 1
    is_empty = True
    for file in files:
        try:
            for document in _of_file(file, left_out, unread, longest, whole=several):
                is_empty = False
                if len(document) > longest:
                    raise ValueError(_too_long(document, longest))
                # JSON can spell half a character
                clean = document.encode(errors="replace").decode()
                if clean != document:
                    left_out["document with half a character, now ?"] += 1
                yield clean
        except ValueError as error:
            if file == path:
                raise _error(path, str(error)) from None
            left_out["file that could not be read to its end"] += 1
    if is_empty:
        raise _error(path, _nothing(left_out, unread))


def _too_long(document: str, longest: int) -> str:
    expected = f"expected at most max_characters={longest:,}"
    return f"a document of {len(document):,} characters; {expected}"


def _nothing(left_out: Counter, unread: Counter) -> str:
    """What there is where no document is."""
    counts = ", ".join(f"{count} × {reason}" for reason, count in left_out.items()) or "no records"
    keys = ", ".join(key for key, _ in unread.most_common(8))
    found = f"{counts}; its keys: {keys}" if keys else counts
    return (
        f"no usable record ({found}); expected "
        'text, or JSON records with a conversation, as {"messages": [{"role": "user", "content": '
        '"…"}, …]}, with a prompt and its completion, or with a text'
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


def _training(files: list[Path], folder: Path, left_out: Counter) -> list[Path]:
    """The files without a data set's card, and without other splits where one is for training."""
    splits = {file: _split(file.relative_to(folder)) for file in files}
    kept = []
    for file, split in splits.items():
        if file != folder and _is_card(file):
            left_out["card of a data set"] += 1
        elif split in (None, "train") or "train" not in splits.values():
            kept.append(file)
        else:
            left_out["file of a split that is not for training"] += 1
    return kept


def _split(name: Path) -> str | None:
    """The split that a file is of: what its name, or else its folder's, says of it."""
    return next(reversed(_SPLIT.findall(name.as_posix().lower())), None)


def _is_card(file: Path) -> bool:
    """Whether it is a README.md that begins as a data set's card does."""
    if file.name.lower() != "readme.md":
        return False
    with file.open("rb") as raw:
        return raw.read(3) == b"---"


def _error(file: Path, problem: str) -> ValueError:
    return ValueError(f"corpus={str(file)!r}: {problem}")


def _kind(file: Path) -> str:
    """The end of the file's name that says what it holds."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _of_file(
    file: Path, left_out: Counter, unread: Counter, longest: int, whole: bool
) -> Iterator[str]:
    """The documents of a file; of plain text a single one if `whole`."""
    kind = _kind(file)
    if kind == ".parquet":
        yield from _of_records(formats.parquet(file, max(longest, SHORTEST)), left_out, unread)
        return
    with _opened(file, longest) as stream:
        if kind in TABLES:
            rows = formats.table(stream, "\t" if kind == ".tsv" else ",", left_out)
            yield from _of_records(rows, left_out, unread)
            return
        start = formats.after_blanks(stream)
        if not start:
            raise ValueError("the file is empty; expected text, JSON or JSON lines")
        if kind in JSON or (kind not in TEXT and start[0] in "[{"):
            records = formats.records(start, stream, left_out)
            first = list(islice(records, 2))
            yield from _of_records(chain(first, records), left_out, unread, len(first) == 1)
        elif whole and formats.END not in start:
            yield stream.checked(start + stream.read())
        else:
            blocks = (block.strip("\n") for block in formats.blocks(start, stream))
            yield from filter(str.strip, blocks)


def _of_records(
    records: Iterable[Any], left_out: Counter, unread: Counter, alone: bool = False
) -> Iterator[str]:
    for record in records:
        yield from documents_of(record, left_out, unread, alone=alone)


@contextmanager
def _opened(file: Path, longest: int) -> Iterator[Bounded]:
    """The file's text, unzipped and decoded; ValueError where that fails."""
    with file.open("rb") as raw:
        is_zipped = raw.peek(2).startswith(b"\x1f\x8b")
        try:
            plain = gzip.GzipFile(fileobj=raw) if is_zipped else raw
            yield Bounded(plain, _encoding(plain), max(longest, SHORTEST))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"a broken gzip file ({error})") from None
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ValueError(
                f"not {error.encoding.upper()}, for it holds the byte 0x{byte:02x} where no "
                "character begins; expected text in UTF-8, UTF-16 or UTF-32, plain or gzipped"
            ) from None


def _encoding(plain: BinaryIO) -> str:
    """By its mark; else by where bytes are often 0, as in most languages; else UTF-8."""
    start = plain.read(4096)
    plain.seek(0)
    if start[257:262] == b"ustar":
        raise ValueError("a tar archive; expected its files, unpacked")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError("a pointer of Git LFS; expected the file itself: git lfs pull")
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return name
    even, odd = (start[i::2].count(0) > len(start) / 8 for i in (0, 1))
    if not even and not odd:
        return "utf-8"
    is_wide = even and odd
    is_big = start[0] == 0 if is_wide else even
    width = 32 if is_wide else 16
    order = "be" if is_big else "le"
    name = f"utf-{width}-{order}"
    text = start.decode(name, "ignore")
    if any(letter < " " and not letter.isspace() for letter in text):
        raise ValueError("bytes that are no text; expected text, or a gzip file of it")
    return name
