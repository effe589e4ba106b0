"""The bundled model: its size, and that its README states the loss that its files have."""

import pathlib
import re
import sys

import pytest
import torch
import transformers

from daemon import BUNDLED, ROOT

BIBLE = pathlib.Path("/usr/lib/bible.data")  # Debian's bible-kjv-text


def stated(label):
    """A loss of the README's table, in nats per token."""
    (value,) = re.findall(rf"{label}.*?([\d.]+) nats per token", (BUNDLED / "README.md").read_text())
    return float(value)


def test_the_folder_is_small_enough_to_come_along():
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*")) <= 12e6


@pytest.mark.skipif(not BIBLE.is_file(), reason="needs the text of Debian's bible-kjv-text")
def test_the_held_out_loss_is_the_stated_one():
    sys.path.insert(0, str(ROOT / "tools"))
    from bible import read_chapters, split
    from train_bundled import measure

    model = transformers.AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    *_, held_out = split(read_chapters(BIBLE))
    measured = measure(BUNDLED, lambda ids: model(ids).logits, held_out)
    assert (measured["chapters"], measured["tokens"]) == (29, 25645)  # all that the README speaks of
    assert measured["nats_per_token"] == pytest.approx(stated("held-out loss"), rel=1e-3)
