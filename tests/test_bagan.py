"BAGAN: the contract, other sizes, the quick kernels, the Gaussians, faults, and a small run on real data."
import os
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F
from deepclsmote.core import conformance, new_generator, toy_images
from deepclsmote.rivals.bagan import BAGAN, BAGANEncoder, BAGANGenerator, PlainUpConv, UpConv, asked_shares, ceil_halvings, class_gaussians, compete, same_padding
from deepclsmote.rivals.gans import build_glorot

pytestmark = pytest.mark.filterwarnings('ignore:BAGAN')
real = os.environ.get('DEEPCLSMOTE_DATA')
quick = dict(autoencoder_steps=1, steps=1, batch_size=2, report_images=2, progress=False, device='cpu', precision='float32')
def make(**settings): return BAGAN(**{**quick, **settings})

@pytest.mark.parametrize('name', conformance)
def test_contract(name): conformance[name](make)

@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_up_is_up(h, w, i, o, seed):
    fast = build_glorot(lambda: UpConv(i, o), seed).double()
    plain = PlainUpConv(i, o).double()
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, i, h, w, generator=new_generator(seed), dtype=torch.double, requires_grad=True)
    a,b = F.pixel_shuffle(F.conv2d(x, _phases(fast.weight), padding=1), 2),F.conv2d(F.interpolate(x, scale_factor=2), plain.weight, padding=2)
    torch.testing.assert_close(a, b)
    v = torch.randn(a.shape, generator=new_generator(seed+1), dtype=torch.double)
    for p,q in zip(torch.autograd.grad(a, (x, fast.weight), v), torch.autograd.grad(b, (x, plain.weight), v)): torch.testing.assert_close(p, q)

def _phases(w):
    "`phases` in double precision, tap by tap"
    o,i = w.shape[:2]
    out = torch.zeros(o, 2, 2, i, 3, 3, dtype=w.dtype)
    for p in range(2):
        for q in range(2):
            for a in range(5):
                for b in range(5): out[:,p,q,:,(p+a-2)//2+1,(q+b-2)//2+1] += w[:,:,a,b]
    return out.reshape(4*o, i, 3, 3)

def test_phases_tap_by_tap():
    from deepclsmote.rivals.bagan import phases
    w = torch.randn(3, 2, 5, 5, generator=new_generator(0))
    torch.testing.assert_close(phases(w), _phases(w))
    with torch.autocast('cpu', torch.bfloat16): assert phases(w).equal(phases(w).float()) and phases(w).dtype == torch.float32

@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 3))
def test_same_padding(size, kernel, stride):
    before,after = same_padding(size, kernel, stride)
    assert 0 <= after-before <= 1 and (size+before+after-kernel)//stride+1 >= -(-size//stride) - (kernel < stride)
    if before+after: assert (size+before+after-kernel) % stride == 0 and (size+before+after-kernel)//stride+1 == -(-size//stride)

@settings(deadline=None, max_examples=30)
@given(st.integers(16, 256), st.integers(16, 256))
def test_sizes(h, w):
    maps = ceil_halvings((h,w))
    assert len(maps) >= 3 and maps[-1][0]*maps[-1][1] <= 64
    assert len(maps) == 3 or maps[-2][0]*maps[-2][1] > 64
    with torch.device('meta'): generator,encoder = BAGANGenerator(3, (h,w), up=PlainUpConv),BAGANEncoder(3, (h,w))
    for net in (generator, encoder): assert sum(p.numel() for p in net.parameters()) < 30e6
    assert generator(torch.zeros(1, 100, device='meta')).shape == (1,3,h,w)
    assert encoder.eval()(torch.zeros(1, 3, h, w, device='meta')).shape == (1,100)

@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=4), st.floats(0, 1), st.integers(0, 99))
def test_gaussians(counts, shrink, seed):
    d,y = 8,torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    z = torch.randn(len(y), d, generator=new_generator(seed)) + 3*y[:,None]
    g = class_gaussians(z, y, len(counts), shrink)
    dev = torch.cat([z[y==c]-z[y==c].mean(0) for c in range(len(counts))])
    pooled = dev.T@dev/max(len(y)-len(counts), 1)
    for c,n in enumerate(counts):
        want = pooled/4 if n == 1 else (1-shrink)*z[y==c].T.cov() + shrink*pooled
        torch.testing.assert_close(g.factors[c].T@g.factors[c], want, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(g.means, torch.stack([z[y==c].mean(0) for c in range(len(counts))]))

def test_draws_stay_in_the_flat():
    "Without shrinking, codes of a class of four lie in the plane of its four codes; a seed decides"
    z,y = torch.randn(34, 100, generator=new_generator(0)),torch.tensor([0]*30 + [1]*4)
    g = class_gaussians(z, y, 2)
    drawn = g.draw(torch.ones(50, dtype=torch.long), new_generator(1)) - g.means[1]
    basis = torch.linalg.qr((z[30:]-g.means[1]).T[:,:3])[0]
    torch.testing.assert_close(drawn @ basis @ basis.T, drawn, atol=1e-4, rtol=1e-3)
    assert torch.linalg.matrix_rank(class_gaussians(z, y, 2, .1).factors[1]) > 20
    assert g.draw(y, new_generator(1)).equal(g.draw(y, new_generator(1)))

def test_shares():
    y = torch.tensor([0]*6 + [1]*3 + [2])
    torch.testing.assert_close(asked_shares(y, 3, 'rebalance'), torch.tensor([2/30, 11/30, 17/30])/(30/30))
    torch.testing.assert_close(asked_shares(y, 3), torch.full((3,), 1/3))

def toy(): return toy_images((9,5,2))

def test_labels_decide_what_the_discriminator_learns():
    "After some steps it names the classes of real images, and calls few of them fake"
    X,y = toy_images((20,20,20), (16,16))
    x,y = torch.from_numpy(X)[:,None],torch.from_numpy(y)
    g,d = build_glorot(lambda: BAGANGenerator(1, (16,16)), 0),build_glorot(lambda: BAGANEncoder(1, (16,16), 4), 1)
    z = class_gaussians(torch.randn(60, 100, generator=new_generator(0)), y, 3)
    draw = {k: new_generator(i) for i,k in enumerate(('order','noise','masks'))}
    history = compete(g, d, z, x, y, 60, draw, batch_size=16, lr=1e-3, every=60, progress=False)
    with torch.no_grad(): answer = d.eval()(x.float()/127.5-1).argmax(1)
    assert (answer == y).float().mean() > .9 and list(history.table) == ['step','discriminator','generator','agreement']
    assert all(p.requires_grad for p in d.parameters())

def test_start_is_the_autoencoder():
    "With steps=0 the generator is the decoder and the discriminator has the encoder's features"
    a,b = make(autoencoder_steps=2, steps=0, random_state=0).fit(*toy()),make(autoencoder_steps=2, steps=1, random_state=0).fit(*toy())
    assert a.gaussians_.factors.equal(b.gaussians_.factors) and a.autoencoder_history_.table.equals(b.autoencoder_history_.table)
    assert a.report_.drift.eq(0).all() and b.report_.drift.gt(0).all()
    assert not a.decoder_.last.weight.equal(b.decoder_.last.weight)

@pytest.mark.parametrize('at', ['autoencoder_steps','steps'])
def test_divergence_is_undone(at):
    "An absurd rate: weights stay finite, images stay in range, and it is said"
    with pytest.warns(UserWarning, match='diverged'): o = make(**{'autoencoder_steps': 0, 'steps': 0, at: 4}, lr=1e30, random_state=0).fit(*toy())
    history = o.history_ if at == 'steps' else o.autoencoder_history_
    assert (history.status, history.steps) == ('diverged', 0)
    assert all(v.isfinite().all() for v in o.decoder_.state_dict().values())
    assert torch.as_tensor(o.draw(torch.tensor([0,1,2]))).abs().max() <= 1

def test_report_and_shrink():
    o = make(shrink='strong', ask='rebalance', random_state=0).fit(*toy())
    assert o.report_.label.tolist() == [0,1,2] and o.report_.n.tolist() == [9,5,2] and o.report_.alarm.str.len().gt(0).any()
    assert o.report_['rank'].gt(8).all()
    assert make(random_state=0).fit(*toy()).report_['rank'].tolist() == [8,4,1]
    assert 'copies' not in make(report_images=0, random_state=0).fit(*toy()).report_
    for bad in (dict(shrink=1.5), dict(steps=-1), dict(ask='often'), dict(precision='half'), dict(latent_dim=0)):
        with pytest.raises(ValueError): make(**bad).fit(*toy())

@pytest.mark.parametrize('shape', [(17,20), (3,32,32), (40,16,4)])
def test_other_images(shape):
    X,y = toy_images((5,2), shape, 'float32', -1)
    new,_ = make(random_state=0, precision='bfloat16').fit_resample(X, y)
    assert new.shape == (10,*shape) and np.isfinite(new).all() and np.abs(new).max() <= 1

@pytest.mark.skipif(not real, reason='DEEPCLSMOTE_DATA is not set')
def test_real_images():
    from deepclsmote.data import load_dataset
    data = load_dataset('mnist', real)
    y = np.asarray(data.labels)
    rows = np.concatenate([np.flatnonzero(y == 0)[:40], np.flatnonzero(y == 1)[:4]])
    o = make(autoencoder_steps=12, steps=3, batch_size=8, lr=1e-3, random_state=0, report_images=4)
    X,labels = o.fit_resample(np.asarray(data.images)[rows], y[rows])
    assert np.bincount(labels).tolist() == [40,40] and X.shape[1:] == (28,28)
    assert o.autoencoder_history_.table.error.iloc[-1] < .9 and o.report_['rank'].tolist() == [39,3]
