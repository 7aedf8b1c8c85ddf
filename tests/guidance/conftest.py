"""All of the mathematics is in ``make quick``."""

import pytest


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.quick)
