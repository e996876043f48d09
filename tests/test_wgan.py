"WGAN-GP: the contract, the penalty, the stopping rule, faults, determinism."
import math
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from deepclsmote.core import conformance, new_generator, toy_images
from deepclsmote.rivals.gans import build_glorot
from deepclsmote.rivals.wgan import Judge, Stopper, WGAN_GP, WGANCritic, WGANGenerator, critic_loss, distance_limits, double_backward, leave_one_out, mmd2, mmd_limit, penalty_of, sample_noise, train_wgan

pytestmark = pytest.mark.filterwarnings('ignore:WGAN')
quick = dict(steps=2, critic_steps=1, batch_size=2, feature_steps=1, first_check=1, check_every=1, report_images=2, progress=False, device='cpu', precision='float32')
def make(**settings): return WGAN_GP(**{**quick, **settings})

@pytest.mark.parametrize('name', conformance)
def test_contract(name): conformance[name](make)

@settings(deadline=None, max_examples=15)
@given(st.integers(16, 40), st.integers(16, 40), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_penalty_three_ways(h, w, c, n, seed):
    "Our gradient, automatic differentiation twice, and one image at a time: values and gradients of the weights"
    critic = build_glorot(lambda: WGANCritic(c, (h,w)), seed).double()
    x = torch.randn(n, c, h, w, generator=new_generator(seed), dtype=torch.double)
    torch.testing.assert_close(critic.input_gradient(x), double_backward(critic, x))
    def one(image):
        image = image[None].clone().requires_grad_()
        return (torch.autograd.grad(critic(image).sum(), image, create_graph=True)[0].square().sum().sqrt()-1)**2
    weights = [p for k,p in critic.named_parameters() if 'weight' in k]
    ways = penalty_of(critic.input_gradient(x)),penalty_of(double_backward(critic, x)),sum(one(i) for i in x)/n
    grads = [torch.autograd.grad(v, weights) for v in ways]
    for v,g in zip(ways[1:], grads[1:]):
        torch.testing.assert_close(ways[0], v)
        for a,b in zip(grads[0], g): torch.testing.assert_close(a, b)

def test_gradient_by_differences():
    critic = build_glorot(lambda: WGANCritic(1, (16,16)), 0).double()
    x,v = (torch.randn(2, 1, 16, 16, generator=new_generator(s), dtype=torch.double) for s in (0,1))
    with torch.no_grad(): slope = (critic(x+1e-6*v)-critic(x-1e-6*v))/2e-6
    torch.testing.assert_close((critic.input_gradient(x)*v).sum((1,2,3)), slope, atol=1e-6, rtol=1e-5)

def test_loss_of_a_linear_critic():
    "Distance, penalty and mixture in closed form"
    class Linear(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.tensor([3.,4.]).view(1,1,1,2))
        def forward(self, x): return (x*self.w).flatten(1).sum(1)
    real,fake = torch.tensor([[1.,0.],[2.,0.]]).view(2,1,1,2),torch.tensor([[0.,1.],[0.,0.]]).view(2,1,1,2)
    seen = []
    def spy(critic, x): seen.append(x); return double_backward(critic, x)
    loss,distance,penalty = critic_loss(Linear(), real, fake, torch.tensor([.25,1.]).view(2,1,1,1), 10., spy)
    assert (float(distance), float(penalty), loss.item()) == (4.5-2., 16., 160-2.5)
    torch.testing.assert_close(seen[0].view(2,2), torch.tensor([[.25,.75],[2.,0.]]))

def test_no_image_speaks_for_another():
    critic = build_glorot(lambda: WGANCritic(1, (16,16)), 0)
    x = torch.randn(4, 1, 16, 16, generator=new_generator(0))
    torch.testing.assert_close(critic(x)[:1], critic(x[:1])); torch.testing.assert_close(critic.input_gradient(x)[:1], critic.input_gradient(x[:1]))
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())

@settings(deadline=None, max_examples=30)
@given(st.integers(16, 256), st.integers(16, 256))
def test_sizes(h, w):
    with torch.device('meta'): g,d = WGANGenerator(3, (h,w)),WGANCritic(3, (h,w))
    x = g.eval().net(torch.zeros(1, 128, device='meta'))
    assert x.shape == (1,3,h,w) and d(x).shape == (1,)
    for net in (g, d): assert sum(p.numel() for p in net.parameters()) < 60e6

def spread(mean, n=30, s=.1): return (mean + s*torch.randn(n, 1, 1, 1, generator=new_generator(0))).expand(n, 1, 16, 16).contiguous()

@pytest.mark.parametrize('mean', [-.5, .4])
def test_learns_a_mean(mean):
    net,_,history,_ = train_wgan(spread(mean), 100, seed=0, batch_size=16, progress=False)
    assert history.status == 'done' and abs(float(sample_noise(net, 100, new_generator(0)).mean()) - mean) < .15

def test_seed_decides_and_judge_disturbs_nothing():
    one = lambda **kw: train_wgan(spread(0.), 3, **{**dict(seed=5, batch_size=4, progress=False), **kw})[0].state_dict()
    a,b,c = one(),one(),one(seed=6)
    assert all(a[k].equal(b[k]) for k in a) and not all(a[k].equal(c[k]) for k in a)
    no = dict(passed=False, diversity=False, ratio=1.)
    judged = one(judge=lambda made: no, first_check=1, every=1)
    assert all(a[k].equal(judged[k]) for k in a)

def test_divergence_is_undone():
    x = spread(0.)
    with pytest.warns(UserWarning, match='diverged'): net,critic,history,record = train_wgan(x, 4, batch_size=4, lr=1e30, every=2, progress=False)
    start = train_wgan(x, 0, batch_size=4, progress=False)[0].state_dict()
    assert (history.status, record['status'], record['kept_step']) == ('diverged','diverged',0)
    assert all(v.equal(start[k]) for k,v in net.state_dict().items())
    bad = x.clone(); bad[:,0,3,3] = math.nan
    with pytest.warns(UserWarning, match='diverged'): assert train_wgan(bad, 4, batch_size=4, progress=False)[2].steps == 0

def stopped(says, first=200, every=100):
    "(accepted, step and weight kept, looks taken) when the judge says (passed, diversity, ratio) look after look"
    net,looks = nn.Linear(1, 1, bias=False),[]
    s = Stopper(net, lambda: None, lambda made: dict(zip(('passed','diversity','ratio'), says[len(looks)])), first)
    for i in range(every, first+every*len(says), every):
        net.weight.data.fill_(i)
        said = s(i)
        if i >= first: looks.append(i)
        else: assert not said
        if said.get('stop'): break
    return s.accepted, s.choose(i), net.weight.item(), len(looks)

@pytest.mark.parametrize('says,want', [
    ([(1,1,.9), (1,1,.5), (1,1,.1)], (True, 200, 200., 2)),              # the first of two, not the better
    ([(1,1,.9), (0,1,.2), (1,1,.8), (1,1,.7)], (True, 400, 400., 4)),    # two in a row
    ([(0,1,3.), (0,0,.1), (0,1,2.)], (False, 400, 400., 3)),             # the nearest of the varied
    ([(0,1,2.), (0,1,2.), (0,1,5.)], (False, 200, 200., 3)),
    ([(0,0,2.), (0,0,1.)], (False, 300, 300., 2)),                       # never varied: the last
    ([(0,1,1.), (1,1,1.5)], (False, 200, 200., 2)),                      # one pass at the end is not two
])
def test_when_to_stop(says, want): assert stopped(says) == want

def phi(x): return x.flatten(1)

def test_judge():
    "Copies are not new, one picture is not varied, far images are not faithful"
    g = new_generator(0)
    base = torch.rand(1, 1, 16, 16, generator=g)
    draw = lambda n: (base + .8*torch.rand(n, 1, 16, 16, generator=g)-.9).clamp(-1, 1)
    own = draw(12)
    judge = Judge(own, phi, distance_limits(phi(own), torch.zeros(12, dtype=torch.long))[0], g)
    verdict = lambda made: tuple(judge(made)[k] for k in ('fidelity','diversity','novelty','passed'))
    assert verdict(draw(60)) == (True, True, True, True)
    assert verdict(own[torch.randint(12, (60,), generator=g)]) == (True, judge(own)['diversity'], False, False)
    assert verdict((draw(1) + .1*torch.randn(60, 1, 16, 16, generator=g)).clamp(-1, 1))[1] is False
    assert verdict(-draw(60))[0] is False

def test_limits():
    f,y = torch.randn(70, 3, generator=new_generator(0)),torch.tensor([0]*55 + [1]*10 + [2]*4 + [3])
    limits = distance_limits(f, y)
    def loo(c):
        rows = f[y==c].tolist()
        return [min(math.dist(a, b) for j,b in enumerate(rows) if j != i) for i,a in enumerate(rows)]
    assert sorted(limits) == [0,1,2] and [limits[c][1] for c in range(3)] == ['own','own','pooled']
    for c,d in ((0,loo(0)), (1,loo(1)), (2,loo(1)+loo(2))): assert limits[c][0] == pytest.approx(np.quantile(d, .9), rel=1e-4)
    twins = torch.zeros(3, 2)
    assert leave_one_out(twins).tolist() == [0.,0.,0.]

def test_mmd():
    g = new_generator(0)
    x,y = torch.randn(60, 5, generator=g),torch.randn(60, 5, generator=g)
    limit = mmd_limit(x, g)
    assert limit > 0 and mmd2(y, x) < limit < mmd2(y+1, x)
    halves = [mmd2(*torch.randn(80, 5, generator=g).split(40)) for _ in range(60)]
    assert abs(np.mean(halves)) < 3*np.std(halves)/60**.5  # unbiased
    judge = lambda n: Judge(torch.rand(n, 1, 16, 16, generator=g), phi, (1.,'own'), g, 'mmd')
    assert judge(49).mmd_limit is None and judge(50).mmd_limit is not None

def test_only_what_is_asked_is_trained():
    X,y = toy_images((9,5,3,1))
    o = make(random_state=0, sampling_strategy={2: 6, 3: 2}).fit(X, y)
    assert list(o.nets_) == [2] and o.report_.status.tolist()[:2] == ['not asked']*2 and o.report_.status[3] == 'copies'
    assert 'one image' in o.report_.alarm[3] and o.report_.alarm[0] == ''
    images,p = o.sample({0: 2, 2: 2, 3: 2}, random_state=0)
    assert p.fallback.tolist() == ['copies']*2 + ['']*2 + ['copies']*2
    for image,row in zip(images, p.itertuples()): assert (row.parent_a >= 0) == (row.fallback == 'copies') and (row.fallback == '' or (image == X[row.parent_a]).all())

def test_classes_do_not_depend_on_each_other():
    "A class gets the same networks whatever else is asked for"
    X,y = toy_images((9,5,3))
    a,b = (make(random_state=0, sampling_strategy=s).fit(X, y) for s in ({1: 9, 2: 9}, {2: 4}))
    assert all(v.equal(b.nets_[2].state_dict()[k]) for k,v in a.nets_[2].state_dict().items())

def test_settings():
    X,y = toy_images((16,9,3))
    o = make(random_state=0, hold_back=True).fit(X, y)
    assert 'held_gap' in o.histories_[1].table and 'held_gap' not in o.histories_[2].table
    assert make(random_state=0, rule='none').fit(X, y).accepted_ == {1: False, 2: False}
    assert make(random_state=0, precision='bfloat16').fit(X, y).sample(2, 1)[0].dtype == np.uint8
    for bad in (dict(steps=0), dict(rule='best'), dict(batch_size=1), dict(penalty=-1.), dict(lr=0.)):
        with pytest.raises(ValueError): make(**bad).fit(X, y)

@pytest.mark.parametrize('shape', [(17,20), (3,32,32), (40,16,4)])
def test_other_images(shape):
    X,y = toy_images((5,2), shape, 'float32', -1)
    new,_ = make(random_state=0).fit_resample(X, y)
    assert new.shape == (10,*shape) and np.isfinite(new).all() and np.abs(new).max() <= 1
