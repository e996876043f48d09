"The two callbacks on features: the loss they add is the formula's, and whatever happens to a fit, nothing of them stays in learner or model."
import copy, math, pickle, random
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from fastai.basics import (Callback, CancelBatchException, CancelEpochException, CancelFitException, CancelStepException, CancelTrainException,
                           CrossEntropyLossFlat, DataLoaders, Learner, SGD, load_learner)
from fastai.callback.core import event
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import Learner
from fastai.callback.training import GradientAccumulation
from deepclsmote.core import InputError, new_generator
from deepclsmote.features import CentroidLossCallback, FeatureCallback, LatentSMOTECallback, find_layers, greater_part, latent_smote, listen_once, plain_loss
from deepclsmote.loaders import ImagesInMemory, MemoryLoader
from deepclsmote.losses import inter_class_loss, intra_class_loss
from deepclsmote.models import build

counts = (20, 10, 6, 4)
labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
images = (torch.randn(40, 1, 3, 3, generator=new_generator(0))*.3 + labels[:,None,None,None]*.2 - .3).clamp(-1, 1)

def loaders(bs=8, seed=0):
    dl = MemoryLoader(ImagesInMemory(images, labels), bs, True, new_generator(seed))
    return DataLoaders(dl, dl.new(ImagesInMemory(images[::2].clone(), labels[::2].clone()), shuffle=False), device=torch.device('cpu'))

def mlp(seed=0): return build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9,8), nn.ReLU(), nn.Linear(8,5), nn.Tanh(), nn.Linear(5,4)), seed)

def learner(*cbs, net=None, loss=None, dls=None, **kwargs):
    learn = Learner(dls or loaders(), net or mlp(), loss or CrossEntropyLossFlat(), cbs=cbs, **kwargs)
    if hasattr(learn, 'progress'): learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    return learn

makers = {'batch': lambda: CentroidLossCallback(weights=(.1,1)), 'epoch': lambda: CentroidLossCallback(weights=(.1,1), centroid='epoch'), 'smote': lambda: LatentSMOTECallback(seed=1)}
every = pytest.mark.parametrize('make', makers.values(), ids=makers)

def traces(learn):
    "All that a callback could leave behind"
    mods = [(name, list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks), list(m._backward_pre_hooks), list(m._forward_hooks_always_called),
             list(m._forward_hooks_with_kwargs), sorted(m.__dict__)) for name,m in learn.model.named_modules()]
    return mods, [id(cb) for cb in learn.cbs], id(learn.loss_func), sorted(k for k in learn.__dict__ if k not in fastai_own)
fastai_own = ('opt','smooth_loss','final_record','train_iter','pct_train','n_iter','iter','epoch','loss','loss_grad','pred','xb','yb','dl','n_epoch','training','scaler')

def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])
def opt_keys(learn): return [sorted(learn.opt.state[p].keys()) for ps in learn.opt.param_lists for p in ps]

# What is added

def grads_by_callback(cb, net, bs=40):
    "Gradients of the first batch"
    got = {}
    class Take(Callback):
        order = 20
        def after_backward(self): got.update({n: p.grad.clone() for n,p in self.model.named_parameters()}, x=self.x, y=self.y, loss=self.learn.loss.detach()); raise CancelFitException
    learner(cb, Take(), net=net, dls=loaders(bs)).fit(1)
    return got

def by_formula(net, x, y, extra):
    net.zero_grad()
    z = net[:5](x)
    loss = F.cross_entropy(net[5](z), y) + extra(z, y)
    loss.backward()
    return {n: p.grad for n,p in net.named_parameters()}, loss.detach()

def formula(z, y, w1, w2):
    mu = torch.stack([z[y==c].mean(0) for c in range(4)])
    return w1*sum((z[y==c]-mu[c]).square().sum(1).mean() for c in range(4)) + w2/((mu[:,None]-mu).square().sum() + 1e-8)

@pytest.mark.parametrize('w', [(.1,0), (0,2.), (.1,2.)])
def test_centroid_gradient(w):
    got = grads_by_callback(CentroidLossCallback(weights=w), mlp())
    want,loss = by_formula(mlp(), got['x'], got['y'], lambda z,y: formula(z, y, *w))
    for n,g in want.items(): torch.testing.assert_close(got[n], g, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got['loss'], loss)
    plain,_ = by_formula(mlp(), got['x'], got['y'], lambda z,y: 0)
    assert not torch.allclose(plain['1.weight'], want['1.weight'], rtol=1e-3)

def test_latent_smote_gradient():
    got = grads_by_callback(LatentSMOTECallback(weight=.5, k=2, seed=3), mlp())
    g = new_generator(3)
    net = mlp()
    def extra(z, y):
        new = torch.cat([latent_smote(z[y==c], 20-counts[c], 2, g) for c in (1,2,3)])
        return .5*F.cross_entropy(net[5](new), torch.tensor([1]*10+[2]*14+[3]*16))
    want,loss = by_formula(net, got['x'], got['y'], extra)
    for n,v in want.items(): torch.testing.assert_close(got[n], v, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got['loss'], loss)

def test_points_lie_between():
    z = torch.randn(6, 3, generator=new_generator(0))
    new = latent_smote(z, 50, 2, new_generator(1))
    on = []
    for p in new: # |p-a| + |p-b| == |a-b| for a pair of neighbors
        on.append(any(abs((p-a).norm() + (p-b).norm() - (a-b).norm()) < 1e-5 for a in z for b in z))
    assert all(on) and not torch.equal(new, latent_smote(z, 50, 2, new_generator(2)))
    assert torch.equal(latent_smote(z[:1], 3, 5, new_generator(0)), z[:1].expand(3, 3))

@pytest.mark.parametrize('cb', [CentroidLossCallback(weights=(0,0)), LatentSMOTECallback(weight=0), LatentSMOTECallback(n=1, memory=0)], ids=['centroid', 'smote', 'nothing short'])
def test_no_weight_no_change(cb):
    "Bit-identical, the last one also while it listens"
    plain,with_it = learner(),learner(cb)
    for learn in (plain, with_it): learn.fit_one_cycle(2, .05)
    assert torch.equal(weights(plain), weights(with_it))
    assert plain.recorder.losses == with_it.recorder.losses

@every
def test_weight_changes(make):
    plain,with_it = learner(),learner(make())
    for learn in (plain, with_it): learn.fit(1, .05)
    assert not torch.allclose(weights(plain), weights(with_it)) and weights(with_it).isfinite().all()
    assert plain.recorder.losses[-1] < with_it.recorder.losses[-1] # the logged loss holds the terms

def test_epoch_means():
    "The centroids of the second epoch are the means of the first, with the gradient of the batch's"
    seen = []
    class Note(CentroidLossCallback):
        def extra_loss(self, z, y, m, out):
            seen.append((self.epoch, z.detach(), y, {c: v.clone() for c,v in self._kept.items()}))
            extra = super().extra_loss(z, y, m, out)
            if self.epoch:
                mu = {c: self._kept[c] + z[y==c].mean(0) - z[y==c].mean(0).detach() for c in y.unique().tolist()}
                want = sum((z[y==c]-m).square().sum(1).mean() for c,m in mu.items())
                torch.testing.assert_close(extra, want)
                torch.testing.assert_close(*(torch.autograd.grad(t, z, retain_graph=True)[0] for t in (extra, want)))
            return extra
    learner(Note(centroid='epoch', weights=(1,0))).fit(2, .05)
    first = [s for s in seen if s[0] == 0]
    z,y = (torch.cat([s[i] for s in first]) for i in (1,2))
    assert all(s[3] == {} for s in first)
    kept = seen[-1][3]
    for c in range(4): torch.testing.assert_close(kept[c], z[y==c].mean(0))

def test_alike_and_memory():
    "Every class seen so far is as frequent as the largest; no class keeps more than it has images, nor than `memory`"
    totals = []
    class Note(LatentSMOTECallback):
        def _fill_up(self, z, y):
            known = sorted(set(self._memory) | set(y.tolist()))
            new,made = super()._fill_up(z, y)
            have = y.bincount(minlength=4) + torch.tensor(made, dtype=torch.int64).bincount(minlength=4)
            totals.append((have[known], y.bincount().max()))
            assert all(not v.requires_grad for v in self._memory.values())
            return new,made
    for memory in (64, 3, 0):
        learn = learner(cb := Note(memory=memory, seed=0))
        learn.fit(2)
        assert {c: len(v) for c,v in cb._memory.items()} == {c: min(n, memory) for c,n in enumerate(counts)}
        if memory: assert all((have == most).all() for have,most in totals)
        totals.clear()

def test_n():
    made = []
    class Note(LatentSMOTECallback):
        def _fill_up(self, z, y):
            new,more = super()._fill_up(z, y)
            made.append((y.bincount(minlength=4), torch.tensor(more).bincount(minlength=4)))
            return new,more
    learner(Note(n=9, seed=0)).fit(2)
    real,new = made[-1]
    assert torch.equal(new, (9-real).clamp(min=0))

def test_classes_absent_from_the_batch():
    "Four images, none in the batch: filled up from the memory, and learned by the last layer"
    cb = LatentSMOTECallback(seed=0)
    learn = learner(cb)
    learn.fit(1)
    z,y = torch.randn(5, 5, requires_grad=True),torch.zeros(5, dtype=torch.int64)
    new,made = cb._fill_up(z, y)
    assert made == [1]*5 + [2]*5 + [3]*5 and len(torch.cat(new)) == 15

def test_not_finite_is_left_alone():
    class Spoil(Callback):
        order,run_valid = 70,False
        def before_batch(self):
            if self.iter == 1: self.learn.xb = (self.x*math.inf,)
    cb = LatentSMOTECallback(seed=0)
    class Check(Callback):
        def after_batch(self): assert not self.training or all(v.isfinite().all() for v in cb._memory.values())
    learner(cb, Spoil(), Check()).fit(1)

@every
def test_seeded(make):
    "The same again with the same seed; a second fit begins afresh; no global generator moves more than without"
    a,b = learner(make()),learner(make())
    for learn in (a, b): learn.fit(2, .05)
    assert torch.equal(weights(a), weights(b))
    states = []
    for cbs in ([], [make()]):
        random.seed(0); np.random.seed(0); torch.manual_seed(0)
        learner(*cbs).fit(1)
        states.append((random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()))
    assert states[0] == states[1]

def test_second_fit_is_fresh():
    sizes = []
    class Note(LatentSMOTECallback):
        def extra_loss(self, *args):
            sizes.append(sum(map(len, self._memory.values())))
            return super().extra_loss(*args)
    learn = learner(Note(seed=0))
    learn.fit_one_cycle(1); n = len(sizes)
    learn.fit_one_cycle(1)
    assert sizes[0] == sizes[n] == 0 and sizes[1] > 0
    assert sum(map(len, learn.note._memory.values())) == sum(counts)

# Where it listens

class Branches(nn.Module):
    "The first Linear that is made runs last, one Linear runs twice, another never"
    def __init__(self):
        super().__init__()
        self.last,self.twice,self.never = nn.Linear(6,4),nn.Linear(9,9),nn.Linear(3,3)
        self.middle = nn.Sequential(nn.Linear(9,6), nn.Tanh())
    def forward(self, x): return self.last(input=self.middle(self.twice(self.twice(x.flatten(1)).relu())))

@pytest.mark.parametrize('layer,name,part', [(None,'last','input'), ('last','last','input'), ('middle','middle','output'), ('twice','twice','input'), ('middle.1','middle.1','output')])
def test_layer(layer, name, part):
    got = []
    class Note(CentroidLossCallback):
        def extra_loss(self, z, y, m, out): got.append((z.detach(), m, self.x.clone())); return super().extra_loss(z, y, m, out)
    net = build(Branches, 0)
    twin = copy.deepcopy(net)
    class Once(Callback):
        def after_backward(self): raise CancelFitException
    learner(Note(layer), Once(), net=net).fit(1)
    z,m,x = got[0]
    assert m is dict(net.named_modules())[name]
    h = twin.twice(x.flatten(1)).relu()
    want = dict(last=lambda: twin.middle(twin.twice(h)), middle=lambda: twin.middle(twin.twice(h)), twice=lambda: h)[name.split('.')[0]]()
    torch.testing.assert_close(z, want.detach())

def test_feature_maps_are_flattened():
    net = nn.Sequential(nn.Conv2d(1,2,2), nn.Flatten(), nn.Linear(8,4))
    learner(CentroidLossCallback('0'), net=net).fit(1)

@every
def test_single_linear(make):
    net = nn.Linear(9, 4)
    class Flat(Callback):
        def before_batch(self): self.learn.xb = (self.x.flatten(1),)
    learn = learner(make(), Flat(), net=net)
    learn.fit(1)
    assert 'forward' not in net.__dict__ and not net._forward_hooks

def test_forward_on_the_instance_survives():
    net = mlp()
    own = net.forward = lambda x: type(net).forward(net, x)*1.
    for fault in (None, KeyboardInterrupt):
        learn = learner(CentroidLossCallback(), net=net)
        if fault is None: learn.fit(1)
        else:
            with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Fault('after_pred', KeyboardInterrupt()))
        assert net.forward is own

def test_listen_once_user_hook_raises():
    "A hook of the user's on the root fails before the forward: taken back at the next event"
    learn = learner(CentroidLossCallback())
    before = traces(learn)
    h = learn.model.register_forward_pre_hook(lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): learn.fit(1)
    h.remove()
    learn.validate()
    assert traces(learn) == before

# Nothing stays

class Fault(Callback):
    "Raise `fault` in `where` of the second training batch"
    def __init__(self, where, fault, order=0): self.where,self.fault,self.order = where,fault,order
    def hit(self):
        if self.training and self.iter == 1: raise self.fault
def _at(name):
    def f(self):
        if self.where == name: self.hit()
    return f
for _name in ('before_batch','after_pred','after_loss','before_backward','after_backward','before_step','after_step','after_batch'): setattr(Fault, _name, _at(_name))

places = ['before_batch','after_pred','after_loss','before_backward','before_step','after_batch']
faults = [RuntimeError('fault'), KeyboardInterrupt(), CancelFitException(), CancelBatchException(), CancelTrainException(), CancelEpochException()]

def survive(learn, **kwargs):
    try: learn.fit(1, **kwargs)
    except (RuntimeError, KeyboardInterrupt, CancelBatchException): return True
    return False

@every
@pytest.mark.parametrize('fault', faults, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize('order', [-5, 90])
def test_fault_in_another_callback(make, fault, order):
    for where in places:
        learn,cb = learner(make()),Fault(where, fault, order)
        learn.create_opt()
        before = traces(learn)
        raised = survive(learn, cbs=cb)
        uncaught = where == 'after_batch' and isinstance(fault, CancelBatchException) # by fastai, which expects it earlier
        assert raised == (uncaught or isinstance(fault, (RuntimeError, KeyboardInterrupt))), where
        assert traces(learn) == before, where
    learn.fit(1) # and it works on
    assert traces(learn) == before and weights(learn).isfinite().all()
    plain = learner(); plain.fit(1)
    assert opt_keys(learn) == opt_keys(plain)

@every
@pytest.mark.parametrize('fault', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('at', ['1', '5', ''])
def test_fault_in_forward(make, fault, at):
    "Before the layer, in it, and before the model itself runs"
    learn = learner(make())
    calls = []
    def fail(*args):
        calls.append(1)
        if len(calls) == 3: raise fault('fault')
    h = dict(learn.model.named_modules())[at].register_forward_hook(fail) if at == '' else dict(learn.model.named_modules())[at].register_forward_pre_hook(fail)
    before = traces(learn)
    with pytest.raises(fault, match='fault'): learn.fit(1)
    assert traces(learn) == before
    h.remove()
    learn.fit(1)

@every
@pytest.mark.parametrize('fault', [RuntimeError, KeyboardInterrupt])
def test_fault_in_loss(make, fault):
    calls = []
    class Loss(nn.Module):
        def forward(self, pred, y):
            calls.append(1)
            if len(calls) in (3, 8): raise fault('fault')
            return F.cross_entropy(pred, y)
    learn = learner(make(), loss=Loss())
    before = traces(learn)
    for _ in range(2):
        with pytest.raises(fault): learn.fit(1)
        assert traces(learn) == before

@every
def test_passed_to_fit(make):
    learn = learner()
    before = traces(learn)
    cb = make()
    learn.fit(1, cbs=cb)
    assert traces(learn) == before and cb.learn is None
    assert survive(learn, cbs=[make(), Fault('after_pred', KeyboardInterrupt())]) and traces(learn) == before

# Beside the rest of fastai

@every
def test_silent_outside_training(make):
    calls,cb = [],make()
    extra = cb.extra_loss
    cb.extra_loss = lambda *args: calls.append(1) or extra(*args)
    learn = learner(cb)
    before = traces(learn)
    plain = learner()
    assert learn.validate() == plain.validate()
    assert all(torch.equal(a, b) for a,b in zip(learn.get_preds(), plain.get_preds()))
    learn.get_preds(with_loss=True)
    assert not calls and traces(learn) == before
    learn.fit(1)
    n = len(calls)
    assert n == len(learn.dls.train)
    learn.validate(); learn.get_preds()
    assert len(calls) == n and traces(learn) == before

@every
def test_lr_find(make, tmp_path):
    learn = learner(make(), path=tmp_path)
    before,start = traces(learn),weights(learn)
    learn.lr_find(num_it=10, show_plot=False)
    assert traces(learn) == before and torch.equal(weights(learn), start)
    learn.fit(1)

@every
def test_export(make, tmp_path):
    learn = learner(make(), path=tmp_path)
    learn.fit(1)
    p,_ = learn.get_preds()
    learn.export('learner.pkl')
    cb = learn.cbs[-1]
    held = [v for k,v in cb.__getstate__().items() if k != 'learn']
    assert isinstance(cb, FeatureCallback) and b'torch' not in pickle.dumps(held)
    with pytest.warns(UserWarning): loaded = load_learner(tmp_path/'learner.pkl')
    dl = loaders().valid
    torch.testing.assert_close(loaded.get_preds(dl=dl)[0], p)
    loaded.validate(dl=dl)
    loaded.dls = loaders()
    loaded.fit(1)
    copy.deepcopy(learn).fit(1)

def grad_norms(cb, n_acc, bs=8):
    got = []
    class Take(Callback):
        order = 20
        def before_step(self): got.append(torch.cat([p.grad.flatten().clone() for p in self.model.parameters()])); raise CancelFitException
    learner(cb, Take(), *([GradientAccumulation(n_acc)] if n_acc else []), dls=loaders(bs)).fit(1)
    return got[0]

@every
def test_gradient_accumulation(make):
    "Over two batches the gradient is the mean of both, terms included"
    class Stay(Callback):
        "The gradient of each batch of a net that does not move"
        order = 20
        def before_step(self): grads.append(torch.cat([p.grad.flatten().clone() for p in self.model.parameters()])); raise CancelStepException
    grads = []
    learner(make(), Stay()).fit(1)
    torch.testing.assert_close(grad_norms(make(), 16), (grads[0]+grads[1])/2, rtol=1e-4, atol=1e-6)

class Half(Callback):
    "What MixedPrecision does, on the CPU"
    order = MixedPrecision.order
    def before_batch(self): self.autocast = torch.autocast('cpu', torch.bfloat16); self.autocast.__enter__()
    def after_pred(self): assert self.pred.dtype == torch.bfloat16; self.learn.pred = self.pred.float()
    def after_loss(self): self.autocast.__exit__(None, None, None)

@every
def test_autocast(make):
    "Features of bfloat16 are widened; the terms are those of float32 arithmetic"
    cb,kinds = make(),[]
    extra = cb.extra_loss
    def check(z, *rest):
        assert z.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
        kinds.append(extra(z, *rest)); return kinds[-1]
    cb.extra_loss = check
    learn = learner(cb, Half())
    learn.fit(2, .01)
    assert all(k is None or (k.dtype == torch.float32 and k.isfinite()) for k in kinds) and len(kinds) == 10
    assert weights(learn).isfinite().all() and not torch.is_autocast_enabled('cpu')

@every
@pytest.mark.parametrize('how', ['to_fp16', 'to_bf16'])
@pytest.mark.filterwarnings('ignore')
def test_mixed_precision(make, how):
    learn = getattr(learner(make()), how)()
    before = traces(learn)
    learn.fit(1)
    assert traces(learn) == before

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@every
@pytest.mark.parametrize('how', ['to_fp16', 'to_bf16'])
def test_on_cuda(make, how):
    dls = loaders().cuda()
    learn = getattr(learner(make(), dls=dls), how)()
    before = traces(learn)
    learn.fit(3, .01)
    assert traces(learn) == before and weights(learn).isfinite().all() and next(learn.model.parameters()).is_cuda

@every
@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_mixup(make, mix):
    "Runs beside it, in either order; the learner's loss function comes back"
    for cbs in ([make(), mix()], [mix(), make()]):
        learn = learner(*cbs)
        before,lf = traces(learn),learn.loss_func
        learn.fit(2, .01)
        assert traces(learn) == before and learn.loss_func is lf and weights(learn).isfinite().all()

def test_greater_part():
    "With MixUp the batch's own label always; with CutMix the other where less than half of the image is left"
    seen = []
    class Note(Callback):
        order,run_valid = 3,False
        def before_batch(self):
            for cb in self.learn.cbs:
                if isinstance(cb, MixUp): assert (cb.lam >= .5).all() and torch.equal(greater_part(self.learn), self.y); seen.append('mixup')
                if isinstance(cb, CutMix):
                    own = bool(torch.as_tensor(cb.lam) >= .5)
                    assert torch.equal(greater_part(self.learn), self.y if own else cb.yb1[0]); seen.append(own)
            assert plain_loss(self.learn.loss_func) is lf
    class Pasted(CutMix):
        "A given share of the image is left"
        def before_batch(self):
            super().before_batch()
            self.lam = self.shares[self.iter % 2]
        shares = (.3, torch.tensor([.7]))
    for mix in (MixUp, Pasted):
        learn = learner(mix(), Note()); lf = learn.loss_func
        learn.fit(2)
    assert {'mixup', True, False} <= set(seen)

@every
def test_one_class_batches_and_last_batch_of_one(make):
    one = DataLoaders(MemoryLoader(ImagesInMemory(images[:5], labels[:5]), 5, True, new_generator(0)), loaders().valid)
    learner(make(), dls=one).fit(2)
    learner(make(), dls=loaders(bs=1)).fit(1)

# What is refused

class Tuple(nn.Module):
    def __init__(self): super().__init__(); self.a,self.b = nn.Linear(9,4),nn.Linear(9,4)
    def forward(self, x): out = self.a(x.flatten(1)); self.b(x.flatten(1)); return out

def test_refused_before_training():
    conv = nn.Sequential(nn.Conv2d(1,4,3), nn.Flatten())
    cases = [(CentroidLossCallback('nowhere'), None, "layer='nowhere'"), (CentroidLossCallback(), conv, 'no nn.Linear'), (LatentSMOTECallback('2'), None, 'is a ReLU'),
             (LatentSMOTECallback('3'), None, 'Name the nn.Linear'), (LatentSMOTECallback(), Tuple(), 'other numbers'),
             (CentroidLossCallback('never'), build(Branches, 0), 'took part'), (CentroidLossCallback(), nn.DataParallel(mlp()), 'DataParallel')]
    for cb,net,text in cases:
        learn = learner(cb, net=net)
        start,before = weights(learn),traces(learn)
        with pytest.raises(InputError, match=text): learn.fit(1)
        assert torch.equal(weights(learn), start) and traces(learn) == before, text

@pytest.mark.parametrize('make', [CentroidLossCallback, LatentSMOTECallback])
def test_given_twice(make):
    with pytest.raises(InputError, match='2 callbacks'): learner(make(), make()).fit(1)
    with pytest.raises(InputError, match='2 callbacks'): learner(make()).fit(1, cbs=make())
    learner(CentroidLossCallback(), LatentSMOTECallback()).fit(1)

@every
def test_targets(make):
    class OneHot(Callback):
        def before_batch(self): self.learn.yb = (F.one_hot(self.y, 4).float(),)
    learn = learner(make(), OneHot(), loss=nn.CrossEntropyLoss())
    with pytest.raises(InputError, match='one class number'): learn.fit(1)

@pytest.mark.parametrize('bad', [lambda: CentroidLossCallback(weights=(1,)), lambda: CentroidLossCallback(weights=(-1,0)), lambda: CentroidLossCallback(weights=(math.nan,0)),
    lambda: CentroidLossCallback(centroid='head'), lambda: CentroidLossCallback(eps=0), lambda: LatentSMOTECallback(weight=-1), lambda: LatentSMOTECallback(weight=math.inf),
    lambda: LatentSMOTECallback(k=0), lambda: LatentSMOTECallback(k=2.5), lambda: LatentSMOTECallback(n=0), lambda: LatentSMOTECallback(memory=-1), lambda: LatentSMOTECallback(memory=True)])
def test_settings(bad):
    with pytest.raises(InputError): bad()

def test_events_exist():
    "A misspelt event would never be called"
    for cls in (FeatureCallback, CentroidLossCallback, LatentSMOTECallback):
        for name in dir(cls):
            if name.startswith(('before_','after_')): assert hasattr(event, name), name
