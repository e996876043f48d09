"Learned by heart, detectable, good for training, and a quiz: against slow loops, known truths, and leaks."
import math, os, random
import matplotlib
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from deepclsmote.core import InputError, new_generator
from deepclsmote.scrutiny import Quiz, classifier_scores, detectability, memorization, nearest_distances, parent_folds, read_answers

matplotlib.use('Agg')
few = settings(deadline=None, max_examples=40)
linear = LogisticRegression(max_iter=300)
def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def pictures(n, seed=0): return np.random.default_rng(seed).integers(0, 256, (n,16,16), dtype=np.uint8)
def rms(a, b): return np.sqrt(np.square((a.astype(float)-b)/255).mean())

# learned by heart

@few
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 50))
def test_distances_loops(g, t, h, seed):
    G,T,H = pictures(g, seed),pictures(t, seed+1),pictures(h, seed+2)
    table = nearest_distances(G, T, H)
    for i,x in enumerate(G):
        d = sorted(rms(x, z) for z in T)
        assert table.d1[i] == pytest.approx(d[0], abs=1e-6) and table.h[i] == pytest.approx(min(rms(x, z) for z in H), abs=1e-6)
        assert table.d2[i] == pytest.approx(d[1], abs=1e-6) if t > 1 else np.isnan(table.d2[i])
        assert rms(x, T[table.nearest[i]]) == pytest.approx(d[0], abs=1e-6)
    m = memorization(G, T, H)
    assert (m['n_generated'], m['n_training'], m['n_held_out']) == (g, t, h)
    if t > 1:
        own = np.sort([min(rms(x, z) for j,z in enumerate(T) if j != i) for i,x in enumerate(T)])[(t-1)//2]
        assert m['to_real'] == pytest.approx(np.sort(table.d1)[(g-1)//2]/own, rel=1e-4)
    else: assert math.isnan(m['gap_ratio']) and math.isnan(m['to_real'])

@few
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 50))
def test_z_is_mann_whitney(g, h, seed):
    "Its two-sided p-value is that of scipy without correction for continuity"
    G,T,H = pictures(g, seed),pictures(5, seed+1),pictures(h, seed+2)
    d,e = nearest_distances(G, T).d1,nearest_distances(H, T).d1
    z = memorization(G, T, H)['z']
    assert math.erfc(abs(z)/2**.5) == pytest.approx(mannwhitneyu(d, e, method='asymptotic', use_continuity=False).pvalue, rel=1e-4)
    assert z == 0 or (z < 0) == (mannwhitneyu(d, e).statistic < g*h/2)

def test_memorization_finds_copies_and_only_them():
    T,H,G = pictures(20),pictures(60, 1),pictures(80, 2)
    heart,fresh = memorization(T.repeat(4, 0), T, H),memorization(G, T, H)
    assert heart['exact'] == 1 and heart['gap_ratio'] == 0 and heart['to_real'] == 0 and heart['nearer_to_training'] == 1 and heart['z'] < -8
    assert fresh['exact'] == 0 and fresh['gap_ratio'] > .9 and .35 < fresh['nearer_to_training'] < .65 and abs(fresh['z']) < 3.5
    same = memorization(T, T, T)   # ties everywhere
    assert same['nearer_to_training'] == .5 and same['z'] == 0
    twice = memorization(T, np.concatenate([T, T]), H)
    assert math.isnan(twice['to_real']) and twice['gap_ratio'] == 1 and twice['exact'] == 1
    by_features = memorization(T, T, H, features=lambda x: x.flatten(1)[:,:5])
    assert by_features['exact'] == 1

def test_equal_numbers_are_compared():
    "A hundred held-out images and five for training: nearer to the hundred by number alone, unless numbers are made equal"
    T,H,G = pictures(5),pictures(100, 1),pictures(200, 2)
    table = nearest_distances(G, T, H)
    assert (table.d1 < table.h).mean() < .2 < .35 < memorization(G, T, H, n_draws=50)['nearer_to_training'] < .65
    assert memorization(G, T, H, seed=3) == memorization(G, T, H, seed=3)

# detectability

@few
@given(st.integers(2, 20), st.integers(1, 25), st.integers(2, 5), st.integers(0, 99))
def test_parent_folds(n, m, folds, seed):
    "No relative of a tested image is trained on; who has relatives in one fold only is tested exactly once"
    rng = np.random.default_rng(seed)
    rows,parents = np.where(rng.random(n) < .2, -1, np.arange(n)+5),rng.integers(-1, n+10, (m,2))
    family = [{r} - {-1} for r in rows] + [set(p) - {-1} for p in parents]
    before,cut = states(),parent_folds(rows, parents, folds, new_generator(seed))
    assert states() == before and len(cut) == folds
    for train,test in cut:
        assert not (train & test).any()
        taught,asked = (set().union(*[family[i] for i in np.flatnonzero(k)]) for k in (train, test))
        assert not taught & asked
    times = sum(test.astype(int) for _,test in cut)
    assert (times <= 1).all() and all(times[i] == 1 for i,f in enumerate(family) if len(f) <= 1)
    real = [test[:n].sum() for _,test in cut]
    assert max(real) - min(real) <= 2

@pytest.mark.parametrize('judge', [linear, KNeighborsClassifier(1)])
def test_copies_by_parents_are_a_half(judge):
    "Exactly; judged without parents, the same copies give something else: the judge has met them as real"
    X = pictures(40)
    which = np.random.default_rng(0).integers(0, 40, 60)
    kin = detectability(X, X[which], which, judge=judge, folds=4, seed=1)
    leak = detectability(X, X[which], judge=judge, folds=4, seed=1)
    once = detectability(X, X, np.arange(40), judge=judge, folds=4)
    assert once == .5 and .25 < kin < .75 and leak < kin-.1

def test_detectability_truths():
    "Noise of one distribution cannot be told apart, brightness can; upside-down answers would be below a half; a seed decides all"
    a,b = pictures(60),pictures(60, 1)
    equal = detectability(a, b, judge=linear)
    assert .3 < equal < .7 and equal.n_tested == 120 and len(equal.fold_aucs) == 5
    assert detectability(a, b//2, judge=linear) == 1
    before = states()
    x,y = (detectability(a, b, steps=5, folds=2, seed=3) for _ in range(2))
    assert states() == before and x == y
    assert detectability(a, b//2, steps=30, folds=2) > .95
    some = detectability(a, b, judge=linear, most=20)
    assert some.n_tested == 40 and some.n_real == 60

def test_detectability_rows_are_rows_of_X():
    "Real images 100..139 of X; children of rows that are not shown are families of their own"
    X = pictures(40)
    rows = np.arange(100, 140)
    assert detectability(X, X, rows, rows, judge=linear, folds=4) == .5
    assert detectability(X, X, np.arange(40), rows, judge=linear, folds=4) != .5
    strangers = detectability(X, X[:20].repeat(2, 0), np.arange(20).repeat(2), np.full(40, -1), judge=linear, folds=4)
    assert strangers.n_tested == 80

def test_too_few_is_nan():
    X = pictures(40)
    for a,b in ((X[:4], X), (X, X[:9])):
        value = detectability(a, b, judge=linear)
        assert math.isnan(value) and 'fewer than 10' in value.note
    assert not math.isnan(detectability(X[:6], X[6:12], judge=linear, least=5, folds=2))
    apart = detectability(X[:20], X[20:], np.arange(20)*0, np.arange(20), judge=linear, folds=2)   # all children of one parent
    assert math.isnan(apart) and 'no fold' in apart.note
    for bad in (dict(folds=1), dict(folds=2.), dict(parents=[1,2]), dict(parents=np.zeros((40,2))), dict(rows=[0])):
        with pytest.raises(InputError): detectability(X, X, judge=linear, **bad)

# good for training

def stripes(n, seed, turn):
    "Two classes: stripes across or along"
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X = rng.integers(0, 80, (n,16,16), dtype=np.uint8)
    for i in range(n):
        v = X[i] if y[i] == turn else X[i].T
        v[rng.integers(0, 3)::4] += 150
    return X,np.array(['a','b'])[y]

def test_classifier_scores():
    "Right stripes teach, turned ones teach the opposite; a class that was not generated is left out; the same seed, the same table"
    X,y = stripes(40, 0, 0)
    test = stripes(60, 1, 0)
    more = np.concatenate([X, pictures(10)]),np.r_[y, ['c']*10]
    before = states()
    good = classifier_scores(*more, *stripes(30, 2, 0), *test, steps=25)
    assert states() == before and good.index.tolist() == ['a','b','mean'] and good.train.tolist() == [20,20,40] and good.new.tolist() == [15,15,30]
    assert (good.loc['mean', ['real_to_real','made_to_real','real_to_made']].astype(float) > .9).all()
    bad = classifier_scores(*more, *stripes(30, 2, 1), *test, steps=25)
    assert bad.made_to_real['mean'] < .1 and bad.real_to_made['mean'] < .1 and bad.real_to_real['mean'] == good.real_to_real['mean']
    assert classifier_scores(*more, *stripes(30, 2, 0), *test, steps=25).equals(good)
    only = classifier_scores(X, y, X, y, test[0][test[1] == 'a'], ['a']*30, steps=2)
    assert math.isnan(only.real_to_real['b']) and math.isnan(only.real_to_real['mean']) and not math.isnan(only.real_to_made['b'])
    for labels in (['a']*40, ['z','a']*20):
        with pytest.raises(InputError, match='at least two'): classifier_scores(X, y, X, labels, *test)

# the quiz

@few
@given(st.integers(1, 15), st.integers(0, 99))
def test_quiz_scores(n, seed):
    X,new = np.zeros((15,16,16), np.uint8)+np.arange(15, dtype=np.uint8)[:,None,None],np.zeros((15,16,16), np.uint8)+np.arange(100, 115, dtype=np.uint8)[:,None,None]
    before,quiz = states(),Quiz(X, new, n, seed)
    assert states() == before and 'fake' not in repr(quiz)
    fake = quiz.images[:,0,0] >= 100                                   # the picture tells who made it
    assert len(set(quiz.images[:,0,0].tolist())) == n                  # none twice
    truth = ''.join('rf'[int(f)] for f in fake)
    right = quiz.score(truth)
    assert right.right == n and right.share == right.high == 1 and right.p_value == pytest.approx(min(1, 2/2**n)) and right.fakes == right.fakes_found == fake.sum() and right.reals_doubted == 0
    wrong = quiz.score([dict(r='fake', f='real')[c] for c in truth])
    assert wrong.right == 0 and wrong.low == 0 and wrong.p_value == right.p_value and wrong.fakes_found == 0 and wrong.reals_doubted == n-fake.sum()
    assert (Quiz(X, new, n, seed).images == quiz.images).all()

def test_quiz_is_fair():
    "A coin for each place: about half are fake, in every place, and no seed repeats another"
    X = pictures(20)//2
    fakes = np.array([Quiz(X, X+128, 20, s).images[:,0,0] > 127 for s in range(200)])
    assert abs(fakes.mean() - .5) < .04 and (abs(fakes.mean(0)-.5) < .2).all() and len({tuple(f) for f in fakes.tolist()}) == 200
    half = Quiz(X, X+128, 20, 0).score('r'*20)
    assert half.right == 20-half.fakes and half.fakes == fakes[0].sum()

def _truth(quiz): return ''.join('f' if quiz.score('r'*i + 'f' + 'r'*(quiz.n-i-1)).fakes_found else 'r' for i in range(quiz.n))

def test_quiz_sheet():
    "Numbers alone before the answers, truth and frames after; color and oblong too"
    import matplotlib.pyplot as plt
    for X in (pictures(12), np.random.default_rng(0).integers(0, 256, (12,16,24,3), dtype=np.uint8), np.random.default_rng(0).random((12,16,16))):
        quiz = Quiz(X, X[::-1], n=12, seed=1)
        ax = quiz.sheet(columns=5)
        assert [t.get_text() for t in ax.texts] == [str(i+1) for i in range(12)] and len(ax.images) == 12 and not ax.patches
        truth = _truth(quiz)
        marked = quiz.sheet(('f' if truth[0] == 'r' else 'r') + truth[1:])
        assert len(marked.patches) == 1 and [t.get_text().split()[1][0] for t in marked.texts] == list(truth)
        plt.close('all')

def test_quiz_refusals():
    X = pictures(5)
    for n in (6, 0, 2.5):
        with pytest.raises(InputError, match='expected 1 to 5'): Quiz(X, pictures(9), n)
    quiz = Quiz(X, X, 5)
    for bad in ('rrrr', 'rrrrrr', 'rrrrx', [1,0,1,0,1], ['real']*4):
        with pytest.raises(InputError): quiz.score(bad)
    assert read_answers(' R,f \n r', 3).tolist() == [False,True,False]
    with pytest.raises(InputError): Quiz(X, pictures(5)[:,:,None,:].repeat(3, 2).transpose(0,1,3,2), 3)

@pytest.mark.skipif(not os.environ.get('DEEPCLSMOTE_DATA'), reason='real images: set DEEPCLSMOTE_DATA')
def test_mnist():
    "Real sevens cannot be told from real sevens, blurred ones can; copies of eight are found out"
    from deepclsmote.data import load_dataset
    data = load_dataset('mnist')
    sevens = data.images[:6000][data.labels[:6000] == 7]
    t = torch.from_numpy(sevens[100:200]).float()[:,None]
    blurred = torch.nn.functional.avg_pool2d(t, 3, 1, 1)[:,0].numpy().astype('uint8')
    assert abs(detectability(sevens[:100], sevens[100:200], folds=2, steps=60) - .5) < .2
    assert detectability(sevens[:100], blurred, folds=2, steps=60) > .9
    assert memorization(sevens[:8].repeat(10, 0), sevens[:8], sevens[8:100])['z'] < -8
    assert abs(memorization(sevens[100:200], sevens[:50], sevens[50:100])['z']) < 4
