"""Patterns and types of layers: what a constraint holds, and what is said of what matches nothing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.networks.parameters import parameters
from dualprune.stages.settings.sets import Cardinality, Pattern
from dualprune.stages.solver.patterns import matching, unmatched
from tests.stages.networks.test_parameters import Tied

PARAMETERS = parameters(Tied())
LSTM = [f"lstm.weight_{of}_l0{end}" for end in ("", "_reverse") for of in ("ih", "hh", "hr")]
CELL = ["cell.weight_ih", "cell.weight_hh"]


def held(**settings: Any) -> list[str]:
    """Names of what a constraint is for, in a network where all of it matches something."""
    pattern = Pattern.model_validate(settings)
    assert unmatched(pattern, PARAMETERS, "tied") == []
    return sorted(matching(pattern, PARAMETERS))


def said(**settings: Any) -> list[tuple[tuple[str | int, ...], str]]:
    """What is said of a constraint."""
    return unmatched(Pattern.model_validate(settings), PARAMETERS, "tied")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"tensors": "*"}, [*LSTM, *CELL]),
        ({"layers": "LSTM"}, LSTM),
        ({"layers": "RNNBase"}, LSTM),
        ({"layers": ["GRUCell", "LSTM"], "tensors": ["*", "!*_reverse"]}, [*CELL, *(n for n in LSTM if n[-1] == "0")]),
        ({"tensors": ["cell.*", "lstm.weight_hr_l0"]}, [*CELL, "lstm.weight_hr_l0"]),
        ({"tensors": ["*", "!lstm*"]}, CELL),
        ({"tensors": ["*", "!*.bias", "!lstm*"]}, CELL),
        ({"tensors": ["cell.*", "embed.weight"]}, [*CELL, "embed.weight"]),
        ({"tensors": "head.weight"}, ["embed.weight"]),
        ({"layers": "Embedding"}, ["embed.weight"]),
        ({"layers": ["Embedding", "EmbeddingBag"]}, ["bag.weight", "embed.weight"]),
        ({"layers": ["Linear"], "tensors": "embed.weight"}, ["embed.weight"]),
    ],
)
def test_what_a_constraint_holds(settings: dict[str, Any], names: list[str]) -> None:
    assert held(**settings) == sorted(names)


def test_an_exclusion_holds_for_all_names_of_a_tensor() -> None:
    pattern = Pattern(tensors=["*", "embed.weight", "!head.*"])
    assert sorted(matching(pattern, PARAMETERS)) == sorted([*LSTM, *CELL])


def test_what_matches_nothing_is_said_one_by_one() -> None:
    """With what there is: names and types of layers."""
    (first, one), (second, two), (third, three) = said(tensors=["fc*", "cell.*", "!nose*", "tabl*"])
    assert (first, second, third) == (("tensors", 0), ("tensors", 2), ("tensors", 3))
    assert one.startswith("'fc*' matches no tensor of tied; its weights are embed.weight (Embedding and Linear), lstm.")
    assert two.startswith("'!nose*' matches no tensor of tied; its weights are")
    assert three.startswith("'tabl*' matches nothing that can be constrained (table_weight (3, 4)) of tied; its")


def test_embeddings_are_said_to_want_their_names() -> None:
    ((at, text),) = said(tensors="*e[dm]*.weight")
    assert at == ("tensors",)
    assert text.startswith("'*e[dm]*.weight' matches only embed.weight (Embedding and Linear) of tied; embeddings, and")
    ((_, text),) = said(layers="Linear")
    assert text.startswith("'*' matches only embed.weight (Embedding and Linear) of tied; embeddings, and what is tied")


def test_types_that_no_layer_is_of() -> None:
    ((at, text), (other, _)) = said(layers=["Conv3d", "LSTM", "Lstm"])
    assert (at, other) == (("layers", 0), ("layers", 2))
    assert text.startswith(
        "no layer of tied that has weights is a 'Conv3d'; there are Embedding and Linear: embed.weig"
    )
    assert "; LSTM: lstm.weight_ih_l0, lstm.weight_hh_l0, " in text
    ((at, _),) = said(layers="Conv3d", tensors="cell*")
    assert at == ("layers",)
    ((at, text),) = said(layers="LSTM", tensors="cell*")
    assert at == ("tensors",)
    assert text.startswith("'cell*' matches no tensor of tied in a layer of LSTM; its weights are")


def test_where_all_is_left_out_it_is_said() -> None:
    ((at, text),) = said(tensors=["cell.weight_ih", "!cell*"])
    assert at == ("tensors",)
    assert text == "what is left out is all that there would be: cell.weight_ih (GRUCell)"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give `tensors`, a pattern over their names, or `layers`, their types, or both"),
        ({"tensors": "!head*"}, "`tensors` only leaves out; put what it is to be left out of before that"),
        ({"tensors": []}, "`tensors` only leaves out"),
        ({"tensors": "*", "layers": []}, "`layers` is empty"),
        ({"tensors": 3}, "text is needed, or a list of texts, not 3"),
        ({"layers": ["Linear", 3]}, r"text is needed, or a list of texts, not 3; put numbers in quotes"),
    ],
)
def test_what_says_no_tensors_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Pattern.model_validate(settings)


def test_what_was_said_before_there_were_types_is_the_same() -> None:
    """Settings at their default are no part of a key."""
    settings = {"set": "cardinality", "tensors": "*", "rate": 4.0}
    assert Cardinality.model_validate(settings).model_dump(exclude_defaults=True) == settings
