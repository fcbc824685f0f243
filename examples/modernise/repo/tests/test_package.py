"""The package as a whole: every module can be imported, and says what it is."""

import importlib
import pkgutil

import pytest

import parcelkit

MODULES = sorted(module.name for module in pkgutil.iter_modules(parcelkit.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported_and_says_what_it_is(name):
    module = importlib.import_module(f"parcelkit.{name}")
    assert module.__doc__


def test_what_the_package_lists_exists():
    assert set(parcelkit.__all__) <= set(MODULES)
