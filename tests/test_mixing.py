"Labels of mixtures are those of the tables; the callbacks train on what the formula says and leave nothing behind."
import copy, math, pickle, random
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from fastai.basics import (Callback, CancelBatchException, CancelEpochException, CancelFitException, CancelTrainException, CrossEntropyLossFlat, DataLoaders, Learner, SGD, load_learner)
from fastai.callback.core import event
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import Learner
from fastai.callback.training import GradientAccumulation
from fastai.data.load import DataLoader
from deepclsmote.callbacks import BalancedSamplerCallback
from deepclsmote.core import InputError, new_generator
from deepclsmote.features import CentroidLossCallback, LatentSMOTECallback
from deepclsmote.loaders import ImagesInMemory, MemoryLoader
from deepclsmote.models import build
from deepclsmote.rivals.mixing import KINDS, M2m, Mixing, beta_draws, draw_pairs_m2m, evaluation_mode, mix_images, mix_labels, pair_probabilities, random_push, translate
from deepclsmote.rivals.rebalance import DeferredReweighting, RebalancedLoss, balanced_softmax, class_balanced_weights, cross_entropy

counts = (20, 10, 6, 4)
labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
images = (torch.randn(40, 1, 3, 3, generator=new_generator(0))*.3 + labels[:,None,None,None]*.2 - .3).clamp(-1, 1)

def loaders(bs=8, seed=0):
    dl = MemoryLoader(ImagesInMemory(images, labels), bs, True, new_generator(seed))
    return DataLoaders(dl, dl.new(ImagesInMemory(images[::2].clone(), labels[::2].clone()), shuffle=False), device=torch.device('cpu'))

def mlp(seed=0): return build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9,8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8,4)), seed)

def learner(*cbs, net=None, loss=None, dls=None, **kwargs):
    learn = Learner(dls or loaders(), net or mlp(), loss or RebalancedLoss(cross_entropy), cbs=cbs, **{'opt_func': SGD, 'wd': 0., **kwargs})
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == 'ProgressCallback'])
    learn.logger = lambda *args: None
    return learn

def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])
def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()

# Labels

sizes = st.integers(1, 5000)
@settings(max_examples=300, deadline=None)
@given(lam=st.floats(0, 1), n_a=sizes, n_b=sizes, k=st.floats(1, 10), t=st.floats(0.01, 1))
def test_labels(lam, n_a, n_b, k, t):
    assert mix_labels('mixup', lam, n_a, n_b) == pytest.approx(lam)
    lam = torch.tensor(lam, dtype=torch.float64)
    # Remix as the table says it, with exact ratios
    want = 0. if n_a/n_b >= k and lam < t else 1. if n_a/n_b <= 1/k and 1-lam < t else lam.item()
    if min(abs(n_a/n_b-k), abs(n_a/n_b-1/k)) > 1e-5: assert mix_labels('remix', lam, n_a, n_b, k, t).item() == want
    # MAMix: ends, middle, monotone, symmetric
    a,b = n_a**-.25,n_b**-.25
    f = lambda l: mix_labels('mamix', torch.tensor(float(l), dtype=torch.float64), n_a, n_b).item()
    assert f(0) == 0 and f(1) == 1 and f(b/(a+b)) == pytest.approx(.5)
    assert f(lam) + mix_labels('mamix', 1-lam, n_b, n_a).item() == pytest.approx(1)
    assert f(lam) >= f(max(lam.item()-.1, 0)) - 1e-12
    if n_a < n_b: assert f(lam) >= lam.item() - 1e-9  # the rarer keeps more than its share
    want = 1-.5*(1-lam.item())*(a+b)/a if 1-lam.item() < a/(a+b) else .5*lam.item()*(a+b)/b  # as in the authors' code, which counts from the other image
    assert f(lam) == pytest.approx(want)

def test_remix_by_hand():
    for lam,n_a,n_b,want in [(.4, 30, 10, 0), (.5, 30, 10, .5), (.4, 29, 10, .4), (.6, 10, 30, 1), (.5, 10, 30, .5), (.6, 11, 30, .6), (.1, 10, 30, .1), (.9, 30, 10, .9)]:
        assert mix_labels('remix', lam, n_a, n_b) == pytest.approx(want), (lam, n_a, n_b)

def test_vectors_and_refusals():
    lam = torch.rand(7, generator=new_generator(0))
    for kind in KINDS:
        got = mix_labels(kind, lam, torch.arange(1, 8), 3)
        torch.testing.assert_close(got, torch.stack([mix_labels(kind, l, int(n), 3) for l,n in zip(lam, range(1, 8))]))
    for bad in (lambda: mix_labels('cutmix', .5, 1, 1), lambda: Mixing('cutmix'), lambda: Mixing(alpha=-1), lambda: Mixing(alpha='1'), lambda: Mixing(k=.5), lambda: Mixing(t=0), lambda: Mixing(seed='a'), lambda: Mixing(counts=[1])):
        with pytest.raises(InputError): bad()

@pytest.mark.parametrize('alpha', [.1, .4, 1., 4.])
def test_beta(alpha):
    d = beta_draws(alpha, 40_000, new_generator(2)).double()
    assert 0 <= d.min() and d.max() <= 1
    assert d.mean().item() == pytest.approx(.5, abs=.01) and d.var().item() == pytest.approx(1/(4*(2*alpha+1)), abs=.005)
    before = states()
    beta_draws(alpha, 3, new_generator(2))
    assert states() == before

def test_mix_images():
    a,b = images[:3],images[3:6]
    torch.testing.assert_close(mix_images(a, b, .3), .3*a+.7*b)
    lam = torch.tensor([0., .5, 1.])
    got = mix_images(a, b, lam)
    assert torch.equal(got[0], b[0]) and torch.allclose(got[2], a[2])
    torch.testing.assert_close(got[1], (a[1]+b[1])/2)

# The callback

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('per_image', [False, True])
def test_a_step(kind, per_image):
    "Images, labels, logged loss and gradient of every batch, with and without weights"
    got = []
    class Before(Callback):
        order = -20
        def before_batch(self): self.learn.raw = self.x,self.y
    class Note(Callback):
        order = 20
        def after_backward(self): got.append((*self.learn.raw, self.x, self.y, torch.cat([p.grad.flatten() for p in self.model.parameters()]), copy.deepcopy(self.model), self.learn.loss.item()))
    learner(Mixing(kind, alpha=.7, per_image=per_image, seed=4), DeferredReweighting(counts, .5), Before(), Note(), lr=.05).fit(2)
    g,n = new_generator(4),torch.tensor(counts)
    assert len(got) == 10
    for i,(x,y,x_mixed,y_seen,grad,net,logged) in enumerate(got):
        order = torch.randperm(len(y), generator=g)
        lam = beta_draws(.7, len(y) if per_image else 1, g).expand(len(y))
        w = class_balanced_weights(counts).float() if i >= 5 else torch.ones(4)
        mixed = torch.stack([l*a+(1-l)*b for l,a,b in zip(lam, x, x[order])])
        torch.testing.assert_close(x_mixed, mixed)
        share = torch.stack([mix_labels(kind, l, n[a], n[b]) for l,a,b in zip(lam, y, y[order])])
        assert torch.equal(y_seen, torch.where(share >= .5, y, y[order]))
        net.zero_grad()
        z = net(mixed)
        loss = sum(s*w[a]*F.cross_entropy(v[None], a[None]) + (1-s)*w[b]*F.cross_entropy(v[None], b[None]) for s,v,a,b in zip(share, z, y, y[order]))/len(y)
        loss.backward()
        torch.testing.assert_close(torch.cat([p.grad.flatten() for p in net.parameters()]), grad, rtol=1e-4, atol=1e-6)
        assert logged == pytest.approx(loss.item(), rel=1e-4)

def test_seed_decides_and_nothing_global():
    runs = []
    for seed in (1, 1, 2):
        learn = learner(Mixing('remix', seed=seed), lr=.05)
        before = states()
        learn.fit(2)
        assert states()[:2] == before[:2]
        runs.append(weights(learn))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    learn = learner(Mixing(seed=1), lr=0.)
    lams = []
    class Note(Callback):
        def before_batch(self):
            if self.training: lams.append(self.learn.mixing.label_parts[0][1][0].item())
    learn.add_cb(Note())
    for _ in range(2): learn.fit(1); learn.validate()
    assert len(lams) == 10 and lams[:5] == lams[5:]

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat, nn.CrossEntropyLoss, lambda: F.cross_entropy, lambda: RebalancedLoss(balanced_softmax, counts)], ids=['flat','torch','function','balanced'])
def test_loss_functions(loss):
    f = loss()
    learn = learner(Mixing('mamix', seed=0), loss=f, lr=.05)
    learn.fit(2)
    assert weights(learn).isfinite().all() and learn.loss_func is f and getattr(f, 'reduction', 'mean') == 'mean'

def test_only_in_training(tmp_path):
    learn = learner(Mixing('remix', counts=counts), path=tmp_path, loss=CrossEntropyLossFlat())
    learn.fit(1)
    said = learn.recorder.values[-1][1]
    x,y = learn.dls.valid.dataset[torch.arange(20)]
    z = learn.model.eval()(x)
    torch.testing.assert_close(learn.get_preds()[0], z.softmax(1).detach())
    assert learn.validate()[0] == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-5) == pytest.approx(said, rel=1e-5)
    learn.lr_find(num_it=10, show_plot=False)
    learn.export('l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    torch.testing.assert_close(again.get_preds(dl=learn.dls.valid)[0], z.softmax(1).detach())
    assert again.mixing.kind == 'remix' and again.mixing.label_parts is None

def test_other_loaders():
    items = [(i, int(y)) for i,y in zip(images, labels)]
    ds = torch.utils.data.TensorDataset(images, labels)
    for dls in (DataLoaders(DataLoader(items, bs=8, shuffle=True, num_workers=0), DataLoader(items, bs=8, num_workers=0), device=torch.device('cpu')),
                DataLoaders(torch.utils.data.DataLoader(ds, 8), torch.utils.data.DataLoader(ds, 8), device=torch.device('cpu'))):
        learn = learner(Mixing('remix'), DeferredReweighting(counts), dls=dls)
        learn.fit(1)
        assert weights(learn).isfinite().all()

def test_beside_others():
    learn = learner(Mixing('remix', seed=0), BalancedSamplerCallback(seed=0), CentroidLossCallback(), LatentSMOTECallback(seed=0), GradientAccumulation(16), loss=CrossEntropyLossFlat(), lr=.01)
    learn.fit(2)
    assert weights(learn).isfinite().all()
    for other in (MixUp(), CutMix(), Mixing()):
        with pytest.raises(InputError, match='expected one'): learner(Mixing(), other).fit(1)
    with pytest.raises(InputError, match='2 counts'): learner(Mixing(counts=[3, 4])).fit(1)
    with pytest.raises(InputError, match='class number'): learner(Mixing(), loss=nn.BCEWithLogitsLoss(), dls=DataLoaders(*[torch.utils.data.DataLoader([(i, F.one_hot(y, 4).float(), y) for i,y in zip(images, labels)], 8)]*2, device=torch.device('cpu'))).fit(1)

@pytest.mark.parametrize('fault', [CancelBatchException, CancelEpochException, CancelFitException, CancelTrainException, RuntimeError, KeyboardInterrupt])
@pytest.mark.filterwarnings('ignore:none of')
@pytest.mark.parametrize('kind', ['mixing','m2m'])
def test_nothing_left(fault, kind):
    class Break(Callback):
        def after_pred(self):
            if self.training and self.learn.pct_train > .7: raise fault('broken')
    def make(): return Mixing('remix', seed=3) if kind == 'mixing' else M2m(mlp(5), .5, beta=.9, gamma=0., seed=3)
    f,cb = CrossEntropyLossFlat(),make()
    learn = learner(cb, loss=f, lr=.05)
    train = learn.dls.train
    try: learn.fit(2, cbs=Break())
    except (RuntimeError, KeyboardInterrupt): pass
    assert learn.loss_func is f and f.reduction == 'mean' and learn.dls.train is train and learn.loss_func.func.weight is None
    assert not any(m._forward_hooks or m._forward_pre_hooks or 'forward' in m.__dict__ for m in learn.model.modules())
    learn.validate()
    if kind == 'mixing': assert cb.label_parts is None
    if kind == 'm2m': assert len({m.training for m in learn.model.modules()}) == 1
    fresh = learner(make(), loss=CrossEntropyLossFlat(), lr=.05, net=copy.deepcopy(learn.model), dls=loaders(seed=7))
    learn.dls,learn.opt = loaders(seed=7),None
    if kind == 'm2m': learn.remove_cb(cb); learn.add_cb(make())
    for l in (learn, fresh): l.fit(2)
    torch.testing.assert_close(weights(learn), weights(fresh), rtol=0, atol=0)

# M2m

def test_pairs():
    y,n = torch.tensor([0,0,1,2,3,3]),torch.tensor(counts)
    replaced,p = pair_probabilities(y, n, .9)
    for i in range(6):
        assert replaced[i].item() == pytest.approx(1-counts[y[i]]/20)
        for j in range(6): assert p[i,j].item() == pytest.approx(1-.9**max(counts[y[j]]-counts[y[i]], 0))
    g,seen = new_generator(0),torch.zeros(6, 6)
    for _ in range(3000):
        rows,seeds = draw_pairs_m2m(y, n, .9, g)
        assert (n[y[seeds]] > n[y[rows]]).all() and rows.unique().equal(rows)
        seen[rows,seeds] += 1
    want = replaced[:,None]*p*p/p.sum(1, keepdim=True).clamp_min(1e-9)
    torch.testing.assert_close(seen.double()/3000, want, atol=.035, rtol=0)
    assert len(draw_pairs_m2m(torch.tensor([0,0]), n, .9, g)[0]) == 0 and len(draw_pairs_m2m(torch.tensor([3,3]), n, .9, g)[0]) == 0

def test_walk():
    "Against a walk by finite differences, in pixels of another range too"
    g,f = mlp(1).double().eval(),mlp(2).double().eval()
    x = images[:5].double()
    source,target = torch.tensor([0,0,1,2,0]),torch.tensor([3,2,3,3,1])
    goal = lambda v,i: F.cross_entropy(g(v[None]), target[i][None]) + .5*f(v[None])[0,source[i]]
    def slow(v, i, low, high, steps=3):
        for _ in range(steps):
            grad = torch.zeros(9, dtype=torch.float64)
            for j in range(9):
                e = torch.zeros(9, dtype=torch.float64); e[j] = 1e-6
                grad[j] = (goal(v+e.view(1,3,3), i) - goal(v-e.view(1,3,3), i)).item()/2e-6
            v = (v - .1*(high-low)*(grad/grad.norm()).view(1,3,3)).clamp(low, high)
        return v
    for low,high in ((-1., 1.), (0., 1.), (-2., 3.)):
        start = x.clamp(low, high)
        got = translate(g, f, start, source, target, steps=3, low=low, high=high)
        for i in range(5): torch.testing.assert_close(got[i], slow(start[i], i, low, high).detach(), rtol=1e-4, atol=1e-5)
        assert got.min() >= low and got.max() <= high
    assert all(p.grad is None for net in (g, f) for p in net.parameters())

def test_push():
    d = random_push((50, 1, 8, 8), .5, new_generator(0))
    torch.testing.assert_close(d.flatten(1).norm(dim=1), torch.full((50,), .5))
    assert not torch.equal(d[0], d[1]) and random_push((0, 1, 8, 8), .5, new_generator(0)).shape == (0, 1, 8, 8)

def test_evaluation_mode():
    net = mlp().train()
    net[1].eval()
    before = [m.training for m in net.modules()]
    with evaluation_mode(net): assert not any(m.training for m in net.modules())
    with pytest.raises(RuntimeError):
        with evaluation_mode(net): raise RuntimeError
    assert [m.training for m in net.modules()] == before

class Spy(Callback):
    order = 20
    def __init__(self): self.batches = []
    def before_batch(self):
        if self.training: self.batches.append((self.x.clone(), self.y.clone()))

def known(x): return torch.tensor([any(torch.equal(i, j) for j in images) for i in x])

def test_m2m_in_a_fit():
    "Plain batches until the start, balanced ones after; what is replaced is believed by g, and what is not is real"
    g = learner(lr=.3); g.fit(20); g = g.model
    frozen = {k: v.clone() for k,v in g.state_dict().items()}
    plain,with_it,spies = learner(lr=.01),learner(M2m(g, .5, beta=.99, gamma=.6, seed=0), lr=.01),(Spy(), Spy())
    for l,s in zip((plain, with_it), spies): l.add_cb(s); l.fit(4)
    a,b = (s.batches for s in spies)
    assert len(a) == len(b) == 20
    for (x,y),(u,v) in zip(a[:10], b[:10]): assert torch.equal(x, u) and torch.equal(y, v)
    late = torch.cat([y for _,y in b[10:]]).bincount()
    assert late.max() - late.min() <= 2 and sum(not known(x).all() for x,_ in b[10:]) > 0
    g.eval()
    n = 0
    for x,y in b[10:]:
        new = ~known(x)
        n += new.sum().item()
        assert (y[new] > 0).all() and x.abs().max() <= 1
        if new.any(): assert (g(x[new]).softmax(1).gather(1, y[new][:,None]) >= .6-1e-5).all()
    made = with_it.m2m.made
    assert made.replaced.sum() == n > 0 and (made.tried >= made.replaced).all() and made.seen.sum() == 80
    assert all(torch.equal(v, frozen[k]) for k,v in g.state_dict().items()) and all(p.grad is None or not p.grad.any() for p in g.parameters())

@pytest.mark.filterwarnings('ignore:none of')
def test_m2m_leaves_batchnorm_alone():
    "The walk runs the network in evaluation mode: its statistics see the batch alone"
    a,b = learner(M2m(mlp(5), 0., beta=.9, gamma=1., seed=0), lr=0.),learner(M2m(mlp(5), 0., beta=.9, gamma=1., steps=1, seed=0), lr=0.)
    for l in (a, b): l.fit(1)
    assert a.m2m.made.tried.sum() > 0 and a.m2m.made.replaced.sum() == 0
    torch.testing.assert_close(a.model[2].running_mean, b.model[2].running_mean, rtol=0, atol=0)

@pytest.mark.filterwarnings('ignore:none of')
def test_m2m_in_one_long_epoch():
    "A start inside an epoch, and lr_find without it"
    dls = loaders(); dls.train.n = 80
    spy = Spy()
    learn = learner(M2m(mlp(5), .55, gamma=1., seed=0), spy, dls=dls, lr=.01)
    learn.fit(1)
    y = torch.stack([y for _,y in spy.batches])
    assert y.shape == (10, 8) and y[6:].flatten().bincount().tolist() == [8]*4 and learn.m2m.made.seen.sum() == 32

def test_m2m_and_lr_find(tmp_path):
    losses = []
    for cbs in ([], [M2m(mlp(5), 0., seed=0)]):
        learn = learner(*cbs, path=tmp_path, loss=CrossEntropyLossFlat())
        learn.lr_find(num_it=10, show_plot=False)
        losses.append([float(v) for v in learn.recorder.losses])
    assert losses[0] == losses[1]

def test_m2m_other_loader_and_export(tmp_path):
    items = [(i, int(y)) for i,y in zip(images, labels)]
    dls = DataLoaders(DataLoader(items, bs=8, shuffle=True, num_workers=0), DataLoader(items, bs=8, num_workers=0), device=torch.device('cpu'))
    learn = learner(M2m(mlp(5), .5, beta=.9, gamma=0., seed=0), dls=dls, path=tmp_path, loss=CrossEntropyLossFlat())
    learn.fit(2)
    assert learn.m2m.made.replaced.sum() > 0
    kept = learn.m2m.__getstate__()
    assert kept['pretrained'] is None and kept['beta'] == .9 and not {'made','sizes','view','generators'} & kept.keys()
    learn = learner(M2m(mlp(5), .5, beta=.9, gamma=0., seed=0), path=tmp_path, loss=CrossEntropyLossFlat())
    learn.fit(2)
    learn.export('l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    torch.testing.assert_close(again.get_preds(dl=learn.dls.valid)[0], learn.get_preds()[0])
    assert (tmp_path/'l.pkl').stat().st_size < 60_000 and again.m2m.pretrained is None
    again.dls = learn.dls
    with pytest.raises(InputError, match='left out'): again.fit(1)

def test_m2m_says_when_nothing_came_of_it():
    learn = learner(M2m(mlp(5), 0., beta=.9, gamma=1., seed=0), lr=0.)
    with pytest.warns(UserWarning, match='none of'): learn.fit(1)
    learn.validate()

def test_deferred_resampling():
    "Without a network: balanced batches alone, real images all"
    spy = Spy()
    learn = learner(M2m(None, .5, seed=0), spy, lr=.01)
    learn.fit(2)
    assert all(known(x).all() for x,_ in spy.batches) and torch.cat([y for _,y in spy.batches[5:]]).bincount().tolist() == [10]*4
    assert torch.cat([y for _,y in spy.batches[:5]]).bincount().tolist() == list(counts)

def test_m2m_refusals():
    net = mlp()
    for bad,word in [(lambda: M2m(3), 'trained network'), (lambda: M2m(net, beta=1.), 'below 1'), (lambda: M2m(net, gamma=2), 'gamma=2'), (lambda: M2m(net, steps=0), 'steps=0'), (lambda: M2m(net, low=1), 'low=1'), (lambda: M2m(net, start=-1), 'start=-1'),
                     (lambda: learner(M2m(net), net=net).fit(1), 'in training'), (lambda: learner(M2m(net, 0., low=0.)).fit(1), 'low=0'), (lambda: learner(M2m(mlp(1)), BalancedSamplerCallback()).fit(1), 'expected one of them')]:
        with pytest.raises(InputError, match=word): bad()

def test_events_exist():
    for cls in (Mixing, M2m): assert not [k for k in vars(cls) if k.startswith(('before_','after_')) and not hasattr(event, k)]
