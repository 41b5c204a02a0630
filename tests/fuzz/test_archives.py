"""Archives that are changed at random, for a time: layers, and images as `docker load` gets them.  Each is refused with a
clear error and leaves nothing, or is unpacked; nothing outside changes, no job takes much memory or time.

BOXWRIGHT_FUZZ_SECONDS: how long (10 by default; `make fuzz` 120).  BOXWRIGHT_FUZZ_SEED repeats a run.
"""

import asyncio
import bz2
import gzip
import os
import random
import resource
import time

import pytest
import zstandard
from kernel.test_hostile_archives import CONTAINED, REFUSED, evil, outside
from support.image_archives import BASE, SIMPLE, TOP, blob, config, descriptor, files, layout, load, manifest
from support.stores import Stores, stores
from support.tars import directory, link, pack, symlink

from boxwright.errdefs import Error

SECONDS = float(os.environ.get("BOXWRIGHT_FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("BOXWRIGHT_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
LONGEST = 20.0  # seconds for one archive, on a busy machine
MEMORY = 300 << 10  # KiB that a job may take beside what the test itself has
pytestmark = [pytest.mark.root, pytest.mark.timeout(SECONDS + 120)]

_DOCUMENT = config(BASE, TOP)
_MANIFEST = manifest(_DOCUMENT, BASE, TOP)
LAYERS = [pack(evil("a"), directory("d"), link("b", "a"), symlink("c", "d"), evil("d/.wh.x")), *REFUSED.values(), *CONTAINED.values()]  # fmt: skip
IMAGES = [SIMPLE, layout({"manifests": [descriptor(_MANIFEST)]}, _MANIFEST, _DOCUMENT, BASE, TOP),
          files(("manifest.json", b"[]"), blob(b"x"))]  # fmt: skip
# What numbers and names become; the rest is any bytes.
WORDS = [b"\0", b"\xff" * 8, b"-1", b"..", b"/", b"../" * 9, b".wh.", b"77777777777", b"\x80" + b"\xff" * 11, b"ustar",
         b"sha256:", b"null", b"{", b"[" * 50, b'"', b"GNU.sparse.", b"path=", b"0", b"5", b"x", b"L"]  # fmt: skip


def changed(dice: random.Random, seed: bytes) -> bytes:
    """Bytes put in the place of others, pieces taken out, doubled or moved; headers with right checksums, most times."""
    data = bytearray(seed)
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(max(1, min(len(data), 8192)))
        what = dice.random()
        if what < 0.7:
            new = dice.choice(WORDS) if what < 0.45 else dice.randbytes(dice.randrange(1, 9))
            data[at : at + len(new)] = new
        elif what < 0.8:
            del data[at : at + dice.choice((1, 7, 512, 1024))]
        else:
            other = dice.randrange(len(data) + 1) // 512 * 512
            data[other:other] = data[at // 512 * 512 :][: 512 * dice.randrange(1, 4)]
    if dice.random() < 0.8:
        for start in range(0, min(len(data) - 511, 1 << 16), 512):
            if data[start + 257 : start + 262] == b"ustar":
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    pack_again = dice.choice((None, None, None, gzip.compress, bz2.compress, zstandard.compress))
    return pack_again(bytes(data)) if pack_again else bytes(data)


def attempt(made: Stores, dice: random.Random) -> str:
    """One archive: "made", or the error."""
    try:
        if dice.random() < 0.7:
            made.snapshotter.discard(asyncio.run(made.unpack(changed(dice, dice.choice(LAYERS)))))
        else:
            load(made, changed(dice, dice.choice(IMAGES)))
            remove_images(made)
    except Error as error:
        return str(error)
    return "made"


def remove_images(made: Stores) -> None:
    for image in made.images.list(all=True):
        list(made.images.remove(str(image["Id"]), True, False, lambda _: []))


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_changed_at_random(driver: str, capsys: pytest.CaptureFixture[str]) -> None:
    dice, host, count, made_of_them = random.Random(f"{SEED}/{driver}"), outside(), 0, 0
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) + MEMORY
    end = time.monotonic() + SECONDS / 2
    with stores(driver) as made:
        load(made, SIMPLE)
        remove_images(made)
        assert made.trash.drain()
        clean = made.files()  # the directories that all need are there
        while time.monotonic() < end:
            count += 1
            begun, what = time.monotonic(), f"case {count} of seed {SEED}, {driver}"
            said = attempt(made, dice)
            made_of_them += said == "made"
            assert said and len(said) < 1000 and "died" not in said and "Traceback" not in said, f"{what}: {said}"
            assert time.monotonic() - begun < LONGEST, what
            assert made.trash.drain()
            assert made.files() == clean, f"{what}: {set(made.files()) ^ set(clean)} after {said}"
            assert outside() == host, f"{what}: {said}"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < most, f"seed {SEED}"
    assert 0 < made_of_them < count > 10
    with capsys.disabled():
        print(f"\n{count} archives, {made_of_them} of them unpacked ({driver}, seed {SEED})")
