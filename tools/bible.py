"""The text that the bundled model is trained on: the King James Bible of Debian's package bible-kjv-text, by chapters."""

import re
import struct
import subprocess
from pathlib import Path

BOOKS = (
    "Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|1 Samuel|2 Samuel|1 Kings|2 Kings|1 Chronicles|"
    "2 Chronicles|Ezra|Nehemiah|Esther|Job|Psalm|Proverbs|Ecclesiastes|Song of Solomon|Isaiah|Jeremiah|Lamentations|"
    "Ezekiel|Daniel|Hosea|Joel|Amos|Obadiah|Jonah|Micah|Nahum|Habakkuk|Zephaniah|Haggai|Zechariah|Malachi|Matthew|"
    "Mark|Luke|John|Acts|Romans|1 Corinthians|2 Corinthians|Galatians|Ephesians|Philippians|Colossians|"
    "1 Thessalonians|2 Thessalonians|1 Timothy|2 Timothy|Titus|Philemon|Hebrews|James|1 Peter|2 Peter|1 John|2 John|"
    "3 John|Jude|Revelation"
).split("|")


def read_bible_data(path):
    """The plain text, one verse a line ("Ge1:1 In the beginning ..."), of /usr/lib/bible.data.

    The file is 0x54 bytes of title, then big-endian: window size, number of windows, their offsets and the end; each
    window is the output of compress(1) without its first three bytes.
    """
    data = Path(path).read_bytes()
    (count,) = struct.unpack_from(">I", data, 0x58)
    ends = struct.unpack_from(f">{count + 1}I", data, 0x5C)
    windows = (b"\x1f\x9d\x90" + data[begin:end] for begin, end in zip(ends, ends[1:]))
    unpacked = (subprocess.run(["gzip", "-dc"], input=w, stdout=subprocess.PIPE, check=True).stdout for w in windows)
    return b"".join(unpacked).decode("ascii")


def read_chapters(path):
    """All chapters in order: [{"title": "Genesis 1", "verses": [...]}]."""
    chapters, abbreviations = {}, []
    for line in read_bible_data(path).splitlines()[1:]:
        book, number, text = re.fullmatch(r"(\d?[A-Za-z]+)(\d+):\d+ (.*)", line).groups()
        if book not in abbreviations:
            abbreviations.append(book)
        title = f"{BOOKS[abbreviations.index(book)]} {number}"
        chapters.setdefault(title, []).append(re.sub(r"\s+", " ", text).strip())
    assert len(abbreviations) == len(BOOKS) and len(chapters) == 1189, (len(abbreviations), len(chapters))
    return [{"title": title, "verses": verses} for title, verses in chapters.items()]


def split(chapters):
    """(training, validation, held-out) chapters."""
    training = [c for i, c in enumerate(chapters) if i % 40 not in (10, 30)]
    return training, chapters[10::40], chapters[30::40]


def prose(chapter):
    """The chapter as a title and running paragraphs of some 500 characters that end where a sentence does."""
    paragraphs, current = [], ""
    for verse in chapter["verses"]:
        current = f"{current} {verse}".lstrip()
        if len(current) > 500 and verse.endswith((".", "?", "!")):
            paragraphs.append(current)
            current = ""
    return "\n\n".join([chapter["title"], *paragraphs, *([current] if current else [])])
