"GAMO's mini-batch agrees with NumPy, its images stay in the hull of their class, and both forms keep the contract."
import os, warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from deepclsmote.core import InputError, conformance, new_generator, to_signed, toy_images
from deepclsmote.rivals.gamo import (GAMO, GAMO2pix, FeatureStep, FeatureVAE, GameDraws, GameStep, GamoNet, Players, VAEStep, convex_combination, convex_combination_loops,
    feature_net, gamo_benchmark, gamo_halvings, generated_classes, mixing_gradient, weight_entropy)
from deepclsmote.rivals.gans import build_glorot

quick = {GAMO: dict(steps=2, batch_size=8, progress=False, device='cpu'), GAMO2pix: dict(steps=2, vae_steps=2, batch_size=8, progress=False, device='cpu')}
both = pytest.mark.parametrize('cls', quick)
pytestmark = pytest.mark.filterwarnings('ignore:GAMO')

def make(cls, **s): return cls(**{**quick[cls], 'random_state': 0, **s})

@both
@pytest.mark.parametrize('promise', conformance)
def test_contract(cls, promise): conformance[promise](lambda **s: cls(**{**quick[cls], **s}))

# --- the mini-batch in NumPy, with gradients by hand ------------------------------------------------------------------

class NumpyAdam:
    def __init__(self): self.t,self.m,self.v = 0,{},{}
    def __call__(self, params, grads, lr=2e-4, b1=.5, b2=.999):
        self.t += 1
        for k,g in grads.items():
            self.m[k] = b1*self.m.get(k, 0) + (1-b1)*g
            self.v[k] = b2*self.v.get(k, 0) + (1-b2)*g*g
            params[k] = params[k] - lr*self.m[k]/(1-b1**self.t)/(np.sqrt(self.v[k]/(1-b2**self.t)) + 1e-8)

def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e/e.sum(1, keepdims=True)

def softmax_back(p, dp): return p*(dp - (dp*p).sum(1, keepdims=True))

class NumpyGame:
    "The same networks as dicts of arrays; `play` is one mini-batch, in the order of the authors' code"
    def __init__(self, players, points, labels, order):
        self.p = {k: v.double().numpy().copy() for k,v in players.state_dict().items() if 'num_batches' not in k}
        self.x,self.y,self.order,self.eye,self.adams = points.numpy(),labels.numpy(),order,np.eye(players.n_classes),{}

    def dense(self, k, x): return x @ self.p[k+'.weight'].T + self.p[k+'.bias']

    def judge(self, net, x, target):
        "Gradients of the mean square loss of M or D for their weights and their input"
        a = [x]
        for layer in (0,2):
            u = self.dense(f'{net}.{layer}', a[-1])
            a.append(np.where(u > 0, u, .1*u))
        u = self.dense(f'{net}.4', a[-1])
        p = softmax(u) if net == 'm' else 1/(1+np.exp(-u))
        dp = 2*(p-target)/p.size
        d,grads = softmax_back(p, dp) if net == 'm' else dp*p*(1-p),{}
        for layer,inp in ((4,a[2]), (2,a[1]), (0,a[0])):
            grads[f'{net}.{layer}.weight'],grads[f'{net}.{layer}.bias'] = d.T@inp,d.sum(0)
            d = d @ self.p[f'{net}.{layer}.weight']
            if layer: d = d*np.where(inp > 0, 1, .1)
        return grads,d,((p-target)**2).mean()

    def norm(self, k, x, train):
        if train:
            mean,var = x.mean(0),x.var(0)
            self.p[k+'.running_mean'] = .9*self.p[k+'.running_mean'] + .1*mean
            self.p[k+'.running_var'] = .9*self.p[k+'.running_var'] + .1*x.var(0, ddof=1)
        else: mean,var = self.p[k+'.running_mean'],self.p[k+'.running_var']
        s = 1/np.sqrt(var+1e-3)
        return (x-mean)*s*self.p[k+'.weight'] + self.p[k+'.bias'], (x-mean)*s, s

    def weights(self, c, z, train):
        h0 = np.hstack([z, np.repeat(self.eye[[c]], len(z), 0)])
        r1 = np.maximum(self.dense('shared.0', h0), 0)
        h1,n1,s1 = self.norm('shared.2', r1, train)
        r2 = np.maximum(self.dense('shared.3', h1), 0)
        h2,n2,s2 = self.norm('shared.5', r2, train)
        return softmax(self.dense(f'units.{c}', h2)), (h0,r1,h1,n1,s1,r2,h2,n2,s2)

    def weights_back(self, c, a, cache, da):
        h0,r1,h1,n1,s1,r2,h2,n2,s2 = cache
        grads,d = {},softmax_back(a, da)
        def dense(k, d, inp):
            grads[k+'.weight'],grads[k+'.bias'] = d.T@inp,d.sum(0)
            return d @ self.p[k+'.weight']
        def norm(k, d, n, s):
            grads[k+'.weight'],grads[k+'.bias'] = (d*n).sum(0),d.sum(0)
            d = d*self.p[k+'.weight']
            return s*(d - d.mean(0) - n*(d*n).mean(0))
        d = norm('shared.5', dense(f'units.{c}', d, h2), n2, s2)*(r2 > 0)
        d = norm('shared.2', dense('shared.3', d, h1), n1, s1)*(r1 > 0)
        dense('shared.0', d, h0)
        return grads

    def move(self, name, grads): self.adams.setdefault(name, NumpyAdam())(self.p, grads)

    def play(self, rows, real, fake, fake_labels, z_fake, z_own):
        loss,own = {},lambda c: self.x[self.y == c]
        def learn(x, y, target, name):
            for net,inp,goal in (('m',x,self.eye[y]), ('d',np.hstack([x, self.eye[y]]),target)):
                grads,_,loss[f'{net.upper()} {name}'] = self.judge(net, inp, goal)
                self.move(net, grads)
        learn(self.x[rows], self.y[rows], real, 'real')
        x = np.concatenate([self.weights(c, z[None], False)[0] @ own(c) for c,z in zip(fake_labels, z_fake)])
        learn(x, fake_labels, fake, 'fake')
        for c,z in zip(self.order, z_own):
            one_hot = np.repeat(self.eye[[c]], len(z), 0)
            for net in 'md':
                a,cache = self.weights(c, z, True)
                x = a @ own(c)
                _,dx,l = self.judge(net, x if net == 'm' else np.hstack([x, one_hot]), 1-one_hot if net == 'm' else np.ones((len(z),1)))
                loss.setdefault(f'G through {net.upper()}', []).append(l)
                self.move((c,net), self.weights_back(c, a, cache, dx[:,:x.shape[1]] @ own(c).T))
        return {k: np.mean(v) for k,v in loss.items()}

def small_game(counts=(13,7,4,1), p=9, seed=0, double=True, bs=8):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    points = (torch.rand(len(labels), p, generator=new_generator(seed))*2-1).double()
    order,need = generated_classes(counts, {})
    players = build_glorot(lambda: Players(counts, order, p), seed)
    if double: players = players.double()
    return GameStep(players, points if double else points.float(), labels, need, order, bs, 2e-4, seed),points,labels,order

def test_mini_batches_agree_with_numpy():
    step,points,labels,order = small_game()
    slow = NumpyGame(step.players, points, labels, order)
    for _ in range(4):
        draws = step.draw()
        fast = step.update(*draws)
        expected = slow.play(*[d.double().numpy() if d.is_floating_point() else d.numpy() for d in draws])
        assert set(fast) == set(expected)
        for k in fast: assert float(fast[k]) == pytest.approx(expected[k], rel=1e-9), k
    for k,v in step.players.state_dict().items():
        if 'num_batches' not in k: np.testing.assert_allclose(v.numpy(), slow.p[k], rtol=1e-7, atol=1e-10, err_msg=k)

@pytest.mark.parametrize('double', [False,True])
@pytest.mark.parametrize('judge', 'MD')
@pytest.mark.parametrize('c', [1,2,3])
def test_gradient_by_hand_is_autograds(c, judge, double):
    "Also that batch norm takes the same note of the batch"
    from copy import deepcopy
    step = small_game(double=double)[0]
    a,b = step.players,deepcopy(step.players)
    z = torch.randn(4, 100, generator=new_generator(3)).to(step.eye.dtype)
    one_hot = step.eye[c].expand(4, -1)
    x = b.weights(c, z) @ step.own[c]
    out = b.m(x) if judge == 'M' else b.d(torch.cat([x, one_hot], 1))
    loss = ((out - (1-one_hot if judge == 'M' else 1))**2).mean()
    grads = torch.autograd.grad(loss, [*b.shared.parameters(), *b.units[str(c)].parameters()])
    loss2,grads2 = mixing_gradient(a, c, z, one_hot, step.own[c], judge)
    torch.testing.assert_close(loss2, loss.detach())
    for p,q in zip(grads2, grads, strict=True): torch.testing.assert_close(p, q)
    for k in ('running_mean','running_var'):
        for layer in (2,5): torch.testing.assert_close(getattr(a.shared[layer], k), getattr(b.shared[layer], k))

def test_classes_are_updated_from_the_smallest():
    assert generated_classes([3,9,1,9,3], {})[0] == [2,0,4]
    assert generated_classes([3,9,1,9,3], {1: 2, 3: 5}) == ([2,0,4,1], [6,2,8,0,6])  # the last of the largest has none, whatever is asked
    assert small_game()[0].order == [3,2,1]

def test_four_codes_a_class_and_never_one():
    for c,n in ((10,4), (7,5), (40,2)): assert GameDraws(50, [0]+[5]*(c-1), c-1, 32, 0)()[-1].shape == (c-1, n, 100)
    assert GameDraws(5, [0,3], 1, 32, 0)()[0].shape == (5,)  # fewer images than a batch: all of them
    rows,real,fake,labels,_,_ = GameDraws(50, [0,3,1], 2, 32, 0)()
    assert (real >= .9).all() and (real <= 1).all() and (fake >= 0).all() and (fake <= .1).all() and 0 not in labels

# --- images are convex combinations ------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
def test_product_is_the_loop(m, n, p, seed):
    g = new_generator(seed)
    a,x = torch.randn(m, n, generator=g).mul(4).softmax(1),torch.rand(n, p, generator=g)*2-1
    new = convex_combination(a, x)
    torch.testing.assert_close(new, torch.tensor(convex_combination_loops(a, x)))
    assert (new <= x.max(0).values + 1e-6).all() and (new >= x.min(0).values - 1e-6).all()
    h = weight_entropy(a)
    assert (h > -1e-6).all() and (h < np.log(n)+1e-5).all()

@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 2**31), st.sampled_from(['uint8','float32']))
def test_images_lie_in_the_hull(counts, seed, dtype):
    X,y = toy_images(counts, (16,16), dtype, seed=seed)
    o = make(GAMO, random_state=seed).fit(X, y)
    for c,n in enumerate(counts):
        own = to_signed(o.images_[y == c]).flatten(1)
        got,made = o.sample(6, c, random_state=7)
        if made.fallback[0] == 'copies':
            assert c == max(range(len(counts)), key=lambda i: (counts[i], i)) or counts[c] == max(counts) or n == 1
            np.testing.assert_allclose(got, X[made.parent_a], atol=0 if dtype == 'uint8' else 1e-6)  # floats went to [-1, 1] and back
            continue
        a = o.players_.weights(c, torch.randn(6, 100, generator=new_generator(7))).detach()
        assert (a >= 0).all() and torch.allclose(a.sum(1), torch.ones(6))
        new = (a @ own).numpy().reshape(6, 16, 16)
        new = (new+1)*127.5 if dtype == 'uint8' else (new+1)/2
        np.testing.assert_allclose(got, new, atol=.5001 if dtype == 'uint8' else 1e-6)
        top = a.topk(2)
        rows = np.flatnonzero(y == c)
        assert (made[['parent_a','parent_b']].to_numpy() == rows[top.indices]).all()
        np.testing.assert_allclose(made.weight, top.values[:,1]/top.values.sum(1), rtol=1e-5)
        np.testing.assert_allclose(made.entropy, weight_entropy(a), atol=1e-6)

# --- features and autoencoders -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', ['papers','deeper'])
@pytest.mark.parametrize('shape', [(1,16,16), (3,16,18), (4,33,16), (1,28,28), (3,32,32), (1,47,64), (1,16,256)])
def test_any_size(shape, kind):
    x = torch.zeros(2, *shape)
    assert build_glorot(lambda: feature_net(shape, kind), 0)(x).shape == (2,512)
    assert build_glorot(lambda: FeatureVAE(shape), 0)(torch.zeros(2,512), torch.zeros(2,100))[0].shape == x.shape

def test_halvings():
    assert [gamo_halvings(s, s) for s in (16,28,32,33,64,65,256)] == [2,2,2,3,3,4,5] and gamo_halvings(16, 256) == 5

def feature_step(together=True):
    counts = (9,5,3)
    X,y = toy_images(counts, (1,16,16))
    order,need = generated_classes(counts, {})
    players = build_glorot(lambda: Players(counts, order, 512, feature_net((1,16,16))), 0)
    return FeatureStep(players, torch.from_numpy(X), torch.from_numpy(y), need, order, 8, 2e-4, 0, together)

@pytest.mark.parametrize('together', [True,False])
def test_features_stay_for_a_pass(together):
    step = feature_step(together)
    seen = []
    for i in range(5):  # 17 images, 8 a batch: two mini-batches a pass
        f,losses = step.players.f[0][0].weight.clone(),step(i)
        assert ('F' in losses) == (i % 2 == 0) == (not f.equal(step.players.f[0][0].weight))
        seen.append(step.points_)
        torch.testing.assert_close(step.points_, step.players.points(step.images))
        for c in step.order: assert step.own[c].equal(step.points_[step.labels == c])
    assert seen[0] is seen[1] and seen[1] is not seen[2]
    m = [p.clone() for p in step.players.m.parameters()]
    step.image_step(torch.arange(8))
    assert all(a.equal(b) for a,b in zip(m, step.players.m.parameters())) != together

def test_autoencoder_learns_its_images():
    g = new_generator(0)
    vae = build_glorot(lambda: FeatureVAE((1,16,16)), 0)
    images,features = (torch.rand(4, 1, 16, 16, generator=g) > .5).float()*2-1,torch.randn(4, 512, generator=g)
    step = VAEStep(vae, features, images, 32, 2e-3, 0)
    assert step.bs == 4
    losses = [float(step(i)['mse']) for i in range(150)]
    assert losses[-1] < .5*losses[0]

def test_classes_without_autoencoder_give_copies():
    X,y = toy_images((9,5,3,1))
    o = make(GAMO2pix, sampling_strategy={2: 6, 3: 4}).fit(X, y)
    assert list(o.vaes_) == ['2'] and list(o.vae_history_) == [2]
    for c in (0,1,3):
        images,made = o.sample(4, c)
        assert (made.fallback == 'copies').all() and (images == X[made.parent_a]).all()
    images,made = o.sample(4, 2)
    assert (made.fallback == '').all() and not any((images[i] == X).all((1,2)).any() for i in range(4))
    assert o.report_.alarm[3] == 'copies' and o.report_.alarm[0] == '' and o.report_.kl.notna().tolist() == [False,False,True,False]

# --- the oversamplers ---------------------------------------------------------------------------------------------------

@both
@pytest.mark.parametrize('shape', [(32,32,3), (16,18), (3,16,18)])
def test_shapes(cls, shape):
    X,y = toy_images((7,4,2), shape)
    X1,y1 = make(cls).fit_resample(X, y)
    assert X1.shape == (21,*shape) and np.bincount(y1).tolist() == [7,7,7]

@both
def test_saved_file_keeps_m_and_the_generators(cls, tmp_path):
    X,y = toy_images((9,5,3,1))
    y = np.array(['d','c','b','a'])[y]
    o = make(cls, sampling_strategy={'b': 7}).fit(X, y)
    p = cls.load(o.save(tmp_path/'o.safetensors'))
    assert (o.predict_proba(X) == p.predict_proba(X)).all()
    for c in 'abcd':
        a,b = (q.sample(5, c, random_state=1) for q in (o,p))
        assert (a[0] == b[0]).all() and a[1].equals(b[1])

@both
def test_balanced_set_is_left_alone(cls):
    X,y = toy_images((4,4))
    o = make(cls)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(o.fit_resample(X, y)[0]) == 8
    assert (o.sample(3, 1)[1].fallback == 'copies').all()

def test_equal_classes_may_grow():
    X,y = toy_images((6,6,3))
    o = make(GAMO, sampling_strategy={0: 9, 1: 9}).fit(X, y)
    assert [o.sample(1, c)[1].fallback[0] for c in range(3)] == ['','copies','']

def test_report_names_copies_and_warns_once():
    X,y = toy_images((20,6,3))
    with pytest.warns(UserWarning, match='GAMO: class') as said: o = make(GAMO, steps=5).fit(X, y)
    assert len([w for w in said if 'See report_' in str(w.message)]) == 1
    assert o.report_.images.tolist() == [20,6,3] and o.report_.generator.tolist() == [False,True,True]
    with torch.no_grad(): o.players_.units['2'].weight.mul_(1e4)  # one weight takes all
    with pytest.warns(UserWarning, match='mostly copies'): o._report(new_generator(0))
    assert 'mostly copies' in o.report_.alarm[2] and o.report_.entropy[2] < .05
    with torch.no_grad():
        for p in o.players_.units['2'].parameters(): p.zero_()  # all weights alike
    with pytest.warns(UserWarning, match='averages'): o._report(new_generator(0))
    assert 'averages' in o.report_.alarm[2] and 'collapsed' in o.report_.alarm[2] and o.report_.entropy_share[2] == pytest.approx(1)

def test_divergence_is_said():
    X,y = toy_images((9,5,3))
    with pytest.warns(UserWarning) as said: o = make(GAMO, steps=3, lr=1e38).fit(X, y)
    assert any('diverged' in str(w.message) for w in said)
    assert o.status_['game'] == 'diverged' and all('diverged' in a for a in o.report_.alarm[1:])
    assert all(t.isfinite().all() for t in o.players_.state_dict().values())

# --- the classifier -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('route', ['flat','features'])
def test_net_learns(route):
    from deepclsmote.data import load_dataset
    data = load_dataset('digits')
    some = lambda which: np.concatenate([np.flatnonzero(data.labels == c)[which(n)] for c,n in enumerate((40,20,10))])
    rows,test = some(lambda n: slice(n)),some(lambda n: slice(-50, None))
    net = GamoNet(route=route, steps=40, batch_size=16, lr=1e-3, random_state=0, device='cpu', progress=False).fit(data.images[rows], data.labels[rows])
    X2 = data.images[test]
    assert net.predict_proba(X2).shape == (150,3) and net.score(X2, data.labels[test]) > .9
    assert (net.predict(torch.from_numpy(X2)) == net.predict(X2)).all()

def test_net_reads_dark_and_bright_floats_alike():
    "The range of `fit` holds for images that happen not to reach below 0"
    X,y = toy_images((9,5), (16,16), 'float32', -1)
    o = make(GAMO).fit(X, y)
    bright = X[X.mean((1,2)) > 0][:1].clip(0, 1)
    both = np.concatenate([X, bright])
    np.testing.assert_allclose(o.predict_proba(bright), o.predict_proba(both)[-1:], rtol=1e-5)

@pytest.mark.parametrize('bad', [dict(steps=0), dict(batch_size=1), dict(lr=0), dict(lr='a'), dict(features='deep'), dict(vae_steps=0), dict(together=2)])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): make(GAMO2pix, **bad).fit(*toy_images())

def test_images_of_another_size_are_refused():
    X,y = toy_images()
    with pytest.raises(InputError, match='as in fit'): make(GAMO).fit(X, y).predict_proba(np.zeros((2,17,16), 'uint8'))

def test_benchmark_has_all_rows():
    t = gamo_benchmark((20,8,4), (1,16,16), rounds=1, steps=1)
    assert t.index.tolist() == ['game on pixels','game on features','autoencoder'] and (t > 0).all(axis=None)

@pytest.mark.skipif(not os.environ.get('DEEPCLSMOTE_DATA'), reason='DEEPCLSMOTE_DATA is not set')
def test_real_digits():
    from deepclsmote.data import load_dataset
    data = load_dataset('mnist')
    rows = np.concatenate([np.flatnonzero(data.labels == c)[:n] for c,n in enumerate((200,80,30,12,4))])
    X,y = data.images[rows],data.labels[rows]
    o = GAMO(steps=200, random_state=0, device='cpu', progress=False)
    X1,y1 = o.fit_resample(X, y)
    assert np.bincount(y1).tolist() == [200]*5 and (o.report_.accuracy > .9).all()
    test = np.concatenate([np.flatnonzero(data.labels == c)[-100:] for c in range(5)])
    assert (o.predict_proba(data.images[test]).argmax(1) == data.labels[test]).mean() > .75
