"The losses agree with slow loops and their gradients with finite differences; the callbacks keep to their phase and leave nothing behind."
import copy, math, pickle, random, warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F
from fastai.basics import (Callback, CancelBatchException, CancelEpochException, CancelFitException, CancelTrainException, CrossEntropyLossFlat, DataLoaders, Learner, SGD, accuracy, load_learner)
from fastai.callback.core import event
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import Learner
from fastai.callback.training import GradientAccumulation
from fastai.data.load import DataLoader
from fastai.interpret import Interpretation
from deepclsmote.core import InputError, new_generator
from deepclsmote.features import CentroidLossCallback, LatentSMOTECallback
from deepclsmote.loaders import ImagesInMemory, MemoryLoader
from deepclsmote.models import build
from deepclsmote.rivals import rebalance as R
from deepclsmote.rivals.rebalance import (BALANCED, DeferredReweighting, NormedLinear, PostHoc, RebalancedLoss, balanced_softmax, class_balanced, class_balanced_weights, class_sizes, cosine_head,
    cross_entropy, focal, inverse_frequency_weights, last_linear, ldam, ldam_margins, log_prior, logit_adjusted, logit_adjustment, mean_false_error, weighted_cross_entropy)

counts = (20, 10, 6, 4)
labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
images = (torch.randn(40, 1, 3, 3, generator=new_generator(0))*.3 + labels[:,None,None,None]*.2 - .3).clamp(-1, 1)

def loaders(bs=8, seed=0):
    dl = MemoryLoader(ImagesInMemory(images, labels), bs, True, new_generator(seed))
    return DataLoaders(dl, dl.new(ImagesInMemory(images[::2].clone(), labels[::2].clone()), shuffle=False), device=torch.device('cpu'))

def mlp(seed=0): return build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9,8), nn.ReLU(), nn.Linear(8,4)), seed)

def learner(*cbs, net=None, loss=None, dls=None, **kwargs):
    learn = Learner(dls or loaders(), net or mlp(), loss or RebalancedLoss(cross_entropy), cbs=cbs, **{'opt_func': SGD, 'wd': 0., **kwargs})
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == 'ProgressCallback'])
    learn.logger = lambda *args: None
    return learn

def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])
def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()

# The functions

def softmax(z):
    e = [math.exp(v-max(z)) for v in z]
    return [v/sum(e) for v in e]

def slow(name, z, y, n, w, gamma=1.5, beta=.99, tau=.6):
    "The loss of one image, as the formula says it"
    C,N = len(z),sum(n)
    own = {'weighted': [1/k for k in n], 'class_balanced': [(1-beta)/(1-beta**k) for k in n]}.get(name)
    if own: w = [v*C/sum(own) for v in own]
    add = {'balanced_softmax': [math.log(k) for k in n], 'logit_adjusted': [tau*math.log(k/N) for k in n]}.get(name, [0]*C)
    z = [a+b for a,b in zip(z, add)]
    if name == 'ldam':
        m = .5*n[y]**-.25/max(k**-.25 for k in n)
        z = [30*(v-m*(j == y)) for j,v in enumerate(z)]
    p = softmax(z)[y]
    return -w[y]*math.log(p)*((1-p)**gamma if name in ('focal','class_balanced') else 1)

makers = {'cross_entropy': lambda z,y,n,**k: cross_entropy(z, y, **k), 'weighted': lambda z,y,n,weights=None,**k: weighted_cross_entropy(z, y, n, **k), 'focal': lambda z,y,n,**k: focal(z, y, 1.5, **k),
          'class_balanced': lambda z,y,n,weights=None,**k: class_balanced(z, y, n, .99, 1.5, **k), 'ldam': lambda z,y,n,**k: ldam(z, y, n, **k),
          'balanced_softmax': lambda z,y,n,**k: balanced_softmax(z, y, n, **k), 'logit_adjusted': lambda z,y,n,**k: logit_adjusted(z, y, n, .6, **k)}
every = pytest.mark.parametrize('name', makers)

def batch(seed, n=9, C=4):
    g = new_generator(seed)
    return torch.rand(n, C, generator=g, dtype=torch.float64)*2-1, torch.randint(C, (n,), generator=g), torch.rand(C, generator=g, dtype=torch.float64)+.1, torch.randint(1, 50, (C,), generator=g).tolist()

@every
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_slow_loop(name, seed):
    z,y,w,n = batch(seed)
    own = name in ('weighted','class_balanced')
    want = torch.tensor([slow(name, v, c, n, w.tolist()) for v,c in zip(z.tolist(), y.tolist())], dtype=torch.float64)
    f = makers[name]
    torch.testing.assert_close(f(z, y, n, weights=w, reduction='none'), want)
    torch.testing.assert_close(f(z, y, n, weights=w), want.mean())
    torch.testing.assert_close(f(z, y, n, weights=w, reduction='sum'), want.sum())
    if not own: torch.testing.assert_close(f(z, y, n, weights=w, reduction='weighted_mean'), want.sum()/w[y].sum())

@every
def test_gradient(name):
    z,y,w,n = batch(3)
    z = (z*.9).requires_grad_()
    for reduction in ('mean','sum','none','weighted_mean'): assert torch.autograd.gradcheck(lambda z: makers[name](z, y, n, weights=w, reduction=reduction), z)

@pytest.mark.parametrize('squared', [False, True])
def test_mean_false_error(squared):
    z,y,w,n = batch(5)
    y = torch.tensor([0,0,0,1,1,3,3,3,3])  # none of class 2
    means = [sum(slow('cross_entropy', z[i].tolist(), j, n, w.tolist()) for i in range(9) if y[i] == j)/(y == j).sum().double() for j in (0,1,3)]
    if not squared: torch.testing.assert_close(mean_false_error(z, y, weights=w), 4/3*sum(means))
    means = [sum(slow('cross_entropy', z[i].tolist(), j, n, [1]*4) for i in range(9) if y[i] == j)/(y == j).sum().double() for j in (0,1,3)]
    torch.testing.assert_close(mean_false_error(z, y, squared), 4/3*sum(m**2 if squared else m for m in means))
    torch.testing.assert_close(mean_false_error(z, y, squared, reduction='none').mean(), mean_false_error(z, y, squared))
    assert torch.autograd.gradcheck(lambda z: mean_false_error(z, y, squared), z.requires_grad_())

@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_identities(seed):
    z,y,w,n = batch(seed)
    torch.testing.assert_close(logit_adjusted(z, y, n, 1.), balanced_softmax(z, y, n))
    torch.testing.assert_close(logit_adjusted(z, y, n, 0.), F.cross_entropy(z, y))
    torch.testing.assert_close(logit_adjusted(logit_adjustment(z, n, .3), y, n, .3), cross_entropy(z, y))
    torch.testing.assert_close(focal(z, y, 0, w), cross_entropy(z, y, w))
    torch.testing.assert_close(ldam(z, y, n, max_margin=0, scale=1), cross_entropy(z, y))
    torch.testing.assert_close(cross_entropy(z, y, w, 'weighted_mean'), F.cross_entropy(z, y, weight=w))
    torch.testing.assert_close(balanced_softmax(z, y, [7]*4), cross_entropy(z, y))  # nothing to balance
    torch.testing.assert_close(class_balanced(z, y, n, 0), cross_entropy(z, y))
    torch.testing.assert_close(mean_false_error(z[:1], y[:1]), 4*cross_entropy(z[:1], y[:1]))
    m,w = ldam_margins(n),class_balanced_weights(n, .9)
    assert m.max().item() == pytest.approx(.5) and w.sum().item() == pytest.approx(4)
    rank = torch.tensor(n).double()
    assert ((m[:,None]-m)*(rank[:,None]-rank) <= 1e-12).all() and ((w[:,None]-w)*(rank[:,None]-rank) <= 1e-12).all()  # rarer is wider, and weighs more

def test_focal_at_the_ends():
    "A certain answer and a certain mistake give finite losses and gradients"
    for gamma in (0, .5, 1, 2):
        z = torch.tensor([[200., -200.], [-200., 200.], [0., 0.]], requires_grad=True)
        l = focal(z, torch.zeros(3).long(), gamma)
        l.backward()
        assert l.isfinite() and z.grad.isfinite().all(), gamma

def test_half_precision_is_widened():
    z,y,_,n = batch(0)
    for name,f in makers.items():
        out = f(z.bfloat16()*.9, y, n)
        assert out.dtype == torch.float32, name
    assert logit_adjustment(z.half(), n).dtype == torch.float32 and logit_adjustment(z, n).dtype == torch.float64

def test_margins_by_hand():
    torch.testing.assert_close(ldam_margins([16, 1]), torch.tensor([.25, .5]).double())
    torch.testing.assert_close(class_balanced_weights([2, 1], .5), torch.tensor([.8, 1.2]).double())  # 1.5 and 1 effective images
    torch.testing.assert_close(inverse_frequency_weights([3, 1]), torch.tensor([.5, 1.5]).double())
    torch.testing.assert_close(logit_adjustment(torch.zeros(2), [3, 1], 2.), -2*torch.tensor([.75, .25]).log())

def test_a_class_without_images():
    with pytest.warns(UserWarning, match='class 1 has 0'): torch.testing.assert_close(class_sizes([3, 0, 2]), torch.tensor([3., 1, 2]).double())
    with pytest.warns(UserWarning): loss = RebalancedLoss(balanced_softmax, [3, 0, 2])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert loss(torch.zeros(2, 3), torch.tensor([0, 2])).isfinite()  # said once, not at every step

def test_refusals():
    z,y,w,n = batch(0)
    for bad,word in [(lambda: class_sizes([1.]), 'two classes'), (lambda: class_sizes([1, math.nan]), 'none negative'), (lambda: class_sizes({0: 1, 2: 1}), '0 to 1'), (lambda: class_sizes([0, 0]), 'none negative'),
                     (lambda: class_balanced_weights(n, 1), 'below 1'), (lambda: focal(z, y, -1), 'not negative'), (lambda: cross_entropy(z, y, w[:3]), '4 logits and 3'),
                     (lambda: cross_entropy(z, y, w, 'average'), "'weighted_mean'"), (lambda: cross_entropy(z[0], y), 'floats'), (lambda: cross_entropy(z[:0], y[:0]), 'n above 0'),
                     (lambda: cross_entropy(z, y-1), '0 to 3'), (lambda: cross_entropy(z, y.float()), 'class numbers'), (lambda: ldam(3*z, y, n), 'cosine_head'), (lambda: logit_adjustment(z, n[:3]), '4 logits and 3'),
                     (lambda: RebalancedLoss(ldam), 'needs the counts'), (lambda: RebalancedLoss(focal, n), 'no counts'), (lambda: RebalancedLoss(focal, gama=1), 'gama'),
                     (lambda: DeferredReweighting(n, start=1.5), '0 to 1'), (lambda: PostHoc(n, math.inf), 'finite'), (lambda: cosine_head(nn.Conv2d(1,1,1)), 'no nn.Linear'), (lambda: last_linear(mlp(), '2'), "'2'")]:
        with pytest.raises(InputError, match=word): bad()

# In a learner

def test_loss_in_fastai(tmp_path):
    "Probabilities, decoded classes, losses of each image; exported, read again, interpreted"
    for loss in (RebalancedLoss(balanced_softmax, counts), RebalancedLoss(ldam, counts, scale=20), RebalancedLoss(mean_false_error, squared=True), RebalancedLoss(class_balanced, counts, gamma=1.)):
        net = cosine_head(mlp(), 0) if loss.loss is ldam else mlp()
        learn = learner(net=net, loss=loss, path=tmp_path)
        learn.fit(1, .05)
        x,y = learn.dls.valid.dataset[torch.arange(20)]
        z = learn.model.eval()(x)
        probs,targets,decoded,losses = learn.get_preds(with_loss=True, with_decoded=True)
        torch.testing.assert_close(probs, (loss.scale*z).softmax(1).detach())
        torch.testing.assert_close(decoded, z.argmax(1))
        assert torch.equal(targets, y) and losses.shape == (20,) and loss.reduction == 'mean'
        if loss.loss is not mean_false_error: torch.testing.assert_close(losses.mean(), loss(z, y).detach())
        assert len(Interpretation.from_learner(learn).top_losses(3)[0]) == 3
        learn.export('learner.pkl')
        again = load_learner(tmp_path/'learner.pkl')
        torch.testing.assert_close(again.loss_func.activation(z), loss.activation(z))
        assert repr(again.loss_func) == repr(loss)

def test_plain_fastai_loader():
    "Items one by one, through fastai's own loader, with its tensor classes"
    items = [(i, int(y)) for i,y in zip(images, labels)]
    dls = DataLoaders(DataLoader(items, bs=8, shuffle=True, num_workers=0), DataLoader(items, bs=8, num_workers=0), device=torch.device('cpu'))
    learn = learner(DeferredReweighting(counts, .5), loss=CrossEntropyLossFlat(), dls=dls)
    learn.fit(2, .05)
    learn = learner(PostHoc(counts), loss=CrossEntropyLossFlat(), dls=dls)
    learn.fit(1, .05)
    assert learn.get_preds()[0].shape == (40, 4)

def test_torch_loader():
    ds = torch.utils.data.TensorDataset(images, labels)
    dls = DataLoaders(torch.utils.data.DataLoader(ds, 8), torch.utils.data.DataLoader(ds, 8), device=torch.device('cpu'))
    learn = learner(DeferredReweighting(counts, .5), dls=dls)
    learn.fit(2, .05)
    assert weights(learn).isfinite().all()

def test_gradient_of_the_last_phase():
    "A batch at a time: the gradient is that of the formula, before the start and after it"
    got = []
    class Note(Callback):
        order = 20
        def after_backward(self): got.append((self.learn.pct_train, self.x, self.y, torch.cat([p.grad.flatten() for p in self.model.parameters()]), copy.deepcopy(self.model), self.learn.loss.item()))
    learner(DeferredReweighting(counts, .6), Note(), lr=.05).fit(2)
    w = class_balanced_weights(counts).float()
    assert len(got) == 10
    for i,(pct,x,y,grad,net,logged) in enumerate(got):
        net.zero_grad()
        per = F.cross_entropy(net(x), y, reduction='none')
        l = (w[y]*per).mean() if i >= 6 else per.mean()
        l.backward()
        torch.testing.assert_close(torch.cat([p.grad.flatten() for p in net.parameters()]), grad)
        assert logged == pytest.approx(l.item(), rel=1e-5)

@pytest.mark.parametrize('loss', [lambda: nn.CrossEntropyLoss(), CrossEntropyLossFlat, lambda: F.cross_entropy, lambda: RebalancedLoss(cross_entropy), lambda: RebalancedLoss(focal, gamma=0)], ids=['torch','flat','function','ours','focal'])
def test_any_loss(loss):
    "The same weights whatever the cross-entropy is called; the loss function keeps its state"
    ref = learner(DeferredReweighting(counts, .5), lr=.05)
    f = loss()
    learn = learner(DeferredReweighting(counts, .5), loss=f, lr=.05)
    for l in (ref, learn): l.fit(2)
    torch.testing.assert_close(weights(learn), weights(ref))
    assert learn.loss_func is f and getattr(f, 'reduction', 'mean') == 'mean'

def test_reductions():
    for reduction in ('sum','weighted_mean'):
        got = []
        class Note(Callback):
            order = 20
            def after_loss(self): got.append((self.learn.loss.item(), self.pred.detach(), self.y)) if self.training else None
        learner(DeferredReweighting(counts, 0.), Note(), loss=RebalancedLoss(cross_entropy, reduction=reduction), lr=0.).fit(1)
        w = class_balanced_weights(counts).float()
        for v,z,y in got: assert v == pytest.approx(F.cross_entropy(z, y, weight=w, reduction='sum' if reduction == 'sum' else 'mean').item(), rel=1e-5)

def test_validation_loss_is_plain():
    learn = learner(DeferredReweighting(counts, 0.), lr=.05)
    learn.fit(1)
    x,y = learn.dls.valid.dataset[torch.arange(20)]
    assert learn.recorder.values[-1][1] == pytest.approx(F.cross_entropy(learn.model.eval()(x), y).item(), rel=1e-5)

def test_beside_mixup():
    "fastai's MixUp: each label weighs by its own class"
    got = []
    class Note(Callback):
        order = 20
        def after_loss(self):
            if not self.training: return
            m = self.learn.mix_up
            per = lambda y: class_balanced_weights(counts).float()[y]*F.cross_entropy(self.pred, y, reduction='none')
            got.append((self.learn.loss.item(), (m.lam*per(self.y) + (1-m.lam)*per(m.yb1[0])).mean().item()))
    for loss in (CrossEntropyLossFlat(), RebalancedLoss(cross_entropy)):
        learn = learner(DeferredReweighting(counts, 0.), MixUp(), Note(), loss=loss, lr=.05)
        learn.fit(1)
        assert learn.loss_func is loss
    assert len(got) == 10
    for a,b in got: assert a == pytest.approx(b, rel=1e-5)

def test_beside_callbacks_that_add():
    "A loss added by another callback is kept, and accumulation divides the weighted loss"
    class Add(Callback):
        def after_loss(self): self.learn.loss_grad = self.loss_grad + 5.
    got = []
    class Note(Callback):
        order = 20
        def after_loss(self):
            if self.training: got.append((self.loss_grad.item(), self.learn.loss.item()))
    learner(DeferredReweighting(counts, 0.), Add(), Note(), lr=0.).fit(1)
    for a,b in got: assert a == pytest.approx(b+5, rel=1e-5)
    learner(DeferredReweighting(counts, .5), CentroidLossCallback(), LatentSMOTECallback(seed=0), GradientAccumulation(16), lr=.01).fit(2)

@pytest.mark.parametrize('fault', [CancelBatchException, CancelEpochException, CancelFitException, CancelTrainException, RuntimeError, KeyboardInterrupt])
def test_nothing_left(fault):
    "Whatever ends a fit, learner and loss are as they were, and the next fit is as the first would be"
    class Break(Callback):
        def after_pred(self):
            if self.training and self.learn.pct_train > .7: raise fault('broken')
    f = CrossEntropyLossFlat()
    learn = learner(DeferredReweighting(counts, .5), loss=f, lr=.05)
    before = sorted(k for k in learn.__dict__)
    try: learn.fit(2, cbs=Break())
    except (RuntimeError, KeyboardInterrupt): pass
    assert learn.loss_func is f and f.reduction == 'mean' and f.func.weight is None
    assert not [k for k in learn.__dict__ if k not in before and ('weight' in k or 'label' in k)]
    fresh = learner(DeferredReweighting(counts, .5), loss=CrossEntropyLossFlat(), lr=.05, net=copy.deepcopy(learn.model), dls=loaders(seed=7))
    learn.dls,learn.opt = loaders(seed=7),None
    for l in (learn, fresh): l.fit(2)
    torch.testing.assert_close(weights(learn), weights(fresh), rtol=0, atol=0)

def test_lr_find_sees_the_first_phase(tmp_path):
    seen = {}
    for name,cb in (('plain',[]), ('late',[DeferredReweighting(counts, .1)]), ('always',[DeferredReweighting(counts, 0.)])):
        learn = learner(*cb, path=tmp_path, loss=CrossEntropyLossFlat())
        learn.lr_find(num_it=20, show_plot=False)
        seen[name] = [float(v) for v in learn.recorder.losses]
    assert seen['plain'] == seen['late'] != seen['always']

def test_phase_is_a_share_of_training():
    "Epochs, one long epoch and a resumed fit begin the last phase at the same step"
    class Note(DeferredReweighting):
        def after_loss(self): self.learn.noted.append(self.active()); super().after_loss()
    def phases(epochs, n=None, **kwargs):
        dls = loaders()
        if n: dls.train.n = n
        learn = learner(Note(counts), dls=dls, lr=.01)
        learn.noted = []
        learn.fit(epochs, **kwargs)
        return learn.noted
    assert phases(10) == [False]*40 + [True]*10 == phases(1, 400)
    assert phases(10, start_epoch=7) == [False]*5 + [True]*10
    assert phases(3) == [False]*12 + [True]*3

def test_post_hoc(tmp_path):
    learn = learner(metrics=accuracy, path=tmp_path, loss=CrossEntropyLossFlat(), lr=.1)
    learn.fit(3)
    z,y = learn.get_preds(act=lambda v: v)
    for tau in (0., .5, 1.):
        with learn.added_cbs(PostHoc(counts, tau)):
            want = z - tau*(torch.tensor(counts)/40).log()
            torch.testing.assert_close(learn.get_preds()[0], want.softmax(1))
            loss,acc = learn.validate()
            assert acc == pytest.approx((want.argmax(1) == y).float().mean().item()) and loss == pytest.approx(F.cross_entropy(want, y).item(), rel=1e-5)
            learn.export('l.pkl')
            again = load_learner(tmp_path/'l.pkl')
            torch.testing.assert_close(again.get_preds(dl=learn.dls.valid)[0], want.softmax(1))
    torch.testing.assert_close(learn.get_preds(act=lambda v: v)[0], z)

def test_post_hoc_leaves_training_alone():
    plain,with_it = learner(lr=.05),learner(PostHoc(counts), lr=.05)
    for l in (plain, with_it): l.fit(2)
    assert torch.equal(weights(plain), weights(with_it)) and [float(v) for v in plain.recorder.losses] == [float(v) for v in with_it.recorder.losses]

@pytest.mark.parametrize('cbs,loss', [((PostHoc(counts), PostHoc(counts)), None), ((PostHoc(counts), DeferredReweighting(counts)), None), ((PostHoc(counts),), RebalancedLoss(logit_adjusted, counts)),
    ((DeferredReweighting(counts), DeferredReweighting(counts)), None), ((DeferredReweighting(counts),), RebalancedLoss(weighted_cross_entropy, counts)), ((DeferredReweighting(counts),), RebalancedLoss(mean_false_error)),
    ((DeferredReweighting(counts),), CrossEntropyLossFlat(weight=torch.ones(4))), ((DeferredReweighting(counts),), RebalancedLoss(cross_entropy, weights=[1,2,3,4])), ((DeferredReweighting(counts + (2,), 0.),), None)])
def test_twice_is_refused(cbs, loss):
    with pytest.raises(InputError): learner(*cbs, loss=loss).fit(1)

def test_balanced_losses_are_listed():
    assert all(callable(f) and f.__module__ == R.__name__ for f in BALANCED) and focal not in BALANCED and ldam not in BALANCED and cross_entropy not in BALANCED

# The cosine layer

def test_cosine_head():
    before = states()
    net = cosine_head(mlp(), 0)
    assert states() == before
    x = images[:6]
    h,w = net[:3](x),net[3].weight
    torch.testing.assert_close(net(x), torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for b in w]) for a in h]))
    assert net[3].bias is None and torch.equal(cosine_head(mlp(), 0)[3].weight, w) and not torch.equal(cosine_head(mlp(), 1)[3].weight, w)
    torch.testing.assert_close(w.norm(dim=1), torch.ones(4))
    net = cosine_head(mlp().double(), 0, layer='1')
    assert isinstance(net[1], NormedLinear) and net[1].weight.dtype == torch.float64
    with pytest.raises(InputError, match='Sequential'): cosine_head(nn.Linear(3, 2))
    assert torch.autograd.gradcheck(lambda v: net[1](v), torch.randn(3, 9, dtype=torch.float64, generator=new_generator(0)).requires_grad_())
    pickle.loads(pickle.dumps(net))

def test_cosine_head_of_resnet32():
    "The long-tail literature's ResNet-32 with the normalised layer: ten numbers fewer"
    networks = pytest.importorskip('deepclsmote.networks')
    for c,plain,cosine in ((1, 463_866, 463_856), (3, 464_154, 464_144)):
        net = networks.ResNet32(c)
        size = lambda: sum(p.numel() for p in net.parameters())
        assert size() == plain
        cosine_head(net, 0)
        assert size() == cosine and net(torch.zeros(2, c, 32, 32)).abs().max() <= 1.0001

def test_events_exist():
    for cls in (DeferredReweighting, PostHoc):
        assert not [k for k in vars(cls) if k.startswith(('before_','after_')) and not hasattr(event, k)]
