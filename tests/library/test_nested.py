"""Tensors in the arguments of a call."""

from collections import namedtuple

import torch

from convexinit.nested import flat, replace, tensors_in

Pair = namedtuple("Pair", ["first", "second"])


def test_everything_nested_is_found_and_replaced():
    one, two, three = (torch.full((1,), float(number)) for number in (1, 2, 3))
    nested = {"a": [one, "text"], "b": Pair(two, ({"c": three}, None, ()))}
    assert [t for t in flat(nested) if isinstance(t, torch.Tensor)] == [one, two, three]
    assert tensors_in(nested, 4) == [one, two, three]
    doubled = replace(nested, lambda tensor: 2 * tensor)
    assert doubled == {"a": [2 * one, "text"], "b": Pair(2 * two, ({"c": 2 * three}, None, ()))}
    assert type(doubled["b"]) is Pair
