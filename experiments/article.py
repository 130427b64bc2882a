"""The article's letter beside the default: which of its choices find more objects?

    python experiments/article.py --weights resnet18.pth [--images 2000] [--each]

Where the article differs from the papers, `Config` has an option, and `Config.article()` takes the article's side of
all: each level gets the level above alone instead of all above (`top_down="adjacent"`); a squared loss of the two
probabilities; regions that cross the border by much are removed instead of clipped (`min_visible`); and a region
carries the score of the anchor most like it, no longer that of the anchor it comes from (`score_from="nearest"`).

The last two change the selection alone, so they are measured on the default's weights as well, each by itself and both
together; and the article's network is also measured with the default's selection, which tells what its training does.
--each trains two networks more, with one of the first two options each. Prints a Markdown table, row by row.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from short_run import TOPS, format_recall, parse_budget, read_validation, train_briefly

from objectness.config import Config, SelectionOptions
from objectness.data.records import ImageRecord
from objectness.evaluation.measure import measure_network
from objectness.network import RegionProposalNetwork

DEFAULT, ARTICLE = "default", "article"
ARTICLE_SELECTION = Config.article().selection
SELECTIONS = {
    DEFAULT: SelectionOptions(),
    f"min_visible = {ARTICLE_SELECTION.min_visible}": SelectionOptions(min_visible=ARTICLE_SELECTION.min_visible),
    "min_visible = 1": SelectionOptions(min_visible=1.0),
    "score_from = nearest": SelectionOptions(score_from="nearest"),
    ARTICLE: ARTICLE_SELECTION,
}


def main() -> None:
    """Train each network, and measure it under each selection that is asked of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", action="store_true", help="train with each training option alone, too")
    budget, args = parse_budget(parser)
    validation = read_validation(budget)
    configs = {DEFAULT: Config(**budget.network), ARTICLE: Config.article(**budget.network)}
    selections = {DEFAULT: list(SELECTIONS), ARTICLE: [ARTICLE, DEFAULT]}
    if args.each:
        configs["top_down = adjacent"] = Config(**budget.network, top_down="adjacent")
        configs["objectness_loss = squared"] = Config(**budget.network, objectness_loss="squared")
    print(f"| trained as | selected as | {' | '.join(f'AR@{top}' for top in TOPS)} |\n|---|---|{'--:|' * len(TOPS)}")
    for name, config in configs.items():
        network = train_briefly(name.replace(" = ", "-"), config, budget)
        print_rows(name, network, selections.get(name, [DEFAULT]), validation)


def print_rows(
    trained: str, network: RegionProposalNetwork, selections: Sequence[str], validation: Sequence[ImageRecord]
) -> None:
    """A row for each selection on the same weights."""
    for selected in selections:
        network.config = replace(network.config, selection=SELECTIONS[selected])
        report = measure_network(network, validation)
        print(f"| {trained} | {selected} | {format_recall(report)} |", flush=True)


if __name__ == "__main__":
    main()
