"Every measure against a library, a slow loop or a number known beforehand; few images, copies, ties, and what is refused."
import math, os, random, warnings
import numpy as np
import pandas as pd
import pytest, scipy.linalg, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from deepclsmote.core import ImageFormat, InputError, new_generator
from deepclsmote.image_quality import (Features, Inception, Score, against_held_out, alarms, extract, fid, frechet, kernel_distance, kid, neighborhoods, prdc, quality_report,
    read_images, ssim_diversity, ssim_novelty, train_features, turned)
from deepclsmote.rivals.pixels import PixelROS, PixelSMOTE
from deepclsmote.similarity import ssim

few = settings(deadline=None, max_examples=30)
quiet = pytest.mark.filterwarnings('ignore:FID of')
def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def cloud(n, d, seed=0): return np.random.default_rng(seed).normal(size=(n,d))
def pictures(n, seed=0, c=None): return np.random.default_rng(seed).integers(0, 256, (n,16,16) if c is None else (n,16,16,c), dtype=np.uint8)
def flat(x): return x.flatten(1)[:,::16]

class Net(nn.Module):
    num_features = 6
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]): self.body,self.drop = nn.Linear(256, 6).double(),nn.Dropout(.5)
        with torch.no_grad(): self.body.weight.copy_(torch.randn(6, 256, generator=new_generator(0))/16)
    def forward(self, x): return self.drop(self.body(x.double().flatten(1)))

# FID and KID

@quiet
@few
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 12), st.integers(0, 99))
def test_frechet_is_the_formula(n, m, d, seed):
    "Trace of the matrix root from eigenvalues of the product, in any numbers of images; a distance: 0 for equals, symmetric, blind to rotation"
    a,b = cloud(n, d, seed),cloud(m, d, seed+1)*1.5+.3
    S,T = (np.atleast_2d(np.cov(x.T)) for x in (a, b))
    root = np.sqrt(np.linalg.eigvals(S @ T).astype(complex)).real.sum()
    literal = ((a.mean(0)-b.mean(0))**2).sum() + np.trace(S) + np.trace(T) - 2*root
    assert frechet(a, b) == pytest.approx(literal, abs=1e-5)
    assert frechet(a, b) == pytest.approx(frechet(b, a), abs=1e-9) and frechet(a, a) == pytest.approx(0, abs=1e-9)
    turn = np.linalg.qr(cloud(d, d, seed+2))[0]
    assert frechet(a@turn, b@turn) == pytest.approx(frechet(a, b), abs=1e-8)

@quiet
def test_fid_against_libraries():
    "torchmetrics with the same network on the same images, scipy's root of a matrix"
    net,a,b = Net().eval(),read_images(pictures(40))[0],read_images(pictures(30, 1)//2)[0]
    theirs = FrechetInceptionDistance(feature=net)
    theirs.update(a, real=True); theirs.update(b, real=False)
    assert fid(a, b, net) == pytest.approx(float(theirs.compute()), rel=1e-6)
    f,g = cloud(50, 10),cloud(60, 10, 1)@cloud(10, 10, 2)
    literal = ((f.mean(0)-g.mean(0))**2).sum() + np.trace(np.cov(f.T)+np.cov(g.T) - 2*scipy.linalg.sqrtm(np.cov(f.T)@np.cov(g.T)).real)
    assert fid(f, g) == pytest.approx(literal, rel=1e-9)

def test_fid_of_normal_clouds():
    "What can be known beforehand: means apart by 3, spreads 1 and 2 in 4 dimensions: 9 + 4*(2-1)^2"
    a,b = cloud(40_000, 4),cloud(40_000, 4, 1)*2 + np.array([3,0,0,0])
    assert fid(a, b) == pytest.approx(13, abs=.2)
    assert fid(a, b) < 14 and isinstance(fid(a, b), float) and fid(a, b).n_real == 40_000 and fid(a, b).note == ''

def test_fid_says_when_it_means_nothing():
    with pytest.warns(UserWarning, match='fewer than 16 images for 8 features'): value = fid(cloud(15, 8), cloud(40, 8))
    assert (value.n_real, value.n_generated, value.d, value.features) == (15, 40, 8, 'as given') and 'mostly bias' in repr(value)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fid(cloud(16, 8), cloud(16, 8))
    with pytest.warns(UserWarning, match='no covariance'): assert math.isnan(fid(cloud(1, 8), cloud(40, 8)))

@quiet
@few
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9))
def test_rank_deficient(n, m, d):
    "Constant images, all images equal: finite, and the squared distance of the means"
    a,b = np.ones((n+1,d)),np.zeros((m+1,d))
    assert fid(a, b) == pytest.approx(d) and fid(a, a) == 0

@pytest.mark.filterwarnings('ignore:Metric `Kernel')
def test_kid_against_torchmetrics():
    net,a,b = Net().eval(),read_images(pictures(25))[0],read_images(pictures(25, 1)//2)[0]
    with torch.random.fork_rng(devices=[]):
        theirs = KernelInceptionDistance(feature=net, subsets=1, subset_size=25)
        theirs.update(a, real=True); theirs.update(b, real=False)
        assert kid(a, b, net) == pytest.approx(float(theirs.compute()[0]), rel=1e-6)

@few
@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 4), st.integers(0, 99))
def test_kid_loops(n, m, d, seed):
    a,b = cloud(n, d, seed),cloud(m, d, seed+1)
    k = lambda x,y: (x@y/d+1)**3
    slow = np.mean([k(a[i], a[j]) for i in range(n) for j in range(n) if i != j]) + np.mean([k(b[i], b[j]) for i in range(m) for j in range(m) if i != j]) - 2*np.mean([k(x, y) for x in a for y in b])
    assert kid(a, b) == pytest.approx(slow, abs=1e-9)

def test_kid_blocks_and_bias():
    "More rows than a block; the mean over many small samples of one distribution is 0, that of FID is not"
    a,b = cloud(2300, 2),cloud(1100, 2, 1)
    K = lambda x,y: (x@y.T/2+1)**3
    slow = (K(a,a).sum()-K(a,a).trace())/(2300*2299) + (K(b,b).sum()-K(b,b).trace())/(1100*1099) - 2*K(a,b).mean()
    assert kernel_distance(a, b) == pytest.approx(slow, abs=1e-12)
    values = np.array([kernel_distance(cloud(6, 4, 2*s), cloud(6, 4, 2*s+1)) for s in range(3000)])
    assert abs(values.mean()) < 4*values.std()/3000**.5 and values.min() < 0
    assert np.mean([frechet(cloud(6, 4, 2*s), cloud(6, 4, 2*s+1)) for s in range(50)]) > 1

def test_kid_subsets():
    a,b = cloud(30, 3),cloud(20, 3, 1)
    one,two,other = kid(a, b, subset=8, seed=1),kid(a, b, subset=8, seed=1),kid(a, b, subset=8, seed=2)
    assert one == two != other and one.subset == 8 and one.sd > 0
    assert kid(a, b, subset=100, n_subsets=3).subset == 20
    assert kid(a[:20], b, subset=20, n_subsets=2) == pytest.approx(kid(a[:20], b)) and kid(a[:20], b, subset=20, n_subsets=2).sd < 1e-12
    assert math.isnan(kid(a[:1], b)) and kid(a[:1], b).note
    for bad in (1, 0, 2.5, '9'):
        with pytest.raises(InputError, match='subset='): kid(a, b, subset=bad)

# precision, recall, density, coverage

def loops(real, generated, k):
    def d(x, y): return math.sqrt(sum((p-q)**2 for p,q in zip(x, y)))
    def radii(A): return [sorted(d(x, z) for j,z in enumerate(A) if j != i)[min(k, len(A)-1)-1] for i,x in enumerate(A)]
    def inside(x, c, q): return d(x, c) < q or d(x, c) == 0
    R,G = radii(real),radii(generated)
    hits = [[inside(g, r, q) for r,q in zip(real, R)] for g in generated]
    back = [[inside(r, g, q) for g,q in zip(generated, G)] for r in real]
    return dict(precision=np.mean([any(h) for h in hits]), recall=np.mean([any(h) for h in back]), density=np.sum(hits)/(min(k, len(real)-1)*len(generated)), coverage=np.mean([any(c) for c in zip(*hits)]))

@few
@given(st.integers(2, 15), st.integers(2, 15), st.integers(1, 7), st.integers(0, 99), st.booleans())
def test_prdc_loops(n, m, k, seed, grid):
    "Also on whole numbers, where distances tie and points coincide"
    rng = np.random.default_rng(seed)
    a,b = (rng.integers(0, 3, (s,2)).astype(float) if grid else rng.normal(size=(s,2)) for s in (n, m))
    found,slow = prdc(a, b, k),loops(a.tolist(), b.tolist(), k)
    for name,v in slow.items(): assert found[name] == pytest.approx(v, abs=1e-12), name
    assert (found['k_real'], found['k_generated'], found['n_real'], found['n_generated']) == (min(k, n-1), min(k, m-1), n, m)

@few
@given(st.integers(2, 20), st.integers(1, 30), st.integers(0, 99), st.integers(1, 6))
def test_copies_are_perfect(n, d, seed, k):
    "Each training image copied once: precision, recall, coverage 1; density 1 where there are no ties; also with equal images among them"
    a = cloud(n, d, seed)
    found = neighborhoods(a, a[np.random.default_rng(seed).permutation(n)], k)
    assert found == dict(precision=1., recall=1., density=pytest.approx(1), coverage=1.)
    twice = np.concatenate([a, a, a[:1].repeat(8, 0)])
    assert [neighborhoods(twice, twice, k)[q] for q in ('precision','recall','coverage')] == [1,1,1]

def test_prdc_says_what_it_sees():
    "One mode of two; far away; four images, one image"
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(40,2)), rng.normal(size=(40,2))+30])
    one = prdc(real, rng.normal(size=(40,2)))
    assert one['precision'] > .8 and .35 < one['recall'] < .55 and .3 < one['coverage'] < .55
    assert prdc(real, rng.normal(size=(40,2))+1000)['precision'] == 0
    four = prdc(real[:4], real[4:40])
    assert four['k_real'] == 3 and four['k_generated'] == 5
    single = prdc(real[:1], real[1:9])
    assert math.isnan(single['precision']) and math.isnan(single['density']) and math.isnan(single['coverage']) and not math.isnan(single['recall'])
    assert math.isnan(prdc(real, real[:1])['recall'])
    for bad in (0, -1, 1.5):
        with pytest.raises(InputError, match='k='): prdc(real, real, bad)

# SSIM

def test_novelty_loops_within_classes():
    new,old = pictures(7),pictures(9, 1)
    y,z = np.array(list('aabbbab')),np.array(list('abababbba'))
    a,b = read_images(new)[0],read_images(old)[0]
    value = ssim_novelty(new, old, y, z)
    for i in range(7):
        own = [(float(ssim(a[i], b[j])),j) for j in range(9) if z[j] == y[i]]
        assert value.nearest[i] == pytest.approx(max(own)[0], abs=1e-5) and value.rows[i] == max(own)[1]
    assert value == pytest.approx(value.nearest.mean()) and value.share == 0
    mixed = ssim_novelty(np.concatenate([old[:3], new[:1]]), old)
    assert mixed.share == .75 and mixed.rows[:3].tolist() == [0,1,2] and (mixed.nearest[:3] > .9999).all()
    assert ssim_novelty(old, old, threshold=1.01).share == 0 and ssim_novelty(old[:1], 255-old[:1]) < 0

def test_diversity():
    x = pictures(6)
    t = read_images(x)[0]
    slow = np.mean([float(ssim(t[i], t[j])) for i in range(6) for j in range(i)])
    value = ssim_diversity(x, x[:3])
    assert value == pytest.approx(slow, abs=1e-5) and (value.n, value.pairs) == (6, 15) and value.of_real == pytest.approx(float(ssim_diversity(x[:3])))
    assert ssim_diversity(x[:1].repeat(5, 0)) == pytest.approx(1) and math.isnan(ssim_diversity(x[:1]))
    assert ssim_diversity(x, most=4, seed=1) == ssim_diversity(x, most=4, seed=1) != ssim_diversity(x, most=4, seed=2)

# forms, features

@quiet
def test_forms_agree():
    "The same pictures as uint8, floats, signed, channels first and last, flat rows, tensors"
    a,b = pictures(12, c=3),pictures(10, 1, 3)
    forms = [lambda x: x, lambda x: x/255, lambda x: x/127.5-1, lambda x: x.transpose(0,3,1,2), lambda x: torch.from_numpy(x), lambda x: torch.from_numpy(x.astype('float32')/255).permute(0,3,1,2)]
    for measure in (lambda p,q: kid(p, q, flat), lambda p,q: fid(p, q, flat), lambda p,q: prdc(p, q, 3, flat)['density'], lambda p,q: ssim_novelty(p, q)):
        values = [float(measure(f(a), f(b))) for f in forms]
        assert values == pytest.approx([values[0]]*len(forms), rel=1e-4, abs=1e-6)
    rows = kid(a.reshape(12, -1), b.reshape(10, -1), flat, image_shape=(16,16,3))
    assert rows == pytest.approx(float(kid(a, b, flat))) and kid(a/255, b, flat) == pytest.approx(float(rows), abs=1e-6)

def test_range_is_that_of_the_first():
    dark,light = np.linspace(-1, 1, 512).reshape(2,16,16),np.full((2,16,16), .5)
    assert read_images(light, ImageFormat.of(dark))[0].unique().tolist() == [.5]
    with pytest.raises(InputError, match='pixels below 0'): kid(light, dark, flat)
    with pytest.raises(InputError, match=r'expected \(1, 16, 16\)'): ssim_novelty(pictures(2, c=3), pictures(2))

def test_extract():
    x,net = read_images(pictures(9))[0],Net().train()
    assert extract(net, x).shape == (9,6) and net.training and np.allclose(extract(net, x), extract(net, x, batch_size=2), atol=1e-12)  # no dropout
    for name,bad in (('a row an image', lambda x: x[:1]), ('not finite', lambda x: x.flatten(1)/0), ('expected a function', 3), ('is no file', 'absent.pth')):
        with pytest.raises(InputError, match=name): extract(bad, x)
    for a,b in ((cloud(4, 3), cloud(4, 2)), (cloud(4, 3), cloud(0, 3)), (cloud(4, 3), np.full((4,3), np.nan))):
        with pytest.raises(InputError): fid(a, b)

def test_inception_from_a_file(tmp_path):
    "2048 features, whatever the channels; a file of another network is refused"
    import torchvision
    with torch.random.fork_rng(devices=[]):
        torch.save(torchvision.models.inception_v3(weights=None, init_weights=False).state_dict(), tmp_path/'weights.pth')
        before = states()
        f = extract(tmp_path/'weights.pth', read_images(pictures(2))[0])
        assert f.shape == (2,2048) and f.std() > 0
    torch.save(Net().state_dict(), tmp_path/'other.pth')
    with pytest.raises(InputError, match='does not hold the weights'): Inception(tmp_path/'other.pth')

@few
@given(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5))
def test_turned(n, h, w):
    "Four different positions of each image; turning back gives the image"
    x = torch.arange(n*h*w).float().reshape(n,1,h,w)
    t,y = turned(x)
    assert len(t) == 4*n and y.tolist() == [i for i in range(4) for _ in range(n)]
    assert all(len({tuple(t[i*n+j].flatten().tolist()) for i in range(4)}) == 4 for j in range(n))
    assert all(sorted(t[i].flatten().tolist()) == sorted(x[i % n].flatten().tolist()) for i in range(4*n))

@pytest.fixture(scope='module')
def world():
    "Three classes: a bar that is high, in the middle, low"
    rng = np.random.default_rng(0)
    y = np.repeat(np.array(['high','low','middle']), (40,12,6))
    X = rng.integers(0, 60, (len(y),16,16), dtype=np.uint8)
    for i,c in enumerate(y):
        at = dict(high=2, middle=7, low=12)[c] + rng.integers(-1, 2)
        X[i,at:at+2,rng.integers(0, 4):rng.integers(10, 16)] = 220
    return X,y,train_features(X, y, steps=60)

@quiet
def test_train_features(world):
    "Says what it was trained on; knows the classes; same seed, same numbers; no global generator moves; without labels too"
    X,y,features = world
    x = read_images(X)[0]
    before = states()
    again = train_features(X, y, steps=60)
    assert states() == before
    assert (features(x) == again(x)).all() and features(x).shape == (58,128) and np.square(features(x)).mean() == pytest.approx(1, rel=1e-4)
    assert '60 steps on 58 images, 3 classes' in repr(features) and features.classes.tolist() == ['high','low','middle']
    assert (features.classes[features.predict(x).argmax(1)] == y).mean() > .9
    before = states()
    value = fid(X[:30], X[30:40])
    assert states() == before and 'four positions' in value.features and value.n_generated == 10 and value == fid(X[:30], X[30:40])
    with pytest.raises(InputError, match='1 class'): train_features(X, ['a']*58)
    with pytest.raises(InputError, match='57 labels'): train_features(X, y[1:])

def test_measures_move_nothing(world):
    X,y,features = world
    before,x0 = states(),X.copy()
    kid(X[:20], X[20:], features, subset=5); prdc(X[:20], X[20:], 5, features); ssim_diversity(X); ssim_novelty(X[:5], X)
    quality_report((X[:9], y[:9]), X, y, judge=features)
    assert states() == before and (X == x0).all()

# reports

@pytest.mark.filterwarnings('ignore:PixelSMOTE')
def test_report_of_a_sampler_leaves_it_alone(world):
    X,y,features = world
    a,b = (PixelSMOTE(random_state=0).fit(X, y) for _ in range(2))
    report = quality_report(a, X, y, judge=features, most=20)
    assert a.report_.equals(b.report_) and a.said_ == b.said_ and a.sample(3, 'low')[0].tobytes() == b.sample(3, 'low')[0].tobytes()
    assert report.label.tolist() == ['high','low','middle'] and report.new.tolist() == [0,20,20] and report.real.tolist() == [40,12,6] and 'own_alarm' in report
    assert report.alarm[0] == '' and np.isnan(report.novelty[0])
    assert quality_report(a, X, y, judge=features, most=20).equals(report) and (report.agreement[1:] > .5).all()
    own = read_images(X[y == 'low'])[0]
    assert report.novelty_real[1] == pytest.approx(np.mean([max(float(ssim(own[i], own[j])) for j in range(12) if j != i) for i in range(12)]), abs=1e-5)
    loaded = quality_report(PixelROS(random_state=0).fit(X, y), X, y, judge=features, most=20)
    assert loaded.alarm.tolist() == ['','mostly copies','mostly copies'] and loaded.copies[1:].tolist() == [1,1]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['AMDO','MC_CCR','MC_RBO','ImageTransforms','DeepSMOTE','BAGAN','GAMO','WGAN_GP'])
def test_report_of_every_generator(name):
    "Whatever made them: a row a class, judged, and the generator's own alarm beside ours"
    from deepclsmote.core import toy_images
    from deepclsmote.oversamplers import DeepSMOTE
    from deepclsmote.rivals import amdo, bagan, ccr, gamo, rbo, transforms, wgan
    X,y = toy_images((12,5,4))
    make = dict(AMDO=amdo.AMDO, MC_CCR=ccr.MC_CCR, MC_RBO=rbo.MC_RBO, ImageTransforms=transforms.ImageTransforms, DeepSMOTE=lambda **s: DeepSMOTE(epochs=1, decoder='compact', progress=False, **s),
        BAGAN=lambda **s: bagan.BAGAN(autoencoder_steps=2, steps=2, **s), GAMO=lambda **s: gamo.GAMO(steps=2, **s), WGAN_GP=lambda **s: wgan.WGAN_GP(steps=2, critic_steps=1, feature_steps=2, **s))[name]
    o = make(random_state=0).fit(X, y)
    report = quality_report(o, X, y, judge=train_features(X, y, steps=5), most=6)
    assert report.label.tolist() == [0,1,2] and report.new.tolist() == [0,6,6] and report.novelty[1:].notna().all() and report.agreement[1:].between(0, 1).all()
    assert ('own_alarm' in report) == hasattr(o, 'report_')

def test_each_alarm(world):
    "What each kind of failure is called"
    X,y,features = world
    own,other,rng = X[y == 'low'],X[y == 'high'],np.random.default_rng(1)
    bad = {'mostly copies': own, 'wrong class': other, 'collapsed': np.clip(own[:1].astype(int)+rng.integers(0, 30, (20,16,16)), 0, 255).astype('uint8'), 'constant': np.full((20,16,16), 9, np.uint8),
           'few parents': np.clip(own[:1]*.8+rng.integers(0, 40, (40,16,16)), 0, 255).astype('uint8')}
    for word,images in bad.items(): assert word in alarms((images, ['low']*len(images)), X, y, judge=features)['low'], word
    spoilt = own/255
    spoilt[3,2,2] = np.inf
    row = quality_report((spoilt, ['low']*12), X/255, y, judge=features).set_index('label').loc['low']
    assert row.alarm == 'not finite, mostly copies' and row.not_finite == pytest.approx(1/12) and row.copies == 1
    assert alarms((np.full((5,16,16), np.nan), ['low']*5), X/255, y, judge=features) == {'low': 'not finite'}

def test_report_forms_and_refusals(world):
    X,y,features = world
    base = quality_report((X[:9], y[:9]), X, y, judge=features)
    same = quality_report((torch.from_numpy(X[:9]), y[:9].tolist()), torch.from_numpy(X), y, judge=features.predict)
    assert same.equals(base) and base.agreement[0] > .5 and np.isnan(quality_report((X[:9], y[:9]), X, y, judge=False).agreement[0])
    empty = quality_report((X[:0], y[:0]), X, y, judge=features)
    assert (empty.alarm == '').all() and (empty.new == 0).all()
    held = quality_report((X[:9], y[:9]), X, y, judge=features, held_out=(X[:50], y[:50])).agreement_real
    assert held[0] > .5 and np.isnan(held[2])
    with pytest.raises(InputError, match="label 'side'"): quality_report((X[:1], ['side']), X, y, judge=False)
    with pytest.raises(InputError, match='8 labels'): quality_report((X[:9], y[:8]), X, y, judge=False)
    one = quality_report((X[45:52], ['middle']*7), np.concatenate([X[:40], X[53:54]]), np.r_[y[:40], ['middle']], judge=False)
    assert np.isnan(one.novelty_real[1]) and one.parents[1] == 1

def test_against_held_out(world):
    X,y,features = world
    high = X[y == 'high']
    table = against_held_out({'real': high[20:30], 'copies': high[:10].repeat(3, 0), 'low': X[y == 'low']}, high[:10], high[10:20], features)
    assert table.n.tolist() == [10,10,10] and table.copies['copies'] == 1 and table.copies['real'] == 0
    assert table.kid['low'] > table.kid['real'] and table.precision['low'] < table.precision['real']

def test_score():
    s = Score(1.5, 'shaky', n_real=3, rows=np.arange(3))
    import pickle
    assert pickle.loads(pickle.dumps(s)).n_real == 3 and s == 1.5 and repr(s) == '1.5 (n_real=3, note=shaky)' and pd.DataFrame([dict(a=s)]).a.dtype == float

@pytest.mark.skipif(not os.environ.get('DEEPCLSMOTE_DATA'), reason='real images: set DEEPCLSMOTE_DATA')
def test_fashion():
    "Shirts: other real shirts beat copies in coverage and kid; trousers as shirts have precision, for the balls of odd shirts hold them, but little density and coverage"
    from deepclsmote.data import load_dataset
    data = load_dataset('fashion_mnist')
    X,y = data.images[:1200],data.labels[:1200]
    features = train_features(X, y, steps=120)
    shirts,trousers = (data.images[1200:8000][data.labels[1200:8000] == c] for c in (6, 1))
    t = against_held_out({'real': shirts[:150], 'copies': X[y == 6][:8].repeat(20, 0), 'trousers': trousers[:150]}, X[y == 6][:8], shirts[150:300], features)
    assert t.coverage['real'] > t.coverage['copies'] and t.kid['real'] < t.kid['copies'] < t.kid['trousers'] and t.density['trousers'] < .5 and t.coverage['trousers'] < .3 and t.copies['copies'] == 1
