"""Sentences of film reviews with the sentiment that people saw in them, as words: the data of Hutto and Gilbert 2014.

They come with the source package of vaderSentiment 0.5, under its MIT licence, as one archive inside another. Neither
is unpacked.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from collegium.search.fields import Strict
from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Folders, Sample
from collegium.train.errors import DataError

if TYPE_CHECKING:
    from collegium.train.spec.data import DataSpec

FILE = "vaderSentiment-0.5.zip"
INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
MAX_BYTES = 64 * 2**20

LEAST_RATING = 0.5  # of the mean of twenty raters, −4 to 4: what is nearer to 0 has no clear sign
LENGTH = 48  # words; one sentence in a hundred is longer, and is cut
LEAST_COUNT = 2  # occurrences in the training split that a word of the vocabulary has
PAD, END, UNKNOWN, FIRST_WORD = 0, 1, 2, 3
MOST_TOKENS = 9_849  # of all sentences of the published file; those of half of them are about 6 400

Snippet = tuple[str, int]
"""A sentence, and 1 where it is positive, 0 where it is negative."""


class SnippetsSpec(Strict):
    """``length`` in tokens, to which sentences are cut, and the most tokens of the ``vocabulary``.

    The vocabulary is that of the training samples; where it would be larger, rarer words are unknown.
    """

    length: Annotated[int, Field(ge=2, le=LENGTH)] = LENGTH
    vocabulary: Annotated[int, Field(ge=FIRST_WORD + 1, le=1_000_000)] | None = None


class MovieSnippets(DataFormat):
    """Positive and negative sentences, half for training and half for testing."""

    summary = f"sentences of film reviews, positive or negative, as words: up to {LENGTH} tokens"
    names = ("movie-snippets",)
    options = SnippetsSpec
    options_name = "snippets"

    def files(self, name: str) -> tuple[str, ...]:
        """The source package, as it is downloaded."""
        return (FILE,)

    def source(self, name: str) -> str:
        """The package index has it."""
        return "; get it with: pip download --no-deps --no-binary :all: --dest DATA_FOLDER vaderSentiment==0.5"

    def sample(self, spec: DataSpec) -> Sample:
        """One sentence; how many words there are follows from the training samples, and is bounded here."""
        chosen: SnippetsSpec = self.options_of(spec)
        return Sample("tokens", (chosen.length,), min(chosen.vocabulary or MOST_TOKENS, MOST_TOKENS))

    def recipe(self, name: str) -> str:
        """That of transformers."""
        return "mk-t5"

    def load(self, spec: DataSpec, folders: Folders) -> Arrays:
        """The sentences, split by the specification's seed; the words are those of its training samples."""
        assert folders.data is not None
        path = folders.data / FILE
        stamp = path.stat()
        return _arrays(_read_once(path, stamp.st_mtime_ns, stamp.st_size), spec, self.options_of(spec))


def read_snippets(path: Path) -> list[Snippet]:
    """Every sentence once, in the order of the file, but those rated within 0.5 of 0. Raises ``DataError``."""
    found: dict[str, float] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        fields = line.split("\t")
        try:
            _, rating, sentence = fields
            found.setdefault(sentence.strip(), float(rating))
        except ValueError:
            raise DataError(
                f"{FILE}: line {number} of {MEMBER} is not a number, a rating and a sentence", "fetch the file again"
            ) from None
    return [(sentence, int(rating > 0)) for sentence, rating in found.items() if abs(rating) >= LEAST_RATING]


def words(sentence: str) -> list[str]:
    """Lower-case words, with their apostrophes, and marks of punctuation.

    >>> words("It's a mess, isn't it?")
    ["it's", 'a', 'mess', ',', "isn't", 'it', '?']
    """
    return re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", sentence.lower())


def vocabulary_of(sentences: Iterable[str], most: int | None = None) -> dict[str, int]:
    """Tokens, from 3 on, of the words that occur at least twice; the most frequent first, and equals by alphabet.

    With the three tokens that are no words, there are ``most``.

    >>> vocabulary_of(["a film", "a bore", "the film, the one"])
    {'a': 3, 'film': 4, 'the': 5}
    >>> vocabulary_of(["a film", "a bore", "the film, the one"], most=5)
    {'a': 3, 'film': 4}
    """
    counts = Counter(word for sentence in sentences for word in words(sentence))
    kept = sorted((-count, word) for word, count in counts.items() if count >= LEAST_COUNT)
    kept = kept if most is None else kept[: most - FIRST_WORD]
    return {word: index for index, (_, word) in enumerate(kept, FIRST_WORD)}


def encode(sentences: Sequence[str], vocabulary: dict[str, int], length: int = LENGTH) -> np.ndarray:
    """Tokens ``(sentences, length)``: each sentence's words, 2 for those that are not known, then 1, then zeros."""
    table = np.full((len(sentences), length), PAD, np.int64)
    for row, sentence in zip(table, sentences, strict=True):
        tokens = [vocabulary.get(word, UNKNOWN) for word in words(sentence)[: length - 1]] + [END]
        row[: len(tokens)] = tokens
    return table


def _arrays(snippets: Sequence[Snippet], spec: DataSpec, chosen: SnippetsSpec) -> Arrays:
    from collegium.train.data.split import choose_samples

    order = np.random.default_rng([spec.seed, 5]).permutation(len(snippets))
    sentences = [snippets[index][0] for index in order]
    labels = np.array([snippets[index][1] for index in order], np.int64)
    half = len(snippets) // 2
    # Words of sentences that are held out, or left out by a limit, are as unknown as those of test sentences.
    trained, _, _ = choose_samples(labels[:half], 2, spec)
    vocabulary = vocabulary_of((sentences[index] for index in trained), chosen.vocabulary)
    tokens = encode(sentences, vocabulary, chosen.length)
    return Arrays(
        tokens[:half],
        labels[:half],
        tokens[half:],
        labels[half:],
        classes=2,
        kind="tokens",
        vocabulary=FIRST_WORD + len(vocabulary),
        summary={"source": "vaderSentiment 0.5", "labels": ["negative", "positive"]},
    ).checked(spec.name)


@lru_cache(maxsize=1)
def _read_once(path: Path, modified: int, size: int) -> tuple[Snippet, ...]:
    """What was read last, for a process that trains on it many times; the numbers change when the file does."""
    return tuple(read_snippets(path))


def _text(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as outer:
            if outer.getinfo(INNER).file_size > MAX_BYTES:
                raise DataError(f"{FILE}: {INNER} is larger than {MAX_BYTES} bytes", "fetch the published file")
            packed = outer.read(INNER)
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as inner:
            file = inner.extractfile(MEMBER)
            data = b"" if file is None else file.read(MAX_BYTES)
        return data.decode()
    except KeyError as error:
        raise DataError(f"{FILE} lacks a file: {error.args[0]}", "fetch the published file") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{FILE} is truncated or another file: {error}", "fetch it again") from error
