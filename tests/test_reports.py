"The report's recalls are scikit-learn's, its columns are where fastai looks for them, and it disturbs nothing."
import copy, os, subprocess, sys
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import recall_score
from torch import nn
from torch.nn import functional as F
from fastai.basics import (accuracy, Callback, CancelBatchException, CancelEpochException, CancelFitException, CancelTrainException, CancelValidException,
                           CrossEntropyLossFlat, DataLoaders, FetchPredsCallback, Learner, MSELossFlat, Recorder, load_learner)
from fastai.callback.core import event
from fastai.callback.mixup import MixUp
from fastai.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
from fastai.callback.schedule import Learner
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.callback.training import ShortEpochCallback
from deepclsmote.core import InputError, new_generator
from deepclsmote.loaders import ImagesInMemory, MemoryLoader
from deepclsmote.models import build
from deepclsmote.reports import ImbalanceReport, check_answers, class_recalls, count_classes, mean_recalls

counts = (120, 30, 10, 4)
def toy(counts, seed=0):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x = (torch.randn(len(y), 1, 3, 3, generator=new_generator(seed))*.4 + y[:,None,None,None]*.2 - .3).clamp(-1, 1)
    return ImagesInMemory(x, y, ['ant','bee','cow','dog'])

def loaders(train=counts, valid=(9,8,7,6), cls=DataLoaders):
    dl = MemoryLoader(toy(train), 16, True, new_generator(0))
    return cls(dl, dl.new(toy(valid, 1), shuffle=False), device=torch.device('cpu'))

def learner(*cbs, dls=None, progress=False, **kwargs):
    net = build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9,8), nn.ReLU(), nn.Linear(8,4)), 0)
    learn = Learner(dls or loaders(), net, CrossEntropyLossFlat(), cbs=cbs, **kwargs)
    if not progress: learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    return learn

def report(**kwargs): return ImbalanceReport(plot=False, **kwargs)

names = ['recall_many','recall_medium','recall_few','macro_recall']

def theirs(learn):
    p,y = learn.get_preds()
    r = recall_score(y, p.argmax(1), average=None, zero_division=np.nan)
    return r,[r[0], r[1], r[2:].mean(), r.mean()]

class Fixed(nn.Module):
    "Answers that are written into the images"
    def __init__(self, n=4): super().__init__(); self.n,self.p = n,nn.Parameter(torch.zeros(()))
    def forward(self, x): return F.one_hot(x[:,0,0,0].long(), self.n)*1e3 + self.p

def fixed(valid, answers, train=counts, **kwargs):
    y = torch.arange(4).repeat_interleave(torch.tensor(valid))
    x = torch.zeros(len(y), 1, 3, 3); x[:,0,0,0] = torch.tensor(answers)
    class Plain(ImagesInMemory):
        def __getitem__(self, i): return self.images[i],self.labels[i]
    dl = MemoryLoader(toy(train), 16, True, new_generator(0))
    dls = DataLoaders(dl, MemoryLoader(Plain(x, y, ['ant','bee','cow','dog']), 3))
    learn = Learner(dls, Fixed(), CrossEntropyLossFlat(), lr=0., **kwargs)
    learn.remove_cb(ProgressCallback); learn.logger = lambda *args: None
    class NoTrain(Callback):
        def before_train(self): raise CancelTrainException
    learn.add_cb(NoTrain())
    return learn

# The numbers

def test_by_hand():
    "Unequal batches, logits of any size"
    rep = report()
    fixed((4,2,2,2), [0,0,0,1, 1,0, 2,2, 0,2], cbs=rep).fit(1)
    row = rep.history.iloc[0]
    assert row[['ant','bee','cow','dog']].tolist() == [.75, .5, 1., 0.]
    assert row[names].tolist() == [.75, .5, .5, .5625]

def test_same_as_sklearn():
    rep,got = report(),[]
    class Each(Callback):
        order = 70
        def after_epoch(self):
            if not hasattr(self, 'gather_preds') and self.learn.create_mbar: got.append(list(self.recorder.values[-1]))
    learn = learner(rep, Each(), metrics=accuracy)
    learn.fit(3, .02)
    assert list(learn.recorder.metric_names) == ['epoch','train_loss','valid_loss','accuracy',*names,'time']
    assert [len(v) for v in got] == [7]*3
    assert rep.history.shape == (3,8) and rep.history.index.tolist() == [0,1,2]
    np.testing.assert_allclose(rep.history[names], [v[3:] for v in got])
    r,means = theirs(learn)
    np.testing.assert_allclose(rep.history.iloc[-1], [*means, *r])
    assert r.min() < r.max() # not a trivial case
    torch.testing.assert_close(torch.tensor(got[-1][2]), torch.tensor(float((r*[9,8,7,6]).sum()/30)))

def test_counts():
    rep = report()
    learner(rep).fit(1)
    want = pd.DataFrame(dict(train=counts, valid=[9,8,7,6], group=['many','medium','few','few']), index=pd.Index(['ant','bee','cow','dog'], name='class'))
    pd.testing.assert_frame_equal(rep.counts, want)
    rep = report(many=10, few=10)
    learner(rep).fit(1)
    assert rep.counts.group.tolist() == ['many','many','medium','few']

def test_groups_that_exist():
    "A column for a group with classes in both parts; a class without validation images has no recall"
    rep = report()
    learn = learner(rep, dls=loaders(valid=(9,0,7,0)))
    learn.fit(1)
    assert rep.columns == ['recall_many','recall_few','macro_recall'] == list(learn.recorder.metric_names[3:-1])
    row = rep.history.iloc[0]
    assert np.isnan(row[['bee','dog']].astype(float)).all()
    np.testing.assert_allclose(row.macro_recall, (row.ant + row.cow)/2); np.testing.assert_allclose(row.recall_few, row.cow)

def test_functions():
    np.testing.assert_array_equal(class_recalls([1,0,0], [2,3,0]), [.5, 0, np.nan])
    r = mean_recalls(np.array([1, np.nan, 0.]), dict(a=[0,1], b=[1], c=[]))
    assert r['recall_a'] == 1 and np.isnan(r['recall_b']) and np.isnan(r['recall_c']) and r['macro_recall'] == .5

# Beside the rest of fastai

def test_nothing_is_disturbed():
    "Weights, losses and the global generators as without it"
    plain,rep = learner(),learner(report())
    for learn in (plain, rep): learn.fit_one_cycle(2, .02); learn.fit_one_cycle(1, .02)
    for a,b in zip(plain.model.parameters(), rep.model.parameters(), strict=True): assert torch.equal(a, b)
    assert plain.recorder.losses == rep.recorder.losses
    assert [list(v) for v in plain.recorder.values] == [list(v)[:2] for v in rep.recorder.values]

def test_second_fit():
    rep = report()
    learn = learner(rep)
    learn.fit(3); learn.fit(2)
    assert rep.history.index.tolist() == [0,1]
    assert list(learn.recorder.metric_names[3:-1]) == names
    learn.fit(4, start_epoch=2) # the rest of a fit that was broken off
    assert rep.history.index.tolist() == [0,1,2,3]

@pytest.mark.parametrize('order', [0, 90])
@pytest.mark.parametrize('monitor', ['recall_few','macro_recall'])
def test_save_model(tmp_path, monitor, order):
    "The weights of the best epoch come back"
    class Keep(Callback):
        def __init__(self): self.kept,self.order = [],order
        def after_validate(self):
            if self.learn.create_mbar: self.kept.append(copy.deepcopy(self.model.state_dict()))
    rep,keep = report(),Keep()
    learn = learner(SaveModelCallback(monitor=monitor), rep, keep, path=tmp_path)
    learn.fit(4, .05)
    best = keep.kept[int(rep.history[monitor].to_numpy().argmax())]
    assert all(torch.equal(v, best[k]) for k,v in learn.model.state_dict().items())
    learn.get_preds() # SaveModelCallback looks for its column there, too
    learn.lr_find(num_it=10, show_plot=False)
    assert len(rep.history) == 4

def test_early_stopping():
    rep = report()
    learn = learner(rep, EarlyStoppingCallback(monitor='recall_few', patience=2), ReduceLROnPlateau(monitor='macro_recall'))
    learn.fit(20, 0.)
    assert len(rep.history) == 3 == len(learn.recorder.values)

def test_csv(tmp_path):
    learn = learner(rep := report(), CSVLogger(), path=tmp_path)
    learn.fit(2, .02)
    log = pd.read_csv(tmp_path/'history.csv')
    assert list(log.columns) == ['epoch','train_loss','valid_loss',*names,'time']
    np.testing.assert_allclose(log[names], rep.history[names])

def test_progress_table():
    "Header and rows of the table have the columns"
    rep,rows = report(),[]
    class Rows(Callback):
        order = ProgressCallback.order-1
        def before_fit(self): rows.append(list(self.recorder.metric_names))
        def before_epoch(self): self.learn.progress.mbar.write = lambda line, **kwargs: rows.append(line)
    learn = learner(rep, Rows(), progress=True)
    learn.logger = print
    learn.fit(1)
    assert rows[0][3:-1] == names and len(rows[-1]) == len(rows[0])
    assert [float(v) for v in rows[-1][3:-1]] == [round(v, 6) for v in rep.history.iloc[0][names]]

def test_show_graph():
    class Mute(Callback):
        order = 61
        def before_fit(self): self.learn.progress.mbar.update_graph = lambda *args: drawn.append(args)
    drawn = []
    learn = learner(report(), ShowGraphCallback(), Mute(), progress=True)
    learn.logger = print
    learn.fit(2)
    assert len(drawn) == 2

def test_validate_and_get_preds():
    rep = report()
    learn = learner(rep)
    before = list(learn.validate()) # before any fit
    assert len(before) == 5 and rep.history.empty
    learn.fit(2, .02)
    kept = rep.history
    r,means = theirs(learn)
    np.testing.assert_allclose(list(learn.validate())[-4:], means)
    other = loaders(valid=(0,5,0,0)).valid
    v = list(learn.validate(dl=other))[-4:]
    assert np.isnan(v[0]) and np.isnan(v[2]) and v[1] == v[3]
    learn.get_preds(); learn.get_preds(with_loss=True)
    pd.testing.assert_frame_equal(rep.history, kept)

def test_lr_find(tmp_path):
    rep = report()
    learn = learner(rep, path=tmp_path)
    learn.lr_find(num_it=25, stop_div=False, show_plot=False)
    assert rep.history.empty
    learn.fit(1)
    learn.lr_find(num_it=25, stop_div=False, show_plot=False)
    assert len(rep.history) == 1

def test_export(tmp_path):
    "The counts go along, images and labels do not; a loaded learner judges new data"
    rep = report()
    learn = learner(rep, path=tmp_path)
    learn.fit(1)
    want = list(learn.validate())
    learn.export('learner.pkl')
    assert not [k for k,v in rep.__getstate__().items() if k != 'learn' and not isinstance(v, (int,bool,list,pd.DataFrame))]
    with pytest.warns(UserWarning): loaded = load_learner(tmp_path/'learner.pkl')
    np.testing.assert_allclose(list(loaded.validate(dl=loaders().valid)), want, rtol=1e-5)
    torch.testing.assert_close(loaded.get_preds(dl=loaders().valid)[0], learn.get_preds()[0])
    fresh = learner(report(), path=tmp_path) # exported before it was ever trained
    fresh.export('fresh.pkl')
    with pytest.warns(UserWarning): loaded = load_learner(tmp_path/'fresh.pkl')
    assert len(loaded.validate(dl=loaders().valid)) == 1
    loaded.get_preds(dl=loaders().valid)

def test_fetch_preds():
    "A second pass over the validation part, in the middle of an epoch, changes no number"
    a,b = report(),report()
    learner(a).fit(2, .02)
    learner(b, FetchPredsCallback()).fit(2, .02)
    pd.testing.assert_frame_equal(a.history, b.history)

def test_no_validation():
    rep = report()
    learn = learner(rep, dls=loaders(valid=(0,0,0,0)))
    learn.fit(1)
    assert rep.columns == [] and rep.history.empty and list(learn.recorder.metric_names) == ['epoch','train_loss','valid_loss','time']
    learn = learner(rep := report())
    learn.remove_cb(Recorder)
    learn.fit(1)
    assert len(rep.history) == 1
    learn = learner(rep := report())
    learn.recorder.add_time,learn.recorder.valid_metrics = False,False
    learn.fit(1)
    assert list(learn.recorder.metric_names) == ['epoch','train_loss',*names] and len(learn.recorder.values[0]) == 5

class Stop(Callback):
    def __init__(self, where, fault, epoch): self.where,self.fault,self.at = where,fault,epoch
    def hit(self, where):
        if where == self.where and self.epoch == self.at and self.iter == 1: raise self.fault
    def after_pred(self): self.hit('train' if self.training else 'valid')

@pytest.mark.parametrize('where,fault,rows', [('train', CancelEpochException, [0,2]), ('valid', CancelEpochException, [0,2]), ('valid', CancelValidException, [0,2]),
    ('train', CancelFitException, [0]), ('valid', CancelFitException, [0]), ('train', CancelTrainException, [0,1,2]), ('valid', KeyboardInterrupt, [0]), ('valid', RuntimeError('x'), [0])])
def test_canceled(where, fault, rows):
    "Half a validation is none; the next one is whole"
    rep = report()
    learn = learner(rep)
    own,cbs = learn.loss_func,list(learn.cbs)
    try: learn.fit(3, .02, cbs=Stop(where, fault, 1))
    except (KeyboardInterrupt, RuntimeError): pass
    assert rep.history.index.tolist() == rows
    assert learn.loss_func is own and list(learn.cbs) == cbs
    learn.fit(1, .02)
    r,means = theirs(learn)
    np.testing.assert_allclose(rep.history.iloc[-1], [*means, *r])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in learn.model.modules())

def test_canceled_batch():
    "An image whose batch was given up is in the counts, if its answer is; the sum is never above the images"
    rep = report()
    learner(rep, Stop('valid', CancelBatchException, 0)).fit(1)
    assert (rep.history.iloc[0][names] <= 1).all()

def test_mixup_and_short_epochs():
    rep = report()
    learner(rep, MixUp()).fit(2)
    assert len(rep.history) == 2
    rep = report()
    learner(rep, ShortEpochCallback(pct=.3, short_valid=False)).fit(1)
    assert len(rep.history) == 1

# The picture

def test_plot():
    rep = report()
    with pytest.raises(InputError, match='Call fit'): rep.plot()
    learner(rep).fit(2)
    axs = rep.plot()
    fig = axs[0].figure
    assert fig.get_size_inches()[0] < 8
    lines = {l.get_label(): l.get_ydata() for l in axs[0].lines}
    assert list(lines) == ['many','medium','few','all classes']
    np.testing.assert_allclose(lines['few'], rep.history.recall_few)
    np.testing.assert_allclose([p.get_height() for p in axs[1].patches], rep.history.iloc[-1][['ant','bee','cow','dog']].astype(float))
    assert [t.get_text() for t in axs[1].texts] == ['120','30','10','4']
    plt.close(fig)
    fig,mine = plt.subplots(1, 2)
    assert rep.plot(mine)[0] is mine[0]
    plt.close(fig)

def test_plotted_at_the_end_in_a_notebook(monkeypatch, tmp_path):
    import deepclsmote.reports as reports
    drawn = []
    monkeypatch.setattr(ImbalanceReport, 'plot', lambda self: drawn.append(len(self.history)))
    learn = learner(ImbalanceReport(), path=tmp_path)
    learn.fit(1)
    assert not drawn # no notebook
    monkeypatch.setattr(reports, 'in_notebook', lambda: True)
    learn.validate(); learn.get_preds(); learn.lr_find(num_it=10, show_plot=False)
    assert not drawn
    learn.fit(2)
    assert drawn == [2]
    learner(report()).fit(1)
    assert drawn == [2]

# What is refused

def test_refused():
    with pytest.raises(InputError, match='class dog'): learner(report(), dls=loaders(train=(9,9,9,0))).fit(1)
    with pytest.raises(InputError, match='2 callbacks'): learner(report(), report()).fit(1)
    with pytest.raises(InputError, match='few <= many'): ImbalanceReport(many=3, few=4)

def data_of(targets):
    class Set(torch.utils.data.Dataset):
        def __len__(self): return len(targets)
        def __getitem__(self, i): return torch.zeros(3),targets[i]
    from fastai.data.load import DataLoader
    dl = DataLoader(Set(), bs=4)
    return DataLoaders(dl, DataLoader(Set(), bs=4), device=torch.device('cpu'))

@pytest.mark.parametrize('targets,outputs', [(torch.rand(8)*3, 1), (torch.rand(8,3).round(), 3), (torch.arange(8) % 2, 1)], ids=['regression','many labels','one output'])
def test_other_targets(targets, outputs):
    net = nn.Linear(3, outputs)
    learn = Learner(data_of(targets), net, lambda p,y: (p.mean() - y.float().mean()).square(), cbs=report())
    learn.remove_cb(ProgressCallback); learn.logger = lambda *args: None
    start = net.weight.detach().clone()
    with pytest.raises(InputError): learn.fit(1)
    assert torch.equal(net.weight, start)

def test_check_answers():
    y = torch.zeros(4, dtype=torch.int64)
    check_answers(torch.zeros(4,2), (y,), False)
    for pred,targets in [((torch.zeros(4,2),), (y,)), (torch.zeros(4,2), (y,y)), (torch.zeros(4,2), ()), (torch.zeros(4), (y,)), (torch.zeros(4,2,5,5), (y,)), (torch.zeros(4,2), (y.float(),))]:
        with pytest.raises(InputError): check_answers(pred, targets, True)

def test_events_exist():
    for name in dir(ImbalanceReport):
        if name.startswith(('before_','after_')): assert hasattr(event, name), name

# Over two processes

script = '''
import os, sys, warnings; warnings.filterwarnings("ignore")
import torch; torch.set_num_threads(1)
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
from fastai.basics import *
from deepclsmote.core import new_generator
from deepclsmote.loaders import ImagesInMemory, MemoryLoader
from deepclsmote.features import CentroidLossCallback, LatentSMOTECallback
from deepclsmote.reports import ImbalanceReport
y = torch.arange(4).repeat_interleave(torch.tensor([24,12,8,4]))
x = (torch.randn(48, 1, 3, 3, generator=new_generator(0))*.4 + y[:,None,None,None]*.2 - .3).clamp(-1, 1)
class Wrap(Callback):
    order = 11
    def before_fit(self): self.learn.model = DDP(self.learn.model)
    def after_fit(self): self.learn.model = self.learn.model.module
mine = slice(rank, None, 2)
dl = MemoryLoader(ImagesInMemory(x[mine].clone(), y[mine].clone()), 8, True, new_generator(rank))
dls = DataLoaders(dl, dl.new(ImagesInMemory(x[mine].clone(), y[mine].clone()), shuffle=False), device=torch.device("cpu"))
torch.manual_seed(0)
net = nn.Sequential(nn.Flatten(), nn.Linear(9,8), nn.ReLU(), nn.Linear(8,4))
rep = ImbalanceReport(many=10, few=5, plot=False)
learn = Learner(dls, net, CrossEntropyLossFlat(), cbs=[Wrap(), CentroidLossCallback(weights=(.1,1)), LatentSMOTECallback(seed=0), rep])
learn.remove_cb(learn.progress); learn.logger = noop
learn.fit(2, .05)
with torch.no_grad(): a = net.eval()(x).argmax(1)
want = torch.stack([(a[y==c]==c).double().mean() for c in range(4)])
got = torch.tensor(rep.history.iloc[-1][["0","1","2","3"]].to_numpy(float))
assert torch.allclose(want, got), (want, got)
w = torch.cat([p.detach().flatten() for p in net.parameters()])
both = [torch.empty_like(w) for _ in range(2)]
dist.all_gather(both, w)
assert torch.equal(*both) and w.isfinite().all()
assert "forward" not in net.__dict__ and not any(m._forward_hooks for m in net.modules())
dist.destroy_process_group()
print("rank", rank, "done")
'''

def test_two_processes(tmp_path):
    "The answers of both are judged together, and both stay in step with the callbacks on features"
    (tmp_path/'run.py').write_text(script)
    import socket
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {**os.environ, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': '2', 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    procs = [subprocess.Popen([sys.executable, tmp_path/'run.py'], env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in range(2)]
    try: outs = [p.communicate(timeout=120)[0] for p in procs]
    finally:
        for p in procs: p.kill()
    assert [p.returncode for p in procs] == [0,0], '\n'.join(outs)
