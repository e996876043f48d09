"Statistics against other libraries, slow counting, and what must hold for any input; the ordinary uses are tested in 32_statistics."
import math, random, warnings
from itertools import combinations, permutations, product
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import torch
from baycomp import CorrelatedTTest, SignedRankTest
from hypothesis import given, settings, strategies as st
from scipy import stats
from deepclsmote.core import InputError
from deepclsmote.statistics import (average_ranks, bayesian_signed_rank, cliffs_delta, cohens_dz, compare_methods, corrected_ttest, critical_difference,
                                    friedman, holm, rank_biserial, rank_tests, ranks_per_case, shaffer, shaffer_steps, wilcoxon)

reference = Path(__file__).resolve().parents[1]/'nbs'/'reference'
many = settings(deadline=None, max_examples=100)
few = settings(deadline=None, max_examples=20)
eighths = st.integers(-8, 8).map(lambda i: i/8)              # exact in binary, with many ties
smooth = st.floats(-100, 100, allow_nan=False)

@st.composite
def tables(draw, values=eighths, cases=1, methods=1):
    n,k = draw(st.integers(cases, 7)),draw(st.integers(methods, 6))
    return np.array(draw(st.lists(st.lists(values, min_size=k, max_size=k), min_size=n, max_size=n)), float)

@st.composite
def pairs(draw, values=eighths, least=1, most=12):
    n = draw(st.integers(least, most))
    column = st.lists(values, min_size=n, max_size=n)
    return np.array(draw(column), float),np.array(draw(column), float)

@st.composite
def all_pairs(draw):
    "p-values of all pairs of some methods"
    k = draw(st.integers(0, 7))
    return np.array(draw(st.lists(st.floats(0, 1) | st.sampled_from([0., .01, .05, 1.]), min_size=k*(k-1)//2, max_size=k*(k-1)//2)), float)

# ranks and Friedman

@given(tables(), st.randoms(use_true_random=False))
@many
def test_ranks(s, random):
    "As SciPy ranks; sums are k(k+1)/2; order of cases and methods and any rising scale do not matter"
    n,k = s.shape
    R = ranks_per_case(s)
    np.testing.assert_array_equal(R, stats.rankdata(-s, axis=1))
    np.testing.assert_allclose(R.sum(axis=1), k*(k+1)/2)
    a = average_ranks(s)
    assert a.sum() == pytest.approx(k*(k+1)/2) and a.between(1, k).all()
    np.testing.assert_array_equal(average_ranks(s**3 + s), a)
    np.testing.assert_array_equal(average_ranks(-s, higher_is_better=False), a)
    rows,columns = random.sample(range(n), n),random.sample(range(k), k)
    np.testing.assert_allclose(average_ranks(s[rows][:,columns]), a.to_numpy()[columns], rtol=1e-12)

def test_ranks_keep_names_and_input():
    s = pd.DataFrame({'b': [1, 2], 'a': [2, 1]}, index=['x','y'])
    was = s.copy()
    assert average_ranks(s).to_dict() == {'b': 1.5, 'a': 1.5} and list(average_ranks(s).index) == ['b','a']
    assert ranks_per_case(s).index.tolist() == ['x','y']
    pd.testing.assert_frame_equal(s, was)
    assert average_ranks([[.5], [.7]]).tolist() == [1]          # one method
    assert average_ranks([[.5, .7, .7]]).tolist() == [3, 1.5, 1.5]  # one case
    assert average_ranks(torch.tensor([[.5, .7]])).tolist() == [2, 1]
    assert average_ranks([[True, False]]).tolist() == [1, 2]

@pytest.mark.parametrize('bad, words', [
    ([[1, math.nan], [1, 2]], 'nan for method 1 in case 0 (1 such cells)'), ([[1, math.inf]], 'inf for method 1'), ([1, 2], '1 dimensions'), (np.zeros((0,3)), '0 cases'),
    (np.zeros((3,0)), '0 methods'), ([['a', 'b']], 'no number'), (pd.DataFrame([[1, 2]], columns=['a','a']), "two columns called 'a'"), (np.zeros((2,2,2)), '3 dimensions'),
    (pd.DataFrame({'a': [1., None]}), "nan for method 'a' in case 1"),
])
def test_bad_tables(bad, words):
    "The same refusal wherever a table of scores is taken, before any work"
    for call in (average_ranks, ranks_per_case):
        with pytest.raises(InputError) as e: call(bad)
        assert words in str(e.value)
    for call in (friedman, lambda s: compare_methods(s, .01)):
        with pytest.raises(InputError): call(bad)

@given(tables(methods=3, cases=2))
@many
def test_friedman_is_scipys(s):
    got,(n,k) = friedman(s),s.shape
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        want = stats.friedmanchisquare(*s.T)
    if math.isnan(want.statistic): assert got[:4] == (0, 1, 0, 1)
    else: np.testing.assert_allclose(got[:2], want, atol=1e-9)
    assert -1e-9 <= got.chi2 <= n*(k-1)+1e-9 and got.f >= 0 and 0 <= got.f_p <= 1 and got[4:] == (n, k)
    if got.chi2 < n*(k-1) - 1e-6: assert got.f == pytest.approx((n-1)*got.chi2/(n*(k-1)-got.chi2))
    else: assert math.isinf(got.f) and got.f_p == 0

def test_iman_davenport_is_anova_of_ranks():
    "F is that of a two-way analysis of variance of the ranks (Conover 1999)"
    s = np.random.default_rng(0).integers(0, 6, (8,4))
    r = stats.rankdata(s, axis=1)
    between = 8*((r.mean(0)-2.5)**2).sum()/3
    rest = ((r - r.mean(0))**2).sum()/(3*7)              # rows have the same mean
    assert friedman(s).f == pytest.approx(between/rest)

def test_friedman_of_two_methods():
    "chi2 is the squared z of the sign test, zeros left out"
    s = np.array([[1, 0]]*7 + [[0, 1]]*2 + [[1, 1]])
    assert friedman(s).chi2 == pytest.approx((7-2)**2/9)

@pytest.mark.parametrize('level', ['fold','Seed','run','repeat'])
def test_folds_warn(level):
    index = pd.MultiIndex.from_product([['a','b'], range(3)], names=['dataset', level])
    s = pd.DataFrame(np.random.default_rng(0).random((6,3)), index)
    for call in (friedman, lambda s: compare_methods(s, .01, draws=10)):
        with pytest.warns(UserWarning, match=rf"row for each {level}.*groupby\(level=\['dataset'\]\)") as said: call(s)
        assert len(said) == 1 and said[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            call(s.groupby(level=['dataset']).mean())
    with pytest.warns(UserWarning, match='corrected_ttest'): friedman(s.loc['a'])

# pairs of ranks and corrections

@given(tables(values=smooth, methods=2, cases=2))
@many
def test_rank_tests(s):
    "As scikit-posthocs' Siegel and Castellan test; names kept; permutation of methods permutes"
    posthocs = pytest.importorskip('scikit_posthocs')
    n,k = s.shape
    names = list('ABCDEF')[:k]
    P = rank_tests(average_ranks(pd.DataFrame(s, columns=names)), n)
    np.testing.assert_allclose(P, posthocs.posthoc_siegel_friedman(s), atol=1e-12)
    assert list(P) == list(P.index) == names and (np.diag(P) == 1).all()
    np.testing.assert_array_equal(P, P.T)
    np.testing.assert_allclose(rank_tests(average_ranks(s[:,::-1]), n), P.to_numpy()[::-1,::-1], atol=1e-12)

@pytest.mark.parametrize('k, n', [(2,5), (3,4), (4,6), (7,10), (12,20)])
def test_critical_difference_is_nemenyis(k, n):
    "Ranks that differ by just more are told apart at alpha by scikit-posthocs' Nemenyi test, by just less they are not"
    for alpha in (.01, .05, .1):
        cd = critical_difference(k, n, alpha)
        q = lambda difference: stats.studentized_range.sf(difference/np.sqrt(k*(k+1)/(6*n))*np.sqrt(2), k, np.inf)
        assert q(cd*1.0001) < alpha < q(cd*.9999)
    assert critical_difference(k, n) > critical_difference(k, 2*n) and critical_difference(k, n, .01) > critical_difference(k, n, .1)

@pytest.mark.parametrize('k', [2,3,5,10])
def test_critical_difference_by_drawing(k):
    "The share of draws in which the range of average ranks passes it, when all methods are equal, is near alpha"
    n,g = 400,np.random.default_rng(0)
    worst = [np.ptp(stats.rankdata(g.random((n,k)), axis=1).mean(0)) for _ in range(2000)]
    for alpha in (.05,.2): assert np.mean(np.array(worst) >= critical_difference(k, n, alpha)) == pytest.approx(alpha, abs=4*(alpha*(1-alpha)/2000)**.5 + .005)

def test_critical_difference_agrees_with_posthocs():
    posthocs = pytest.importorskip('scikit_posthocs')
    s = np.random.default_rng(0).random((8,5)) + np.arange(5)*.15
    R,P = average_ranks(s),np.array(posthocs.posthoc_nemenyi_friedman(s))
    seen = {bool(P[i,j] < .05) for i,j in combinations(range(5), 2)}
    assert seen == {True, False}
    for i,j in combinations(range(5), 2): assert (abs(R[i]-R[j]) > critical_difference(5, 8)) == (P[i,j] < .05)

@pytest.mark.parametrize('k, n, alpha', [(1,5,.05), (3,0,.05), (3,5,0), (3,5,1), (3,5,5)])
def test_critical_difference_refuses(k, n, alpha):
    with pytest.raises(InputError, match='expected at least 2 methods'): critical_difference(k, n, alpha)

def test_rank_tests_refuse():
    for bad in ([.9, .8], [1.], [1, math.nan], [0, 3], [1, 1, 1], [2, 4]):
        with pytest.raises(InputError): rank_tests(bad, 5)
    with pytest.raises(InputError): rank_tests([1, 2], 0)
    assert rank_tests([1.2, 1.8], 10).shape == (2, 2)
    rank_tests([4.0, 2.6, 2.0, 1.4], 6); rank_tests([4.0, 2.6, 2.0, 1.3], 6)  # as rounded in print

def partitions(items):
    "All ways to put `items` in groups"
    if not items: yield []; return
    first,*rest = items
    for p in partitions(rest):
        yield [[first], *p]
        for i in range(len(p)): yield [*p[:i], [first, *p[i]], *p[i+1:]]

@pytest.mark.parametrize('k', range(1, 8))
def test_shaffer_steps_by_listing(k):
    "Before step i, i-1 hypotheses are false: the most that can then be true, over all groupings of k methods into equal ones"
    true = {sum(len(g)*(len(g)-1)//2 for g in p) for p in partitions(list(range(k)))}
    m = k*(k-1)//2
    assert shaffer_steps(k) == [max(t for t in true if t <= m-i) for i in range(m)]

def test_shaffer_steps_published():
    "García and Herrera (JMLR 2008) give t for k = 4 and 5"
    assert shaffer_steps(4) == [6, 3, 3, 3, 2, 1] and shaffer_steps(5) == [10, 6, 6, 6, 6, 4, 4, 3, 2, 1]
    assert shaffer_steps(7) == [21] + [15]*6 + [11]*4 + [10, 9, 7, 7, 6, 5, 4, 3, 2, 1]
    assert len(shaffer_steps(60)) == 1770

def step_by_step(p, steps):
    "One p-value after the other, smallest first, as the papers say it"
    adjusted,worst = [0.]*len(p),0.
    for step,i in zip(steps, sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1., step*p[i]))
        adjusted[i] = worst
    return adjusted

@given(all_pairs(), st.randoms(use_true_random=False))
@many
def test_corrections(p, random):
    "Raw <= Shaffer <= Holm <= Bonferroni, order kept, any order of input, as the slow version"
    m = len(p)
    h,s = holm(p),shaffer(p)
    k = next(k for k in range(1, 9) if k*(k-1)//2 == m)
    np.testing.assert_allclose(s, step_by_step(p, shaffer_steps(k)), rtol=1e-12)
    np.testing.assert_allclose(h, step_by_step(p, range(m, 0, -1)), rtol=1e-12)
    assert (p <= s).all() and (s <= h).all() and (h <= np.minimum(1, m*p)).all()
    for adjusted in (h, s):
        order = np.argsort(p)
        assert (np.diff(adjusted[order]) >= 0).all()
        for i,j in combinations(range(m), 2): assert p[i] != p[j] or adjusted[i] == adjusted[j]
    new = random.sample(range(m), m)
    np.testing.assert_array_equal(shaffer(p[new]), s[new]); np.testing.assert_array_equal(holm(p[new]), h[new])

def test_holm_is_statsmodels():
    multitest = pytest.importorskip('statsmodels.stats.multitest')
    rng = np.random.default_rng(0)
    for m in (1, 2, 6, 21):
        for p in (rng.random(m), rng.random(m)**4, rng.integers(0, 4, m)/80):
            np.testing.assert_allclose(holm(p), multitest.multipletests(p, method='holm')[1], rtol=1e-12)

@given(all_pairs().filter(lambda p: len(p) > 0), st.randoms(use_true_random=False))
@many
def test_forms(p, random):
    "Vector, list, Series, matrix and DataFrame hold the same numbers; the diagonal and the input stay"
    k = next(k for k in range(1, 9) if k*(k-1)//2 == len(p))
    i,j = np.triu_indices(k, 1)
    M = np.full((k,k), np.nan); M[i,j] = p; M[j,i] = p
    was = M.copy()
    for f in (shaffer, holm):
        want = f(p)
        assert type(f(p.tolist())) is np.ndarray
        np.testing.assert_array_equal(f(p.tolist()), want)
        series = f(pd.Series(p, index=range(5, 5+len(p)), name='p'))
        assert series.name == 'p' and series.index[0] == 5 and series.tolist() == want.tolist()
        A = f(M)
        np.testing.assert_array_equal(A[i,j], want); np.testing.assert_array_equal(A, A.T); assert np.isnan(np.diag(A)).all()
        names = [f'm{c}' for c in range(k)]
        D = f(pd.DataFrame(M, names, names))
        assert list(D) == list(D.index) == names
        np.testing.assert_array_equal(D, A)
        new = random.sample(range(k), k)
        np.testing.assert_array_equal(f(M[new][:,new]), A[new][:,new])
    np.testing.assert_array_equal(M, was)

@pytest.mark.parametrize('bad, words', [([.1, 1.2, .3], 'holds 1.2'), ([.1, -.1, .3], 'holds -0.1'), ([.1, math.nan, .3], 'holds nan'), (np.zeros((2,3)), 'shape (2, 3)'),
                                        ([[1, .1], [.2, 1]], 'not symmetric'), ([[1, math.nan], [math.nan, 1]], 'holds nan'), (.5, 'shape ()'), (np.zeros((1,1,1)), 'shape (1, 1, 1)')])
def test_bad_p_values(bad, words):
    for f in (shaffer, holm):
        with pytest.raises(InputError) as e: f(bad)
        assert words in str(e.value)

@pytest.mark.parametrize('m', [2, 4, 5, 7, 20, 22])
def test_shaffer_needs_all_pairs(m):
    with pytest.raises(InputError, match=f'{m} values; expected one for each'): shaffer([.1]*m)
    assert len(holm([.1]*m)) == m

def test_familywise_error_is_kept():
    "Four equal methods, 400 tables: Shaffer lets some false alarm through in at most about 5 % of them, no correction in far more"
    rng,alarms = np.random.default_rng(0),np.zeros(2)
    i,j = np.triu_indices(4, 1)
    for _ in range(400):
        p = rank_tests(average_ranks(rng.random((12,4))), 12).to_numpy()[i,j]
        alarms += [(p <= .05).any(), (shaffer(p) <= .05).any()]
    assert alarms[1] <= 400*.05 + 3*math.sqrt(400*.05*.95) < alarms[0]

# Wilcoxon

def by_signs(d):
    "Two-sided p by listing all signs"
    d = d[d != 0]
    r = stats.rankdata(abs(d))
    ours = min(r[d > 0].sum(), r[d < 0].sum())
    signs = np.array(list(product((0,1), repeat=len(d)))).reshape(2**len(d), len(d))
    plus = signs@r
    return ours,np.mean(np.minimum(plus, r.sum()-plus) <= ours + 1e-9)

@given(pairs())
@many
def test_wilcoxon_by_listing(ab):
    "Ties and zeros included; a and b may change places"
    a,b = ab
    got = wilcoxon(a, b)
    np.testing.assert_allclose(got[:2], by_signs(a-b), rtol=1e-12)
    assert got.n == (a != b).sum() and got.smallest_p == min(1, 2/2**got.n) <= got.p <= 1
    assert wilcoxon(b, a) == got and type(got.p) is float
    assert bool(got.limit) == (got.n <= 6)
    assert (got.smallest_p > .05) == (got.n < 6)

@pytest.mark.parametrize('n', [1, 2, 5, 8, 25, 50, 51, 300, 501, 700])
def test_wilcoxon_is_scipys(n):
    d = np.random.default_rng(n).normal(.1, 1, n)
    method = 'exact' if n <= 500 else 'asymptotic'
    try: want = stats.wilcoxon(d, method=method)
    except ValueError: want = stats.wilcoxon(d, method='approx')  # its name before SciPy 1.16
    np.testing.assert_allclose(wilcoxon(d, d*0)[:2], want, rtol=1e-9)

@pytest.mark.parametrize('n', range(13))
def test_smallest_p_is_reached(n):
    "and by no other result than one that always has the same sign"
    got = wilcoxon(np.arange(n)+1., np.zeros(n)) if n else wilcoxon([1.], [1.])
    assert got.p == got.smallest_p == min(1, 2/2**n) and got.n == n
    if n > 2: assert wilcoxon(np.r_[-1, np.arange(2., n+1)], np.zeros(n)).p == pytest.approx(4/2**n)

def test_decimal_ties():
    "Equal differences of decimals are equal, at any scale; real differences are kept"
    a,b = np.array([.3, .2, .9]),np.array([.2, .1, 1.0])
    for scale in (1e-200, 1e-9, 1, 100, 1e12, 1e200): assert wilcoxon(a*scale, b*scale).statistic == 2
    assert wilcoxon([.1+.2], [.3]).n == 0
    assert wilcoxon([1 + 1e-9], [1]).n == 1
    assert wilcoxon([1e-250, 2e-250], [0, 0]).n == 2

two_vectors = [wilcoxon, rank_biserial, cohens_dz, corrected_ttest, lambda a, b: bayesian_signed_rank(a, b, .01, draws=10)]
@pytest.mark.parametrize('call', two_vectors, ids=['wilcoxon','rank_biserial','cohens_dz','corrected_ttest','bayesian'])
def test_bad_pairs(call):
    for a,b in [([1., 2], [1.]), ([], []), ([1, math.nan], [1, 2]), ([1, 2], [1, math.inf]), ([[1, 2]], [[1, 2]]), (1, 2),
                (pd.Series([1, 2], ['x','y']), pd.Series([1, 2], ['y','x']))]:
        with pytest.raises(InputError): call(a, b)
    a,b = pd.Series([.1, .4, .3], list('xyz')),pd.Series([.2, .1, .1], list('xyz'))
    assert call(a, b) == call(a.tolist(), torch.tensor(b.to_numpy()))
    assert a.tolist() == [.1, .4, .3]

# Bayes

def same_draws(a, b, rope, seed, draws):
    "Shares from weights, as the paper says it, the draws at once"
    d = np.r_[0, a-b]
    W = np.random.RandomState(seed).dirichlet(np.r_[.5, np.ones(len(a))], draws)
    mean = (d[:,None]+d)/2
    above,below = ((s > rope) + .5*(s == rope) for s in (mean, -mean))
    a_wins,b_wins = ((W@M*W).sum(1) for M in (above, below))
    return np.stack([a_wins, 1-a_wins-b_wins, b_wins], 1)

@given(pairs(most=8), st.sampled_from([0, .125, .25, .3]), st.integers(0, 2**32-1))
@few
def test_bayes_by_the_formula(ab, rope, seed):
    "Ties divided; sums to 1; a and b may change places"
    a,b = ab
    got = bayesian_signed_rank(a, b, rope, seed=seed, draws=200)
    shares = same_draws(a, b, rope, seed, 200).round(9)
    largest = shares == shares.max(1, keepdims=True)
    np.testing.assert_allclose(got, (largest/largest.sum(1, keepdims=True)).mean(0), atol=1e-12)
    assert sum(got) == pytest.approx(1) and min(got) >= 0
    np.testing.assert_allclose(bayesian_signed_rank(b, a, rope, seed=seed, draws=200), got[::-1], atol=1e-12)
    assert bayesian_signed_rank(-a, -b, rope, higher_is_better=False, seed=seed, draws=200) == got

def test_bayes_is_baycomps():
    rng = np.random.default_rng(0)
    a,b = rng.random(10),rng.random(10)
    for rope in (.05, .2): np.testing.assert_allclose(bayesian_signed_rank(a, b, rope, seed=7, draws=2000)[::-1], SignedRankTest.probs(b*0, a-b, rope, nsamples=2000, random_state=7), atol=1e-12)
    right = SignedRankTest.probs(b*0, a-b, 0, nsamples=2000, random_state=7)[1]
    assert bayesian_signed_rank(a, b, 0, seed=7, draws=2000) == pytest.approx((right, 0, 1-right))

def test_bayes_seeds():
    "Same seed, same numbers, whatever the global generators; another seed, others"
    a,b = np.array([.5, .6, .7, .2]),np.array([.4, .65, .6, .25])
    np.random.seed(1); torch.manual_seed(1)
    one = bayesian_signed_rank(a, b, .01, draws=500)
    np.random.seed(2); torch.manual_seed(2)
    assert bayesian_signed_rank(a, b, .01, draws=500) == one == bayesian_signed_rank(a, b, .01, seed=0, draws=500)
    assert bayesian_signed_rank(a, b, .01, seed=1, draws=500) != one
    assert bayesian_signed_rank(a, b, .01, seed=None, draws=500) != bayesian_signed_rank(a, b, .01, seed=None, draws=500)
    assert sum(bayesian_signed_rank(a, b, .01, seed=2**40, draws=10)) == pytest.approx(1)

def test_globals_stay():
    "No global generator moves"
    was = np.random.get_state()[1].tolist(),np.random.get_state()[2],torch.get_rng_state(),random.getstate()
    s = np.random.default_rng(0).random((4,3))
    compare_methods(s, .01, draws=50); friedman(s); bayesian_signed_rank(s[:,0], s[:,1], .01, seed=None, draws=50)
    assert was[:2] == (np.random.get_state()[1].tolist(), np.random.get_state()[2]) and torch.equal(was[2], torch.get_rng_state()) and was[3] == random.getstate()

def test_bayes_ends():
    assert bayesian_signed_rank([.9], [.1], .01, draws=300).a_better > .5             # one case against a prior of half a case
    assert bayesian_signed_rank([.5]*3, [.5]*3, 0, draws=50) == (.5, 0, .5)
    assert bayesian_signed_rank([.5]*3, [.5]*3, .01, draws=50) == (0, 1, 0)
    assert bayesian_signed_rank([1.]*9, [0.]*9, 10, draws=50).equal == 1
    for rope in (-.1, math.nan, math.inf):
        with pytest.raises(InputError, match='rope='): bayesian_signed_rank([1], [0], rope)
    with pytest.raises(InputError, match='draws=0'): bayesian_signed_rank([1], [0], .1, draws=0)

# folds of one data set

@given(pairs(values=smooth, least=2))
@many
def test_corrected_ttest(ab):
    "The plain t over the enlarged spread; baycomp's correlated t-test has the same tail"
    a,b = ab
    got,k = corrected_ttest(a, b),len(a)
    assert got.df == k-1 and 0 <= got.p <= 1
    d = np.round(a-b, 9)
    if np.ptp(d) > 1e-3:
        plain = stats.ttest_rel(a, b).statistic
        assert got.t == pytest.approx(plain*math.sqrt(1/k/(1/k + 1/(k-1))), rel=1e-4, abs=1e-6)
        left,right = CorrelatedTTest.probs(b, a, 0)  # x, y: right is y better
        assert got.p == pytest.approx(2*min(left, right), rel=1e-3, abs=1e-6)

def test_corrected_ttest_ends():
    assert corrected_ttest([1, 2], [0, 1])[:2] == (math.inf, 0) and corrected_ttest([0, 1], [1, 2])[:2] == (-math.inf, 0)
    assert corrected_ttest([1, 2], [1, 2]) == (0, 1, 1, 0)
    a,b = [.9, .8, .95, .85],[.8, .82, .9, .8]
    assert corrected_ttest(a, b, .5).p > corrected_ttest(a, b).p > corrected_ttest(a, b, .01).p > stats.ttest_rel(a, b).pvalue
    for share in (0, 1, -.1, math.nan):
        with pytest.raises(InputError, match='test_share'): corrected_ttest(a, b, share)
    with pytest.raises(InputError, match='1 folds'): corrected_ttest([1], [0])

# effects

@given(pairs(least=2))
@many
def test_effects(ab):
    a,b = ab
    d = a-b
    r = rank_biserial(a, b)
    assert -1 <= r <= 1 and rank_biserial(b, a) == -r
    w = wilcoxon(a, b)
    if w.n: assert abs(r) == pytest.approx(1 - 4*w.statistic/(w.n*(w.n+1)))      # Kerby 2014
    dz = cohens_dz(a, b)
    if np.ptp(d): assert dz == pytest.approx(stats.ttest_rel(a, b).statistic/math.sqrt(len(d)))
    else: assert dz == (0 if d[0] == 0 else math.copysign(math.inf, d[0]))
    delta = cliffs_delta(a, b[:-1])
    U = stats.mannwhitneyu(a, b[:-1]).statistic
    assert delta == pytest.approx(2*U/(len(a)*(len(a)-1)) - 1) and cliffs_delta(b[:-1], a) == pytest.approx(-delta)

def test_effects_ends():
    assert math.isnan(cohens_dz([1], [0])) and rank_biserial([1], [0]) == cliffs_delta([1], [0]) == 1
    assert cohens_dz([.3, .2], [.2, .1]) == math.inf                                # the same difference twice, in decimals
    for a,b in [([], [1]), ([1, math.nan], [1]), ([[1]], [1])]:
        with pytest.raises(InputError): cliffs_delta(a, b)

# the table of pairs

@given(tables(methods=2))
@few
def test_compare_methods(s):
    "Each column is what its own function says; the better average rank is first; no warning on the way"
    n,k = s.shape
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        t = compare_methods(s, .125, draws=20)
    R = average_ranks(s)
    P = rank_tests(R, n)
    assert len(t) == k*(k-1)//2 and t.index.names == ['a','b'] and not t.isna().any().any()
    assert ((t.wins + t.ties + t.losses) == n).all()
    for (a,b),row in t.iterrows():
        assert R[a] <= R[b]
        d = s[:,a]-s[:,b]
        assert row.mean_difference == pytest.approx(d.mean(), abs=1e-12) and (row.wins, row.losses) == ((d > 0).sum(), (d < 0).sum())
        assert row.wilcoxon_p == wilcoxon(s[:,a], s[:,b]).p and row.rank_biserial == rank_biserial(s[:,a], s[:,b])
        assert row.rank_p == P.loc[a,b] and row.rank_shaffer == shaffer(P).loc[a,b]
        assert (row.a_better, row.equal, row.b_better) == pytest.approx(bayesian_signed_rank(s[:,a], s[:,b], .125, draws=20))
    np.testing.assert_allclose(t.wilcoxon_holm, holm(t.wilcoxon_p))

def test_compare_methods_lower_is_better():
    s = pd.DataFrame({'x': [1., 2, 3, 4], 'y': [2., 3, 4, 4]})
    t = compare_methods(s, .1, higher_is_better=False, draws=50)
    row = t.loc['x','y']
    assert (row.mean_difference, row.wins, row.ties, row.losses, row.rank_biserial) == (-.75, 3, 1, 0, 1) and row.a_better > .5
    assert list(compare_methods(s, .1, draws=50).index) == [('y','x')]
    assert len(compare_methods([[1, 2]], .1, draws=50)) == 1                          # one case

# published tables

def test_peerj_table5():
    "Ranks, Friedman values and Wilcoxon p-values of the four measures"
    t = pd.read_csv(reference/'peerj_table5.csv')
    methods = ['Plain','BAGAN','DeepSMOTE','DeepCLSMOTE']
    of = {m: g.pivot(index='dataset', columns='method', values='value')[methods] for m,g in t.groupby('metric')}
    ranks = {m: average_ranks(s).round(3).tolist() for m,s in of.items()}
    assert ranks == dict(accuracy=[4, 2.667, 2.167, 1.167], precision=[4, 2.833, 1.833, 1.333], recall=[4, 2.667, 2.167, 1.167], f1=[4, 2.833, 2, 1.167])
    assert {m: round(friedman(s).chi2, 6) for m,s in of.items()} == dict(accuracy=15, precision=15, recall=15, f1=15.8)
    p = {m: [wilcoxon(s.DeepCLSMOTE, s[r]).p for r in methods[:3]] for m,s in of.items()}
    assert p == dict(accuracy=[.03125, .0625, .03125], precision=[.03125, .03125, .21875], recall=[.03125, .0625, .03125], f1=[.03125, .03125, .0625])

def test_deepsmote_table4():
    "Rivals stand in the order of the average ranks of Tables II and III; Shaffer's p-values fall with the distance"
    t = pd.concat([pd.read_csv(reference/f).assign(test=f) for f in ('deepsmote_table2_imbalanced.csv','deepsmote_table3_balanced.csv')])
    rivals = ['SMOTE','AMDO','MC-CCR','MC-RBO','BAGAN','GAMO']
    for m,g in t.groupby('metric'):
        s = g.pivot(index=['test','dataset'], columns='method', values='value')
        R = average_ranks(s)
        assert R.sort_values(ascending=False).index.tolist() == [*rivals, 'DeepSMOTE']
        p = shaffer(rank_tests(R, 10)).loc['DeepSMOTE', rivals]
        assert p.is_monotonic_increasing and (p[['SMOTE','AMDO','MC-CCR']] < .01).all() and (p[['BAGAN','GAMO']] > .5).all()
    wins = g.pivot(index=['test','dataset'], columns='method', values='value')
    same = {tuple(bayesian_signed_rank(wins.DeepSMOTE, wins[r], 0, draws=500)) for r in rivals[:4]}
    assert len(same) == 1      # ten wins in ten: margins do not matter without a rope
