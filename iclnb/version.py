"""The version of this package, which every stored result carries."""

__version__ = "0.1.0"
