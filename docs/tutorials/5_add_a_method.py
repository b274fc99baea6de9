"""
Add a method, and see where it stands
=====================================

A method is a function that returns a ``Pruner``: how the network is trained, what a unit is worth and, if it has one,
its own threshold. This one keeps a weight if that raises the evidence.
"""

# %%
# Write it
# --------
import tempfile
from pathlib import Path

import bayesprune as bp
import matplotlib.pyplot as plt

folder = Path(tempfile.mkdtemp())
plugin = folder / "my_evidence.py"
_ = plugin.write_text('''
import bayesprune as bp


def score(state):  # nats, one number per unit, larger is kept
    q = state.posterior
    return state.units.gather({n: 0.5 * (q.precision[n] * q.mean[n] ** 2 - q.precision[n].log()) for n in q.mean})


@bp.register("my-evidence")
def my_evidence():
    """Log evidence for a weight: prior over posterior density at 0, diagonal Laplace, prior N(0, 1)."""
    return bp.Pruner(bp.MAP, score, keep_above=0.0)
''')

# %%
# Check it
# --------
# The contract that all methods keep, on tiny networks: deterministic, finite, exact counts, what has left stays away,
# the network as it was. ``bayesprune check my_evidence.py`` does it for every family; here is one promise.
from bayesprune.bench.contract import TINY, check_on
from bayesprune.methods import registry

registry.load_plugin(plugin)
for verdict in check_on("my-evidence", TINY[0], "weights"):
    print("kept  " if not verdict.problem else "BROKEN", verdict.promise)

# %%
# Run it among others
# -------------------
matrix = folder / "mine.yaml"
_ = matrix.write_text("""
datasets: [digits]
architectures: [{name: mlp, widths: [64]}]
methods: [random, magnitude, opd, my-evidence]
sparsity: [0.9, 0.95, 0.98]
seeds: [0, 1, 2]
training: {epochs: 12, lr: 3.0e-3}
finetune: {epochs: 1}
shift: false
""")
_ = bp.run(matrix, folder / "results", jobs=1, plugins=[str(plugin)])

# %%
# Where it stands
# ---------------
# Methods that share a letter are not told apart by paired tests on the same test examples.
from bayesprune.bench.results.scores import folder_scores
from bayesprune.bench.results.store import Store
from bayesprune.reports.leaderboard.standings import leaderboard
from bayesprune.reports.records.blocks import field
from bayesprune.reports.records.frame import prepare

store = Store(folder / "results", create=False)
scores = folder_scores(store, {record["key"]: record for record in store.records()})
found = field(prepare(bp.results(folder / "results")), scores, "weights")
standings = leaderboard(found.blocks).standings
for standing in standings:
    print(f"{standing.place:g}  {standing.entrant:<12} {standing.group:<3} score {100 * standing.score:.1f}")

figure, axes = plt.subplots(figsize=(6, 2.5))
bars = axes.barh([s.entrant for s in standings], [100 * s.score for s in standings], color="#7A7A7A")
axes.bar_label(bars, [s.group for s in standings], padding=4)
axes.invert_yaxis()
axes.set(xlabel="area under accuracy against sparsity (%); letters: who is not told apart")
plt.tight_layout()

# %%
# On all networks of the reference results, under the same protocol, and without computing anything that they have:
#
# .. code-block:: text
#
#    bayesprune compare my_evidence.py
