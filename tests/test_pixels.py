"The samplers of imbalanced-learn on images: the library's own images, exact counts, few images, bytes kept."
import os
import warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE, RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from sklearn.base import clone
from deepclsmote.core import InputError, class_counts, conformance, new_generator
from deepclsmote.data import load_dataset, long_tail_split
from deepclsmote.rivals.pixels import (PixelADASYN, PixelBorderline1, PixelBorderline2, PixelROS, PixelRUS, PixelSMOTE, from_pixels,
                                       largest_remainders, to_pixels)

over = [PixelROS, PixelSMOTE, PixelBorderline1, PixelBorderline2, PixelADASYN]
each = pytest.mark.parametrize('cls', over)
pytestmark = pytest.mark.filterwarnings('ignore:Pixel')
peerj = [3000, 2000, 1000, 750, 500, 12, 10, 8, 6, 4]

def blobs(counts, apart=1, seed=0, shape=(16,16), dtype='uint8'):
    "Images of two strokes each, of a strength that depends on the class and varies more than the classes differ"
    rng = np.random.RandomState(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    z = rng.randn(len(y), 2) + apart*np.stack([np.cos(y), np.sin(y)], 1)
    strokes = (rng.rand(2, *shape) < .3)*12.
    X = np.clip(128 + np.tensordot(z, strokes, 1) + 8*rng.rand(len(y), *shape), 0, 255)
    return (X.astype('uint8') if dtype == 'uint8' else (X/255).astype(dtype)), y

@each
@pytest.mark.parametrize('promise', conformance)
def test_contract(cls, promise): conformance[promise](cls)

# --- what the library itself makes ----------------------------------------------------------------------------------
def library(cls, label, n, X, y, **kwargs):
    "The `n` images that imbalanced-learn makes of one class with seed 5"
    pix = to_pixels(torch.from_numpy(X)[:,None])
    return cls(random_state=np.random.RandomState(5), sampling_strategy={label: int((y==label).sum())+n}, **kwargs).fit_resample(pix, y)[0][len(y):]

@pytest.mark.parametrize('ours,theirs,kwargs', [(PixelSMOTE, SMOTE, {}), (PixelBorderline1, BorderlineSMOTE, {}), (PixelBorderline2, BorderlineSMOTE, dict(kind='borderline-2'))])
@pytest.mark.parametrize('label', [1,2,3])
def test_same_images(ours, theirs, kwargs, label):
    X,y = blobs([60,30,12,9])
    o = ours().fit(X, y)
    a,b,w = o._pairs(o._planned(label), label, 25, np.random.RandomState(5))
    assert o._planned(label).fallback == ''
    np.testing.assert_allclose(o._between(a, b, w), library(theirs, label, 25, X, y, **kwargs), atol=1e-6)

def test_same_copies():
    X,y = blobs([20,8,4])
    o = PixelROS().fit(X, y)
    g = new_generator(3)
    images,parents,_ = o._sample_images(2, 9, g)
    seed = int(torch.randint(2**31-1, (1,), generator=new_generator(3)))
    rows = RandomOverSampler(random_state=seed, sampling_strategy={2: 13}).fit(X.reshape(32,-1), y)
    theirs = RandomOverSampler(random_state=seed, sampling_strategy={2: 13})
    new = theirs.fit_resample(X.reshape(32,-1), y)[0][32:]
    assert (images.numpy().reshape(9,-1) == new).all() and (parents[:,0].numpy() == theirs.sample_indices_[32:]).all()

@pytest.mark.parametrize('label', [1,2,3])
@pytest.mark.parametrize('exact', [True,False])
def test_adasyn_is_the_librarys(label, exact):
    X,y = blobs([60,30,12,9])
    o = PixelADASYN(exact=exact).fit(X, y)
    plan,g = o._planned(label),60-int((y==label).sum())
    new = library(ADASYN, label, g, X, y)
    rng = np.random.RandomState(5)
    counts = np.rint(g*plan.share).astype(int)
    np.testing.assert_array_equal(o._between(*o._steps(plan, counts, rng)), new)
    made = class_counts(PixelADASYN(exact=exact, random_state=0).fit_resample(X, y)[1])[label]
    assert made == (60 if exact else 60-g+len(new))
    assert np.abs(largest_remainders(g, plan.share)-g*plan.share).max() < 1

def test_adasyn_shares_by_loops():
    X,y = blobs([60,30,12,9])
    pix = to_pixels(torch.from_numpy(X)[:,None]).astype(float)
    plan = PixelADASYN().fit(X, y)._planned(2)
    r = []
    for i in np.flatnonzero(y == 2):
        near = sorted((((pix[i]-pix[j])**2).sum(), j) for j in range(len(y)) if j != i)[:5]
        r.append(sum(y[j] != 2 for _,j in near)/5)
    np.testing.assert_allclose(plan.share, np.array(r)/sum(r))

@pytest.mark.parametrize('cls', over[1:])
def test_a_changed_library_is_noticed(cls, monkeypatch):
    X,y = blobs([60,30,12,9])
    with monkeypatch.context() as m:
        if cls is PixelADASYN: m.setattr(ADASYN, '_fit_resample', lambda self, X, y: (self._validate_estimator(), (np.vstack([X, X[:7]]), np.hstack([y, y[:7]])))[1])
        else: m.setattr(SMOTE.__mro__[1], '_make_samples', lambda self, X, d, t, data, num, n, *a, **k: (X[np.arange(n) % len(X)]*.5, np.full(n, t)))
        with pytest.raises(RuntimeError, match='no longer works as deepclsmote hears it'): cls().fit(X, y)
    cls().fit(X, y)
    real = SMOTE.__mro__[1]._generate_samples
    with monkeypatch.context() as m:
        m.setattr(SMOTE.__mro__[1], '_generate_samples', lambda self, X, data, num, rows, cols, steps, *a: real(self, X, data, num, rows, cols, 1-steps, *a))
        with pytest.raises(RuntimeError, match='no longer works'): cls().fit(X, y)

# --- counts, few images, what is said --------------------------------------------------------------------------------
@each
def test_peerj_counts(cls):
    X,y = blobs(peerj, seed=1)
    o = cls(random_state=0)
    X1,y1 = o.fit_resample(X, y)
    assert class_counts(y1) == {c: 3000 for c in range(10)} and (X1[:len(X)] == X).all() and X1.dtype == np.uint8
    assert (y[o.provenance_.parent_a] == o.provenance_.label).all()
    assert o.report_.new.tolist() == [3000-n for n in peerj] and o.report_.images.tolist() == peerj

@pytest.mark.parametrize('cls', over[1:])
def test_one_and_four_images(cls):
    X,y = blobs([30,4,1])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        o = cls(random_state=0)
        X1,y1 = o.fit_resample(X, y)
    assert class_counts(y1) == {0: 30, 1: 30, 2: 30}
    assert any('class 2: one image, so all new ones are copies' in str(w.message) for w in said)
    p = o.provenance_
    assert (p.fallback[p.label == 2] == 'copies').all() and (X1[len(X):][p.label == 2] == X[y == 2]).all()
    assert o._planned(1).near.shape[1] == (5 if cls is PixelBorderline2 and o._planned(1).fallback == '' else 3)

@pytest.mark.parametrize('cls', over[2:])
def test_fallback_is_said(cls):
    X,y = blobs([40,12], 9)   # far apart: no image in danger, no foreign neighbor
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        o = cls(random_state=0)
        y1 = o.fit_resample(X, y)[1]
    assert class_counts(y1) == {0: 40, 1: 40} and (o.provenance_.fallback == 'smote').all() and (o.report_.fallback == ['','smote']).all()
    assert len([w for w in said if 'plain SMOTE' in str(w.message)]) == 1
    theirs = (BorderlineSMOTE if cls is not PixelADASYN else ADASYN)(random_state=0)
    if cls is PixelADASYN:
        with pytest.raises(RuntimeError): theirs.fit_resample(to_pixels(torch.from_numpy(X)[:,None]), y)
    else: assert class_counts(theirs.fit_resample(to_pixels(torch.from_numpy(X)[:,None]), y)[1]) == {0: 40, 1: 12}

def test_danger_by_loops():
    X,y = blobs([60,30,12,9])
    pix = to_pixels(torch.from_numpy(X)[:,None]).astype(float)
    o = PixelBorderline1().fit(X, y)
    for label in (1,2,3):
        danger = []
        for i in np.flatnonzero(y == label):
            near = sorted((((pix[i]-pix[j])**2).sum(), j) for j in range(len(y)) if j != i)[:10]
            if 5 <= sum(y[j] != label for _,j in near) < 10: danger.append(i)
        assert o._planned(label).base.tolist() == danger

@pytest.mark.parametrize('cls', over[1:])
def test_rank_and_segments(cls):
    X,y = blobs([40,6,4], dtype='float32')
    o = cls(random_state=0)
    X1,_ = o.fit_resample(X, y)
    p,new = o.provenance_,X1[len(X):].reshape(-1,256)
    b = np.where(p.parent_b < 0, p.get('foreign_b', -1), p.parent_b)
    a,w = X[p.parent_a].reshape(-1,256),p.weight.to_numpy()[:,None]
    np.testing.assert_allclose(new, a + w*(X[b].reshape(-1,256)-a), atol=1e-6)
    if cls is not PixelBorderline2:
        assert (y[b] == p.label).all()
        for c,n in ((1,6),(2,4)): assert o.report_['rank'][c] <= n-1 and np.linalg.matrix_rank(new[p.label == c]-new[p.label == c].mean(0), tol=1e-3) <= n-1

def test_sample_spreads_the_bases():
    X,y = blobs([60,30,12,9])
    o = PixelADASYN(random_state=0).fit(X, y)
    plan,g = o._planned(2),new_generator(0)
    alone = np.concatenate([o._sample_images(2, 1, g)[1][:,0].numpy() for _ in range(600)])
    share = np.array([(alone == r).mean() for r in plan.base])
    assert np.abs(share-plan.share).max() < .06 and len(set(alone)) > 1

def test_loaded_makes_a_plan_of_its_own(tmp_path):
    X,y = blobs([60,30,12,9])
    o = PixelBorderline2(random_state=0).fit(X, y)
    o.save(tmp_path/'o')
    p = PixelBorderline2.load(tmp_path/'o')
    for c in (0,3): assert (p.sample(7, c, random_state=1)[0] == o.sample(7, c, random_state=1)[0]).all()

def test_no_doubles(monkeypatch):
    "The library is given float32 and keeps it"
    seen,fit = [],SMOTE.fit_resample
    monkeypatch.setattr(SMOTE, 'fit_resample', lambda self, X, y: seen.append(X.dtype) or fit(self, X, y))
    X,y = blobs([30,8], dtype='float64')
    assert PixelSMOTE(random_state=0).fit_resample(X, y)[0].dtype == np.float64 and set(seen) == {np.dtype('float32')}

# --- bytes ------------------------------------------------------------------------------------------------------------
@given(dtype=st.sampled_from(['uint8','float16','float32','float64']), low=st.sampled_from([0,-1]), torchy=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_copies_are_exact(dtype, low, torchy, seed):
    rng = np.random.RandomState(seed)
    X = rng.randint(0, 256, (9,16,17,3)).astype('uint8') if dtype == 'uint8' else (rng.rand(9,16,17,3)*(1-low)+low).astype(dtype)
    y = np.array([0]*6+[1]*3)
    data = torch.from_numpy(X) if torchy else X
    o = PixelROS(random_state=seed)
    new = o.fit_resample(data, y)[0][9:]
    assert type(new) is type(data) and new.dtype == data.dtype
    assert np.asarray(new).tobytes() == X[o.provenance_.parent_a].tobytes()
    new,made = o.sample(4, 0)
    assert np.asarray(new).tobytes() == X[made.parent_a].tobytes()

def test_saved_copies_are_exact(tmp_path):
    X = np.random.RandomState(0).rand(9,256).astype('float32')
    o = PixelROS(random_state=0).fit(X, [0]*6+[1]*3)
    o.save(tmp_path/'o')
    new,made = PixelROS.load(tmp_path/'o').sample(5, 1)
    assert new.tobytes() == X[made.parent_a].tobytes()

@given(st.integers(0, 500), st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda v: sum(v) > .01))
def test_largest_remainders(total, share):
    share = np.array(share)/sum(share)
    counts = largest_remainders(total, share)
    assert counts.sum() == total and (np.abs(counts-total*share) < 1+1e-6).all() and (counts >= 0).all()

def test_pixels_there_and_back():
    x = torch.arange(256, dtype=torch.uint8).reshape(1,1,16,16)
    assert ((from_pixels(to_pixels(x), (1,16,16))+1)*127.5).round().to(torch.uint8).equal(x) and to_pixels(x).dtype == np.float32
    assert from_pixels([[-3,9]], (1,1,2)).tolist() == [[[[-1,1]]]]

# --- fewer ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('floor,want', [(1,[4]*10), (12,[12]*6+[10,8,6,4]), (100,[100]*5+[12,10,8,6,4]), (9999,peerj)])
def test_rus_floor(floor, want):
    X,y = blobs(peerj)
    o = PixelRUS(floor=floor, random_state=0)
    X1,y1 = o.fit_resample(X, y)
    assert list(class_counts(y1).values()) == want == o.report_.kept.tolist()
    assert (np.diff(o.sample_indices_) > 0).all() and (X1 == X[o.sample_indices_]).all() and (y1 == y[o.sample_indices_]).all()

def test_rus_is_the_librarys():
    X,y = blobs([50,20,6])
    theirs = RandomUnderSampler(random_state=3)
    theirs.fit_resample(X.reshape(76,-1), y)
    ours = PixelRUS(random_state=3)
    ours.fit_resample(X, y)
    assert (np.sort(theirs.sample_indices_) == ours.sample_indices_).all()

def test_rus_forms():
    import pandas as pd
    X,y = blobs([20,5], shape=(3,16,16))
    for data in (X, torch.from_numpy(X), X.transpose(0,2,3,1), list(X)):
        X1,y1 = PixelRUS(random_state=0).fit_resample(data, np.array(['a','b'])[y])
        assert type(X1) is type(data) and len(X1) == 10 and class_counts(y1) == {'a': 5, 'b': 5}
    table = pd.DataFrame(X.reshape(25,-1))
    X1,y1 = PixelRUS(random_state=0, image_shape=(3,16,16)).fit_resample(table, torch.from_numpy(y))
    assert X1.index.tolist() == sorted(X1.index) and isinstance(y1, torch.Tensor) and len(y1) == 10
    state = np.random.get_state()[1].copy()
    a,b = (PixelRUS(random_state=s).fit(X, y).fit_resample(X, y)[0].tobytes() for s in (1,1))
    assert a == b and (np.random.get_state()[1] == state).all() and clone(PixelRUS(floor=3)).floor == 3
    for bad in (dict(floor=0), dict(floor=2.5), dict(sampling_strategy='largest')):
        with pytest.raises(ValueError): PixelRUS(**bad).fit_resample(X, y)
    for data,labels in ((X[:,0,0], y), (X, y[:-1]), (X, y*0), (X*300., y)):
        with pytest.raises(InputError): PixelRUS().fit_resample(data, labels)

# --- the real long tail -----------------------------------------------------------------------------------------------
@pytest.mark.skipif('DEEPCLSMOTE_DATA' not in os.environ, reason='DEEPCLSMOTE_DATA names no folder with data')
@pytest.mark.parametrize('cls', [PixelBorderline1, PixelADASYN])
def test_cifar10_tail(cls):
    "The library skips most of the five small classes of CIFAR-10; here all are filled up, and those are named"
    data = load_dataset('cifar10')
    rows,_ = long_tail_split(data.labels, 'peerj')
    X,y = data.images[rows],data.labels[rows]
    tail = {c: 150 for c in range(5, 10)}
    o = cls(sampling_strategy=tail, random_state=0)
    y1 = o.fit_resample(X, y)[1]
    assert {c: class_counts(y1)[c] for c in tail} == tail
    skipped = set(o.report_.label[o.report_.fallback == 'smote'])
    if cls is PixelADASYN: assert not skipped
    else:
        theirs = BorderlineSMOTE(k_neighbors=3, sampling_strategy=tail, random_state=0).fit_resample(to_pixels(torch.from_numpy(X)), y)[1]
        assert len(skipped) >= 4 and skipped == {c for c in tail if class_counts(theirs)[c] < 150}
