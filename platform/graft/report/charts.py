"""How the charts of any report get into its files and onto its page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graft.report.page import data_uri
from graft.training.charts import saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def chart_files(figures: Mapping[str, "Figure"], ending: str = "") -> dict[str, bytes]:
    """Return named charts as PNG files, by file name; `ending` follows each chart's name."""
    return {f"{name}{ending}.png": saved(figure, "png") for name, figure in figures.items()}


def embedded_charts(figures: Mapping[str, "Figure"]) -> dict[str, str]:
    """Return named charts as what an `src` takes: a data URI of an SVG image, by name."""
    return {name: data_uri(saved(figure, "svg"), "svg+xml") for name, figure in figures.items()}
