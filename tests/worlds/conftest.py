"""The worlds, small: 32 pixels wide, so that a step takes milliseconds."""

import pytest

from jepa_edge.worlds.record import open_world


@pytest.fixture(params=["forest", "reach", "rover"])
def world(request):
    opened = open_world(request.param, size=32)
    yield opened
    opened.close()


@pytest.fixture
def forest():
    opened = open_world("forest", size=32)
    yield opened
    opened.close()


@pytest.fixture
def reach():
    opened = open_world("reach", size=32)
    yield opened
    opened.close()
