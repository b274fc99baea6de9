"""The command line, `bayesprune COMMAND ...`; imports only what a command needs."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..datasets.errors import UsageError
from ..datasets.registry import Registry
from .spec.shipped import DEFAULT

KINDS = ("methods", "architectures", "datasets", "matrices")


class Commands(click.Group):
    """A group that prints our own errors as one line and exits with 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            click.echo(f"bayesprune: error: {' '.join(str(error).split())}", err=True)
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="bayesprune")
def main() -> None:
    """Compare Bayesian pruning methods for neural networks.

    \b
    A first comparison, on data that needs no download:
        bayesprune run smoke --out results
        bayesprune report results --out report
    \b
    What there is, and whether a method of your own keeps the contract:
        bayesprune list methods
        bayesprune check my_method.py
    """


_PLUGIN = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE",
    help="A Python file that registers further methods; repeatable.",
)


@main.command()
@click.argument("matrix", default=DEFAULT)
@click.option(
    "--out", default="results", show_default=True, metavar="FOLDER", help="Results folder; an existing one is resumed."
)
@click.option("--jobs", type=click.IntRange(min=1), help="Worker processes.  [default: number of cores]")
@click.option("--shard", default="1/1", metavar="I/N", help="Run the I-th of N parts, for N machines (or N calls).")
@click.option("--dry-run", is_flag=True, help="Say what would run and how long it may take; write nothing.")
@click.option("--retry-failed", is_flag=True, help="Run failed cells again.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:I.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a cell failed.")
@click.option(
    "--executor", default="local", show_default=True, metavar="WHERE",
    help="local; dask (a cluster on this machine); dask://HOST:PORT (one that is running); FILE.yaml (jobs of a batch "
    "system); module:function (returns an Executor).",
)  # fmt: skip
@click.option("--pin", is_flag=True, help="Keep cells with the class of machine that trained their network.")
@click.option("--wait", is_flag=True, help="Wait for another run into the folder to end, instead of refusing.")
@click.option(
    "--track",
    "trackers",
    multiple=True,
    metavar="TRACKER",
    help="Log every computed cell to wandb, mlflow or tensorboard too; repeatable. See `bayesprune track`.",
)
@_PLUGIN
def run(
    matrix: str, out: str, jobs: int | None, shard: str, dry_run: bool, retry_failed: bool, device: str, strict: bool,
    executor: str, pin: bool, wait: bool, trackers: tuple[str, ...], plugins: tuple[str, ...],
) -> None:  # fmt: skip
    """Run the cells of MATRIX, a YAML file or the name of a shipped matrix; of `mission` if none is named.

    Every finished cell is a file in the results folder: interrupt with Ctrl-C (or lose the machine) and call
    the same command again to go on. A cell that fails is recorded with its reason, and the others go on.

    \b
    A matrix file:
        datasets: [digits]
        architectures: [mlp, {name: resnet, depth: 8}]
        methods: [magnitude, opd, random]
        sparsity: [0.5, 0.9, 0.95]
        seeds: [0, 1, 2]
        training: {epochs: 30, lr: 1.0e-3}
        finetune: {epochs: 5}
    """
    part = _shard(shard)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        from ..reports.commands import tracking
        from .harness.dry_run import describe
        from .harness.run_matrix import run as run_matrix
        from .progress_bar import bar

        if dry_run:
            click.echo(describe(matrix, out, jobs, part, retry_failed, device, plugins, executor))
            return
        with tracking(trackers, Path(out)) as watch:
            table = run_matrix(
                matrix, out, jobs=jobs, shard=part, retry_failed=retry_failed, device=device, plugins=plugins,
                executor=executor, progress=bar, watch=watch, wait=wait, pin=pin,
            )  # fmt: skip
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. Finished cells are in {out}; run the same command again to go on.", err=True)
        sys.exit(130)
    failed = _summary(table.parent)
    click.echo(f"Results: {table}\nNext:    bayesprune report {out}")
    if failed and strict:
        sys.exit(1)


@main.command()
@click.argument("results", nargs=-1, required=True)
@click.option("--out", default="report", show_default=True, metavar="FOLDER", help="Where the report goes.")
@click.option("--title", default="Bayesian pruning benchmark", show_default=True, help="Title of the page.")
def report(results: tuple[str, ...], out: str, title: str) -> None:
    """Make figures, tables and one self-contained page from RESULTS folders (shards are merged)."""
    from ..reports.build import report as build
    from ..reports.commands import among_the_reference, ledger_page
    from .results.frames import results as read
    from .results.scores import all_scores
    from .results.store import Store

    frame = read(*results)
    # a shard alone lacks, as it must, what the others have
    missing = Store(results[0], create=False).gaps() if len(results) == 1 else []
    for gap in missing:
        click.echo(f"bayesprune: warning: {gap}", err=True)
    index = build(frame, Path(out), title=title, missing=missing, leading=among_the_reference(frame),
                  pages=ledger_page(Path(out)), scores=all_scores(*results))  # fmt: skip
    click.echo(f"Report: {index}")


@main.command("verify-folder")
@click.argument("results", nargs=-1, required=True)
def verify_folder(results: tuple[str, ...]) -> None:
    """Check that RESULTS folders are whole: every checksum, key and digest, and whose run owns them.

    Nothing is changed. What is damaged, mixed or missing is named; the same `run` command computes it again. Exit
    code 0 if all is well, 1 if not.
    """
    from .results.verify import verify

    problems = 0
    for folder in results:
        found = verify(folder)
        problems += len(found.problems)
        counts = ", ".join(f"{n} {kind}" for kind, n in found.counts.items()) or "nothing"
        click.echo(f"{folder}: {counts} intact, {len(found.problems)} problems")
        for problem in found.problems:
            click.secho(f"  PROBLEM {problem}", fg="red")
        for note in found.notes:
            click.echo(f"  note    {note}")
    if problems:
        sys.exit(1)


@main.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@_PLUGIN
def list_(kind: str | None, plugins: tuple[str, ...]) -> None:
    """List methods, architectures, data sets and matrices, with their options.

    Each option stands with its type and default: as there is `depth: int = 8` under resnet, a matrix file may say
    {name: resnet, depth: 14}. A name in angle brackets stands for many: timm/<model> is timm/resnet18 and all others.
    """
    from ..architectures import registry as architectures
    from ..datasets import registry as datasets
    from ..methods import registry as methods

    broken = _load_plugins(methods, plugins)
    registries = {"methods": methods, "architectures": architectures, "datasets": datasets}
    for chosen in [kind] if kind else KINDS:
        if not kind:
            click.secho(f"\n{chosen}", bold=True)
        click.echo(_matrices() if chosen == "matrices" else _entries(registries[chosen]))
    for warning in [*broken, *methods.load_entry_points()]:
        click.echo(f"bayesprune: error: {warning}", err=True)
    if broken:
        sys.exit(2)


@main.command()
@click.argument("name_or_file")
@click.option("--verbose", is_flag=True, help="Print every promise, and the traceback of each broken one.")
def check(name_or_file: str, verbose: bool) -> None:
    """Test the pruner contract on a registered method or on a plug-in file.

    On tiny networks of every family, for single weights and for groups: deterministic under a seed, finite
    scores, exact counts, monotone in the sparsity, never reads the test split, leaves the network as it was,
    removed weights stay removed. Exit code 0 if every promise is kept, 1 if not.
    """
    from .contract import verdicts

    kept, broken = Counter[str](), []
    for verdict in verdicts(name_or_file):
        place = f"{verdict.method} on {verdict.architecture}, {verdict.units}"
        if verdict.not_applicable:
            if verbose:
                click.echo(f"skipped {verdict.promise}: {place}: {verdict.not_applicable}")
            continue
        kept[verdict.promise] += not verdict.problem
        if verdict.problem:
            broken.append(verdict)
            click.secho(f"BROKEN  {verdict.promise}: {place}: {verdict.problem}", fg="red")
        if verbose:
            click.echo(verdict.traceback or f"kept    {verdict.promise}: {place}")
    for promise, count in kept.items():
        failures = sum(v.promise == promise for v in broken)
        click.secho(f"{'kept  ' if not failures else 'BROKEN'}  {promise} ({count} of {count + failures} networks)")
    if not kept:
        raise UsageError(f"{name_or_file} applies to none of the networks that it is checked on")
    click.echo(f"{sum(kept.values())} passed, {len(broken)} failed")
    if broken:
        sys.exit(1)


@main.command()
@click.option("--architecture", required=True, metavar="NAME", help="Any that a matrix can name.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of it; repeatable.")
@click.option("--dataset", default="digits", show_default=True, metavar="NAME", help="Data set of the inputs.")
@click.option("--resize", type=click.IntRange(min=1), help="Make images square with this side.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="How many examples.")
@click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="Seconds for each trial.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead.")
def doctor(
    architecture: str, options: tuple[str, ...], dataset: str, resize: int | None, batch: int, limit: float,
    as_json: bool,
) -> None:  # fmt: skip
    """Say which curvature a network can have: our own, and which backends of laplace-torch manage it.

    Diagonal and Kronecker-factored, each tried on one batch in a process of its own, timed, and compared with
    our diagonal. A backend that fails is a finding; only a network that cannot be built is an error.

    \b
    Examples:
        bayesprune doctor --architecture resnet --option depth=8
        bayesprune doctor --architecture timm/vit_tiny_patch16_224 --resize 32 --batch 8
    """
    from .doctor import diagnosis
    from .spec.option_text import parsed

    found = diagnosis.diagnose(architecture, parsed(options), dataset, batch, resize, limit)
    click.echo(diagnosis.as_json(found) if as_json else diagnosis.describe(found))


_OWN_NETWORK = (
    click.option("--network", "architecture", required=True, metavar="NAME",
                 help="A registered name, or module:function."),
    click.option("--option", "options", multiple=True, metavar="K=V", help="An option of the network; repeatable."),
    click.option("--checkpoint", metavar="FILE",
                 help="Trained weights: safetensors, or a state dict saved by torch."),
    click.option("--data", required=True, metavar="NAME", help="A data set, or module:function that returns examples."),
    click.option("--data-option", "data_options", multiple=True, metavar="K=V", help="An option of it; repeatable."),
    click.option("--likelihood", type=click.Choice(["categorical", "gaussian", "bernoulli", "heteroscedastic"]),
                 default=None, help="Likelihood of the targets, where the data do not say it."),
    click.option("--method", default="magnitude", show_default=True, help="See `bayesprune list methods`."),
    click.option("--method-option", "method_options", multiple=True, metavar="K=V",
                 help="An option of it; repeatable."),
    click.option("--sparsity", default="0.5", show_default=True, help="Share to remove, in [0, 1), or auto."),
    click.option("--of", type=click.Choice(["units", "parameters", "flops"]), default="units", show_default=True,
                 help="What the sparsity is a share of."),
    click.option("--round-to", type=click.IntRange(min=1), default=1, help="Layers keep multiples of this many units."),
    click.option("--at-least", type=click.IntRange(min=1), default=1, help="Units that every layer keeps."),
    click.option("--structured", is_flag=False, flag_value="groups", default=None, metavar="[KIND]",
                 type=click.Choice(["groups", "head", "ffn_hidden", "residual_out"]),
                 help="Cut out neurons, filters and heads: the network becomes smaller. With KIND only head, "
                 "ffn_hidden, or residual_out: what layers add to a residual stream."),
    click.option("--finetune", type=click.IntRange(min=0), default=0, help="Epochs of training after pruning."),
    click.option("--lr", type=float, default=1e-3, show_default=True, help="Learning rate of the training."),
    click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Examples per batch."),
    click.option("--reestimate-batch-norm", is_flag=True, help="Set BatchNorm's statistics anew after pruning."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Governs every random choice."),
    click.option("--out", required=True, metavar="FILE",
                 help="Where the pruned network goes; bayesprune.load reads it."),
    click.option("--onnx", metavar="FILE", help="Write it as ONNX too; needs the extra bayesprune[onnx]."),
)  # fmt: skip


def _own_network(command: Callable) -> Callable:
    """The options of the commands that prune a network of the user's own."""
    for option in reversed(_OWN_NETWORK):
        command = option(command)
    return command


@main.command()
@_own_network
def prune(**given: Any) -> None:
    """Prune a trained network of your own, and write the smaller one to a file.

    A function for --data is called without arguments and returns (x, y), (x_train, y_train, x_test, y_test) or
    batches; one for --network is called with the shape of an example and the number of outputs. The compact
    network is written only if it computes what the masked one does, to 1e-5.

    \b
    Examples:
        bayesprune prune --network mine:build --checkpoint w.safetensors --data mine:examples \\
            --method opd --sparsity 0.5 --structured --finetune 5 --out small.safetensors
        bayesprune prune --network lenet5 --data digits --method snip --finetune 10 --out sparse.safetensors
    """
    _prune_own(**given)


@main.command()
@click.option(
    "--epochs", type=click.IntRange(min=1), required=True, help="Epochs of training, before or during pruning."
)
@click.option("--patience", type=click.IntRange(min=1), default=None,
              help="Stop after so many epochs without a better loss on validation examples.")  # fmt: skip
@_own_network
def fit(epochs: int, patience: int | None, **given: Any) -> None:
    """Train a network of your own by any method, prune it, and write the smaller one to a file.

    For the methods that learn a posterior while they train (bmr, bmrs-*, horseshoe, variational-dropout, pip-gates,
    spam-*, ...), and for all others. With --checkpoint training goes on from its weights. The rest is as in `prune`.

    \b
    Examples:
        bayesprune fit --network lenet5 --data digits --method bmrs-u --epochs 60 --sparsity auto --structured \\
            --lr 0.003 --out small.safetensors
        bayesprune fit --network mine:build --data mine:examples --method spam-opd --epochs 30 --sparsity 0.9 \\
            --finetune 10 --out sparse.safetensors
    """
    _prune_own(epochs=epochs, patience=patience, **given)


def _prune_own(
    architecture: str, options: tuple[str, ...], checkpoint: str | None, data: str, data_options: tuple[str, ...],
    method_options: tuple[str, ...], sparsity: str, of: str, round_to: int, at_least: int, structured: str | None,
    lr: float, batch_size: int, reestimate_batch_norm: bool, seed: int, out: str, onnx: str | None, **settings: Any,
) -> None:  # fmt: skip
    from .face.prune_to_file import prune_to_file
    from .spec.option_text import parsed

    settings |= {"batch_norm": "reestimate" if reestimate_batch_norm else "keep", "structured": structured or False,
                 "budget": {"of": of, "round_to": round_to, "at_least": at_least}}  # fmt: skip
    _, told = prune_to_file(
        out, architecture, parsed(options), checkpoint, data, seed, {"lr": lr, "batch_size": batch_size}, onnx,
        sparsity=_sparsity(sparsity), data_options=parsed(data_options, "--data-option"), **settings,
        **parsed(method_options, "--method-option"),
    )  # fmt: skip
    click.echo(told)


def _with_those_of_reports() -> None:
    """Commands that compare with the reference results, which reports read."""
    from ..reports.commands import COMMANDS

    for command in COMMANDS:
        main.add_command(command)


_with_those_of_reports()


# ---------------------------------------------------------------------- helpers


def _sparsity(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise UsageError(f"--sparsity {text!r} is not valid; give a number in [0, 1), or auto") from error


def _shard(text: str) -> tuple[int, int]:
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal()):
        raise UsageError(f"--shard {text!r} is not valid; give I/N, such as 1/4")
    return int(index), int(parts)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _summary(folder: Path) -> int:
    from .results.frames import results

    frame = results(folder)
    counts = frame["status"].value_counts()
    click.echo(", ".join(f"{counts.get(status, 0)} {status}" for status in ("done", "failed", "skipped")))
    for status in ("failed", "skipped"):
        reasons = Counter(frame.loc[frame["status"] == status, "reason"])
        for reason, count in reasons.most_common(5):
            click.echo(f"  {status} {count} x {reason}", err=True)
    return sum(frame["status"] == "failed")


def _load_plugins(registry: Registry, plugins: tuple[str, ...]) -> list[str]:
    broken = []
    for plugin in plugins:
        try:
            registry.load_plugin(plugin)
        except UsageError as error:
            broken.append(str(error))
    return broken


def _entries(registry: Registry) -> str:
    entries = registry.catalogue().values()
    width = max((len(e.name) for e in entries), default=0)
    lines = []
    for entry in entries:
        origin = "" if entry.origin == "built-in" else f"  [{entry.origin}]"
        revision = f"  (revision {entry.revision})" if entry.revision != 1 else ""
        lines.append(f"  {entry.name:<{width}}  {entry.summary}{revision}{origin}")
        if entry.options:
            lines.append(f"  {'':<{width}}    {', '.join(f'{n}: {t}' for n, t in entry.options.items())}")
    return "\n".join(lines)


def _matrices() -> str:
    from .spec.shipped import shipped_matrices

    matrices = shipped_matrices()
    width = max(map(len, matrices))
    return "\n".join(f"  {name:<{width}}  {summary}" for name, summary in matrices.items())


if __name__ == "__main__":
    main()
