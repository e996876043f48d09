"Measures on hostile and random inputs; the ordinary uses are tested in 30_metrics."
import copy, math, warnings
from unittest import mock
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
import scipy.stats
import torch
from hypothesis import given, settings, strategies as st
from imblearn.metrics import geometric_mean_score
from torch import nn
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner, MSELossFlat, Recorder, accuracy, load_learner
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.tracker import SaveModelCallback
from deepclsmote import metrics
from deepclsmote.callbacks import BalanceCallback
from deepclsmote.core import InputError, new_generator
from deepclsmote.loaders import ImagesInMemory, MemoryLoader
from deepclsmote.metrics import (_calibration_error, _draw_tables, _draw_weights, _table_scores, _weighted_scores, bootstrap_interval, confusion, evaluate, fold_interval,
                                 shot_groups, training_metrics)
from deepclsmote.models import build
from deepclsmote.reports import ImbalanceReport
from deepclsmote.rivals.pixels import PixelROS

names = ['accuracy','classwise_accuracy','macro_precision','macro_recall','f1_harmonic','f1_macro','acsa','gm','gm_classwise','gmean_recall',
         'many','medium','few','auc','auc_ovo','average_precision','brier','ece']
of_probs = names[-5:]

@st.composite
def answers(draw, least=1):
    c,n = draw(st.integers(2, 6)),draw(st.integers(least, 30))
    ints = st.lists(st.integers(0, c-1), min_size=n, max_size=n)
    return draw(ints),draw(ints),c

def by_hand(N):
    "Each measure from the confusion matrix, a class at a time, in fractions of whole numbers"
    n,rows = int(N.sum()),[j for j in range(len(N)) if N[j].sum()]
    R,P,S,F = [],[],[],[]
    for j in rows:
        tp,fn,fp = int(N[j,j]),int(N[j].sum()-N[j,j]),int(N[:,j].sum()-N[j,j])
        tn = n-tp-fn-fp
        R.append(tp/(tp+fn)); P.append(tp/(tp+fp) if tp+fp else 0); S.append(tn/(tn+fp) if tn+fp else math.nan)
        F.append(2*tp/(2*tp+fp+fn))
    r,p,s = np.mean(R),np.mean(P),np.mean(S)
    cells = sum(int(N[j,j]) + sum(int(N[a,b]) for a in range(len(N)) for b in range(len(N)) if j not in (a,b)) for j in range(len(N)))
    return dict(accuracy=np.trace(N)/n, classwise_accuracy=cells/n/len(N), macro_precision=p, macro_recall=r, f1_harmonic=2*p*r/(p+r) if p+r else 0,
                f1_macro=np.mean(F), acsa=r, gm=np.sqrt(r*s), gm_classwise=np.mean(np.sqrt(np.multiply(R, S))), gmean_recall=np.prod(R)**(1/len(R)))

@given(answers())
@settings(deadline=None, max_examples=150)
def test_from_confusion(data):
    "All measures of answers follow from the confusion matrix; no warning on the way, one class or absent classes included"
    t,p,c = data
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = evaluate(t, p, train_counts=[50]*c)
    assert list(got) == names and all(type(v) is float for v in got.values())
    want = by_hand(confusion(t, p, c))
    np.testing.assert_allclose([got[k] for k in want], list(want.values()), atol=1e-12)
    assert got['medium'] == pytest.approx(want['macro_recall']) and math.isnan(got['many']) and math.isnan(got['few'])

@given(answers(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_order_does_not_matter(data, random):
    "Images in another order and classes under other numbers have the same scores"
    t,p,c = data
    rows,new = list(range(len(t))),list(range(c))
    random.shuffle(rows); random.shuffle(new)
    a = evaluate(t, p, train_counts=[5]*c)
    b = evaluate([new[t[i]] for i in rows], [new[p[i]] for i in rows], train_counts=[5]*c)
    np.testing.assert_allclose(list(a.values()), list(b.values()), atol=1e-12)

def test_libraries_agree():
    "Where a library has the measure and all classes occur"
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(5), 300)
    t,p = np.arange(300) % 5,probs.argmax(1)
    got = evaluate(t, p, probs)
    want = dict(accuracy=sk.accuracy_score(t, p), acsa=sk.balanced_accuracy_score(t, p), macro_precision=sk.precision_score(t, p, average='macro'),
                f1_macro=sk.f1_score(t, p, average='macro'), gm=geometric_mean_score(t, p, average='macro'), gmean_recall=geometric_mean_score(t, p),
                auc=sk.roc_auc_score(t, probs, multi_class='ovr'), average_precision=sk.average_precision_score(t, probs))
    np.testing.assert_allclose([got[k] for k in want], list(want.values()))
    assert got['classwise_accuracy'] == pytest.approx(np.mean([(t == j) == (p == j) for j in range(5)]))

def test_certain_probabilities():
    eye = np.eye(3)
    right = evaluate([0,1,2], [0,1,2], eye)
    assert (right['brier'], right['ece'], right['auc'], right['average_precision']) == (0, 0, 1, 1)
    wrong = evaluate([0,1,2], [1,2,0], eye[[1,2,0]])
    assert (wrong['brier'], wrong['ece'], wrong['auc']) == (2, 1, .25)

@pytest.mark.parametrize('b', range(15))
def test_ece_bins_are_closed_above(b):
    "A confidence on an edge belongs to the bin below it: with one of the same bin, errors cancel; with one of the next, they add"
    edge,inside = (b+1)/15,(b+.5)/15
    def error(confidences, right):
        rest = (1-np.array(confidences))/999
        probs = np.c_[confidences, np.tile(rest[:,None], 999)]
        return _calibration_error(probs, np.where(right, 0, 1))
    assert error([edge, inside], [True, False]) == pytest.approx(abs(1-edge-inside)/2)

def test_inputs_stay_as_they_are():
    t,p,probs,counts = np.array([0,1]),np.array([1,1]),np.array([[.25,.75],[.5,.5]]),{1: 3, 0: 200}
    copies = t.copy(),p.copy(),probs.copy(),dict(counts)
    evaluate(t, p, probs, counts)
    assert (t == copies[0]).all() and (p == copies[1]).all() and (probs == copies[2]).all() and counts == copies[3] and list(counts) == [1,0]

@pytest.mark.parametrize('kind', [list, np.array, torch.tensor, pd.Series, lambda v: np.array(v, np.uint8), lambda v: np.array(v, object)])
def test_kinds_of_labels(kind):
    t,p = [0,0,1,2,2,2],[0,1,1,2,2,0]
    assert evaluate(kind(t), kind(p), train_counts=kind([200,50,5])) == pytest.approx(evaluate(t, p, train_counts={2: 5, 1: 50, 0: 200}), nan_ok=True)
    assert (confusion(kind(t), kind(p), 3) == [[1,1,0],[0,1,0],[1,0,2]]).all() and confusion(kind(t), kind(p), 3).dtype == np.int64

def test_columns_follow_sorted_classes():
    "Columns of probs belong to the sorted labels, whatever the order of train_counts"
    probs = [[.9,.1],[.2,.8]]
    assert evaluate(['b','a'], ['b','a'], probs[::-1], {'b': 1, 'a': 2})['brier'] == pytest.approx((.02+.08)/2)

def test_a_class_without_training_images_is_few():
    got = evaluate([0,1,1], [0,1,0], train_counts=[500,0])
    assert (got['many'], got['few']) == (1, .5)

@pytest.mark.parametrize('n,group', [(0,'few'), (19,'few'), (20,'medium'), (100,'medium'), (101,'many')])
def test_group_edges(n, group): assert [g for g,labels in shot_groups([n]).items() if labels] == [group]

@given(st.dictionaries(st.text(max_size=3), st.integers(0, 300), min_size=1), st.integers(0, 150), st.integers(0, 150))
@settings(deadline=None, max_examples=50)
def test_groups_share_the_classes(counts, few, more):
    groups = shot_groups(counts, many=few+more, few=few)
    assert sorted(c for labels in groups.values() for c in labels) == sorted(counts)

bad = dict(
    empty=lambda: evaluate([], []), longer=lambda: evaluate([0], [0,1]), nan=lambda: evaluate([0,1], [0,math.nan]), none=lambda: evaluate([None,'a'], ['a','a']),
    scores_as_labels=lambda: evaluate([0,1], [[.9,.1],[.2,.8]]), column=lambda: evaluate(np.zeros((2,1)), [0,0]), scalar=lambda: evaluate(0, 0),
    words_and_numbers=lambda: evaluate(['a','b'], [0,1]), unknown_label=lambda: evaluate([0,7], [0,0], train_counts=[5,5]),
    word_for_number=lambda: evaluate(['0','1'], ['0','1'], train_counts=[5,5]), negative=lambda: evaluate([0,-1], [0,0], [[1,0],[1,0]]),
    no_counts=lambda: evaluate([0], [0], train_counts={}), negative_count=lambda: evaluate([0], [0], train_counts=[-1]), nan_count=lambda: evaluate([0], [0], train_counts=[math.nan]),
    half_count=lambda: shot_groups([1.5]), infinite_count=lambda: shot_groups([math.inf]), groups_cross=lambda: shot_groups([5], many=3, few=4),
    transposed=lambda: evaluate([0,1,1], [0,1,1], np.full((2,3), 1/3), [5,5]), one_number=lambda: evaluate([0,1], [0,1], .5), flat_probs=lambda: evaluate([0,1], [0,1], [.5,.5]),
    logits=lambda: evaluate([0,1], [0,1], [[3.,-1],[0,1]]), below_zero=lambda: evaluate([0,1], [0,1], [[1.5,-.5],[0,1]]), nan_probs=lambda: evaluate([0,1], [0,1], [[math.nan,1],[0,1]]),
    outside=lambda: confusion([0,2], [0,1], 2), below=lambda: confusion([0,1], [0,-1], 2), between=lambda: confusion([0,.5], [0,1], 2))

@pytest.mark.parametrize('name', bad)
def test_refused(name):
    with pytest.raises(InputError) as e: bad[name]()
    assert 40 < len(str(e.value)) < 300

# ---- probabilities

@st.composite
def scored(draw, least=1, classes=None):
    "Labels, probabilities in sixths (so with ties), the number of classes"
    c,n = classes or draw(st.integers(2, 5)),draw(st.integers(least, 25))
    t = draw(st.lists(st.integers(0, c-1), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    return np.array(t),rng.multinomial(6, np.ones(c)/c, n)/6,c

def wins(a, b): return np.mean([1 if x > y else .5 if x == y else 0 for x in a for y in b])

def slow_probability(t, probs):
    "The five measures of probabilities, image by image"
    js,n,C = sorted(set(t.tolist())),len(t),probs.shape[1]
    ap = []
    for j in js:
        before,area = 0,0
        for s in sorted(set(probs[:,j]), reverse=True):
            asked = probs[:,j] >= s
            recall = np.mean(asked[t == j])
            area += (recall-before)*np.mean(t[asked] == j)
            before = recall
        ap.append(area)
    ece = 0
    for b in range(15):
        inside = [i for i in range(n) if b/15 < probs[i].max() <= (b+1)/15]
        if inside: ece += len(inside)/n*abs(np.mean([probs[i].argmax() == t[i] for i in inside]) - np.mean([probs[i].max() for i in inside]))
    several = len(js) > 1
    return dict(auc=np.mean([wins(probs[t==j,j], probs[t!=j,j]) for j in js]) if several else math.nan,
                auc_ovo=np.mean([(wins(probs[t==j,j], probs[t==k,j]) + wins(probs[t==k,k], probs[t==j,k]))/2 for j in js for k in js if j < k]) if several else math.nan,
                average_precision=np.mean(ap) if several else math.nan,
                brier=np.mean([sum((probs[i,k]-(t[i]==k))**2 for k in range(C)) for i in range(n)]), ece=ece)

@given(scored())
@settings(deadline=None, max_examples=60)
def test_probability_measures_image_by_image(data):
    "With ties, classes without test images, and one class alone; no warning on the way"
    t,probs,c = data
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = evaluate(t, probs.argmax(1), probs)
    np.testing.assert_allclose([got[k] for k in of_probs], [slow_probability(t, probs)[k] for k in of_probs], atol=1e-12)

@given(scored(10))
@settings(deadline=None, max_examples=30)
def test_auc_ovo_is_scikit_learns(data):
    t,probs,c = data
    t[:c] = range(c)
    got = evaluate(t, probs.argmax(1), probs)
    want = sk.roc_auc_score(t, probs[:,1] if c == 2 else probs, multi_class='ovo', average='macro')
    assert got['auc_ovo'] == pytest.approx(want, abs=1e-12)
    if c == 2: assert got['auc'] == pytest.approx(want, abs=1e-12)

def test_auc_ovo_ignores_how_many():
    "A hundred copies of each image of one class move `auc`, not `auc_ovo`"
    rng = np.random.default_rng(0)
    t,probs = np.arange(30) % 3,rng.dirichlet(np.ones(3), 30)
    more = np.arange(30).repeat(np.where(t == 0, 100, 1))
    a,b = evaluate(t, t, probs),evaluate(t[more], t[more], probs[more])
    assert a['auc_ovo'] == pytest.approx(b['auc_ovo'], abs=1e-12) and a['auc'] != pytest.approx(b['auc'], abs=1e-3)

@given(answers(), st.lists(st.integers(0, 250), min_size=6, max_size=6))
@settings(deadline=None, max_examples=60)
def test_groups_class_by_class(data, counts):
    "Many, medium and few are means of recalls; NaN for a group without classes or without test images"
    t,p,c = data
    got,counts = evaluate(t, p, train_counts=counts[:c]),counts[:c]
    for g,is_in in dict(many=lambda n: n > 100, medium=lambda n: 20 <= n <= 100, few=lambda n: n < 20).items():
        R = [np.mean([b == j for a,b in zip(t, p) if a == j]) for j in range(c) if is_in(counts[j]) and j in t]
        np.testing.assert_allclose(got[g], np.mean(R) if R else math.nan, atol=1e-12)

# ---- intervals

@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.floats(.5, .999), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_fold_interval_is_students(values, level, random):
    got = fold_interval(values, level)
    assert got.value == pytest.approx(np.mean(values)) and got.n == len(values) and got.low <= got.value <= got.high
    sem = scipy.stats.sem(values)
    if sem > 1e-9: np.testing.assert_allclose(got[1:3], scipy.stats.t.interval(level, len(values)-1, np.mean(values), sem), atol=1e-12)
    wider = fold_interval(values, level, test_share=1/len(values)) # Nadeau and Bengio with k folds: 1/k + 1/(k-1)
    k = len(values)
    np.testing.assert_allclose(wider.high-wider.value, (got.high-got.value)*math.sqrt(1+k/(k-1)), atol=1e-12)
    holes = values + [math.nan]*2; random.shuffle(holes)
    np.testing.assert_allclose(fold_interval(holes, level), got, atol=1e-12)

@pytest.mark.parametrize('values,value,n', [([], math.nan, 0), ([math.nan], math.nan, 0), ([math.nan,.25], .25, 1), ([None,.25], .25, 1)])
def test_fewer_than_two_folds(values, value, n):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = fold_interval(values, test_share=.2)
    assert math.isnan(got.low) and math.isnan(got.high) and got.n == n and (got.value == value or math.isnan(value) and math.isnan(got.value))

@given(answers(), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_tables_drawn_have_the_scores_of_evaluate(data, seed):
    t,p,c = data
    N,counts = confusion(t, p, c),[500,50,5,50,5,500][:c]
    tables = _draw_tables(N, 4, np.random.default_rng(seed))
    assert (tables.sum(2) == N.sum(1)).all() and (tables[:,N == 0] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = _table_scores(tables, {g: list(cs) for g,cs in shot_groups(counts).items()})
    assert [k for k in names if k in got] == names[:-5] and len(got) == len(names)-5
    for i,M in enumerate(tables):
        j,k = np.indices(M.shape).reshape(2, -1).repeat(M.ravel(), axis=1)
        want = evaluate(j, k, train_counts=counts)
        np.testing.assert_allclose([got[m][i] for m in got], [want[m] for m in got], atol=1e-12)

@given(scored(2), st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_images_drawn_have_the_scores_of_evaluate(data, seed):
    t,probs,c = data
    if len(set(t.tolist())) == 1: t[0] = (t[0]+1) % c
    W = _draw_weights(t, 3, np.random.default_rng(seed))
    for j in set(t.tolist()): assert (W[t==j].sum(0) == (t==j).sum()).all()
    got = {m: _weighted_scores(m, W, t, probs) for m in of_probs}
    for d,w in enumerate(W.T.astype(int)):
        rows = np.arange(len(t)).repeat(w)
        want = evaluate(t[rows], probs[rows].argmax(1), probs[rows])
        np.testing.assert_allclose([got[m][d] for m in of_probs], [want[m] for m in of_probs], atol=1e-12)

def some(n=300, c=3, seed=0):
    rng = np.random.default_rng(seed)
    t,probs = np.arange(n) % c,rng.dirichlet(np.ones(c), n)
    probs[np.arange(n),t] += .3
    return t,probs/probs.sum(1, keepdims=True)

@pytest.mark.parametrize('measure', names)
def test_bootstrap_of_every_measure(measure):
    "The value is evaluate's; same seed, same bounds; a wider level holds a narrower one; no global generator moves"
    t,probs = some()
    p,counts = probs.argmax(1),[500,50,5]
    before = np.random.get_state()[1].copy(),torch.get_rng_state()
    a = bootstrap_interval(t, p, probs, measure, draws=300, train_counts=counts)
    assert (np.random.get_state()[1] == before[0]).all() and (torch.get_rng_state() == before[1]).all()
    assert a.value == evaluate(t, p, probs, counts)[measure] and a.n == 300 and a.low < a.high and all(type(v) is float for v in a[:3])
    assert measure == 'ece' or a.low < a.value < a.high # a calibration error is biased upwards by drawing
    assert a == bootstrap_interval(t, p, probs, measure, draws=300, train_counts=counts) != bootstrap_interval(t, p, probs, measure, draws=300, train_counts=counts, seed=1)
    b = bootstrap_interval(t, p, probs, measure, .5, draws=300, train_counts=counts)
    assert a.low < b.low < b.high < a.high

def test_bootstrap_spreads_as_the_binomial_says():
    "Macro recall and Brier are means, whose stratified variance is known"
    t,probs = some(3000)
    p = probs.argmax(1)
    e = ((probs-np.eye(3)[t])**2).sum(1)
    recall = np.array([np.mean(p[t==j] == j) for j in range(3)])
    for measure,sd in dict(macro_recall=math.sqrt((recall*(1-recall)/1000).sum())/3, brier=math.sqrt(sum(e[t==j].var()*1000 for j in range(3)))/3000).items():
        i = bootstrap_interval(t, p, probs, measure, draws=4000)
        assert (i.high-i.low)/2 == pytest.approx(scipy.stats.norm.ppf(.975)*sd, rel=.06)
        assert (i.high+i.low)/2 == pytest.approx(i.value, abs=.1*sd)

@pytest.mark.parametrize('measure', ['f1_macro','auc'])
def test_draws_come_in_parts(measure):
    "Many images or classes are drawn in several parts: all draws are there, and they differ"
    t,probs = some(600)
    with mock.patch.object(metrics, '_draw_tables', wraps=_draw_tables) as a, mock.patch.object(metrics, '_draw_weights', wraps=_draw_weights) as b:
        drawn = metrics._drawn_scores(measure, *metrics._checked(t, probs.argmax(1), probs, None), 2000, np.random.default_rng(0))
        if measure == 'f1_macro': t9 = np.arange(600); assert len(metrics._drawn_scores(measure, *metrics._checked(t9, t9[::-1], None, None), 5, np.random.default_rng(0))) == 5
    assert len(drawn) == 2000 and len(np.unique(drawn)) > (100 if measure == 'f1_macro' else 1500)
    assert [c.args[1] for c in a.mock_calls] == [2000,2,2,1] if measure == 'f1_macro' else [c.args[1] for c in b.mock_calls] == [1747,253]

def test_bootstrap_kinds_and_odd_cases():
    t,probs = some(60)
    p,words = probs.argmax(1),np.array(['ant','bee','cow'])
    want = bootstrap_interval(t, p, draws=50)
    assert bootstrap_interval(words[t], words[p], draws=50) == bootstrap_interval(torch.tensor(t), torch.tensor(p), draws=50) == want
    assert bootstrap_interval(words[t], words[p], measure='few', draws=50, train_counts=dict(ant=5, bee=5, cow=500)) == bootstrap_interval(t, p, measure='few', draws=50, train_counts=[5,5,500])
    assert bootstrap_interval([0], [0], measure='accuracy') == (1, 1, 1, 2000)               # one image
    absent = bootstrap_interval([0,0,1,1], [0,2,1,1], measure='macro_recall', train_counts=[9,9,9]) # class 2 has no test image
    assert (absent.value, absent.high) == (.75, 1) and absent.low == .5
    for measure in ('gm','gm_classwise','auc','auc_ovo','average_precision','many'):         # one class, and a group without classes
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            got = bootstrap_interval([0,0], [0,1], [[.5,.5]]*2, measure, train_counts=[5,5])
        assert all(map(math.isnan, got[:3])) and got.n == 0

bad_intervals = dict(
    name=lambda: bootstrap_interval([0,1], [0,1], measure='F1'), no_probs=lambda: bootstrap_interval([0,1], [0,1], measure='brier'), no_counts=lambda: bootstrap_interval([0,1], [0,1], measure='medium'),
    level=lambda: bootstrap_interval([0,1], [0,1], level=95), zero=lambda: bootstrap_interval([0,1], [0,1], draws=0), half=lambda: bootstrap_interval([0,1], [0,1], draws=2.5),
    seed=lambda: bootstrap_interval([0,1], [0,1], seed=-1), empty=lambda: bootstrap_interval([], []), nan=lambda: bootstrap_interval([0,1], [0,1], [[math.nan,1],[0,1]], 'auc'),
    folds_level=lambda: fold_interval([0,1], 0), folds_matrix=lambda: fold_interval(np.zeros((2,2))), folds_inf=lambda: fold_interval([0,math.inf]), folds_share=lambda: fold_interval([0,1], test_share=1),
    metric=lambda: training_metrics('f1_macro','F1'), no_metric=lambda: training_metrics(), twice=lambda: training_metrics('few','few'), counts=lambda: training_metrics('few', train_counts=[-1]))

@pytest.mark.parametrize('name', bad_intervals)
def test_interval_refused(name):
    with pytest.raises(InputError) as e: bad_intervals[name]()
    assert 40 < len(str(e.value)) < 400

# ---- during training

train_counts = (120,30,10,4)
def toy(counts, seed=0, side=3):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x = (torch.randn(len(y), 1, side, side, generator=new_generator(seed))*.4 + y[:,None,None,None]*.2 - .3).clamp(-1, 1)
    return ImagesInMemory(x, y, ['ant','bee','cow','dog'])

def loaders(train=train_counts, valid=(9,8,7,6), side=3):
    dl = MemoryLoader(toy(train, side=side), 16, True, new_generator(0))
    return DataLoaders(dl, dl.new(toy(valid, 1, side), shuffle=False), device=torch.device('cpu'))

def learner(mets, *cbs, dls=None, net=None, loss=None, **kwargs):
    net = net or build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9,8), nn.ReLU(), nn.Linear(8,4)), 0)
    learn = Learner(dls or loaders(), net, loss or CrossEntropyLossFlat(), metrics=mets, cbs=cbs, **kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    return learn

def theirs(learn, ms, ds_idx=1, counts=train_counts):
    probs,t = learn.get_preds(ds_idx, act=lambda o: o.softmax(1))
    all_of = evaluate(t, probs.argmax(1), probs, list(counts))
    return [all_of[m] for m in ms]

class Keep(Callback):
    "The weights after each epoch"
    order = 70
    def before_fit(self): self.states = getattr(self, 'states', [])
    def after_epoch(self): self.states.append(copy.deepcopy(self.model.state_dict()))

def same(a, b): np.testing.assert_allclose(np.array(a, float), np.array(b, float), atol=1e-6)

def test_every_measure_in_every_epoch():
    "What the table of an epoch shows is what evaluate says about the answers of that epoch, also in a fit that goes on"
    learn = learner([accuracy, *training_metrics(*names)], keep := Keep())
    learn.fit(3, 1e-2)
    assert list(learn.recorder.metric_names) == ['epoch','train_loss','valid_loss','accuracy',*names,'time']
    shown = list(learn.recorder.values)
    keep.run = False
    for state,row in zip(keep.states, shown):
        learn.model.load_state_dict(state)
        same(row[3:], theirs(learn, names))
    assert len(shown) == 3 and shown[0][3:] != shown[2][3:]
    learn.fit(5, 1e-2, start_epoch=3)
    same(learn.recorder.values[-1][3:], theirs(learn, names))
    same(learn.validate()[2:], theirs(learn, names))
    same(learn.validate(ds_idx=0)[2:], theirs(learn, names, 0))
    test = learn.dls.valid.new(toy((5,0,3,2), 2))                              # a class without images
    probs,t = learn.get_preds(dl=test, act=lambda o: o.softmax(1))
    want = evaluate(t, probs.argmax(1), probs, list(train_counts))
    same(learn.validate(dl=test)[2:], [want[m] for m in names])

def test_one_computation_an_epoch():
    ms = training_metrics('f1_macro','gm','few','auc')
    learn = learner(ms)
    with mock.patch.object(metrics, '_scores', wraps=metrics._scores) as scores, mock.patch.object(metrics, 'labels_of', wraps=metrics.labels_of) as labels:
        learn.fit(3)
    assert scores.call_count == 3 and labels.call_count == 1
    with mock.patch.object(ms[0].answers, 'add', wraps=ms[0].answers.add) as add: learn.validate()
    assert add.call_count == len(learn.dls.valid)

@pytest.mark.parametrize('chosen', [[0], [1], [2,0], [2,1,0]])
def test_some_of_the_metrics(chosen):
    "Any part of those made together, in any order"
    ms = training_metrics('f1_macro','few','brier')
    learn = learner([ms[i] for i in chosen])
    learn.fit(1, 1e-2)
    same(learn.recorder.values[-1][2:], theirs(learn, [ms[i].name for i in chosen]))

def test_only_probabilities_that_are_needed_are_kept():
    ms = training_metrics('f1_macro')
    learner(ms).validate()
    assert [o[3].numel() for o in ms[0].answers.batches] == [0,0]

@pytest.mark.parametrize('given', [list(train_counts), np.array(train_counts), dict(dog=4, cow=10, bee=30, ant=120), {3: 4, 2: 10, 1: 30, 0: 120}])
def test_counts_given(given):
    same(learner(training_metrics('many','medium','few', train_counts=given), dls=loaders((3,3,3,3))).validate()[1:], learner(training_metrics('many','medium','few')).validate()[1:])

@pytest.mark.parametrize('given', [[5,5], [5]*5, dict(ant=5, bee=5), dict(a=1, b=1, c=1, d=1), {1: 5, 2: 5, 3: 5, 4: 5}])
def test_counts_of_other_classes_are_refused(given):
    with pytest.raises(InputError, match='expected .*numbers 0 to 3'): learner(training_metrics('few', train_counts=given)).validate()

def test_counts_are_those_of_real_images():
    "A callback that balances the batches changes nothing; metrics taken to another learner count its images"
    ms = training_metrics('many','medium','few')
    net = build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(256,4)), 0)
    learn = learner(ms, ImbalanceReport(plot=False), BalanceCallback(PixelROS(), seed=0), dls=loaders(side=16), net=net)
    learn.fit(2, 1e-2)
    row = list(learn.recorder.values[-1])
    same(row[2:5], theirs(learn, ['many','medium','few']))
    assert list(learn.recorder.metric_names)[3:9] == ['many','medium','few','recall_many','recall_medium','recall_few'] and ms[0].answers.counts == list(train_counts)
    same(row[2:5], row[5:8])
    other = learner(ms, dls=loaders((30,120,4,10)))
    same(other.validate()[1:], theirs(other, ['many','medium','few'], counts=(30,120,4,10)))

def test_a_group_without_classes_is_nan():
    got = learner(training_metrics('many','medium','few'), dls=loaders((150,150,150,150))).validate()
    assert math.isfinite(got[1]) and math.isnan(got[2]) and math.isnan(got[3])

def test_training_part_too_and_mixed_labels():
    "With train_metrics=True the answers of the training part are measured as they were given; mixup leaves the targets as they are"
    ms = training_metrics('f1_macro','few')
    learn = learner(ms)
    learn.remove_cb(Recorder); learn.add_cb(Recorder(train_metrics=True, valid_metrics=True))
    learn.fit(1, 0.)
    row = list(learn.recorder.values[-1])
    assert list(learn.recorder.metric_names)[1:7] == ['train_loss','train_f1_macro','train_few','valid_loss','valid_f1_macro','valid_few']
    same(row[1:3], theirs(learn, ['f1_macro','few'], 0))
    same(row[4:6], theirs(learn, ['f1_macro','few']))
    learn = learner(ms, MixUp())
    learn.fit(1, 1e-2)
    same(learn.recorder.values[-1][2:], theirs(learn, ['f1_macro','few']))

def test_saved_by_name_and_exported(tmp_path):
    learn = learner(training_metrics('f1_macro','few'), SaveModelCallback(monitor='f1_macro'), path=tmp_path)
    learn.fit(4, 1e-2)
    best = max(r[2] for r in learn.recorder.values)
    same(learn.validate()[1], best)
    test,want = learn.dls.valid,learn.validate()
    learn.remove_cb(SaveModelCallback)
    twin = copy.deepcopy(learn)
    assert twin.metrics[0].answers is twin.metrics[1].answers is not learn.metrics[0].answers
    learn.logger = print
    learn.export('learner.pkl')
    loaded = load_learner(tmp_path/'learner.pkl')
    loaded.remove_cb(ProgressCallback); loaded.logger = lambda *args: None
    assert loaded.metrics[0].answers.batches == [] and loaded.metrics[0].answers._of is None
    same(loaded.validate(dl=test), want)                  # the loaders are empty, the counts are known from training

def test_diverged_and_empty():
    "NaN for all measures with one warning, and the fit goes on; NaN where there was no image"
    class Bad(nn.Module):
        def __init__(self): super().__init__(); self.p = nn.Parameter(torch.zeros(()))
        def forward(self, x): return torch.where(x[:,0,:1,0] > .5, math.nan, 0.) + torch.zeros(len(x), 4) + self.p
    learn = learner(training_metrics('accuracy','few','auc'), net=Bad())
    with pytest.warns(UserWarning, match='Lower the learning rate') as w: got = learn.validate()
    assert len([o for o in w if 'Lower' in str(o.message)]) == 1 and all(map(math.isnan, got[1:]))
    ms = training_metrics('f1_macro')
    ms[0].reset()
    assert math.isnan(ms[0].value)

def test_masked_classes_are_no_divergence():
    "A logit of -infinity is a probability of 0"
    class Masked(nn.Module):
        def __init__(self): super().__init__(); self.p = nn.Parameter(torch.zeros(()))
        def forward(self, x): return torch.cat([x[:,0,0], torch.full((len(x),1), -math.inf)], 1) + self.p
    learn = learner(training_metrics('f1_macro','brier'), net=Masked(), loss=lambda p,y: p[:,0].mean())
    same(learn.validate()[1:], theirs(learn, ['f1_macro','brier']))

def test_probabilities_of_the_model_itself():
    soft = build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9,4), nn.Softmax(1)), 0)
    learn = learner(training_metrics('brier','ece', activation=nn.Identity()), net=soft, loss=lambda p,y: -p[torch.arange(len(y)),y].log().mean())
    probs,t = learn.get_preds()
    want = evaluate(t, probs.argmax(1), probs)
    same(learn.validate()[1:], [want['brier'],want['ece']])
    logits = learner(training_metrics('brier', activation=nn.Identity()))
    with pytest.raises(InputError, match='softmax'): logits.validate()

def test_what_has_no_measures_is_refused():
    class Pair(nn.Module):
        def __init__(self): super().__init__(); self.p = nn.Parameter(torch.zeros(()))
        def forward(self, x): return self.p+x.flatten(1)[:,:4],x
    with pytest.raises(InputError, match='The model returned tuple'): learner(training_metrics('few'), net=Pair(), loss=lambda p,y: p[0].mean()).validate()
    one = build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9,1)), 0)
    with pytest.raises(InputError, match=r'returned \(16, 1\)'): learner(training_metrics('few'), net=one, loss=lambda p,y: p.mean()).validate()
    dl = torch.utils.data.DataLoader([(torch.zeros(1,3,3), torch.zeros(4)) for _ in range(8)], 4)
    with pytest.raises(InputError, match='float32 of shape'): learner(training_metrics('gm'), dls=DataLoaders(dl, dl), loss=MSELossFlat()).validate()

def test_plain_loaders_of_torch():
    dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(toy(train_counts).images, toy(train_counts).labels), 32)
    learn = learner(training_metrics(*names), dls=DataLoaders(dl, dl, device='cpu'))
    probs,t = learn.get_preds(dl=dl, reorder=False)
    want = evaluate(t, probs.argmax(1), probs, list(train_counts))
    same(learn.validate()[1:], [want[m] for m in names])
