"""The short form: the corpus, and random damage to good files, without a fuzzer."""

import random
import warnings
from pathlib import Path

import pytest
from readers import READERS

CORPUS = Path(__file__).parent / "corpus"


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, left out, doubled or added."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(found) + 1)
        length = rng.choice((1, 1, 4, 32))
        kind = rng.randrange(4)
        if kind == 0:
            found[place : place + length] = rng.randbytes(length)
        elif kind == 1:
            del found[place : place + length]
        elif kind == 2:
            found[place:place] = found[place : place + length]
        else:
            found[place:place] = rng.choice((b"\x00", b"\xff" * 4, b"9" * 20, b"{", b"nan", b"-1"))
    return bytes(found)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_reader_answers_or_refuses(name):
    reader, rng = READERS[name], random.Random(0)
    seeds = reader.seeds()
    kept = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    for data in (*seeds, *kept, b"", *(damaged(rng.choice(seeds), rng) for _ in range(300))):
        try:
            with warnings.catch_warnings():
                reader.read(data)
        except reader.refuses:
            continue


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_what_is_good(name):
    reader = READERS[name]
    for data in reader.seeds():
        reader.read(data)
