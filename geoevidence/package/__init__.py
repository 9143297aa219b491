"""Packages: a self-contained cut of a case's log and files that a stranger can verify."""

from geoevidence.package.draft import PackageDraft, draft
from geoevidence.package.seal import SealedPackage, seal_folder, seal_zip

__all__ = ["PackageDraft", "SealedPackage", "draft", "seal_folder", "seal_zip"]
