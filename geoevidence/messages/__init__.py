"""Texts of the whole product by message id: one JSON file a language and subject.

Adds itself to the kernel's catalogue on import; `render` is the kernel's.
"""

from geoevidence.trust.messages import LANGUAGES, add_catalogue, render, texts

SUBJECTS = ("core", "custody", "package", "report", "drone", "satellite", "app", "cli")
add_catalogue(__name__, SUBJECTS)

__all__ = ["LANGUAGES", "SUBJECTS", "render", "texts"]
