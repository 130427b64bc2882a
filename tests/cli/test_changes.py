from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from cyclopts import App, Parameter

from objectness.cli.changes import apply_changes, list_changes, list_options, make_changes
from objectness.config import Config, TrainOptions

Changes = make_changes(Config)


def parse(*words):
    """What a command gets whose options are those of the network."""
    app = App(default_parameter=Parameter(consume_multiple=True, negative=()))

    @app.default
    def command(changes: Annotated[Changes | None, Parameter(name="*")] = None):
        return list_changes(changes)

    return app(words, exit_on_error=False, result_action="return_value")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], {}),
        (["--input.short-side", "800"], {"input": {"short_side": 800}}),  # which is the default, and named all the same
        (["--backbone", "resnet101", "--frozen-stages", "0"], {"backbone": "resnet101", "frozen_stages": 0}),
        (["--anchors.sizes", *"12345"], {"anchors": {"sizes": (1, 2, 3, 4, 5)}}),
        (["--anchors.rounded", "--no-stride-in-1x1"], {"stride_in_1x1": False, "anchors": {"rounded": True}}),
        (["--anchors.no-rounded"], {"anchors": {"rounded": False}}),
    ],
)
def test_only_what_is_named_is_a_change(words, named):
    assert parse(*words) == named


def test_changes_change_nothing_else():
    base = Config(backbone="resnet18", pyramid_channels=16, stride_in_1x1=True).to_dict()
    named = parse("--input.short-side", "320", "--no-stride-in-1x1", "--selection.keep", "7")
    changed = Config.from_dict(apply_changes(base, named))
    expected = {**base, "stride_in_1x1": False}
    expected["input"] = {**base["input"], "short_side": 320}
    expected["selection"] = {**base["selection"], "keep": 7}
    assert changed.to_dict() == expected
    assert Config.from_dict(apply_changes(base, {})).to_dict() == base


def test_options_are_called_as_one_types_them():
    named = {"backbone": "resnet50", "input": {"short_side": 1, "long_side": 2}}
    assert list_options(named) == ["--backbone", "--input.short-side", "--input.long-side"]


@pytest.mark.parametrize("kind", [Config, TrainOptions])
def test_every_field_may_be_left_out_and_is_documented(kind):
    changes = make_changes(kind)
    assert changes.__doc__ == kind.__doc__
    assert list_changes(changes()) == {}
    hints = get_type_hints(changes, include_extras=True)
    assert hints.keys() == get_type_hints(kind).keys()
    assert all(type(None) in get_args(hint) for hint in hints.values() if get_origin(hint) is not Annotated)
