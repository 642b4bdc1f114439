"""What comes along, as its files say."""

from __future__ import annotations

from dualprune.pipeline.config.load import RECIPES
from dualprune.pipeline.config.shipped import sentence, shipped


def test_all_recipes_are_listed() -> None:
    """Each with a sentence of its own, its network, data and stages."""
    found = {one.name: one for one in shipped()}
    assert sorted(found) == sorted(file.stem for file in RECIPES.glob("*.yaml"))
    digits = found["digits"]
    assert digits.said == "The 1,797 handwritten digits of scikit-learn, pruned to a 25th in three steps."
    assert (digits.network, digits.data, digits.stages) == ("digits_cnn", "digits", {"train": 1, "prune": 3})
    assert all(one.said.endswith(".") and len(one.said) < 400 for one in found.values())


def test_a_sentence_goes_on_after_a_name() -> None:
    """A full stop before a number ends none."""
    assert sentence("By Ye et al. 2018 (A.4). And more.") == "By Ye et al. 2018 (A.4)."
