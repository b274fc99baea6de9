"""Statistics of reports against hand-computed values, published tables, enumeration and known distributions."""

import itertools
import math

import numpy as np
import pytest
from bayesprune.reports.records import statistics as st
from scipy import stats

# Demšar (2006, JMLR 7), table 6: AUC of C4.5 with four settings on 14 data sets. The two 0.975 of the last but one
# row stand there with ranks 2 and 3, so they are not equal.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9752, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------------- means and bands


def test_mean_band_is_the_mean_with_exact_bootstrap_quantiles():
    values = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 30.0]])
    mean, low, high = st.mean_band(values, rng(), draws=20000)
    np.testing.assert_allclose(mean, [7 / 3, 20])
    resamples = np.array([np.mean(c) for c in itertools.product([1, 2, 4], repeat=3)])
    exact = np.quantile(resamples, [0.025, 0.975], method="inverted_cdf")
    np.testing.assert_allclose([low[0], high[0]], exact, atol=1e-12)


def test_mean_band_resamples_whole_seeds_and_leaves_gaps_out():
    values = np.array([[1.0, np.nan], [2.0, 5.0], [3.0, np.nan]])
    mean, low, high = st.mean_band(values, rng())
    np.testing.assert_allclose(mean, [2, 5])
    assert low[0] <= 2 <= high[0]
    assert math.isnan(low[1])  # one seed gives no interval
    assert math.isnan(high[1])
    mean, low, high = st.mean_band(np.full((3, 1), np.nan), rng())
    assert np.isnan([mean, low, high]).all()


def test_bootstrap_covers_as_it_should():
    samples = rng(1).standard_normal((40, 1000)) + 3
    _, low, high = st.mean_band(samples, rng(2), draws=400)
    assert abs(np.mean((low <= 3) & (high >= 3)) - 0.94) < 0.02


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_stated_coverage_of_few_seeds_is_true(seeds):
    samples = rng(3).standard_normal((seeds, 3000))
    _, low, high = st.mean_band(samples, rng(4), draws=400)
    assert abs(100 * np.mean((low <= 0) & (high >= 0)) - st.COVERAGE[seeds]) < 3
    assert f"{st.COVERAGE[seeds]} %" in st.thin_intervals(seeds)[0]
    assert st.thin_intervals(10) == ()


def test_mean_interval_of_nothing_and_of_one():
    assert math.isnan(st.mean_interval([], rng()).value)
    one = st.mean_interval([2.0, np.nan], rng())
    assert (one.value, one.n) == (2.0, 1)
    assert math.isnan(one.low)


def test_same_generator_same_interval():
    strata = [rng(5).random(4), rng(6).random(3)]
    assert st.stratified(st.pooled_iqm, strata, rng()) == st.stratified(st.pooled_iqm, strata, rng())


# ---------------------------------------------------------------------- aggregates


def test_iqm_by_hand():
    assert st.iqm([1, 2, 3, 4, 5, 6, 7, 800]) == 4.5  # two of eight off each end
    assert st.iqm([5, 1, 100]) == 106 / 3  # a quarter of three is less than one value
    assert st.iqm([0, 1, 2, 9, -50]) == 1.0
    values = rng(7).random((6, 23))
    np.testing.assert_allclose(st.iqm(values), stats.trim_mean(values, 0.25, axis=-1))


def test_block_mean_weighs_blocks_alike():
    assert st.block_mean([np.array([0.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])]) == 0.75


def test_stratified_bootstrap_keeps_to_its_blocks():
    interval = st.stratified(st.block_mean, [np.full(3, 1.0), np.full(4, 3.0)], rng())
    assert (interval.value, interval.low, interval.high, interval.n) == (2.0, 2.0, 2.0, 3)
    assert math.isnan(st.stratified(st.block_mean, [np.ones(1), np.ones(5)], rng()).low)
    assert math.isnan(st.stratified(st.block_mean, [], rng()).value)


def test_improvement_by_enumeration():
    a, b = (
        [rng(8).integers(0, 4, 5).astype(float), rng(9).random(3)],
        [rng(10).integers(0, 4, 4).astype(float), rng(11).random(6)],
    )
    expected = np.mean([np.mean([(x > y) + 0.5 * (x == y) for x in p for y in q]) for p, q in zip(a, b, strict=True)])
    np.testing.assert_allclose(st.improvement(a, b), expected)
    np.testing.assert_allclose(st.improvement(a, b) + st.improvement(b, a), 1)
    interval = st.improvement_interval(a, b, rng())
    np.testing.assert_allclose(interval.value, expected)
    assert interval.low <= expected <= interval.high
    assert st.improvement_interval([np.array([2.0, 3.0])], [np.array([0.0, 1.0])], rng()).low == 1.0


# ---------------------------------------------------------------------- ranks


def test_nemenyi_quantiles_equal_demsars_table():
    published = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    np.testing.assert_allclose([st.nemenyi_q(k) for k in range(2, 11)], published, atol=0.002)
    published = [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]
    np.testing.assert_allclose([st.nemenyi_q(k, 0.1) for k in range(2, 11)], published, atol=0.002)


def test_demsars_example():
    found = st.compare(DEMSAR)
    np.testing.assert_allclose(found.ranks, [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    assert found.blocks == 14
    np.testing.assert_allclose(found.critical_difference, 2.569 * math.sqrt(4 * 5 / (6 * 14)), atol=1e-3)
    assert found.warnings == ()
    # his 9.28 is without the correction for ties
    n, k = DEMSAR.shape
    plain = 12 * n / (k * (k + 1)) * (np.sum(found.ranks**2) - k * (k + 1) ** 2 / 4)
    np.testing.assert_allclose(plain, 9.28, atol=0.01)
    assert found.statistic > plain


def test_friedman_equals_scipy_and_the_formula():
    scores = rng(12).random((9, 5))
    found = st.compare(scores)
    expected = stats.friedmanchisquare(*scores.T)
    np.testing.assert_allclose([found.statistic, found.p_value], [expected.statistic, expected.pvalue])
    n, k = scores.shape
    formula = 12 / (n * k * (k + 1)) * np.sum((n * found.ranks) ** 2) - 3 * n * (k + 1)
    np.testing.assert_allclose(found.statistic, formula)
    np.testing.assert_allclose(found.p_value, stats.chi2.sf(formula, k - 1))


def test_friedman_rejects_too_often_never_and_too_seldom_never():
    p_values = np.array([st.compare(scores).p_value for scores in rng(13).random((200, 12, 4))])
    assert abs(np.mean(p_values < 0.05) - 0.05) < 0.035


def test_comparison_refuses_to_overclaim():
    few = st.compare(rng(14).random((2, 4)))
    assert "hardly any power" in few.warnings[0]
    assert math.isnan(st.compare(rng(15).random((8, 2))).critical_difference)  # Nemenyi's needs three methods
    assert math.isnan(st.compare(rng(16).random((1, 4))).critical_difference)
    assert math.isnan(st.compare(np.ones((6, 3))).p_value)
    np.testing.assert_allclose(st.compare(np.ones((6, 3))).ranks, 2)
    assert st.few_blocks(6) == ()
    assert st.few_seeds(3) == ()
    assert "Only 1 seed behind some results" in st.few_seeds(1)[0]


def test_two_methods_are_compared_by_an_exact_sign_test():
    def wins(count, blocks):
        return st.compare(np.column_stack([np.arange(blocks) < count, np.full(blocks, 0.5)]))

    for count, blocks in ((5, 5), (6, 6), (7, 8), (0, 7), (3, 6)):
        found = wins(count, blocks)
        flips = np.array([sum(signs) for signs in itertools.product([0, 1], repeat=blocks)])
        as_far = np.abs(flips - blocks / 2) >= abs(count - blocks / 2)
        np.testing.assert_allclose(found.p_value, as_far.mean())
        assert found.statistic == count
        assert found.significant == (as_far.mean() <= 0.05)
    assert wins(5, 5).p_value == 0.0625
    ties = np.array([[0.5, 0.5]] * 3 + [[0.6, 0.5]] * 5)
    assert st.compare(ties).p_value == 0.0625
    assert math.isnan(st.compare(ties[:3]).p_value)
    assert math.isnan(st.compare(ties[-1:]).p_value)
    assert st.sign_test([1, 2], [1, 2]) == (0, 1)


def test_only_a_significant_friedman_test_lets_methods_differ():
    order = np.tile([0.9, 0.8, 0.7], (6, 1))
    assert st.compare(order).significant
    assert not st.compare(order[:2]).significant
    assert not st.compare(np.ones((6, 3))).significant


def test_mean_ranks_and_their_intervals():
    apart = np.array([[0.9, 0.5, 0.1], [0.8, 0.4, 0.2]])
    ranks = st.mean_rank_intervals([apart, apart], rng())
    assert [(r.value, r.low, r.high) for r in ranks] == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]
    mixed = st.mean_rank_intervals([np.array([[0.9, 0.5], [0.1, 0.4]])], rng())
    assert mixed[0].value == 1  # 0.5 against 0.45
    assert (mixed[0].low, mixed[0].high) == (1, 2)


# ---------------------------------------------------------------------- best in bold


def test_indistinguishable_agrees_with_welch():
    groups = [
        rng(17).normal(0.9, 0.01, 5),
        rng(18).normal(0.89, 0.02, 4),
        rng(19).normal(0.7, 0.01, 5),
        np.array([0.9]),
    ]
    means = [g.mean() for g in groups]
    deviations = [g.std(ddof=1) if len(g) > 1 else 0.0 for g in groups]
    same = st.indistinguishable(means, deviations, [len(g) for g in groups], best=0)
    expected = [stats.ttest_ind(g, groups[0], equal_var=False).pvalue > 0.05 for g in groups[1:3]]
    assert list(same) == [True, *expected, False]


def test_without_any_spread_only_equal_means_are_equal():
    same = st.indistinguishable([0.9, 0.9, 0.8, np.nan], [0.0] * 4, [3, 3, 3, 0], best=0)
    assert list(same) == [True, True, False, False]
