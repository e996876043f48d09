"Measures on hostile and random inputs; the ordinary uses are tested in 30_metrics."
import math, warnings
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings, strategies as st
from imblearn.metrics import geometric_mean_score
from deepclsmote.core import InputError
from deepclsmote.metrics import _calibration_error, confusion, evaluate, shot_groups

names = ['accuracy','classwise_accuracy','macro_precision','macro_recall','f1_harmonic','f1_macro','acsa','gm','gm_classwise','gmean_recall',
         'many','medium','few','auc','average_precision','brier','ece']

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
