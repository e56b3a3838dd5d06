"""The search from Python: a space goes in, and out comes a study that answers in rows, models and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import export
from nas.answer import recommend
from nas.architecture import Architecture
from nas.confirm import with_probabilities
from nas.front import Row, front, pick
from nas.study import Study

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

    from nas.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One finished trial of a study."""

    row: Row
    """What was measured."""
    config: dict[str, Any]
    """The architecture with the evidence for it, as JSON values; what :meth:`export` writes."""

    @property
    def architecture(self) -> Architecture:
        """The architecture: backbone and placements."""
        return self.row.architecture

    def build(self) -> nn.Module:
        """Return the model, from (B, C, H, W) to logits (B, classes), with fresh weights."""
        return export.build(self.architecture, self.config)

    def export(self, path: str | Path, *, weights: str | Path | None = None, onnx: bool = False) -> None:
        """Write the config, or a folder with it, a stand-alone ``model.py`` and the proof that they are one network.

        ``nas.load`` builds the model from either.

        Args:
            path: A .json file for the config alone; or a folder, new, empty, or with an export of this architecture.
            weights: Trained weights to put into the folder: a .safetensors file, or a state dict that torch has saved.
            onnx: Whether ``model.onnx`` is written into the folder, too.

        Raises:
            nas.export.ConfigError: If the file cannot be written, or is another one than a config.
            ValueError: If the folder cannot be written or holds something else, the weights are not of this network,
                ONNX cannot be written here, or what was written does not compute the same.
        """
        if export.is_folder(path):
            from nas.export import folder

            folder.export(self.config, path, weights=weights, onnx=onnx)
        elif onnx or weights is not None:
            raise ValueError(f"weights and onnx take a folder, but got the file {path}")
        else:
            export.check_replaceable(path)
            export.write(self.config, path)


class Found:
    """A study, open to be asked: while a search goes on elsewhere, too. It is closed by ``with`` or :meth:`close`."""

    def __init__(self, study: Study, folder: Path) -> None:
        """Take an open study, and its folder: where its files are, and what further verbs have found."""
        self.study = study
        self.folder = folder

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def answer(self) -> str:
        """What to do, in one sentence with its numbers: to add nothing is an answer, too.

        Raises:
            ValueError: If no trial has finished.
        """
        return recommend(self.rows()).sentence

    def rows(self) -> list[Row]:
        """Return the finished trials in their order, each with its chance to be on the true front."""
        return with_probabilities(self.study.rows())

    def front(self) -> list[Row]:
        """Return the trials that no other beats in accuracy and latency, from the fastest to the slowest."""
        return front(self.rows())

    def best(self, how: str | None = None) -> Choice:
        """Return one finished trial.

        Args:
            how: ``knee``, ``accuracy``, ``fastest``, ``trial:N``, ``latency<=X`` in ms or ``slowdown<=P%``; None for
                the recommended one.

        Raises:
            ValueError: If no trial has finished, or none is meant.
        """
        rows = self.rows()
        row = recommend(rows).row if how is None else pick(rows, how)
        return Choice(row=row, config=export.config(self.study, row))

    def figure(self, name: str = "pareto") -> Any:
        """Return a ``plotly.graph_objects.Figure``, as the report shows it.

        Args:
            name: ``pareto``, accuracy against latency; ``accuracy effects`` and ``latency effects``, what each block
                does at each stage; ``progress``, how the dominated area grew; ``curves``, the learning curves;
                ``coordinates``, every trial across the stages; ``macs``, latency against multiply-accumulates.

        Raises:
            ValueError: If there is no figure of that name, or there are too few trials for it.
        """
        from nas import report

        if name not in report.FIGURES:
            raise ValueError(f"figure must be one of {', '.join(report.FIGURES)}, but got {name!r}")
        story = report.tell(self.study, self.folder)
        if name not in report.drawable(story):
            raise ValueError(f"too few trials have finished for the figure {name!r}: {len(story.rows)}")
        return report.FIGURES[name](story)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page that explains the study in one file, and return where it is.

        Args:
            path: The file; None for ``report.html`` in the study's folder.

        Raises:
            OSError: If the file cannot be written.
        """
        from nas import report

        page = self.folder / "report.html" if path is None else Path(path)
        report.write_report(report.tell(self.study, self.folder), page)
        return page

    def close(self) -> None:
        """Close the database."""
        self.study.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        tally = self.study.tally()
        return f"<study {self.name!r}: {tally.finished} finished, {len(self.front())} on the front>"


def search(
    space: SearchSpace | str = "default",
    *,
    data: str = "digits",
    budget: int = 50,
    progress: bool = True,
    **settings: Any,
) -> Found:
    """Search, as ``run_search.py`` does, and return the study; the same call goes on with what is there.

    Args:
        space: A declaration; or the name of one that comes along, or of a Python file, which is executed.
        data: ``digits``, an image folder, or the name of a timm data set.
        budget: As much training as so many architectures take.
        progress: Whether a bar is shown on stderr.
        settings: Further fields of :class:`nas.Settings`: ``backbone``, ``epochs``, ``device``, ``studies`` and so on.

    Raises:
        TypeError: If a setting has no such name.
        ValueError: If something is wrong with the settings, the data, the space, the backbone or the storage.
        nas.evaluation.EvaluationError: If a block of the space cannot run at a stage.
        nas.study.RunFailed: If trials failed for the same reason, one after the other.
    """
    from nas import run
    from nas.bar import Progress
    from nas.settings import Settings

    asked = Settings(space=space, data=data, budget=budget, **settings)
    if not progress:
        return Found(run.search(asked).study, asked.folder)
    bar = Progress(budget)
    try:
        found = run.search(asked, on_event=bar.say, on_start=bar.start, on_trial=bar.update, on_replicate=bar.replicate)
    finally:
        bar.close()
    return Found(found.study, asked.folder)


def open_study(name: str | None = None, *, studies: str | Path = "studies", storage: str | None = None) -> Found:
    """Open a study that exists.

    Args:
        name: Its name; None for the only one that there is.
        studies: The folder of studies.
        storage: URL of the database; None for ``studies.db`` in that folder.

    Raises:
        nas.study.StudyError: If there is no such study, or several and no name.
        nas.database.StorageError: If the database cannot be used.
    """
    url = storage or f"sqlite:///{Path(studies) / 'studies.db'}"
    study = Study.open_only(name, url, ask="name a study")
    return Found(study, Path(studies) / study.name)
