"""The helpers of tests, where they could hide something."""

import importlib
import itertools

import pytest
import zoo
from products import covering, product

pytestmark = pytest.mark.quick


def test_a_product_leaves_out_no_pair():
    shape = (4, 2, 5)
    chosen = covering(shape)
    for (i, first), (j, second) in itertools.combinations(enumerate(shape), 2):
        met = {(places[i], places[j]) for places in chosen}
        assert met == set(itertools.product(range(first), range(second)))
    assert len(chosen) == 20 < 40
    slow = [case for case in product("abcd", "xy", range(5)) if case.marks]
    assert len(slow) == 20


def test_every_family_of_the_zoo_has_what_is_said_of_it():
    for family, names in zoo.FAMILIES.items():
        assert set(importlib.import_module(f"zoo.{family}").SPECIMENS) == set(names)
