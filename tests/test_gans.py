"The adversarial loop: rows, chance, snapshots, faults."
import math, random
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from deepclsmote.core import InputError, new_generator
from deepclsmote.models import evaluating
from deepclsmote.rivals.gans import Dropout, Snapshot, batches, build_glorot, generator_on, play, use_generator

def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()

@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_batches(n, bs, seed):
    "Every pass is a permutation without its short end, each in another order; fewer rows than a batch: drawn anew"
    rows,per = batches(n, bs, new_generator(seed)),n//bs
    before = states()
    for _ in range(3):
        one = [next(rows) for _ in range(max(per, 1))]
        assert all(b.shape == (bs,) and b.dtype == torch.int64 and 0 <= int(b.min()) <= int(b.max()) < n for b in one)
        if per: assert len(torch.cat(one).unique()) == per*bs
    assert states() == before
    again = batches(n, bs, new_generator(seed))
    first = batches(n, bs, new_generator(seed))
    for _ in range(5): assert next(again).equal(next(first))

def test_batches_every_row_comes():
    "What a pass drops differs from pass to pass; with replacement all rows come equally often"
    rows = batches(10, 4, new_generator(0))
    assert len(torch.cat([next(rows) for _ in range(40)]).unique()) == 10
    few = batches(3, 300, new_generator(0))
    share = torch.bincount(torch.cat([next(few) for _ in range(100)]), minlength=3)/30_000
    torch.testing.assert_close(share, torch.full((3,), 1/3), atol=.01, rtol=0)
    for bad in ((0,3), (3,0), (-1,2)):
        with pytest.raises(InputError, match='expected 1 or more'): batches(*bad, new_generator(0))

def one_player(lr=.1, seed=0):
    net = build_glorot(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), Dropout(.2), nn.Linear(4, 1)), seed)
    use_generator(net, new_generator(seed))
    opt,x = torch.optim.Adam(net.parameters(), lr),torch.randn(8, 3, generator=new_generator(1))
    def step(i):
        loss = (net(x)-1).square().mean()
        opt.zero_grad(); loss.backward(); opt.step()
        return dict(loss=loss.detach())
    return net,opt,step

@pytest.mark.parametrize('every,steps', [(1,7), (3,7), (7,7), (100,7), (3,0)])
def test_log_is_the_mean(every, steps):
    net,opt,step = one_player()
    history = play(step, dict(net=net), steps, every=every, progress=False)
    again,_,step = one_player()
    losses = [float(step(i)['loss']) for i in range(steps)]
    ends = sorted({*range(every, steps+1, every), *([steps] if steps else [])})
    want = [np.mean(losses[a:b]) for a,b in zip([0,*ends], ends)]
    assert (history.status, history.steps, len(history.table)) == ('done', steps, len(ends))
    if ends:
        assert history.table.step.tolist() == ends
        np.testing.assert_allclose(history.table.loss, want, rtol=1e-5)
    for a,b in zip(net.state_dict().values(), again.state_dict().values()): assert a.equal(b)

def test_a_loss_that_comes_now_and_then():
    "Means are over the steps that gave the loss"
    net,_,step = one_player()
    history = play(lambda i: {**step(i), **({'rare': torch.tensor(float(i))} if i % 3 == 0 else {})}, dict(net=net), 6, every=6, progress=False)
    assert history.table.rare.tolist() == [1.5]

@pytest.mark.parametrize('what', ['loss','weight','buffer','inf'])
@pytest.mark.parametrize('at,good', [(0,0), (9,0), (10,10), (24,20)])
def test_divergence(what, at, good):
    "Whatever is spoilt, weights, running statistics and optimizer are those of the last look"
    net,opt,step = one_player()
    def spoil(i):
        out = step(i)
        if i == at:
            if what == 'loss': out['loss'] = torch.tensor(math.nan)
            if what == 'weight': net[0].weight.data[1,1] = math.nan
            if what == 'buffer': net[1].running_var[0] = math.nan
            if what == 'inf': net[4].bias.data[0] = -math.inf
        return out
    with pytest.warns(UserWarning, match=f'Toy diverged between steps {good} and'): history = play(spoil, dict(net=net), 25, opts=dict(opt=opt), every=10, progress=False, label='Toy')
    assert (history.status, history.steps) == ('diverged', good)
    same,same_opt,step = one_player()
    for i in range(good): step(i)
    for a,b in zip(net.state_dict().values(), same.state_dict().values()): assert a.equal(b)
    assert len(opt.state) == len(same_opt.state)
    for a,b in zip(opt.state.values(), same_opt.state.values()): assert all(a[k].equal(b[k]) for k in b)

def test_watch_and_errors_pass_through():
    net,_,step = one_player()
    seen = []
    history = play(step, dict(net=net), 10, watch=lambda i: seen.append(i) or dict(stop=i == 6), every=3, progress=False)
    assert seen == [3,6] and (history.status, history.steps) == ('stopped', 6)
    for error in (KeyboardInterrupt, ZeroDivisionError):
        def broken(i): raise error
        with pytest.raises(error): play(broken, dict(net=net), 10, progress=False)
        with pytest.raises(error): play(step, dict(net=net), 10, watch=broken, every=2, progress=False)

def test_progress_bar_is_closed(capsys, monkeypatch):
    net,opt,step = one_player()
    play(step, dict(net=net), 5, progress=True, label='The game')
    assert capsys.readouterr().out == 'The game: 5 steps\n'
    monkeypatch.setattr('deepclsmote.rivals.gans.draws_bars', lambda: True)
    play(step, dict(net=net), 5, progress=True, label='bar')
    play(step, dict(net=net), 5, progress=True, watch=lambda i: dict(stop=True), every=2)
    assert 'bar' in capsys.readouterr().out
    play(step, dict(net=net), 5, progress=False)
    assert capsys.readouterr() == ('', '')

def test_no_global_generator():
    before = states()
    net,_,step = one_player()
    play(step, dict(net=net), 5, progress=False)
    assert states() == before

def test_snapshot_follows_a_new_state():
    "Taken before the optimizer's first step, put back after it: as new"
    net,opt,step = one_player()
    kept,weights = Snapshot(dict(net=net), dict(opt=opt)),{k: v.clone() for k,v in net.state_dict().items()}
    for i in range(3): step(i)
    kept.put_back()
    assert all(v.equal(weights[k]) for k,v in net.state_dict().items()) and not opt.state
    step(0)
    kept.take()
    first = [s['exp_avg'].clone() for s in opt.state.values()]
    step(1)
    kept.put_back()
    assert all(a.equal(s['exp_avg']) for a,s in zip(first, opt.state.values()))

def test_dropout():
    drop = use_generator(nn.Sequential(Dropout(0), Dropout(.9)), generator_on('cpu', 1))
    x = torch.ones(4000, requires_grad=True)
    y = drop(x)
    grad, = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, y.detach())  # the mask of the backward pass is that of the forward pass
    assert .08 < (y > 0).float().mean() < .12
    assert not drop(x).equal(y)
    assert use_generator(nn.Sequential(Dropout(0), Dropout(.9)), generator_on('cpu', 1))(x).equal(y)

def test_evaluating_restores_after_an_error():
    net = nn.Sequential(nn.Dropout(), nn.Dropout()); net[0].eval()
    with pytest.raises(ZeroDivisionError):
        with evaluating(net): 1/0
    assert [m.training for m in net.modules()] == [True,False,True] and torch.is_grad_enabled()

