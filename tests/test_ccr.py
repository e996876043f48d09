"MC-CCR: the closed form and the cleaning against loops, exact totals, the classes in turn, what is kept and what is changed."
import os, warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from deepclsmote.core import as_seed, check_oversampler, class_counts, conformance, new_generator, spawn_seeds, toy_images
from deepclsmote.data import load_dataset, long_tail_split
from deepclsmote.rivals.ccr import MC_CCR, DistanceTable, allocate, around, ccr, ccr_benchmark, ccr_loops, distances, grow_loops, grow_spheres, noise, push_loops, push_out, small_shifts, typical_distance
from deepclsmote.rivals.pixels import from_pixels, to_pixels

pytestmark = pytest.mark.filterwarnings('ignore:MC_CCR')
quick = settings(max_examples=100, deadline=None)
seeds = st.integers(0, 2**31)

@quick
@given(arrays(np.float64, st.tuples(st.integers(1,6), st.integers(0,9)), elements=st.floats(0, 50)), st.floats(1e-3, 1e3))
def test_spheres_equal_the_loop(d, energy):
    r,_ = grow_spheres(torch.from_numpy(d), energy)
    torch.testing.assert_close(r, torch.tensor([grow_loops(row, energy)[0] for row in d.tolist()], dtype=torch.float64), rtol=0, atol=1e-6)

@quick
@given(arrays(np.int64, st.tuples(st.integers(1,6), st.integers(1,9)), elements=st.integers(0, 8)), st.integers(1, 60))
def test_ties_and_edges_are_counted_alike(d, energy):
    "Whole numbers: equal distances, enemies at 0, and energies that end exactly at an enemy"
    d = d*12. # so that every step of the loop is a whole number or a simple fraction
    _,k = grow_spheres(torch.from_numpy(d), energy*12.)
    slow = [grow_loops(row, energy*12.) for row in d.tolist()]
    for row,fast,(radius,loop) in zip(d, k.tolist(), slow):
        on_edge = int((np.abs(row-radius) < 1e-9).sum()) # an enemy on the surface is as good inside as outside
        assert abs(fast-loop) <= on_edge

@quick
@given(st.lists(st.one_of(st.floats(0, 1e6), st.just(1.)), min_size=1, max_size=30), st.integers(0, 500), st.booleans(), seeds)
def test_totals_are_exact(weights, n, drawn, seed):
    w = torch.tensor(weights, dtype=torch.float64)
    counts = allocate(w, n, new_generator(seed) if drawn else None)
    share = n*w/w.sum() if w.sum() > 0 else torch.full_like(w, n/len(w))
    assert counts.sum() == n and (counts >= 0).all() and ((counts-share).abs() < 1+1e-6).all()

def test_what_is_left_is_drawn_by_fractions():
    "One image at a time, 4000 times: shares 0.6, 0.3, 0.1"
    g = new_generator(0)
    seen = sum(allocate(torch.tensor([6.,3.,1.]), 1, g) for _ in range(4000))
    assert ((seen/4000 - torch.tensor([.6,.3,.1])).abs() < .04).all()

@quick
@given(seeds, st.integers(1,5), st.integers(1,9), st.integers(1,6), st.sampled_from([1, 1.5, 2, 3]))
def test_distances(seed, n, m, dim, p):
    g = new_generator(seed)
    a,b = torch.rand(n, dim, generator=g),torch.rand(m, dim, generator=g)
    b[0] = a[0]
    slow = torch.tensor([[float((i-j).abs().pow(p).sum()**(1/p)) for j in b.double()] for i in a.double()], dtype=torch.float64)
    torch.testing.assert_close(distances(a, b, p), slow, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(distances(a.double(), b.double(), p), slow, rtol=0, atol=1e-9)
    assert distances(a, b, p)[0,0] == 0

def test_memory_is_bounded_without_a_difference(monkeypatch):
    g = new_generator(1)
    x,e = torch.rand(40, 784, generator=g),torch.rand(90, 784, generator=g)
    draws = noise(50, 784, g)
    whole = ccr(x, e, 50, *draws, 8., 2., 'translate')
    import deepclsmote.rivals.ccr as module
    monkeypatch.setattr(module, 'blocks', lambda n, width: [slice(i, min(i+7, n)) for i in range(0, n, 7)])
    monkeypatch.setattr(module, '_kept_numbers', 0)
    parts = ccr(x, e, 50, *draws, 8., 2., 'translate')
    for name in ('new','enemies','radius'): torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=0, atol=1e-6)
    assert DistanceTable(x, e).kept == {}

@quick
@given(seeds, st.integers(1,5), st.integers(1,10), st.integers(1,4), st.sampled_from([1, 1.5, 2]), st.floats(.01, 30), st.sampled_from(['ignore','translate','remove']), st.booleans())
def test_one_class_equals_the_loops(seed, m, n_enemies, dim, p, energy, cleaning, equal):
    g = new_generator(seed)
    x,e = torch.rand(m, dim, generator=g, dtype=torch.float64),torch.rand(n_enemies, dim, generator=g, dtype=torch.float64)
    if equal: e[0] = x[0]
    n = int(torch.randint(12, (1,), generator=g))
    cube,share = (t.double() for t in noise(n, dim, g))
    shifts = torch.zeros_like(e)
    where = (e[:,None] == x).all(2).any(1)
    if where.any(): shifts[where] = small_shifts(int(where.sum()), dim, new_generator(5)).double()
    fast = ccr(x, e, n, cube, share, energy, p, cleaning, generator=new_generator(5))
    new,left = ccr_loops(x, e, n, cube, share, energy, p, cleaning, shifts)
    torch.testing.assert_close(fast.new, new, rtol=0, atol=1e-6)
    torch.testing.assert_close(fast.enemies[fast.kept], left, rtol=1e-6, atol=1e-6)

@quick
@given(seeds, st.integers(2,6), st.sampled_from([1., 2.]))
def test_cleaning_ends_on_the_surface(seed, dim, p):
    "With one sphere every enemy that was inside ends at distance r, in its old direction"
    g = new_generator(seed)
    x,e = torch.rand(1, dim, generator=g, dtype=torch.float64),torch.rand(12, dim, generator=g, dtype=torch.float64)
    r = distances(x, e, p)[0].median()
    moved = e + push_out(x, e, r[None], p)
    d = distances(x, e, p)[0]
    inside = d < r
    torch.testing.assert_close(distances(x, moved, p)[0,inside], r.expand(int(inside.sum())))
    assert torch.equal(moved[~inside], e[~inside])
    torch.testing.assert_close((moved[inside]-x)/r, (e[inside]-x)/d[inside,None])
    torch.testing.assert_close(moved-e, push_loops(x, e, r[None], p))

@quick
@given(seeds, st.integers(1,30), st.sampled_from([1., 2., 3.]))
def test_new_images_stay_in_their_sphere(seed, dim, p):
    g = new_generator(seed)
    x,radius = torch.rand(20, dim, generator=g, dtype=torch.float64),torch.rand(20, generator=g).double()
    cube,share = noise(20, dim, g)
    new = around(x, radius, cube, share, p)
    torch.testing.assert_close(torch.linalg.vector_norm(new-x, p, dim=1), radius*share, rtol=0, atol=1e-6)

def test_small_shifts():
    s = small_shifts(50, 40, new_generator(0)).abs()
    assert s.min() >= 1e-6 and s.max() <= 2e-6 and 0 < (small_shifts(50, 40, new_generator(0)) < 0).float().mean() < 1

def test_typical_distance_leaves_doubles_out_only_when_they_are_most():
    x = torch.tensor([[0.],[0.],[0.],[5.]])
    assert typical_distance(DistanceTable(x, torch.tensor([[0.]]))) == 5
    assert typical_distance(DistanceTable(x, torch.tensor([[1.]]))) == 1
    assert typical_distance(DistanceTable(x[:1], x[:1])) == 0

# --- the class ------------------------------------------------------------------------------------------------------

def tail(): # (X, y) of digits, 130 to 4
    d = load_dataset('digits')
    rows,_ = long_tail_split(d.labels, 'digits')
    return d.images[rows], d.labels[rows]

@pytest.mark.parametrize('setting', [{}, dict(p=1, energy=20.), dict(selection='random', enemies='complete')], ids=str)
@pytest.mark.parametrize('promise', conformance)
def test_contract(promise, setting):
    conformance[promise](lambda **s: MC_CCR(**{**setting, **s}))

@pytest.mark.parametrize('enemies', ['sampling','complete'])
@pytest.mark.parametrize('cleaning', ['ignore','translate'])
def test_classes_in_turn_equal_the_loops(enemies, cleaning):
    "The public algorithm, written again class by class with loops and the draws of the same seeds"
    X,y = toy_images((9,6,3,1), (16,16), 'float32', seed=4)
    over = MC_CCR(budget=1.5, enemies=enemies, cleaning=cleaning, random_state=7)
    X1,y1 = over.fit_resample(X, y)
    pool = {c: torch.from_numpy(X[y==c].reshape(-1, 256)) for c in range(4)}
    sub = spawn_seeds(spawn_seeds(as_seed(7), 2)[0], 4)
    for i,c in enumerate(range(4)):
        g = new_generator(sub[c])
        larger = list(range(i))
        if not larger: continue
        if enemies == 'sampling': at = {k: torch.randperm(len(pool[k]), generator=g)[:9//i] for k in larger}
        else: at = {k: torch.arange(len(pool[k])) for k in range(4) if k != c}
        foes = torch.cat([pool[k][v] for k,v in at.items()])
        n = 9-len(pool[c])
        nearest = sorted(min(float((a-b).norm()) for b in foes.double()) for a in pool[c].double())
        cube,share = noise(n, 256, g)
        new,left = ccr_loops(pool[c].double(), foes.double(), n, cube.double(), share.double(), 1.5*nearest[(len(nearest)-1)//2], 2., cleaning)
        for k,part in zip(at, left.split([len(v) for v in at.values()])): pool[k][at[k]] = part.clamp(0, 1).float()
        pool[c] = torch.cat([pool[c], new.clamp(0, 1).float()])
    for c in range(4): np.testing.assert_allclose(X1[y1==c].reshape(9, -1), pool[c], rtol=0, atol=2e-6)
    assert (len(over.moved_) > 0) == (cleaning == 'translate')

@pytest.mark.parametrize('enemies', ['sampling','complete'])
@pytest.mark.parametrize('kind', ['uint8','float32'])
def test_translate_tells_what_moved(enemies, kind):
    X,y = tail()
    X = X if kind == 'uint8' else X/np.float32(255)
    over = MC_CCR(cleaning='translate', budget=1.2, enemies=enemies, random_state=0)
    X1,y1 = over.fit_resample(X, y)
    assert class_counts(y1) == {c: 130 for c in range(10)} and (y1[:len(y)] == y).all() and X1.dtype == X.dtype
    changed = np.where((X1[:len(X)] != X).reshape(len(X), -1).any(1))[0]
    assert len(changed) and set(changed) <= set(over.moved_.tolist()) and len(over.removed_) == 0
    if kind == 'float32': assert set(changed) == set(over.moved_.tolist())
    assert over.report_.touched.sum() >= len(over.moved_)
    with pytest.MonkeyPatch.context() as m:
        import tempfile, pathlib
        with tempfile.TemporaryDirectory() as d:
            back = MC_CCR.load(over.save(pathlib.Path(d)/'o.safetensors'))
            assert (back.sample(9, 9)[0] == over.sample(9, 9)[0]).all() and (back.moved_ == over.moved_).all()

@pytest.mark.parametrize('enemies', ['sampling','complete'])
def test_remove_tells_what_went(enemies):
    X,y = tail()
    over = MC_CCR(cleaning='remove', budget=3., enemies=enemies, random_state=0)
    X1,y1 = over.fit_resample(X, y)
    left = np.setdiff1d(np.arange(len(X)), over.removed_)
    assert len(over.removed_) and len(over.moved_) == 0
    assert (X1[:len(left)] == X[left]).all() and (y1[:len(left)] == y[left]).all()
    assert set(class_counts(y1)) == set(range(10)), 'a class was emptied'
    assert len(over.provenance_) == len(X1)-len(left) < 1300-len(X), 'no new image was ever removed'
    assert (y[over.provenance_.parent_a] == y1[len(left):]).all()
    for c in range(10): assert over.sample(3, c)[0].shape == (3,28,28)

def test_what_the_fit_made_is_handed_out_once():
    X,y = toy_images((8,4,1), (16,16), 'float32')
    a,b = MC_CCR(random_state=0),MC_CCR(random_state=0)
    X1,_ = a.fit_resample(X, y)
    assert a._made == {}
    fresh = a.sample({1: 4, 2: 7})[0]
    assert not (fresh == X1[len(X):]).all()
    assert (b.fit(X, y).sample({1: 4, 2: 7})[0] == fresh).all(), 'fit and fit_resample leave another state'

def test_literal_energy_is_copies_and_says_so():
    X,y = tail()
    over = MC_CCR(energy=.25, p=1, random_state=0)
    with pytest.warns(UserWarning, match='copies') as said: X1,_ = over.fit_resample(X, y)
    assert len([w for w in said if 'MC_CCR' in str(w.message)]) == 1
    assert (X1[len(X):] == X[over.provenance_.parent_a]).all() and over.report_.alarm[1:].str.startswith('copies').all()

def test_no_alarm_on_the_ordinary_path():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        over = MC_CCR(random_state=0).fit(*tail())
    assert (over.report_.alarm == '').all() and len(over.report_) == 10
    assert np.allclose(over.report_.reach, .5) and (over.report_.inside < .5).all()

def test_doubles_in_two_classes():
    "An image with two labels, and classes that are equal altogether"
    X,y = toy_images((6,3,2), (16,16), 'float32')
    X[np.where(y==1)[0][0]] = X[np.where(y==0)[0][0]]
    for how in (dict(), dict(cleaning='translate', budget=2.), dict(cleaning='remove', budget=2., enemies='complete')):
        X1,_ = MC_CCR(random_state=0, **how).fit_resample(X, y)
        assert np.isfinite(X1).all() and X1.min() >= 0 and X1.max() <= 1
    same = np.full((9,16,16), 100, np.uint8)
    with pytest.warns(UserWarning, match='copies'): X1,y1 = MC_CCR(random_state=0).fit_resample(same, np.repeat([0,1], [6,3]))
    assert (X1 == 100).all() and class_counts(y1) == {0: 6, 1: 6}

@pytest.mark.parametrize('shape', [(16,16), (3,32,32), (64,48,3), (4,16,16)])
def test_few_images_of_any_shape(shape):
    X,y = toy_images((12,4,1), shape)
    X1,y1 = MC_CCR(random_state=0, enemies='complete').fit_resample(X, y)
    assert class_counts(y1) == {0: 12, 1: 12, 2: 12} and X1.shape[1:] == shape

def test_many_small_classes_have_enemies():
    "More larger classes than the largest has images: every one still lends an image"
    X,y = toy_images((3,3,3,3,3,2), (16,16))
    assert MC_CCR(random_state=0).fit(X, y).report_.enemies.tolist()[1:] == [3, 2, 3, 4, 5]

def test_one_at_a_time_has_many_parents():
    X,y = tail()
    over = MC_CCR(random_state=0).fit(X, y)
    parents = [over.sample(1, 5)[1].parent_a[0] for _ in range(60)]
    assert len(set(parents)) > 10

def test_benchmark():
    bench = ccr_benchmark(80, 32, cleaning='remove', p=1)
    assert bench.index.tolist() == ['loops','fast'] and bench.difference['fast'] < 1e-5 and (bench.seconds > 0).all()

@pytest.mark.skipif(not os.environ.get('DEEPCLSMOTE_DATA'), reason='DEEPCLSMOTE_DATA is not set')
def test_mnist_distances_are_those_of_the_reference():
    "Nearest enemies of a long tail of MNIST: some 7 in L2, some 70 in L1"
    d = load_dataset('mnist', os.environ['DEEPCLSMOTE_DATA'])
    rows = np.concatenate([np.flatnonzero(np.asarray(d.labels) == c)[:n] for c,n in enumerate((300,200,100,75,50,12,10,8,6,4))])
    X,y = np.asarray(d.images)[rows],np.asarray(d.labels)[rows]
    for p,low,high in ((1, 40, 120), (2, 4.5, 10)):
        r = MC_CCR(p=p, random_state=0).fit(X, y).report_
        assert r.nearest[1:].between(low, high).all() and (r.inside[1:] < .5).all()
