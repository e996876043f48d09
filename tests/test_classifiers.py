"Classifiers: sizes, exact steps, determinism, modes and faults."
import os, random
import numpy as np
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from torch import nn
from deepclsmote.core import InputError, new_generator
from deepclsmote.data import load_dataset, long_tail_split
from deepclsmote.loaders import augment_shift
from deepclsmote.classifiers import PlainCNN, predict, train_classifier

real = os.environ.get('DEEPCLSMOTE_DATA')
def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def quick(images, labels, n_classes=3, **kwargs):
    return train_classifier(images, labels, n_classes, **{**dict(steps=3, batch_size=4, progress=False, device='cpu'), **kwargs})
def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

@pytest.fixture(scope='module')
def toy():
    "Three classes told apart by where a bright square lies"
    g = new_generator(0)
    y = torch.arange(24)%3
    x = torch.randint(0, 60, (24,1,16,16), generator=g, dtype=torch.uint8)
    for i,c in enumerate(y): x[i,:,4*c:4*c+4,4*c:4*c+4] = 250
    return x,y

@pytest.mark.parametrize('shape,n,total', [((1,28,28),10,421_642), ((3,32,32),10,545_098), ((1,16,16),2,None), ((4,20,36),7,None), ((1,30,19),5,None)])
def test_plain_cnn(shape, n, total):
    c,h,w = shape
    model = PlainCNN(c, (h,w), n)
    want = (9*c+1)*32 + (9*32+1)*64 + (64*(h//4)*(w//4)+1)*128 + 129*n
    assert sum(p.numel() for p in model.parameters()) == want == (total or want)
    x = torch.zeros(2, *shape)
    assert model(x).shape == (2,n)
    maps = [m for m in model.features if isinstance(m, nn.MaxPool2d)]
    assert len(maps) == 2 and model.features[:3](x).shape == (2,32,h//2,w//2) and model.features[:6](x).shape == (2,64,h//4,w//4)

def test_overfits(toy):
    learn = quick(*toy, steps=80, batch_size=8)
    assert (predict(learn, toy[0]).argmax(1) == toy[1].numpy()).all()
    assert learn.recorder.losses[-1] < .3*learn.recorder.losses[0]

@pytest.mark.parametrize('steps,batch_size', [(1,2), (7,4), (5,100), (12,24), (13,5)])
def test_steps_are_exact(toy, steps, batch_size):
    "Fewer images than a batch, a whole number of epochs, and not"
    seen = []
    class Net(PlainCNN):
        def forward(self, x):
            if self.training: seen.append(len(x))
            return super().forward(x)
    learn = quick(*toy, steps=steps, batch_size=batch_size, model=Net(1, 16, 3))
    assert seen == [batch_size]*steps and len(learn.recorder.losses) == steps
    assert {int(s['step']) for s in learn.opt.opt.state.values()} == {steps}

def test_deterministic_and_global_generators_rest(toy):
    before = states()
    a,b,c = (quick(*toy, seed=s, augment=augment_shift) for s in (0, 0, 1))
    plain = quick(*toy, seed=0)
    predict(a, toy[0])
    assert states() == before
    assert weights(a).equal(weights(b)) and not weights(a).equal(weights(c)) and not weights(a).equal(weights(plain))

def test_the_seed_decides_both_weights_and_order(toy):
    first = [weights(quick(*toy, seed=s, lr=1e-30)) for s in (0, 1)]
    assert not torch.allclose(*first), 'the weights do not depend on the seed'
    def order(seed):
        torch.manual_seed(0)
        return weights(quick(*toy, seed=seed, model=nn.Sequential(nn.Flatten(), nn.Linear(256, 3))))
    assert order(0).equal(order(0)) and not order(0).equal(order(1))

def test_global_seed_has_no_say(toy):
    torch.manual_seed(1); np.random.seed(1); random.seed(1)
    a = weights(quick(*toy))
    torch.manual_seed(2); np.random.seed(2); random.seed(2)
    assert a.equal(weights(quick(*toy)))

def test_inputs_are_left_alone_and_kinds_agree(toy):
    x,y = toy
    kept = x.clone()
    signed = x.float()/127.5-1
    a,b,c = quick(x, y), quick(signed, y.int()), quick(x.numpy(), y.numpy())
    assert x.equal(kept) and weights(a).equal(weights(b)) and weights(a).equal(weights(c))
    np.testing.assert_array_equal(predict(a, x), predict(b, signed))

def test_a_model_of_ones_own(toy):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    first = model[1].weight.detach().clone()
    learn = quick(*toy, model=model)
    assert learn.model is model and not model[1].weight.equal(first)
    assert (model[1].weight-first).abs().max() < .01, 'the given weights were drawn anew'

def test_learning_rate_is_constant_and_adam(toy):
    learn = quick(*toy, lr=.002, steps=6)
    assert learn.recorder.lrs == [.002]*6
    hyper = learn.opt.opt.param_groups[0]
    assert isinstance(learn.opt.opt, torch.optim.Adam) and hyper['betas'] == (.9,.999) and hyper['weight_decay'] == 0

def test_predict(toy):
    x,y = toy
    model = nn.Sequential(PlainCNN(1, 16, 3), nn.Dropout(.5), nn.BatchNorm1d(3))
    learn = quick(x, y, model=model)
    model.train(); model[1].eval()
    modes = [m.training for m in model.modules()]
    mean = model[2].running_mean.clone()
    probs = predict(learn, x)
    assert [m.training for m in model.modules()] == modes and model[2].running_mean.equal(mean)
    assert probs.dtype == np.float32 and probs.shape == (24,3)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-6)
    order = torch.randperm(24, generator=new_generator(0))
    for bs in (1, 5, 24, 100): np.testing.assert_allclose(predict(learn, x[order], bs), probs[order], atol=1e-6)
    assert len(learn.recorder.losses) == 3

def test_predict_restores_after_an_error(toy):
    learn = quick(*toy)
    learn.model.train()
    with pytest.raises(RuntimeError): predict(learn, torch.zeros(2,3,16,16))
    assert all(m.training for m in learn.model.modules()) and torch.is_grad_enabled()

def test_fit_goes_on(toy):
    "The Learner is an ordinary one: more training, validation-free, with callbacks"
    learn = quick(*toy)
    first,count = weights(learn), []
    class Count(Callback):
        def after_step(self): count.append(self.train_iter)
    learn.fit(1, cbs=Count())
    assert len(count) == 3 and not weights(learn).equal(first)

def test_progress(toy, capsys, monkeypatch):
    assert not any(isinstance(c, ProgressCallback) for c in quick(*toy).cbs)
    assert capsys.readouterr() == ('','')
    quick(*toy, progress=True)
    out = capsys.readouterr().out
    assert '\r' not in out and out.splitlines()[-1].startswith('Training: epoch 1 of 1, 100%, loss ') and 'train_loss' not in out
    monkeypatch.setattr('deepclsmote.classifiers.draws_bars', lambda: True)
    assert any(isinstance(c, ProgressCallback) for c in quick(*toy, progress=True).cbs)
    assert 'train_loss' in capsys.readouterr().out

class Untouched(nn.Module):
    "A model that must not be called"
    def __init__(self): super().__init__(); self.w = nn.Linear(1, 1)
    def forward(self, x): raise AssertionError('training began')

x4,y4 = torch.zeros(4,1,16,16, dtype=torch.uint8), torch.tensor([0,1,2,0])
@pytest.mark.parametrize('change,match', [
    (dict(labels=torch.tensor([0,1,3,0])), 'label 3 in row 2; expected 0 to 2'), (dict(labels=torch.tensor([0,-1,2,0])), 'label -1 in row 1'),
    (dict(labels=y4[:3]), '4 images'), (dict(labels=y4[:,None]), '4 images'), (dict(labels=y4.float()), 'float32'), (dict(labels=y4 > 0), 'bool'),
    (dict(steps=0), 'steps=0'), (dict(steps=2.5), 'steps=2.5'), (dict(steps=True), 'steps=True'), (dict(batch_size=1), 'batch_size=1'), (dict(n_classes=1), 'n_classes=1'),
    (dict(lr=0), 'lr=0'), (dict(lr=-1.), 'lr=-1'), (dict(lr=float('nan')), 'lr=nan'), (dict(lr=float('inf')), 'lr=inf'), (dict(lr='big'), 'lr='), (dict(seed=-1), 'random_state=-1'),
    (dict(device='abacus'), 'abacus'), (dict(images=x4[:0], labels=y4[:0]), 'n > 0'), (dict(images=x4[:,0]), r'\(4, 16, 16\)'), (dict(images=x4.double()), 'float64'),
    (dict(images=x4.float()+2), r'\[-1, 1\]'), (dict(images=x4.float()*float('nan')), r'\[-1, 1\]')])
def test_bad_input_is_refused_before_training(change, match):
    args = {**dict(images=x4, labels=y4, n_classes=3, model=Untouched()), **change}
    before = states()
    with pytest.raises(InputError, match=match): quick(**args)
    assert states() == before

def test_predict_refuses(toy):
    learn = quick(*toy)
    for bad in (toy[0][0], toy[0].double(), toy[0][:0], toy[0].float()):
        with pytest.raises(InputError): predict(learn, bad)

@pytest.mark.skipif(not real, reason='DEEPCLSMOTE_DATA does not name the folder of MNIST')
def test_mnist_tail():
    "A short run on the real tail: the head is found, the nines, four of which were seen, hardly"
    d = load_dataset('mnist')
    train,test = long_tail_split(d.labels)
    test = test[::20]
    learn = quick(*d.tensors(train), 10, steps=60, batch_size=64)
    hit = predict(learn, d.tensors(test)[0]).argmax(1) == d.labels[test]
    found = [hit[d.labels[test] == c].mean() for c in range(10)]
    assert min(found[:2]) > .9 and found[9] < .5
