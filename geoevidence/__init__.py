"""geoevidence: imagery as evidence. Heavy packages load on first use, never here."""

__version__ = "0.1.0"
