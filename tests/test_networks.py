"Networks by name: sizes, weights from the seed alone, what does not fit; the support vector machine on features."
import random
import numpy as np
import pytest, torch
from sklearn.svm import SVC
from sklearn.preprocessing import StandardScaler
from torch import nn
from deepclsmote.classifiers import PlainCNN, predict, seeded, train_classifier
from deepclsmote.core import InputError, new_generator
from deepclsmote.networks import NETWORKS, make_network, recipe
from deepclsmote.svm import CNNSVM, penultimate, svm_counts, svm_rows

def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def flat(net): return torch.cat([p.detach().flatten() for p in net.parameters()])

@pytest.fixture(scope='module')
def toy():
    "Three classes told apart by where a bright square lies"
    g = new_generator(0)
    y = torch.arange(30)%3
    x = torch.randint(0, 60, (30,1,16,16), generator=g, dtype=torch.uint8)
    for i,c in enumerate(y): x[i,:,4*c:4*c+4,4*c:4*c+4] = 250
    return x,y

@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('c,size,n', [(1,28,10), (3,32,43), (4,(20,36),2)])
def test_every_network_takes_every_image(name, c, size, n):
    before = states()
    a,b,other = (make_network(name, c, size, n, s) for s in (5, 5, 6))
    assert states() == before, 'a global generator was moved'
    h,w = (size,size) if isinstance(size, int) else size
    assert a(torch.zeros(2,c,h,w)).shape == (2,n) and all(m.training for m in a.modules())
    assert flat(a).equal(flat(b)) and not flat(a).equal(flat(other))

def test_resnet18_is_torchvisions_but_for_its_stem():
    import torchvision
    net,full = make_network('resnet18_large_stem', 3, 32, 10),torchvision.models.resnet18(num_classes=10)
    assert {k: v.shape for k,v in net.state_dict().items()} == {k: v.shape for k,v in full.state_dict().items()}
    small = make_network('resnet18', 3, 32, 10)
    assert [k for k,v in small.state_dict().items() if v.shape != full.state_dict()[k].shape] == ['conv1.weight']
    assert isinstance(small.maxpool, nn.Identity) and small.layer4(small.layer3(small.layer2(small.layer1(torch.zeros(1,64,28,28))))).shape[-1] == 4

def test_resnet32_against_a_plain_forward():
    "The same numbers from its weights, layer by layer with F.conv2d"
    import torch.nn.functional as F
    net = make_network('resnet32', 1, 28, 10).eval()
    x = torch.randn(2,1,28,28, generator=new_generator(0))
    def bn(h, m): return F.batch_norm(h, m.running_mean, m.running_var, m.weight, m.bias)
    h = F.relu(bn(F.conv2d(x, net.stem[0].weight, padding=1), net.stem[1]))
    for i,b in enumerate(list(net.features)[:15]):
        stride = 2 if i in (5, 10) else 1
        new = bn(F.conv2d(F.relu(bn(F.conv2d(h, b.conv1.weight, stride=stride, padding=1), b.bn1)), b.conv2.weight, padding=1), b.bn2)
        short = torch.zeros_like(new)
        k = (new.shape[1]-h.shape[1])//2
        short[:,k:k+h.shape[1]] = h[:,:,::stride,::stride]
        h = F.relu(new + short)
    torch.testing.assert_close(net(x), h.mean((2,3)) @ net.fc.weight.T + net.fc.bias)

@pytest.mark.parametrize('bad', ['resnet33', 'timm:', None, 7])
def test_unknown_names_are_refused(bad):
    with pytest.raises(InputError): make_network(bad, 1, 28, 10)

def test_an_instance_is_returned_as_it_is():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10))
    net[1].eval()
    first = {k: v.clone() for k,v in net.state_dict().items()}
    assert make_network(net, 1, 28, 10) is net and all(first[k].equal(v) for k,v in net.state_dict().items()), 'the trial changed it'
    with pytest.raises(InputError, match='3 x 28 x 28'): make_network(net, 3, 28, 10)

def test_seeded_puts_the_generator_back():
    before = torch.random.get_rng_state()
    with seeded(3): a = torch.rand(4)
    with pytest.raises(KeyError):
        with seeded(3):
            b = torch.rand(4)
            raise KeyError
    assert a.equal(b) and torch.random.get_rng_state().equal(before)

def test_dropout_follows_the_seed(toy):
    "Also when the global generator stands elsewhere"
    def train(seed, say):
        torch.manual_seed(say)
        before = states()
        w = flat(train_classifier(*toy, 3, model=make_network('thesis_cnn', 1, 16, 3, 0), steps=3, batch_size=8, seed=seed, progress=False, device='cpu').model)
        assert states() == before
        return w
    assert train(0, 1).equal(train(0, 2)) and not train(0, 1).equal(train(1, 1))

@pytest.mark.parametrize('optimizer,first,last', [('adam',1e-3,1e-3), ('sgd',.1/5*1,.1*.0001)])
def test_recipes(toy, optimizer, first, last):
    learn = train_classifier(*toy, 3, steps=200, batch_size=2, optimizer=optimizer, progress=False, device='cpu', model=nn.Sequential(nn.Flatten(), nn.Linear(256, 3)))
    lrs = learn.recorder.lrs
    assert lrs[0] == pytest.approx(first) and lrs[-1] == pytest.approx(last)
    if optimizer == 'sgd':
        assert max(lrs) == pytest.approx(.1) and lrs[159] == pytest.approx(.1) and lrs[160] == pytest.approx(.001) and lrs[180] == pytest.approx(.00001)
        hyper = learn.opt.opt.param_groups[0]
        assert hyper['momentum'] == .9 and hyper['weight_decay'] == 2e-4

def test_recipe_of_a_name():
    assert [recipe(n) for n in ('plain_cnn','thesis_cnn','resnet18','mobilenet_v3_small')] == ['adam','adam','sgd','sgd'] and recipe(nn.Linear(1,1)) == 'sgd'

@pytest.mark.parametrize('precision', ['float32','bfloat16'])
def test_precision(toy, precision):
    "bfloat16 changes little, gives the loss float32, and leaves float32 weights"
    seen = []
    def loss(logits, y): seen.append(logits.dtype); return nn.functional.cross_entropy(logits, y)
    learn = train_classifier(*toy, 3, steps=40, batch_size=8, precision=precision, loss=loss, progress=False, device='cpu')
    assert set(seen) == {torch.float32} and {p.dtype for p in learn.model.parameters()} == {torch.float32} and not torch.is_autocast_enabled('cpu')
    assert (predict(learn, toy[0]).argmax(1) == toy[1].numpy()).mean() > .9

def test_precision_is_left_off_after_an_error(toy):
    def loss(logits, y): raise KeyError('the loss broke')
    with pytest.raises(KeyError): train_classifier(*toy, 3, steps=2, batch_size=8, precision='bfloat16', loss=loss, progress=False, device='cpu')
    assert not torch.is_autocast_enabled('cpu')

def test_penultimate_of_a_resnet(toy):
    net = make_network('resnet32', 1, 16, 3)
    z = penultimate(net, toy[0], batch_size=7)
    net.eval()
    with torch.no_grad(): want = net.features(net.stem(toy[0].float()/127.5-1))
    np.testing.assert_allclose(z, want, atol=1e-5)

def test_svm_is_scikit_learns_on_scaled_features(toy):
    m = CNNSVM('plain_cnn', steps=6, sample=10, batch_size=8, progress=False, device='cpu', seed=1).fit(*toy, 3)
    rows = torch.arange(30)  # ten a class: all of them
    z = penultimate(m.learn_.model, toy[0])
    scale = StandardScaler().fit(z)
    want = SVC(C=1., gamma='scale').fit(scale.transform(z), toy[1]).decision_function(scale.transform(z))
    np.testing.assert_allclose(m.scores(toy[0]), want, atol=1e-8)

@pytest.mark.parametrize('counts,full', [([6000]*3+[700,500,1000,550], 1000), ([30,20,10,4,1], 7), ([3,2], 1000), ([5,0,2], 3)])
def test_svm_sample(counts, full):
    labels = torch.cat([torch.full((n,), c) for c,n in enumerate(counts)])
    rows = svm_rows(labels, full, new_generator(0))
    assert labels[rows].bincount(minlength=len(counts)).tolist() == svm_counts(counts, full) and len(rows.unique()) == len(rows)
    assert all(1 <= k <= n for k,n in zip(svm_counts(counts, full), counts) if n) and (rows.diff() > 0).all()
