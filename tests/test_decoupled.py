"Only the last layer changes, by what the formula says, and it can be had back."
import copy, math, random
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner, SGD, accuracy
from fastai.callback.schedule import Learner
from fastai.data.load import DataLoader
from deepclsmote.classifiers import PlainCNN, train_classifier
from deepclsmote.core import InputError, new_generator, spawn_seeds
from deepclsmote.loaders import ImagesInMemory, MemoryLoader, augment_shift
from deepclsmote.models import build
from deepclsmote.rivals.decoupled import Changed, balanced_batches, choose_tau, last_inputs, learn_scales, retrain_classifier, tau_normalize, tau_weights
from deepclsmote.rivals.rebalance import cosine_head

counts = (20, 10, 6, 4)
labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
images = (torch.randn(40, 1, 4, 4, generator=new_generator(0))*.3 + labels[:,None,None,None]*.2 - .3).clamp(-1, 1)

def loaders(bs=8, seed=0, **kwargs):
    dl = MemoryLoader(ImagesInMemory(images, labels), bs, True, new_generator(seed), **kwargs)
    return DataLoaders(dl, dl.new(ImagesInMemory(images[::2].clone(), labels[::2].clone()), shuffle=False), device=torch.device('cpu'))

def mlp(seed=0, bias=True): return build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16,8), nn.BatchNorm1d(8), nn.Dropout(.5), nn.ReLU(), nn.Linear(8,4,bias=bias)), seed)

def learner(net=None, dls=None, **kwargs):
    learn = Learner(dls or loaders(), net or mlp(), CrossEntropyLossFlat(), **{'opt_func': SGD, 'wd': 0., 'lr': .05, **kwargs})
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == 'ProgressCallback'])
    learn.logger = lambda *args: None
    return learn

def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def state(model): return {k: v.clone() for k,v in model.state_dict().items()}
def same(a, b, but=()): return [k for k in a if not torch.equal(a[k], b[k]) and k not in but] == []

# Tau

@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), tau=st.floats(0, 3))
def test_tau_weights(seed, tau):
    w = torch.randn(4, 6, generator=new_generator(seed), dtype=torch.float64)
    got = tau_weights(w, tau)
    for j in range(4):
        length = math.sqrt(sum(v*v for v in w[j].tolist()))
        torch.testing.assert_close(got[j], torch.tensor([v/length**tau for v in w[j].tolist()], dtype=torch.float64))
    torch.testing.assert_close(got.norm(dim=1), w.norm(dim=1)**(1-tau))

@pytest.mark.parametrize('bias', [True, False])
def test_tau_normalize_and_back(bias):
    learn = learner(mlp(bias=bias))
    learn.fit(1)
    before,head = state(learn.model),learn.model[5]
    w = head.weight
    changed = tau_normalize(learn.model, .7)
    assert learn.model[5] is head and head.weight is w and same(state(learn.model), before, ('5.weight','5.bias'))
    torch.testing.assert_close(w.detach(), tau_weights(before['5.weight'], .7))
    if bias: assert not head.bias.any()
    changed.restore()
    assert same(state(learn.model), before)
    changed.restore()
    with pytest.raises(KeyboardInterrupt):
        with tau_normalize(learn.model, 1.): raise KeyboardInterrupt
    assert same(state(learn.model), before) and w.requires_grad
    learn.fit(1)  # the optimizer still holds the layer
    assert not torch.equal(learn.model[5].weight, before['5.weight'])

def test_metrics_see_it():
    learn = learner(metrics=accuracy)
    learn.fit(3)
    z,y = learn.get_preds(act=lambda v: v)
    x = learn.dls.valid.dataset[torch.arange(20)][0]
    with tau_normalize(learn.model, 1.):
        want = learn.model.eval()[:5](x)@learn.model[5].weight.T
        torch.testing.assert_close(learn.get_preds(act=lambda v: v)[0], want.detach())
        assert learn.validate()[1] == pytest.approx((want.argmax(1) == y).float().mean().item())
    torch.testing.assert_close(learn.get_preds(act=lambda v: v)[0], z)

# Batches

def torch_loaders():
    ds = torch.utils.data.TensorDataset(images, labels)
    return DataLoaders(torch.utils.data.DataLoader(ds, 8, shuffle=True), torch.utils.data.DataLoader(ds, 8), device=torch.device('cpu'))
def item_loaders():
    items = [(i, int(y)) for i,y in zip(images, labels)]
    return DataLoaders(DataLoader(items, bs=8, shuffle=True, num_workers=0), DataLoader(items, bs=8, num_workers=0), device=torch.device('cpu'))
kinds = pytest.mark.parametrize('make', [loaders, item_loaders, torch_loaders, lambda: loaders(augment=augment_shift)], ids=['memory','items','torch','augmented'])

@kinds
def test_balanced_batches(make):
    dls = make()
    before = states(),getattr(dls.train, 'generator', None) and dls.train.generator.get_state() if isinstance(dls.train, MemoryLoader) else None
    a,b,c = ([(x,y) for x,y in balanced_batches(dls.train, 6, seed)] for seed in (1, 1, 2))
    assert [len(y) for _,y in a] == [8]*6 and torch.cat([torch.as_tensor(y) for _,y in a]).bincount().tolist() == [12]*4
    for (x,y),(u,v) in zip(a, b): assert torch.equal(x, u) and torch.equal(y, v)
    assert any(not torch.equal(x, u) for (x,_),(u,_) in zip(a, c))
    assert states() == before[0]
    if before[1] is not None: assert torch.equal(dls.train.generator.get_state(), before[1])

# The second stage

def slow(learn, what, steps, lr, seed, momentum=.9, decay=5e-4):
    "SGD written out, the features from a copy in evaluation mode"
    model = copy.deepcopy(learn.model).eval()
    head_seed,batch_seed = spawn_seeds(seed, 2)
    old = model[5]
    params = [p.detach().clone().requires_grad_() for p in build(lambda: nn.Linear(8, 4, old.bias is not None), head_seed).parameters()] if what == 'cRT' else [torch.ones(4, requires_grad=True)]
    speed = [0*p.detach() for p in params]
    for i,(x,y) in enumerate(balanced_batches(learn.dls.train, steps, batch_seed)):
        z = model[:5](x.as_subclass(torch.Tensor)).detach()
        logits = F.linear(z, *params) if what == 'cRT' else params[0]*old(z).detach()
        grads = torch.autograd.grad(-logits.log_softmax(1)[range(len(y)),y.as_subclass(torch.Tensor)].mean(), params)
        for p,v,d in zip(params, speed, grads):
            v.mul_(momentum).add_(d + decay*p.detach())
            p.data -= lr*.5*(1 + math.cos(math.pi*i/steps))*v
    return [p.detach() for p in params]

methods = pytest.mark.parametrize('what,f', [('cRT',retrain_classifier), ('LWS',learn_scales)], ids=['cRT','LWS'])

@kinds
@methods
def test_second_stage(make, what, f):
    learn = learner(dls=make())
    learn.fit(1)
    want = slow(learn, what, 7, .15, 3)
    before,modes = state(learn.model),[m.training for m in learn.model.modules()]
    globally = states()
    changed = f(learn, 7, lr=.15, seed=3)
    assert states() == globally and [m.training for m in learn.model.modules()] == modes and len(changed.losses) == 7
    after = state(learn.model)
    assert same(after, before, ('5.weight','5.bias')) and not torch.equal(after['5.weight'], before['5.weight'])
    if what == 'cRT':
        for a,b in zip((after['5.weight'], after['5.bias']), want): torch.testing.assert_close(a, b)
    else:
        torch.testing.assert_close(changed.scales, want[0])
        torch.testing.assert_close(after['5.weight'], want[0][:,None]*before['5.weight']); torch.testing.assert_close(after['5.bias'], want[0]*before['5.bias'])
    assert not any(m._forward_hooks or 'forward' in m.__dict__ for m in learn.model.modules()) and all(p.requires_grad for p in learn.model.parameters())
    changed.restore()
    assert same(state(learn.model), before)

@methods
def test_without_bias_and_mixed_modes(what, f):
    learn = learner(mlp(bias=False))
    learn.fit(1)
    learn.model.train(); learn.model[3].eval()
    modes = [m.training for m in learn.model.modules()]
    want = slow(learn, what, 4, .1, 0)
    before = learn.model[5].weight.detach().clone()
    f(learn, 4, lr=.1, seed=0)
    torch.testing.assert_close(learn.model[5].weight.detach(), want[0] if what == 'cRT' else want[0][:,None]*before)
    assert [m.training for m in learn.model.modules()] == modes

def test_balance_is_learned():
    "Where features tell nothing, the new classifier believes in all classes alike, the old one in the frequent"
    learn = learner(mlp())
    with torch.no_grad():
        for p in learn.model[:5].parameters(): p.zero_()
        learn.model[2].bias.fill_(1)
        learn.model[5].bias.copy_((torch.tensor(counts)/40).log()); learn.model[5].weight.zero_()
    x = images[:1]
    torch.testing.assert_close(learn.model.eval()(x).softmax(1), torch.tensor(counts)[None]/40)
    with retrain_classifier(learn, 300, seed=0): torch.testing.assert_close(learn.model(x).softmax(1), torch.full((1,4), .25), atol=.02, rtol=0)

@methods
@pytest.mark.parametrize('fault', [RuntimeError, KeyboardInterrupt])
def test_interrupted(what, f, fault):
    "A second stage that is stopped leaves the first stage's network"
    learn = learner(dls=loaders(augment=None))
    learn.fit(1)
    before,calls = state(learn.model),[0]
    def augment(x, g):
        calls[0] += 1
        if calls[0] > 3: raise fault('broken')
        return x
    learn.dls.train.augment = augment
    learn.model.train()
    with pytest.raises(fault): f(learn, 10, seed=0)
    assert same(state(learn.model), before) and all(m.training for m in learn.model.modules()) and not any(m._forward_hooks or 'forward' in m.__dict__ for m in learn.model.modules())

def test_other_networks():
    learn = train_classifier(images.repeat(1,1,2,2), labels, 4, steps=3, batch_size=8, progress=False, device='cpu')
    w = learn.model.head[-1].weight.detach().clone()
    with retrain_classifier(learn, 3, seed=0): assert not torch.equal(learn.model.head[-1].weight, w)
    assert torch.equal(learn.model.head[-1].weight, w) and learn.model.features[0].weight.requires_grad
    class Swapped(nn.Module):
        "The logits' layer is not the one registered last"
        def __init__(self): super().__init__(); self.out,self.hidden = nn.Linear(8, 4),nn.Linear(16, 8)
        def forward(self, x): return self.out(self.hidden(x.flatten(1)).relu())
    learn = learner(build(Swapped, 0))
    with pytest.raises(InputError, match="'hidden' does not give the logits"): retrain_classifier(learn, 3)
    retrain_classifier(learn, 3, layer='out', seed=0)
    tau_normalize(learn.model, 1., layer='out')
    torch.testing.assert_close(learn.model.out.weight.norm(dim=1), torch.ones(4))

def test_refusals():
    learn = learner()
    cases = [(lambda: tau_normalize(learn.model, -.1), 'tau=-0.1'), (lambda: tau_normalize(learn.model, math.inf), 'tau=inf'), (lambda: tau_normalize(nn.Conv2d(1,1,1)), 'no nn.Linear'), (lambda: tau_normalize(learn.model, layer='2'), "'2'"),
             (lambda: tau_normalize(cosine_head(mlp(), 0)), 'NormedLinear'), (lambda: retrain_classifier(learn, 0), 'steps=0'), (lambda: retrain_classifier(learn, 2.5), 'steps=2.5'), (lambda: retrain_classifier(learn, 3, lr=0), 'lr=0'),
             (lambda: learn_scales(learner(nn.Sequential(*mlp(), nn.Softmax(1))), 3), 'does not give the logits'), (lambda: choose_tau([]), '0 learners'), (lambda: choose_tau([learn], taus=[]), '0 values'), (lambda: choose_tau([learn], taus=[-1]), 'tau=-1')]
    before = state(learn.model)
    for bad,word in cases:
        with pytest.raises(InputError, match=word): bad()
    assert same(state(learn.model), before)

# Choosing

def test_choose_tau():
    learns = [learner(mlp(s)) for s in range(2)]
    for l in learns: l.fit(3)
    before = [state(l.model) for l in learns]
    best,table = choose_tau(learns)
    assert table.shape == (21, 2) and list(table.index) == [round(.1*i, 1) for i in range(21)]
    for tau in (0., .7, 2.):
        for fold,l in enumerate(learns):
            with tau_normalize(l.model, tau): p,y = l.get_preds()
            assert table.loc[tau,fold] == pytest.approx(np.mean([(p[y==c].argmax(1) == c).float().mean() for c in range(4)]), abs=1e-6)
    mean = table.mean(axis=1)
    assert best == min(t for t in mean.index if mean[t] == mean.max())
    assert all(same(state(l.model), b) for l,b in zip(learns, before))

def test_choose_tau_by_construction():
    "One feature, weights 3 and 1: at tau 1 they tie and at tau 2 the smaller wins"
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    x,y = torch.ones(6, 1, 4, 4),torch.tensor([1,1,1,1,0,0])
    x[4:] = -1
    with torch.no_grad(): net[1].weight.copy_(torch.tensor([[3.], [1.]]).expand(2, 16)/4)
    dl = MemoryLoader(ImagesInMemory(x, y), 3)
    learn = learner(net, DataLoaders(dl, dl, device=torch.device('cpu')))
    best,table = choose_tau([learn], taus=[0., .5, 1.5, 2.])
    assert best == 1.5 and table[0].tolist() == [0., 0., 1., 1.]
