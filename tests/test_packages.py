"""A package that is missing is told in one sentence everywhere."""

import sys

import pytest

from objectness.errors import DownloadError, ObjectnessError
from objectness.packages import find_missing, is_installed, require


def test_what_is_there_raises_nothing() -> None:
    require("Arrays", "numpy", "all")
    require("Everything", ("numpy", "torch"), "all")
    assert is_installed("torch")


def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert find_missing(("numpy", "pyarrow", "no_such_package")) == ["pyarrow", "no_such_package"]
    with pytest.raises(ObjectnessError, match=r"^Parquet needs pyarrow: pip install 'objectness\[parquet\]'$"):
        require("Parquet", "pyarrow", "parquet")
    with pytest.raises(DownloadError, match=r"^It needs pyarrow and no_such_package: pip install 'objectness\[x\]'$"):
        require("It", ("pyarrow", "numpy", "no_such_package"), "x", error=DownloadError)
    with pytest.raises(ObjectnessError, match=r"^A table needs pyarrow: pip install pyarrow$"):
        require("A table", "pyarrow")
