"""Fixtures for every test; the servers start only when a test asks for one."""

pytest_plugins = ["servers"]
