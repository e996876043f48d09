"What SMOTE promises, asked of made-up classes with ties, equal codes and single members."
import math, random, warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.neighbors import NearestNeighbors
from deepclsmote import smote as room
from deepclsmote.core import InputError, new_generator
from deepclsmote.smote import add_residual, draw_donors, draw_pairs, interpolate, neighbors, smote, transfer

seeds = st.integers(0, 2**31)
dtypes = st.sampled_from([torch.float32, torch.float64])

@st.composite
def grids(draw, least=1):
    "Codes on a coarse grid: many ties, many equal codes, and distances that are exact before the root"
    m,d,span = draw(st.integers(least, 24)),draw(st.integers(1, 4)),draw(st.integers(1, 6))
    return torch.randint(-span, span+1, (m, d), generator=new_generator(draw(seeds))).to(draw(dtypes))

@st.composite
def clouds(draw, least=2):
    "Codes without ties, at any scale and place"
    m,d = draw(st.integers(least, 40)),draw(st.integers(1, 30))
    z = torch.randn(m, d, generator=new_generator(draw(seeds)), dtype=torch.float64)
    return (z*10.**draw(st.integers(-3, 3)) + draw(st.sampled_from([0., 1., 1000.]))).to(draw(dtypes))

def brute(z, k):
    "Nearest others in exact integer arithmetic; ties by lower row"
    z = z.long().tolist()
    sq = lambda a, b: sum((p-q)**2 for p,q in zip(z[a], z[b]))
    return [sorted((b for b in range(len(z)) if b!=a), key=lambda b: (sq(a, b), b))[:k] for a in range(len(z))]

def quiet(*args, **kwargs):
    "`smote` without the warning about a single code"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        return smote(*args, **kwargs)

@settings(deadline=None, max_examples=150)
@given(grids(), st.integers(1, 30))
def test_neighbors_are_the_nearest(z, k):
    found = neighbors(z, k)
    assert found.dtype==torch.int64 and found.shape==(len(z), min(k, len(z)-1))
    assert found.tolist()==brute(z, k)

@settings(deadline=None, max_examples=60)
@given(grids(least=2), st.integers(1, 8), st.integers(1, 60))
def test_parts_do_not_show(z, k, at_a_time):
    whole = neighbors(z, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, '_at_a_time', at_a_time)
        assert torch.equal(neighbors(z, k), whole)

@pytest.mark.parametrize('d', [1, 20, 300])
def test_neighbors_as_scikit_learn(d):
    z = torch.randn(300, d, generator=new_generator(d), dtype=torch.float64)
    assert len(z.unique(dim=0))==300
    expected = NearestNeighbors(n_neighbors=7, algorithm='brute').fit(z.numpy()).kneighbors(return_distance=False)
    assert torch.equal(neighbors(z, 7), torch.from_numpy(expected))

def test_never_more_than_the_bound_at_once(monkeypatch):
    seen,cdist = [],torch.cdist
    def spy(a, b, **kwargs): seen.append(len(a)*len(b)); return cdist(a, b, **kwargs)
    monkeypatch.setattr(torch, 'cdist', spy)
    z = torch.randn(6000, 2, generator=new_generator(0))
    assert neighbors(z, 5).shape==(6000, 5)
    assert max(seen)<=2**20 and sum(seen)==6000**2

def test_all_equal():
    assert neighbors(torch.ones(5, 3), 2).tolist()==[[1,2], [0,2], [0,1], [0,1], [0,1]]
    codes,parents,_ = smote(torch.ones(5, 3), 20, k=2, generator=new_generator(0))
    assert torch.equal(codes, torch.ones(20, 3)) and (parents[:,0]!=parents[:,1]).all()

def test_overflowing_distances_never_choose_the_code_itself():
    z = torch.tensor([[3e38], [-3e38], [3e38], [0.]])
    for a,row in enumerate(neighbors(z, 3).tolist()): assert sorted(row)==[b for b in range(4) if b!=a]

def test_neighbors_need_no_graph():
    z = torch.randn(6, 3, generator=new_generator(0), requires_grad=True)
    assert not neighbors(z, 2).requires_grad
    codes,_,weights = smote(z, 4, generator=new_generator(0))
    codes.sum().backward()
    torch.testing.assert_close(z.grad.sum(), torch.tensor(4*3.))

@settings(deadline=None, max_examples=200)
@given(st.one_of(grids(), clouds()), st.integers(0, 40), st.integers(1, 8), seeds)
def test_promises(z, n, k, seed):
    before = z.clone()
    codes,parents,weights = quiet(z, n, k, new_generator(seed))
    assert torch.equal(z, before)
    assert codes.shape==(n, z.shape[1]) and parents.shape==(n, 2) and weights.shape==(n,)
    assert codes.dtype==weights.dtype==z.dtype and parents.dtype==torch.int64
    if n==0: return
    assert 0<=parents.min() and parents.max()<len(z) and 0<=weights.min() and weights.max()<1
    a,b = parents.T
    if len(z)==1: assert torch.equal(codes, z.expand(n, -1)) and not weights.any(); return
    assert (a!=b).all()
    wide = z.double()
    expected = wide[a] + weights.double()[:,None]*(wide[b]-wide[a])
    size = wide.abs().max().item() + 1e-12
    torch.testing.assert_close(codes.double(), expected, rtol=0, atol=size*4*torch.finfo(z.dtype).eps)
    low,high = torch.minimum(z[a], z[b]),torch.maximum(z[a], z[b])
    slack = size*2*torch.finfo(z.dtype).eps
    assert (codes>=low-slack).all() and (codes<=high+slack).all()

@settings(deadline=None, max_examples=100)
@given(grids(least=2), st.integers(1, 30), seeds)
def test_second_parent_is_a_neighbor_of_the_first(z, k, seed):
    _,parents,_ = smote(z, 30, k, new_generator(seed))
    near = brute(z, k)
    assert all(b in near[a] for a,b in parents.tolist())

@settings(deadline=None, max_examples=40)
@given(clouds(least=3), seeds)
def test_generator_decides(z, seed):
    g = new_generator(seed)
    first,second,again = smote(z, 8, generator=g),smote(z, 8, generator=g),smote(z, 8, generator=new_generator(seed))
    assert all(torch.equal(p, q) for p,q in zip(first, again))
    assert not torch.equal(first[2], second[2])

def test_same_draws_in_both_precisions():
    z = torch.randn(9, 4, generator=new_generator(0), dtype=torch.float64)
    (c,p,w),(c32,p32,w32) = smote(z, 50, generator=new_generator(1)),smote(z.float(), 50, generator=new_generator(1))
    assert torch.equal(p, p32) and torch.equal(w, w32.double())
    torch.testing.assert_close(c.float(), c32)

def test_no_global_generator():
    states = lambda: (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())
    z,before = torch.randn(6, 2, generator=new_generator(0)),states()
    one,two = smote(z, 20),smote(z, 20)
    assert states()==before
    assert not torch.equal(one[2], two[2])

def test_every_pair_gets_its_share():
    z = torch.randn(7, 3, generator=new_generator(0))
    _,parents,weights = smote(z, 42_000, k=6, generator=new_generator(1))
    pairs,times = parents.unique(dim=0, return_counts=True)
    assert len(pairs)==42 and (times-1000).abs().max()<5*math.sqrt(1000)
    assert torch.histc(weights, 10, 0, 1).sub(4200).abs().max()<5*math.sqrt(4200)

@pytest.mark.parametrize('m,k,columns', [(2, 5, 1), (4, 5, 3), (6, 5, 5), (6, 6, 5), (8, 5, 5)])
def test_small_classes(m, k, columns):
    z = torch.randn(m, 4, generator=new_generator(m))
    assert neighbors(z, k).shape==(m, columns)
    assert len(smote(z, 4000, k, new_generator(0))[1].unique(dim=0))==m*columns

def test_single_code_warns_only_when_copies_are_made():
    z = torch.tensor([[1., 2.]])
    with pytest.warns(UserWarning, match='copies'): codes,parents,weights = smote(z, 3)
    assert codes.tolist()==[[1, 2]]*3 and parents.tolist()==[[0, 0]]*3 and weights.tolist()==[0]*3
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert smote(z, 0)[1].shape==(0, 2)
        smote(z.expand(2, -1), 3)

@settings(deadline=None, max_examples=50)
@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 9), seeds)
def test_draws(n_codes, n, k, seed):
    base,column,weight = draw_pairs(n_codes, n, k, new_generator(seed))
    assert base.shape==column.shape==weight.shape==(n,) and base.dtype==column.dtype==torch.int64
    assert ((0<=base) & (base<n_codes)).all() and ((0<=column) & (column<max(k, 1))).all() and ((0<=weight) & (weight<1)).all()
    if k==0: assert not column.any() and not weight.any()

def test_interpolate_ends():
    z = torch.randn(4, 3, generator=new_generator(0))
    a,b = torch.tensor([0, 1, 2]),torch.tensor([3, 0, 1])
    assert torch.equal(interpolate(z, a, b, torch.zeros(3)), z[a])
    assert torch.equal(interpolate(z, a, b, torch.ones(3)), z[b])
    torch.testing.assert_close(interpolate(z, a, b, torch.full((3,), .5)), (z[a]+z[b])/2)

z = torch.zeros(3, 2)
@pytest.mark.parametrize('args,words', [
    ((z[:0], 1), 'no codes'), ((z[0], 1), '(2,)'), ((z[None], 1), '(1, 3, 2)'), ((z.numpy(), 1), 'ndarray'), ((z.long(), 1), 'int64'),
    ((z+torch.tensor([0, math.nan]), 1), '3 of 3'), ((torch.tensor([[0., 0.], [math.inf, 0.]]), 1), 'row 1'),
    ((z, -1), 'n=-1'), ((z, 1.5), 'n=1.5'), ((z, 1, 0), 'k=0'), ((z, 1, True), 'k=True'), ((z, 1, 5, 42), 'generator=42')])
def test_refusals(args, words):
    with pytest.raises(InputError) as e: smote(*args)
    assert words in str(e.value)

def test_whole_numbers_of_numpy_will_do():
    assert smote(z, np.int64(4), np.int32(2), new_generator(0))[0].shape==(4, 2)

@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), seeds)
def test_residual(n, c, h, seed):
    g = new_generator(seed)
    x_new,x_a,x_b,hat_a,hat_b = [torch.rand(n, c, h, h+1, generator=g)*2 - 1 for _ in range(5)]
    w = torch.rand(n, generator=g)
    expected = [(x_new[i] + (1-w[i])*(x_a[i]-hat_a[i]) + w[i]*(x_b[i]-hat_b[i])).clamp(-1, 1) for i in range(n)]
    torch.testing.assert_close(add_residual(x_new, x_a, x_b, hat_a, hat_b, w), torch.stack(expected))
    torch.testing.assert_close(add_residual(hat_a, x_a, x_b, hat_a, hat_b, torch.zeros(n)), x_a)
    torch.testing.assert_close(add_residual(hat_b, x_a, x_b, hat_a, hat_b, torch.ones(n)), x_b)

@pytest.mark.parametrize('which', range(6))
def test_residual_refuses_what_would_broadcast(which):
    args = [torch.zeros(2, 1, 3, 3) for _ in range(5)] + [torch.zeros(2)]
    args[which] = args[which][:1]
    with pytest.raises(InputError, match='expected one shape'): add_residual(*args)

@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(0, 60), seeds)
def test_donors_are_two_of_one_class(sizes, n, seed):
    "As loops make them from the same draws"
    rows = list(torch.randperm(sum(sizes), generator=new_generator(seed)).split(sizes))
    i,j = draw_donors(rows, n, new_generator(seed))
    g = new_generator(seed)
    which,u = torch.randint(len(rows), (n,), generator=g),torch.rand(n, 2, generator=g, dtype=torch.float64)
    for t,c in enumerate(which.tolist()):
        left = rows[c].tolist()
        assert i[t] == left.pop(int(u[t,0]*len(left))) and j[t] == left[int(u[t,1]*len(left))]
    assert i.shape == j.shape == (n,) and i.dtype == j.dtype == torch.int64 and (i != j).all()

def test_every_pair_of_donors_gets_its_share():
    "Classes alike, then ordered pairs alike"
    pairs,times = torch.stack(draw_donors([torch.arange(5), torch.arange(5, 8)], 48_000, new_generator(0)), 1).unique(dim=0, return_counts=True)
    assert len(pairs) == 20+6
    assert (times[:20]-1200).abs().max() < 5*1200**.5 and (times[20:]-4000).abs().max() < 5*4000**.5

@settings(deadline=None, max_examples=80)
@given(clouds(), st.integers(0, 30), st.floats(0, 3), seeds)
def test_transfer(z, n, alpha, seed):
    g = new_generator(seed)
    z_a,step = z[torch.randint(len(z), (n,), generator=g)],alpha*torch.rand(n, generator=g)
    i,j = draw_donors([torch.arange(len(z))], n, g)
    new = transfer(z_a, z, i, j, step)
    assert new.dtype == z.dtype and new.shape == (n, z.shape[1])
    eps = (z.abs().max().item() + 1e-12)*16*torch.finfo(z.dtype).eps
    for t in range(n): torch.testing.assert_close(new[t], z_a[t] + step[t].to(z)*(z[j[t]] - z[i[t]]), rtol=0, atol=eps)
    assert torch.equal(transfer(z_a, z, i, j, 0*step), z_a) and torch.equal(transfer(z_a, z, i, i, step), z_a)
    torch.testing.assert_close(transfer(transfer(z_a, z, i, j, step), z, j, i, step), z_a, rtol=0, atol=eps)

@settings(deadline=None, max_examples=40)
@given(grids(least=2), seeds)
def test_the_centroid_of_the_donors_cancels(z, seed):
    "Exactly: on a grid nothing is rounded"
    i,j = draw_donors([torch.arange(len(z))], 20, new_generator(seed))
    z_a,step = z[:1].expand(20, -1),torch.ones(20)
    assert torch.equal(transfer(z_a, z, i, j, step), transfer(z_a, z+7, i, j, step))

@pytest.mark.parametrize('which', range(5))
def test_transfer_refuses_what_would_broadcast(which):
    args = [torch.zeros(3, 2), torch.zeros(5, 2), torch.zeros(3).long(), torch.zeros(3).long(), torch.zeros(3)]
    args[which] = args[which][:1] if which != 1 else torch.zeros(5, 1)
    with pytest.raises(InputError, match='expected n of each'): transfer(*args)

@pytest.mark.parametrize('sizes,n,words', [([], 1, 'one class or more'), ([3, 1], 1, '[3, 1]'), ([0], 1, 'at least two'), ([2], -1, 'n=-1'), ([2], 1.5, 'n=1.5')])
def test_donor_refusals(sizes, n, words):
    with pytest.raises(InputError) as e: draw_donors([torch.arange(m) for m in sizes], n, new_generator(0))
    assert words in str(e.value)
