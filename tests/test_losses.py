"The losses against their formulas in NumPy, against difference quotients, and at the edges."
import math, subprocess, sys
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from deepclsmote import losses
from deepclsmote.core import InputError, new_generator
from deepclsmote.losses import (centroid_loss, class_means, epoch_centroids, inter_class_loss, intra_class_loss, permutation_penalty,
                                reconstruction_loss)

readings = ['equation', 'algorithm']
close = torch.testing.assert_close

@st.composite
def batches(draw, classes=12):
    "Codes (float64) and labels: absent classes, single members and one class are all common"
    n,d,J = draw(st.integers(1, 30)),draw(st.integers(1, 8)),draw(st.integers(1, classes))
    g = new_generator(draw(st.integers(0, 2**31)))
    return torch.randn(n, d, generator=g, dtype=torch.float64), torch.randint(J, (n,), generator=g)*draw(st.integers(1, 3))

def batch(n=20, d=5, J=4, seed=0, dtype=torch.float64):
    g = new_generator(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype), torch.randint(J, (n,), generator=g)

def means(z, y): return {j: z[y==j].mean(0) for j in np.unique(y)}
def intra(z, y, c=None):
    c = c or means(z, y)
    return sum(((z[y==j]-c[j])**2).sum()/(y==j).sum() for j in c)
def inter(c, reading, eps=1e-8):
    c = list(c.values())
    sq = [((p-q)**2).sum() for i,p in enumerate(c) for k,q in enumerate(c) if i!=k]
    return 0. if len(c)<2 else 1/(sum(sq)+eps) if reading=='equation' else sum(1/(s+eps) for s in sq)

def grad(f, z):
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(f(z), z)[0]

# reconstruction

@pytest.mark.parametrize('shape', [(1, 1, 2, 2), (3, 3, 4, 5), (7, 1, 28, 28)])
def test_reconstruction(shape):
    g = new_generator(0)
    x,x_hat = torch.rand(shape, generator=g),torch.rand(shape, generator=g)
    a,b = x.double().numpy(),x_hat.double().numpy()
    close(reconstruction_loss(x_hat, x).double(), torch.tensor(((a-b)**2).sum()/len(a)), rtol=1e-5, atol=0)
    close(reconstruction_loss(x_hat, x, 'mean').double(), torch.tensor(((a-b)**2).mean()), rtol=1e-5, atol=0)
    close(grad(lambda t: reconstruction_loss(t, x), x_hat), 2/len(x)*(x_hat-x))
    close(grad(lambda t: reconstruction_loss(t, x, 'mean'), x_hat), 2/x.numel()*(x_hat-x))

def test_reconstruction_gradcheck():
    x,x_hat = torch.rand(2, 1, 3, 3, generator=new_generator(0), dtype=torch.float64),torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    for reduction in ('sum', 'mean'): assert torch.autograd.gradcheck(lambda t: reconstruction_loss(t, x, reduction), x_hat.requires_grad_())

def test_reconstruction_in_half_precision_does_not_overflow():
    x = torch.ones(4, 3, 200, 200, dtype=torch.float16)
    close(reconstruction_loss(-x, x), torch.tensor(4.*3*200*200))

# means and gather

@settings(deadline=None, max_examples=100)
@given(batches())
def test_means(zy):
    z,y = zy
    expected = means(z.numpy(), y.numpy())
    classes,m,counts = class_means(z, y)
    assert classes.tolist()==sorted(expected) and counts.tolist()==[int((y==j).sum()) for j in expected]
    assert counts.dtype==torch.int64 and m.dtype==z.dtype
    close(m, torch.from_numpy(np.stack(list(expected.values()))))

@settings(deadline=None, max_examples=100)
@given(batches())
def test_intra(zy):
    z,y = zy
    close(intra_class_loss(z, y), torch.tensor(intra(z.numpy(), y.numpy())).double())
    classes,m,counts = class_means(z, y)
    which = torch.searchsorted(classes, y)
    close(grad(lambda z: intra_class_loss(z, y), z), 2/counts[which][:,None]*(z-m[which]))
    c = torch.randn(m.shape, generator=new_generator(1), dtype=z.dtype)
    close(intra_class_loss(z, y, c), torch.tensor(intra(z.numpy(), y.numpy(), dict(zip(classes.tolist(), c.numpy())))).double())
    close(grad(lambda z: intra_class_loss(z, y, c), z), 2/counts[which][:,None]*(z-c[which]))
    close(grad(lambda c: intra_class_loss(z, y, c), c), 2*(c-m))

@settings(deadline=None, max_examples=100)
@given(batches(), st.sampled_from(readings))
def test_inter(zy, reading):
    z,y = zy
    close(inter_class_loss(z, y, reading=reading), torch.tensor(inter(means(z.numpy(), y.numpy()), reading)).double())
    classes,c,counts = class_means(z, y)
    J,diff = len(c),c[:,None]-c
    if reading=='equation': to_c = -4*(J*c-c.sum(0))/(diff.square().sum()+1e-8)**2
    else: to_c = -4*(diff/(diff.square().sum(2, keepdim=True)+1e-8)**2).sum(1)
    if J==1: to_c = torch.zeros_like(c)
    which = torch.searchsorted(classes, y)
    close(grad(lambda z: inter_class_loss(z, y, reading=reading), z), to_c[which]/counts[which][:,None])
    close(grad(lambda c: inter_class_loss(z, y, reading=reading, centroids=c), c), to_c)

@pytest.mark.parametrize('reading', readings)
def test_gradcheck(reading):
    z,y = batch()
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: intra_class_loss(z, y), z)
    assert torch.autograd.gradcheck(lambda z: inter_class_loss(z, y, reading=reading), z)
    assert torch.autograd.gradcheck(lambda z: class_means(z, y)[1], z)
    x = torch.rand(20, 1, 2, 2, generator=new_generator(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: centroid_loss(z[:,:4].view(20, 1, 2, 2).tanh(), x, z, y, (1., .5, 2.), reading=reading)['total'], z)

@pytest.mark.parametrize('reading', readings)
def test_order_of_the_batch_and_names_of_classes_do_not_count(reading):
    z,y = batch()
    perm = torch.randperm(20, generator=new_generator(1))
    for f in (lambda z, y: intra_class_loss(z, y), lambda z, y: inter_class_loss(z, y, reading=reading)):
        close(f(z[perm], y[perm]), f(z, y))
        close(f(z, 1000-3*y), f(z, y))
        close(f(z, y.to(torch.int32)), f(z, y))

def test_the_two_forces_do_different_work():
    z,y = batch()
    gather,part = grad(lambda z: intra_class_loss(z, y), z),grad(lambda z: inter_class_loss(z, y), z)
    close(class_means(gather, y)[1], torch.zeros(4, 5, dtype=z.dtype))         # never moves a mean
    for j in range(4): close(part[y==j], part[y==j][:1].expand(int((y==j).sum()), -1))  # never changes a shape

@pytest.mark.parametrize('reading', readings)
@pytest.mark.parametrize('n', [1, 5])
def test_one_class(reading, n):
    z,y = torch.randn(n, 3, generator=new_generator(0)),torch.full((n,), 7)
    assert inter_class_loss(z, y, reading=reading).item()==0
    assert torch.equal(grad(lambda z: inter_class_loss(z, y, reading=reading), z), torch.zeros(n, 3))
    if n==1: assert intra_class_loss(z, y).item()==0 and not grad(lambda z: intra_class_loss(z, y), z).any()

def test_one_image_a_class():
    z = torch.randn(8, 3, generator=new_generator(0))*1e6
    assert intra_class_loss(z, torch.arange(8)).item()==0
    assert torch.equal(class_means(z, torch.arange(8))[1], z)

@pytest.mark.parametrize('reading', readings)
def test_coinciding_centroids(reading):
    z,y = torch.tensor([[1., 2.], [1., 2.], [1., 2.], [5., 5.]]),torch.tensor([0, 1, 2, 3])
    for rows in (slice(0, 2), slice(0, 3), slice(0, 4)):
        loss,g = inter_class_loss(z[rows], y[rows], reading=reading),grad(lambda z: inter_class_loss(z, y[rows], reading=reading), z[rows])
        assert loss.isfinite() and g.isfinite().all()
    close(inter_class_loss(z[:3], y[:3], reading=reading), torch.tensor(1e8 if reading=='equation' else 6e8))
    assert not grad(lambda z: inter_class_loss(z, y[:3], reading=reading), z[:3]).any()

@pytest.mark.parametrize('reading', readings)
@pytest.mark.parametrize('J', [2, 10, 60])
def test_far_from_the_origin(reading, J):
    g = new_generator(J)
    z = ((torch.randn(200, 20, generator=g)*256).round()/256 + 1e4).requires_grad_()
    y = torch.arange(200)%J
    x = torch.zeros(200, 1, 2, 2)
    whole = lambda z: centroid_loss(x.to(z), x.to(z), z, y, (0, 1, 1), reading=reading)['total']
    given = lambda z: inter_class_loss(z, y, reading=reading, centroids=class_means(z.double(), y)[1].to(z))
    close(given(z).double(), given(z.detach().double()), rtol=2e-2, atol=0)    # the given centroids are themselves rounded
    for f in (lambda z: intra_class_loss(z, y), lambda z: inter_class_loss(z, y, reading=reading), whole):
        close(f(z).double(), f(z.detach().double()), rtol=1e-5, atol=0)
        a,b = grad(f, z).double(),grad(f, z.detach().double())
        assert (a-b).norm()<1e-5*b.norm()

@pytest.mark.parametrize('narrow', [torch.bfloat16, torch.float16])
def test_mixed_precision_does_not_narrow_the_losses(narrow):
    z,y = batch(100, 20, 10, dtype=torch.float32)
    z = z.to(narrow).float()
    x = torch.rand(100, 1, 4, 4, generator=new_generator(1)).to(narrow).float()
    expected = centroid_loss(-x, x, z, y)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside,halves = centroid_loss(-x, x, z, y),centroid_loss(-x.to(narrow), x, z.to(narrow), y)
    for got in (inside, halves):
        for k in expected: close(got[k], expected[k]); assert got[k].dtype==torch.float32

def test_same_digits_each_time():
    z,y = batch(1000, 30, 10, dtype=torch.float32)
    f = lambda z: intra_class_loss(z, y) + inter_class_loss(z, y)
    first = grad(f, z)
    for _ in range(5): assert torch.equal(grad(f, z), first)

def test_inputs_stay_as_they_are():
    z,y = batch()
    before = z.clone(),y.clone()
    for reading in readings: grad(lambda z: intra_class_loss(z, y)+inter_class_loss(z, y, reading=reading), z)
    assert torch.equal(z, before[0]) and torch.equal(y, before[1])

# centroids of the epoch

def test_epoch_centroids():
    z,y = batch(J=3)
    y = y*2                                                     # labels 0, 2, 4 of 0..5
    kept = torch.randn(6, 5, generator=new_generator(2), dtype=z.dtype).requires_grad_()
    kept.data[[1,3,5]] = math.nan                               # absent classes may be unknown
    c = epoch_centroids(kept, z, y)
    assert torch.equal(c, kept[[0,2,4]].detach()) and not c.requires_grad
    up = torch.randn(3, 5, generator=new_generator(3), dtype=z.dtype)
    close(grad(lambda z: (epoch_centroids(kept, z, y)*up).sum(), z), grad(lambda z: (class_means(z, y)[1]*up).sum(), z))
    close(grad(lambda z: intra_class_loss(z, y, epoch_centroids(kept, z, y)), z), grad(lambda z: intra_class_loss(z, y), z))
    to_c = grad(lambda c: inter_class_loss(z, y, centroids=c), c)
    close(grad(lambda z: inter_class_loss(z, y, centroids=epoch_centroids(kept, z, y)), z), grad(lambda z: (class_means(z, y)[1]*to_c).sum(), z))

def test_epoch_centroids_keep_their_value_far_from_the_origin():
    z,y = batch(dtype=torch.float32)
    kept = torch.randn(4, 5, generator=new_generator(2))
    assert torch.equal(epoch_centroids(kept, z+1e6, y), kept)

# the penalty

def nets(norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.BatchNorm1d(6)] if norm else []
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), *layers, nn.Tanh(), nn.Linear(6, 3)), nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Unflatten(1, (1, 3, 3)))

images = torch.rand(7, 1, 3, 3, generator=new_generator(0))*2 - 1

def test_paper_permutes_the_codes_alone():
    e,d = nets()
    perm = torch.randperm(7, generator=new_generator(5))
    assert (perm!=torch.arange(7)).any()
    close(permutation_penalty(e, d, images, new_generator(5)), ((d(e(images)[perm])-images)**2).mean())
    permutation_penalty(e, d, images, new_generator(5)).backward()
    assert all(p.grad is not None and p.grad.any() for p in [*e.parameters(), *d.parameters()])

def test_paper_draws_from_the_generator_alone():
    e,d = nets()
    g,state = new_generator(1),torch.get_rng_state()
    first,second = [permutation_penalty(e, d, images, g).item() for _ in range(2)]
    assert first!=second and first==permutation_penalty(e, d, images, new_generator(1)).item()
    assert torch.equal(torch.get_rng_state(), state)

def test_code_is_reconstruction_for_the_decoder_alone():
    e,d = nets()
    penalty,plain = permutation_penalty(e, d, images, new_generator(0), 'code'),reconstruction_loss(d(e(images)), images, 'mean')
    close(penalty, plain)
    for a,b in zip(torch.autograd.grad(penalty, d.parameters(), retain_graph=True), torch.autograd.grad(plain, d.parameters())): close(a, b)
    assert all(g is None for g in torch.autograd.grad(penalty, e.parameters(), allow_unused=True))

@pytest.mark.parametrize('kind', ['paper', 'code'])
def test_one_image_is_a_reconstruction(kind):
    e,d = nets()
    close(permutation_penalty(e, d, images[:1], new_generator(0), kind), reconstruction_loss(d(e(images[:1])), images[:1], 'mean'))

@pytest.mark.parametrize('kind,moves', [('paper', True), ('code', True), ('none', False)])
def test_batchnorm_sees_the_single_class(kind, moves):
    e,d = nets(norm=True)
    before = e[2].running_mean.clone()
    permutation_penalty(e, d, images, new_generator(0), kind)
    assert torch.equal(e[2].running_mean, before)!=moves and e.training and d.training

# all together

@pytest.mark.parametrize('reading', readings)
@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_total(reading, reduction):
    z,y = batch()
    x,x_hat = torch.rand(2, 20, 1, 3, 3, generator=new_generator(1), dtype=torch.float64)
    c = torch.randn(4, 5, generator=new_generator(2), dtype=torch.float64)
    for centroids in (None, c):
        t = centroid_loss(x_hat, x, z, y, (2., .5, 3.), reduction, reading, 1e-3, centroids)
        assert list(t)==['total', 'recon', 'intra', 'inter']
        close(t['recon'], reconstruction_loss(x_hat, x, reduction))
        close(t['intra'], intra_class_loss(z, y, centroids))
        close(t['inter'], inter_class_loss(z, y, 1e-3, reading, centroids))
        close(t['total'], 2*t['recon'] + .5*t['intra'] + 3*t['inter'])

@pytest.mark.parametrize('off', range(3))
def test_weight_zero_leaves_the_graph(off):
    z,y = batch()
    x = torch.rand(20, 1, 3, 3, generator=new_generator(1), dtype=torch.float64)
    x_hat = torch.zeros_like(x).requires_grad_()
    z.requires_grad_()
    weights = [1., 1., 1.]; weights[off] = 0.
    t = centroid_loss(x_hat, x, z, y, weights)
    names = ['recon', 'intra', 'inter']
    assert [t[k].requires_grad for k in names]==[w>0 for w in weights]
    close(t[names[off]], centroid_loss(x_hat, x, z, y)[names[off]])
    rest = sum(t[k] for k,w in zip(names, weights) if w)
    close(t['total'], rest)
    for a,b in zip(torch.autograd.grad(t['total'], [x_hat, z], retain_graph=True, allow_unused=True), torch.autograd.grad(rest, [x_hat, z], allow_unused=True)):
        assert (a is None)==(b is None)
        if a is not None: close(a, b)

def test_infinite_term_of_weight_zero_does_no_harm():
    z,y = batch()
    x = torch.rand(20, 1, 3, 3, generator=new_generator(1), dtype=torch.float64)
    t = centroid_loss(x*math.inf, x, z, y, (0, 1, 1))
    assert t['recon'].isinf() and t['total'].isfinite()

def test_under_no_grad_nothing_has_a_graph():
    z,y = batch()
    x = torch.rand(20, 1, 3, 3, dtype=torch.float64, generator=new_generator(1)).requires_grad_()
    with torch.no_grad(): t = centroid_loss(x, x*.5, z.requires_grad_(), y)
    assert not any(v.requires_grad for v in t.values()) and not torch.is_inference_mode_enabled() and torch.is_grad_enabled()

def test_backward_on_one_class_with_parting_alone():
    z = torch.randn(5, 3, generator=new_generator(0)).requires_grad_()
    x = torch.zeros(5, 1, 2, 2)
    centroid_loss(x, x, z, torch.zeros(5, dtype=torch.int64), (0, 0, 1))['total'].backward()
    assert torch.equal(z.grad, torch.zeros(5, 3))

# refusals

z,y = batch(J=4)
x = torch.zeros(20, 1, 2, 2)
@pytest.mark.parametrize('call,words', [
    (lambda: reconstruction_loss(x, x[:1]), 'same shape'), (lambda: reconstruction_loss(x, x, 'sums'), "'sums'"), (lambda: reconstruction_loss(x[:0], x[:0]), 'no images'),
    (lambda: class_means(z[0], y), '(5,)'), (lambda: class_means(z, y[:,None]), '(20, 1)'), (lambda: intra_class_loss(z, y[1:]), '(19,)'), (lambda: intra_class_loss(z, y*1.), 'y.long()'),
    (lambda: intra_class_loss(z, y, z[:3]), '(4, 5)'), (lambda: inter_class_loss(z, y, centroids=z[:4,:2]), '(4, 2)'),
    (lambda: inter_class_loss(z, y, reading='both'), "'both'"), (lambda: inter_class_loss(z, y, eps=0), 'eps=0'), (lambda: inter_class_loss(z, y, eps=math.nan), 'eps=nan'),
    (lambda: epoch_centroids(z[:3], z, y), '0..2'), (lambda: epoch_centroids(z[:4], z, y-1), 'from -1'), (lambda: epoch_centroids(z[:4,:3], z, y), '(C, 5)'),
    (lambda: permutation_penalty(*nets(), images, new_generator(0), 'papers'), "'papers'"), (lambda: permutation_penalty(*nets(), images[:0], new_generator(0), 'none'), 'no images'),
    (lambda: centroid_loss(x, x, z, y, (1, 1)), '(1, 1)'), (lambda: centroid_loss(x, x, z, y, (0, 0, 0)), 'at least one positive'),
    (lambda: centroid_loss(x, x, z, y, (1, -1, 0)), 'none negative'), (lambda: centroid_loss(x, x, z, y, (1, math.nan, 0)), 'finite'),
    (lambda: centroid_loss(x, x, z[1:], y[1:]), '19 codes'), (lambda: centroid_loss(x, x, z, y, reading='both'), "'both'")])
def test_refusals(call, words):
    with pytest.raises(InputError) as e: call()
    assert words in str(e.value)


@pytest.mark.parametrize('held', [1, 40, 90, 10**6])
def test_algorithm_in_blocks(held, monkeypatch):
    c = torch.randn(11, 4, dtype=torch.float64, generator=new_generator(0)).requires_grad_()
    whole = losses._inter(c, 1e-8, 'algorithm')
    expected = torch.autograd.grad(whole, c)[0]
    sizes,block = [],losses._inverse_distances
    monkeypatch.setattr(losses, '_at_a_time', held)
    monkeypatch.setattr(losses, '_inverse_distances', lambda rows, c, *rest: (sizes.append(len(rows)), block(rows, c, *rest))[1])
    got = losses._inter(c, 1e-8, 'algorithm')
    torch.testing.assert_close(got, whole)
    torch.testing.assert_close(torch.autograd.grad(got, c)[0], expected)
    assert max(sizes) == min(11, max(1, held//44))
    torch.autograd.gradcheck(lambda c: losses._inter(c, 1e-2, 'algorithm'), c)


def test_sums_by_class_are_those_of_the_matrix():
    v,at = torch.randn(50, 3, dtype=torch.float64, generator=new_generator(1)),torch.randint(7, (50,), generator=new_generator(2))
    member = (torch.arange(9)[:,None] == at).double()
    torch.testing.assert_close(losses.sums_by_class(v, at, 9), member @ v)
    torch.testing.assert_close(losses.sums_by_class(v[:,0], at, 9), member @ v[:,0])
    torch.autograd.gradcheck(lambda v: losses.sums_by_class(v, at, 9), v.requires_grad_())


def test_ten_thousand_classes_in_little_memory():
    "Both losses and their gradients: 10,000 classes of 1 to 50 images; the matrix of classes and images alone would take 10 GB"
    code = """
import resource, torch
from deepclsmote.losses import inter_class_loss, intra_class_loss
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
y = torch.arange(10_000).repeat_interleave(torch.randint(1, 51, (10_000,), generator=g))
z = torch.randn(len(y), 64, generator=g, requires_grad=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(intra_class_loss(z, y) + inter_class_loss(z, y)).backward()
assert z.grad.isfinite().all() and z.grad.any()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024)
"""
    grown = float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=300).stdout)
    assert grown < 1000  # MB; the codes are 64 MB
