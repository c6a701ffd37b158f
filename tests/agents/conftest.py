from __future__ import annotations

from pathlib import Path

import pytest

from support.catalog_folders import CatalogFolders


@pytest.fixture
def catalog_folders(tmp_path: Path) -> CatalogFolders:
    """Return temporary catalog_folders for a catalog."""
    return CatalogFolders(tmp_path)
