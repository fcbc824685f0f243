"""Damage to a ledger's file that its start does not see."""

import shutil
from pathlib import Path

from ledger_histories import Story, sha256

from services.bus import Recorded
from services.ledger.store import Store, StoreDamagedError


def bulky() -> list[Recorded]:
    """Entries that fill several blocks of every large column and cannot be packed well."""
    story = Story()
    story.accepted("a")
    raw = b'{"id":"x","run":"r1","at_ns":1,"by":"b","events":[{"kind":"k","x":"%s"}]}'
    for number in range(8000):
        story.raw("swell.event.r1.run", raw % (sha256(b"%d" % number) * 4).encode())
    return story.records


def harm_unseen(file: Path) -> None:
    """Damage a closed ledger's file where its start does not look, but who reads all events does."""
    sound = file.read_bytes()
    for place in range(len(sound) - 1000, 0, -100_000):
        trial = file.parent / "trial" / file.name
        trial.parent.mkdir()
        trial.write_bytes(sound[:place] + b"damaged" + sound[place + 7 :])
        store = Store.open(trial)
        try:
            if store.made_anew:
                continue
            store.read("SELECT * FROM events")
        except StoreDamagedError:
            file.write_bytes(sound[:place] + b"damaged" + sound[place + 7 :])
            return
        finally:
            store.close()
            shutil.rmtree(trial.parent)
    raise AssertionError("every place is looked at by the start, or by nobody")
