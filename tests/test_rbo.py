"MC-RBO: lists that are never shuffled are shuffled lists, walks against loops, neighbors, the classes in turn, what is kept."
import itertools, os, pathlib, random, tempfile, warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import chisquare, ks_2samp
from deepclsmote.core import as_seed, class_counts, conformance, new_generator, spawn_seeds, toy_images
from deepclsmote.data import load_dataset, long_tail_split
from deepclsmote.rivals import rbo
from deepclsmote.rivals.pixels import to_pixels
from deepclsmote.rivals.rbo import MC_RBO, PairLists, check_walks, nearest_points, potential_loops, rbo_benchmark, replay, shuffled, walk, walk_loops

pytestmark = pytest.mark.filterwarnings('ignore:MC_RBO')
quick = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31)

# --- lists ----------------------------------------------------------------------------------------------------------

def test_every_sequence_is_as_likely_as_with_shuffled_lists():
    "Five reads, a move kept after the second and the third: 4*3 * 3 * 3*2 sequences, all alike"
    n = 60_000
    lists,all_ = PairLists(n, 2, new_generator(1)),torch.ones(n, dtype=torch.bool)
    read = [lists.next(), lists.next()]
    lists.restart(all_, read[1]^1)
    read.append(lists.next())
    lists.restart(all_, read[2]^1)
    read += [lists.next(), lists.next()]
    seen,counts = torch.stack(read, 1).unique(dim=0, return_counts=True)
    possible = {(a,b,c,d,e) for a,b in itertools.permutations(range(4), 2) for c in range(4) if c != b^1 for d,e in itertools.permutations(set(range(4))-{c^1}, 2)}
    assert {tuple(s) for s in seen.tolist()} == possible and len(possible) == 216
    assert chisquare(counts).pvalue > 1e-3

def test_the_chi_square_would_notice():
    "A list that is not drawn anew after a restart is caught by the same test"
    lists,all_ = PairLists(20_000, 2, new_generator(1)),torch.ones(20_000, dtype=torch.bool)
    first = torch.stack([lists.next() for _ in range(4)], 1)
    again = lists.pairs.view(-1, 4)[:,0].long()  # read on without a draw
    counts = (first[:,0]*4 + again).bincount(minlength=16)
    assert chisquare(counts).pvalue < 1e-6

@quick
@given(seeds, st.integers(1,6), st.integers(1,40))
def test_lists_under_any_pattern_of_moves(seed, dim, tries):
    "`replay` refuses what no shuffled list could give; restarts come at random"
    g = new_generator(seed)
    lists,tried,kept = PairLists(5, dim, g),[],[]
    for _ in range(tries):
        pair = lists.next()
        keep = (torch.rand(5, generator=g) < .3) & (pair >= 0)
        lists.restart(keep, pair^1)
        tried.append(pair); kept.append(keep)
    for row,keep in zip(torch.stack(tried, 1).tolist(), torch.stack(kept, 1).tolist()):
        fresh = replay(row, dim)
        pairs = fresh(None)
        for q,k in zip(row, keep):
            assert next(pairs, None) == (q if q >= 0 else None)
            if q < 0: break
            if k: pairs = fresh(q^1)

def test_replay_refuses():
    def read(tried, dim=2):
        pairs = replay(tried, dim)(None)
        return list(pairs)
    with pytest.raises(AssertionError, match='twice'): read([0, 1, 0])
    with pytest.raises(AssertionError, match='ended early'): read([0, 1, -1])
    with pytest.raises(AssertionError, match='way back'): next(replay([3], 2)(3))
    assert read([0, 1, 3, 2, -1]) == [0, 1, 3, 2]

# --- walks ----------------------------------------------------------------------------------------------------------

def made_up(seed, n_seeds, k, dim, walks):
    g = new_generator(seed)
    points = torch.rand(n_seeds, k, dim, generator=g, dtype=torch.float64)
    side = torch.tensor([-1.,0.,1.])[torch.randint(3, (n_seeds, k), generator=g)]
    side[:,0] = -1.
    which = torch.randint(n_seeds, (walks,), generator=g)
    return points[which,0],points,side,which,g

@quick
@given(seeds, st.integers(1,4), st.integers(1,9), st.integers(1,7), st.integers(1,80), st.floats(.05, 5), st.floats(.01, .2))
def test_walks_equal_the_loops(seed, n_seeds, k, dim, steps, gamma, step):
    x,points,side,which,g = made_up(seed, n_seeds, k, dim, 6)
    step = step*(.5+torch.rand(dim, generator=g, dtype=torch.float64))
    given_ = x,points,side,which,gamma,step,steps
    done = walk(*given_, g, trace=True)
    assert check_walks(done, *given_, range(6)) < 1e-6
    for i in range(6):
        phi = potential_loops(done.x[i].numpy(), points[which[i]].numpy(), side[which[i]].tolist(), gamma)
        assert abs(phi-float(done.phi[i])) < 1e-6 and abs(phi) <= abs(float(done.start[i]))+1e-9

def test_walks_end_as_shuffled_ones_do():
    "600 walks each way from one image: where they end is drawn from one distribution"
    x,points,side,which,g = made_up(3, 1, 6, 3, 600)
    step = torch.full((3,), .05).double()
    done = walk(x, points, side, which, .9, step, 40, g)
    rng = random.Random(0)
    slow = np.array([walk_loops(points[0,0].numpy(), points[0].numpy(), side[0].tolist(), .9, step.numpy(), 40, shuffled(3, rng))[0] for _ in range(600)])
    for c in range(3): assert ks_2samp(done.x[:,c].numpy(), slow[:,c]).pvalue > 1e-3
    assert ks_2samp(done.x[:,0].numpy(), walk(x, points, side, which, .9, step, 8, g).x[:,0].numpy()).pvalue < 1e-3, 'the test cannot tell walks apart'

def test_a_walk_changes_nothing_it_was_given():
    x,points,side,which,g = made_up(0, 2, 4, 3, 5)
    before = [t.clone() for t in (x, points, side, which)]
    walk(x, points, side, which, 1., torch.full((3,), .1).double(), 30, g)
    assert all(a.equal(b) for a,b in zip(before, (x, points, side, which)))

@quick
@given(seeds, st.integers(2,12), st.integers(1,12), st.data())
def test_neighbors_equal_the_loops(seed, n, k, data):
    points = torch.rand(n, 3, generator=new_generator(seed))
    itself = torch.tensor(data.draw(st.lists(st.integers(0, n-1), min_size=1, max_size=n)))
    at,far = nearest_points(points[itself], points, itself, k)
    for i,row in enumerate(itself.tolist()):
        slow = sorted((float((p.double()-points[row].double()).abs().sum()), j) for j,p in enumerate(points) if j != row)[:k]
        assert at[i].tolist() == [j for _,j in slow]
        assert abs(float(far[i])-slow[(len(slow)-1)//2][0]) < 1e-5

def test_neighbors_in_blocks(monkeypatch):
    points,itself = torch.rand(29, 5, generator=new_generator(0)),torch.arange(3, 23)
    whole = nearest_points(points[itself], points, itself, 7)
    monkeypatch.setattr(rbo, 'blocks', lambda n, width: [slice(i, min(i+3, n)) for i in range(0, n, 3)])
    for a,b in zip(whole, nearest_points(points[itself], points, itself, 7)): assert a.equal(b)

# --- the class ------------------------------------------------------------------------------------------------------

def tail(): # (X, y) of digits, 130 to 4
    d = load_dataset('digits')
    rows,_ = long_tail_split(d.labels, 'digits')
    return d.images[rows], d.labels[rows]

@pytest.mark.parametrize('setting', [{}, dict(enemies='complete', neighbors=3), dict(space='pca')], ids=str)
@pytest.mark.parametrize('promise', conformance)
def test_contract(promise, setting):
    conformance[promise](lambda **s: MC_RBO(**{'steps': 20, **setting, **s}))

@pytest.mark.parametrize('enemies', ['sampling','complete'])
@pytest.mark.parametrize('kind', ['uint8','float32'])
def test_classes_in_turn(enemies, kind):
    "The public algorithm, written again class by class with the draws of the same seeds; the walks are tested above"
    X,y = toy_images((9,6,3,1), (16,16), kind, seed=4)
    over = MC_RBO(enemies=enemies, random_state=7, neighbors=5, steps=60)
    X1,y1 = over.fit_resample(X, y)
    scale = np.float32(255 if kind == 'uint8' else 1)
    flat = lambda a: torch.from_numpy(a.reshape(len(a), -1)/scale).float()
    pool = {c: flat(X[y==c]) for c in range(4)}
    sub = spawn_seeds(spawn_seeds(as_seed(7), 2)[0], 4)
    for i,c in enumerate(range(1, 4), 1):
        g,own,n = new_generator(sub[c]),flat(X[y==c]),9-int((y==c).sum())
        if enemies == 'sampling': foes = torch.cat([pool[k][torch.randint(9, (9//i,), generator=g)] for k in range(i)])
        else: foes = torch.cat([flat(X[y==k]) for k in range(4) if k != c])
        everyone = torch.cat([foes, own])
        near,medians = [],[]
        for a in range(len(own)):
            d = sorted((float((everyone[j].double()-own[a].double()).abs().sum()), j) for j in range(len(everyone)) if j != len(foes)+a)[:5]
            near.append([j for _,j in d]); medians.append(d[2][0])
        gamma = sorted(medians)[(len(medians)-1)//2]
        rows = torch.randint(len(own), (n,), generator=g)
        used,which = rows.unique(return_inverse=True)
        points = torch.stack([torch.cat([own[u][None], everyone[near[u]]]) for u in used.tolist()])
        side = torch.tensor([[-1.]+[1. if j < len(foes) else -1. for j in near[u]] for u in used.tolist()])
        done = walk(points[which,0], points, side, which, gamma, torch.full((256,), .05), 60, g)
        new = done.x.clamp(0, 1)
        if kind == 'uint8': new = (new*2-1).add(1).mul(127.5).round()/255
        pool[c] = torch.cat([own, new])
        np.testing.assert_allclose(flat(X1[y1==c]), pool[c], rtol=0, atol=1e-6)

def test_enemies():
    X,y = tail()
    one,all_ = MC_RBO(random_state=0, steps=30).fit(X, y),MC_RBO(random_state=0, steps=30, enemies='complete').fit(X, y)
    counts = [int((y==c).sum()) for c in range(10)]
    assert all_.report_.enemies.tolist() == [len(y)-n for n in counts] and len(all_.extra_) == 0
    assert one.report_.enemies.tolist()[1:] == [130//i*i for i in range(1, 10)]
    assert len(one.extra_) and set(one.near_[one.near_ >= len(y)].tolist()) == set(range(len(y), len(y)+len(one.extra_)))
    assert (one.extra_labels_ >= 0).all() and (one.near_ < len(y)+len(one.extra_)).all()
    for o in (one, all_): assert not (o.near_ == torch.arange(len(y))[:,None]).any(), 'an image is its own neighbor'
    for i in np.flatnonzero(y == 4): # enemies come from larger classes alone
        labels = torch.cat([one.labels_, one.extra_labels_])[one.near_[i]]
        assert (labels <= 4).all()

def test_small_sets_have_fewer_neighbors():
    X,y = toy_images((5,2,1), (16,16))
    over = MC_RBO(random_state=0, steps=20).fit(X, y)
    n = [int((over.near_[i] >= 0).sum()) for i in range(8)]
    assert [n[i] for i in np.argsort(y)] == [7]*5 + [6]*2 + [4]  # others of the class, and 3, 5 or 2+2 enemies
    assert over.sample(4, 2)[0].shape == (4,16,16)

def test_chunks_change_nothing_but_the_draws(monkeypatch):
    "Tables of a few images each: every walk begins at its parent and its potential is that of the formula"
    X,y = tail()
    over = MC_RBO(random_state=0, steps=30).fit(X, y)
    monkeypatch.setattr(rbo, '_table_numbers', 784*26*3)
    new,made = over.sample(40, 5)
    for i in range(0, 40, 7):
        ids = torch.cat([torch.tensor([made.parent_a[i]]), over.near_[made.parent_a[i]]])
        points = to_pixels(over._images(ids)).astype(float)
        side = np.where(torch.cat([over.labels_, over.extra_labels_])[ids] == 5, -1., 1.)
        assert abs(abs(potential_loops(points[0], points, side, float(over.gammas_[5])))-made.phi_start[i]) < 1e-4
        moved = np.abs(new[i].reshape(-1)/255.-points[0])
        assert 0 < (moved > .01).sum() <= 30

def test_the_largest_class_is_looked_up_when_needed():
    X,y = toy_images((260,5), (16,16))
    a,b = MC_RBO(random_state=0, steps=20).fit(X, y),MC_RBO(random_state=0, steps=20).fit(X, y)
    known = lambda o: int((o.near_[o.labels_ == 0,0] >= 0).sum())
    before = known(a)
    assert 200 <= before < 260
    b.sample(500, 0, random_state=5)
    assert known(b) > before
    assert (a.sample(300, 0)[0] == b.sample(300, 0)[0]).all(), 'what was looked up before changes the images'
    for i in torch.where((b.labels_ == 0) & (b.near_[:,0] >= 0))[0][::40].tolist():
        d = np.abs(X.reshape(265, -1)/255.-X[i].reshape(-1)/255.).sum(1)
        assert set(b.near_[i].tolist()) == set(np.argsort(d)[1:26].tolist())

def test_what_the_fit_made_is_handed_out_once():
    X,y = toy_images((8,4,1), (16,16), 'float32')
    a,b = MC_RBO(random_state=0, steps=30),MC_RBO(random_state=0, steps=30)
    X1,_ = a.fit_resample(X, y)
    fresh = a.sample({1: 4, 2: 7})[0]
    assert a._made == {} and not (fresh == X1[len(X):]).all()
    assert (b.fit(X, y).sample({1: 4, 2: 7})[0] == fresh).all(), 'fit and fit_resample leave another state'

def test_literal_settings_are_copies_and_say_so():
    X,y = tail()
    over = MC_RBO(gamma=.05, step=.001, steps=500, random_state=0)
    with pytest.warns(UserWarning, match='copies') as said: X1,_ = over.fit_resample(X, y)
    assert len([w for w in said if 'MC_RBO' in str(w.message)]) == 1
    moved = np.abs(X1[len(X):]/255.-X[over.provenance_.parent_a]/255.).reshape(907, -1).sum(1)
    assert np.median(moved) <= .6 and over.report_.alarm.str.startswith('copies').all()
    assert (over.provenance_.phi_start-1).abs().max() < 1e-6 and over.provenance_.phi_end.max() < .05

@pytest.mark.parametrize('space', ['pixels','pca'])
def test_no_alarm_on_the_ordinary_path(space):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        over = MC_RBO(random_state=0, space=space).fit(*tail())
    assert (over.report_.alarm == '').all() and (over.report_.phi_end < over.report_.phi_start).all() and over.report_.reach.between(.1, 1).all()

def test_axes():
    "A walk along the axes changes nothing off them, apart from clipping"
    X,y = tail()
    grey = (.4+.2*X/255).astype(np.float32)  # far from black and white: nothing is clipped
    over = MC_RBO(space='pca', random_state=0).fit(grey, y)
    new,made = over.sample(20, 7)
    change = torch.from_numpy(new-grey[made.parent_a]).flatten(1)
    assert over.axes_.shape == (64,784) and change.norm() > .1
    torch.testing.assert_close(change@over.axes_.T@over.axes_, change, rtol=0, atol=1e-5)
    steps = change@over.axes_.T/(.05*over.scale_)
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=2e-2)
    assert steps.abs().max() >= 1

def test_steps():
    assert [rbo._steps(n) for n in (256, 784, 3072, 65536)] == [163, 500, 1959, 2000]

def test_equal_images():
    same = np.full((9,16,16), 100, np.uint8)
    with pytest.warns(UserWarning, match='copies'): X1,y1 = MC_RBO(random_state=0, steps=1).fit_resample(same, np.repeat([0,1], [6,3]))
    assert class_counts(y1) == {0: 6, 1: 6}
    X1,_ = MC_RBO(random_state=0, space='pca').fit_resample(same, np.repeat([0,1], [6,3]))
    assert (X1 == 100).all()

@pytest.mark.parametrize('space', ['pixels','pca'])
@pytest.mark.parametrize('shape', [(16,16), (3,32,32), (64,48,3), (4,16,16)])
def test_few_images_of_any_shape(shape, space):
    X,y = toy_images((12,4,1), shape)
    X1,y1 = MC_RBO(random_state=0, enemies='complete', space=space, steps=50).fit_resample(X, y)
    assert class_counts(y1) == {0: 12, 1: 12, 2: 12} and X1.shape[1:] == shape

@pytest.mark.parametrize('space', ['pixels','pca'])
def test_a_file_keeps_all(space):
    X,y = tail()
    over = MC_RBO(random_state=0, steps=40, space=space).fit(X, y)
    with tempfile.TemporaryDirectory() as d: back = MC_RBO.load(over.save(pathlib.Path(d)/'o.safetensors'))
    for c in (0, 5, 9): assert (back.sample(7, c)[0] == over.sample(7, c)[0]).all()

def test_benchmark():
    bench = rbo_benchmark(80, 32, steps=40, slow_walks=5)
    assert bench.index.tolist() == ['loops','fast'] and bench.difference['fast'] < 1e-4 and (bench.seconds > 0).all()

@pytest.mark.skipif(not os.environ.get('DEEPCLSMOTE_DATA'), reason='DEEPCLSMOTE_DATA is not set')
def test_mnist_scale_is_that_of_the_reference():
    "A class of 4 of MNIST: neighbors some 60 to 70 away in L1, and the potential about halved by 500 steps of 0.05"
    d = load_dataset('mnist', os.environ['DEEPCLSMOTE_DATA'])
    rows = np.concatenate([np.flatnonzero(np.asarray(d.labels) == c)[:n] for c,n in enumerate((300,200,100,75,50,12,10,8,6,4))])
    over = MC_RBO(random_state=0)
    over.fit_resample(np.asarray(d.images)[rows], np.asarray(d.labels)[rows])
    last = over.report_.iloc[9]
    assert 45 < last.gamma < 100 and last.phi_end < .8*last.phi_start and .4 < last.moved < 1.3
