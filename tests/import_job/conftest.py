"""The pictures of the data tests."""

from data.conftest import class_folders, write_classes

__all__ = ["class_folders", "write_classes"]
