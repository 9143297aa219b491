"""The faces: command line, viewer, worker. The one place where the parts are put together; no science here."""
