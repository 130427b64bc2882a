import json

import pytest

from objectness.lines import make_line, start_line


def test_a_line_begins_with_its_file() -> None:
    line = make_line("photos/ü.jpg", {"boxes": [], "error": None})
    assert line == '{"file": "photos/\\u00fc.jpg", "boxes": [], "error": null}'
    assert line.startswith(f"{start_line('photos/ü.jpg')}, ")
    assert make_line(None, {"boxes": []}) == '{"boxes": []}'


@pytest.mark.parametrize("name", ['a "quoted".jpg', "a\nb.jpg", "\udcff.jpg", ""])
def test_any_name_survives(name: str) -> None:
    line = make_line(name, {"width": 1})
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["file"] == name


def test_json_has_no_word_for_infinity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        make_line("a.jpg", {"scores": [float("inf")]})
