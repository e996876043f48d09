"The loaders and augmentation: properties, faults, two processes."
import os, random, sys, types
import numpy as np
import pytest, torch
from fastai.basics import DataLoaders, Learner, noop
from fastai.callback.progress import ProgressCallback
from fastai.data.load import DataLoader
from hypothesis import given, settings, strategies as st
from deepclsmote.core import InputError, new_generator, to_signed
from deepclsmote import loaders
from deepclsmote.loaders import *

def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()

# The loader --------------------------------------------------------------------------------------

def memory(n, classes=3, shape=(1,4,4)):
    g = new_generator(n)
    return ImagesInMemory(torch.randint(0, 256, (n,*shape), generator=g, dtype=torch.uint8), torch.arange(n)%classes)

def numbered(n):
    "Images whose first pixel is their row number"
    return ImagesInMemory(torch.arange(n).float().view(n,1,1,1)/1000, torch.zeros(n, dtype=torch.long))

def rows(dl): return [round(v*1000) for b in dl for v in b[0][:,0,0,0].tolist()]

@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 60), bs=st.integers(1, 20), drop_last=st.booleans(), shuffle=st.booleans())
def test_batches(n, bs, drop_last, shuffle):
    dl = MemoryLoader(numbered(n), bs=bs, shuffle=shuffle, drop_last=drop_last, generator=new_generator(0))
    sizes = [len(b[1]) for b in dl]
    assert len(sizes) == len(dl)
    seen = rows(dl)
    assert len(set(seen)) == len(seen)
    if drop_last: assert sizes == [bs]*(n//bs)
    else:
        assert len(seen) == n and all(s == bs for s in sizes[:-1])
        if bs > 1 and n > 1: assert 1 not in sizes and (not sizes or sizes[-1] <= bs+1)
    if not shuffle: assert seen == list(range(len(seen)))

def test_same_as_item_by_item():
    for n in (40, 45):
        ds = memory(n)
        for a,b in zip(MemoryLoader(ds, bs=10), DataLoader(ds, bs=10), strict=True):
            torch.testing.assert_close(tuple(a), tuple(b), rtol=0, atol=0)

def test_order_comes_from_the_generator_alone():
    before = states()
    def run(seed, **kwargs): return rows(MemoryLoader(numbered(50), bs=7, shuffle=True, generator=new_generator(seed), **kwargs))
    assert run(0) == run(0) != run(1)
    assert run(0, balanced=.5) != run(0)
    g = new_generator(0)
    dl = MemoryLoader(numbered(50), bs=7, shuffle=True, generator=g, augment=lambda x,g: x + 0*torch.rand(1, generator=g))
    rows(dl)
    state = g.get_state()
    second = rows(dl)
    g.set_state(state)
    assert rows(dl) == second
    dl.one_batch(); dl.new(); dl.new(shuffle=False); len(dl)
    assert states() == before

def test_looking_draws_nothing():
    g = new_generator(0)
    dl = MemoryLoader(memory(20), shuffle=True, generator=g, augment=augment_shift)
    state = g.get_state()
    x,y = dl.one_batch()
    list(dl.new(shuffle=False))
    assert g.get_state().equal(state) and x.equal(to_signed(dl.dataset.images))

@pytest.mark.parametrize('share', [.1, .5, 1.])
def test_balanced(share):
    labels = torch.tensor([0]*90 + [2]*9 + [5])
    ds = ImagesInMemory(torch.arange(100).float().view(-1,1,1,1)/1000, labels)
    dl = MemoryLoader(ds, bs=10, shuffle=True, balanced=share, generator=new_generator(0))
    picked = torch.cat([dl.get_idxs() for _ in range(600)])
    got = labels[picked].bincount(minlength=6)[[0,2,5]]/600
    want = (1-share)*torch.tensor([90.,9.,1.]) + share*100/3
    torch.testing.assert_close(got, want, atol=1.2, rtol=0)
    tail = picked[labels[picked] == 2].bincount(minlength=100)[90:99]
    assert tail.min() > .7*tail.float().mean()
    assert len(dl.get_idxs()) == 100

def test_balanced_places_are_spread_over_the_epoch():
    "Every batch gets its share, not the first half of an epoch all of it"
    labels = torch.tensor([0]*1000 + [1])
    ds = ImagesInMemory(torch.zeros(1001,1,1,1), labels)
    dl = MemoryLoader(ds, bs=50, shuffle=True, balanced=.5, generator=new_generator(0))
    rare = torch.stack([labels[i].sum() for i in dl.get_idxs()[:1000].split(50)])
    assert rare.min() >= 4

def test_long_epochs():
    dl = MemoryLoader(numbered(30), bs=8, shuffle=True, generator=new_generator(0), n=100)
    seen = dl.get_idxs()
    assert len(seen) == 100 and all(seen[i:i+30].sort().values.equal(torch.arange(30)) for i in (0,30,60))
    assert len(dl.new(shuffle=False).get_idxs()) == 30
    assert [len(b[1]) for b in MemoryLoader(numbered(30), bs=8, n=16)] == [8,8]
    assert rows(MemoryLoader(numbered(3), bs=4, n=7)) == [0,1,2,0,1,2,0]

def test_fastai_learner():
    ds = memory(45, shape=(1,5,5))
    dl = MemoryLoader(ds, bs=4, shuffle=True, generator=new_generator(0), augment=augment_shift)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(25), torch.nn.Linear(25, 3))
    learn = Learner(DataLoaders(dl, dl.new(shuffle=False)), model, torch.nn.CrossEntropyLoss(), lr=.01)
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    assert len(learn.recorder.losses) == 22
    for kwargs in (dict(ds_idx=0), dict(ds_idx=1), dict(dl=dl)):
        with learn.no_bar(): preds,labels = learn.get_preds(act=noop, **kwargs)
        assert labels.equal(ds.labels), kwargs
        if 'dl' not in kwargs: torch.testing.assert_close(preds, model.eval()(to_signed(ds.images)).detach())
    assert len(learn.dls.new_empty().train) == 0

def test_autoencoder_batches():
    dl = MemoryLoader(memory(20, shape=(1,2,2)), bs=5, autoencode=True)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4), torch.nn.Unflatten(1, (1,2,2)))
    seen = []
    def loss(pred, x, y): seen.append((x.shape, y.shape)); return (pred-x).pow(2).mean()
    learn = Learner(DataLoaders(dl, dl.new()), model, loss, lr=.01)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert set(seen) == {((5,1,2,2), (5,))}

@pytest.fixture
def distributed_dl(monkeypatch):
    "fastai's loader for several processes, without processes: its module needs a name from accelerate when it is read"
    try: import accelerate
    except ImportError: monkeypatch.setitem(sys.modules, 'accelerate', types.SimpleNamespace(Accelerator=type('Accelerator', (), {})))
    monkeypatch.delitem(sys.modules, 'fastai.distributed', raising=False)
    from fastai.distributed import DistributedDL
    class Fake(DistributedDL):
        def _broadcast(self, t, rank): return torch.LongTensor(t).tolist()
        def _to_detach(self, b, cpu=True, gather=True): return b
    yield Fake
    sys.modules.pop('fastai.distributed', None)

@pytest.mark.parametrize('n,shuffle', [(40,True), (41,True), (42,False), (97,True)])
def test_two_processes_cover_all_images(distributed_dl, n, shuffle):
    halves = []
    for rank in (0, 1):
        dl = MemoryLoader(numbered(n), bs=10, shuffle=shuffle, generator=new_generator(5), autoencode=True)
        wrapped = distributed_dl(dl, rank, 2)
        sizes = [len(b[2]) for b in wrapped]
        assert sum(sizes) == (n+1)//2 and 1 not in sizes and len(sizes) <= len(wrapped)
        dl.generator.manual_seed(6)
        halves.append(rows(wrapped))
        assert wrapped.n_inp == 1
    assert set(halves[0]) | set(halves[1]) == set(range(n)) and len(halves[0]) == len(halves[1])
    assert len(set(halves[0]) & set(halves[1])) == n%2

@pytest.mark.parametrize('kwargs,match', [(dict(bs=0), 'bs=0'), (dict(bs=2.), 'bs=2'), (dict(balanced=-.1), 'balanced'), (dict(balanced=2), 'balanced'), (dict(shuffle=True), 'generator')])
def test_loader_refuses(kwargs, match):
    before = states()
    with pytest.raises(InputError, match=match): MemoryLoader(memory(5), **kwargs)
    with pytest.raises(InputError, match='expected ImagesInMemory'): MemoryLoader([1,2])
    assert states() == before

@pytest.mark.parametrize('images,labels', [(torch.zeros(3,4,4), torch.zeros(3).long()), (torch.zeros(3,1,4,4).double(), torch.zeros(3).long()),
    (torch.zeros(3,1,4,4), torch.zeros(3)), (torch.zeros(3,1,4,4), torch.zeros(2).long()), (torch.zeros(3,1,4,4), torch.zeros(3,1).long())])
def test_memory_refuses(images, labels):
    with pytest.raises(InputError): ImagesInMemory(images, labels)

# Augmentation ------------------------------------------------------------------------------------

def test_warp_repeats_the_border_as_torch_does():
    x = torch.rand(6,3,9,13, generator=new_generator(0))*2-1
    angle,scale,shift = torch.linspace(-1,1,6), torch.linspace(.6,1.4,6), torch.linspace(-.3,.3,12).view(6,2)
    h,w = 9,13
    ys,xs = torch.meshgrid(torch.arange(h)-(h-1)/2, torch.arange(w)-(w-1)/2, indexing='ij')
    got = loaders._warp(x, angle, scale, shift)
    for i in range(6):
        u,v = xs-shift[i,0]*w, ys-shift[i,1]*h
        cos,sin = angle[i].cos()/scale[i], angle[i].sin()/scale[i]
        px,py = (cos*u-sin*v+(w-1)/2).clamp(0, w-1), (sin*u+cos*v+(h-1)/2).clamp(0, h-1)
        x0,y0 = px.floor().long().clamp(max=w-2), py.floor().long().clamp(max=h-2)
        a,b = px-x0, py-y0
        want = x[i,:,y0,x0]*(1-a)*(1-b) + x[i,:,y0,x0+1]*a*(1-b) + x[i,:,y0+1,x0]*(1-a)*b + x[i,:,y0+1,x0+1]*a*b
        torch.testing.assert_close(got[i], want, atol=2e-5, rtol=0)

def test_augment():
    before = states()
    x = torch.rand(32,3,16,20, generator=new_generator(0))*2-1
    kept = x.clone()
    a,b,c = (augment_shift(x, new_generator(s)) for s in (0, 0, 1))
    assert a.equal(b) and not a.equal(c) and a.abs().max() <= 1 and x.equal(kept) and a.dtype == x.dtype
    assert augment_shift(x, new_generator(0), degrees=0, shift=0, scale=0).equal(x)
    assert augment_shift(x[:0], new_generator(0)).shape == (0,3,16,20)
    white = torch.ones(4,1,28,28)
    torch.testing.assert_close(augment_shift(white, new_generator(0)), white)
    assert states() == before

def test_ranges_are_kept():
    "A bright dot moves by at most two pixels of 28"
    x = -torch.ones(200,1,28,28)
    x[:,:,14,14] = 1
    y = augment_shift(x, new_generator(0), degrees=0, scale=0)[:,0]+1
    at = torch.stack([(y.sum(2)*torch.arange(28)).sum(1), (y.sum(1)*torch.arange(28)).sum(1)])/y.sum((1,2))
    assert (at-14).abs().max() <= 2.001 and (at-14).min() < -1.8 and (at-14).max() > 1.8

