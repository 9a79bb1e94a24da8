"""What every unit test begins with."""

import asyncio

import pytest


@pytest.fixture(autouse=True)
def _event_loop_of_its_own():
    """Pulumi's mocks ask for the thread's current loop, and `asyncio.run` of an earlier test leaves none behind."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)
