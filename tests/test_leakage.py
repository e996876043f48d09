"What is held back is never seen: not by the autoencoder, the neighbors, the synthetic images or the scaling."
import numpy as np
import pytest, torch
from fastai.callback.core import Callback
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import FuncSplitter
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from imblearn.pipeline import Pipeline
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedKFold, cross_validate
from torch.utils.data import Subset, TensorDataset
from deepclsmote import oversamplers, smote
from deepclsmote.callbacks import BalanceCallback, BalancedSamplerCallback, SyntheticDataset
from deepclsmote.core import new_generator, to_signed, to_uint8
from deepclsmote.loaders import ImagesInMemory, MemoryLoader
from deepclsmote.oversamplers import DeepCLSMOTE, DeepSMOTE
from marked import Marked, Spy, fit, learner, marked_images, read_marks

pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning', 'ignore:Class')
mark = np.frombuffer(b'HELD-BACK!', np.uint8)  # in every held-out image, in no other: pixels of training images are 30 to 90
counts = (24,10,5)

def held_out(noise, n=15):
    "Held-out images: with the mark and extreme values, or mere noise instead"
    x,y = marked_images([n//3]*3, seed=7)
    if noise: return torch.randint(0, 256, x.shape, generator=new_generator(3), dtype=torch.uint8),y
    x[:,0,8,:len(mark)] = torch.from_numpy(mark.copy())
    x[:,0,9:] = 255
    return x,y

def has_mark(x):
    "Is the mark in images, bytes or floats of either range?"
    forms = [x] if x.dtype == torch.uint8 else [to_uint8(x), to_uint8(x.double()*2-1)]
    return any(mark.tobytes() in f.detach().cpu().numpy().tobytes() for f in forms)

assert has_mark(held_out(False)[0]) and has_mark(to_signed(held_out(False)[0])) and not has_mark(held_out(True)[0]) and not has_mark(marked_images(counts)[0])

def deep(cls=DeepCLSMOTE, **kwargs): return cls(**{**dict(epochs=1, decoder='compact', device='cpu', latent_dim=6, batch_size=16, generation='residual', balanced=.5, random_state=0, progress=False), **kwargs})

@pytest.fixture
def told(monkeypatch):
    "Everything that autoencoders and neighbors were given"
    told = dict(images=[], codes=[])
    make,near = oversamplers.autoencoder_learner,oversamplers.neighbors
    def spy_make(data, *args, **kwargs):
        learn = make(data, *args, **kwargs)
        told['images'].append(data.images.clone())
        told['images'] += [to_uint8(x) for x,_,_ in learn.dls.train.new(shuffle=False)]  # what its loader holds
        return learn
    def spy_near(z, k): told['codes'].append(z.clone()); return near(z, k)
    monkeypatch.setattr(oversamplers, 'autoencoder_learner', spy_make)
    monkeypatch.setattr(oversamplers, 'neighbors', spy_near)
    return told

def weights(m): return torch.cat([p.detach().flatten() for p in m.state_dict().values()])
def rows_of(images): return {bytes(i) for i in images.numpy()}

def memory(noise, low=None):
    mine,theirs = marked_images(counts),held_out(noise)
    form = lambda x: x if low is None else to_signed(x) if low < 0 else (to_signed(x)+1)/2
    dl = MemoryLoader(ImagesInMemory(form(mine[0]), mine[1]), 16, True, new_generator(5))
    return DataLoaders(dl, dl.new(ImagesInMemory(form(theirs[0]), theirs[1]), shuffle=False), device=torch.device('cpu'))

def files(noise, path):
    for part,(images,labels) in (('train',marked_images(counts)), ('valid',held_out(noise))):
        for i,(x,y) in enumerate(zip(images, labels)):
            (path/part/f'class {y}').mkdir(parents=True, exist_ok=True)
            Image.fromarray(x[0].numpy()).save(path/part/f'class {y}'/f'{i:03d}.png')
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_items=lambda p: sorted(p.rglob('*.png')), get_y=lambda p: p.parent.name, splitter=FuncSplitter(lambda p: p.parents[1].name == 'valid'))
    return block.dataloaders(path, bs=16, num_workers=0, device=torch.device('cpu'))

# The callbacks ------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', ['memory','files'])
@pytest.mark.parametrize('mode', ['symmetric','top_up'])
def test_balance_callback(kind, mode, told, tmp_path):
    "No held-out byte goes in; whatever stands in the held-out images, codes, networks and batches are the same to the last bit"
    runs = []
    for noise in (False, True):
        dls = memory(noise) if kind == 'memory' else files(noise, tmp_path)
        spy = Spy()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            learn = fit(learner(dls, BalanceCallback(deep(), mode=mode, seed=0), spy), 2)
        o = learn.balance.oversampler
        runs.append([weights(o.autoencoder_), o.codes_, o.images_, weights(learn.model), *[t for e in spy.epochs for b in e for t in b]])
        assert len(told['images']) > 1 and len(told['codes']) > 1
        assert all(not has_mark(x) for x in told['images']) and rows_of(told['images'][0]) == rows_of(marked_images(counts)[0]) == rows_of(torch.cat(told['images'][1:4]))
        assert all(any(z[0].equal(c) for c in o.codes_) for z in told['codes']) and sum(map(len, told['codes'])) <= sum(counts)
        assert not any(has_mark(x) for e in spy.epochs for x,_ in e)
        for v in told.values(): v.clear()
    assert all(a.equal(b) for a,b in zip(*runs, strict=True))

def test_files_of_the_validation_part_stay_closed(tmp_path, monkeypatch):
    "Until the oversampler is fitted and the first epoch trained"
    dls,opened = files(False, tmp_path),[]
    real = Image.open
    monkeypatch.setattr(Image, 'open', lambda f, *a, **k: opened.append(str(f)) or real(f, *a, **k))
    at = []
    fit(learner(dls, BalanceCallback(Marked(), seed=0), Callback(after_train=lambda self: at.append(len(opened)))))
    assert at[0] >= sum(counts) and not any('/valid/' in f for f in opened[:at[0]]) and any('/valid/' in f for f in opened[at[0]:])

@pytest.mark.parametrize('low', [0, -1])
def test_scaling(low):
    "Black is 0 or -1 by the training images alone: here the held-out ones would tell otherwise"
    dls = memory(False, low)
    if low == 0: dls.valid_ds.images[:] = -1
    spy = Spy()
    learn = fit(learner(dls, BalanceCallback(Marked(), seed=0), spy))
    o = learn.balance.oversampler
    assert o.format_.low == low and learn.balance.oversampler.kept_[0].min() == -1
    for x,y in spy.epochs[0]: assert read_marks(x, low)[1].equal(y) and x.min() == low and x.max() == 1
    ds = TensorDataset(torch.cat([dls.train_ds.images, dls.valid_ds.images]), torch.cat([dls.train_ds.labels, dls.valid_ds.labels]))
    for x,y in SyntheticDataset(Subset(ds, range(sum(counts))), Marked(), 16, seed=0): assert read_marks(x, low)[1].equal(y) and x.min() == low

def test_one_oversampler_for_all_folds(told):
    "The same unfitted object in one learner after another: each fits its own on its own images"
    x,y = marked_images((24,12,9))
    o,folds = deep(),StratifiedKFold(3, shuffle=True, random_state=0)
    for train,valid in folds.split(x, y):
        dl = MemoryLoader(ImagesInMemory(x[train], y[train]), 16, True, new_generator(0))
        fit(learner(DataLoaders(dl, dl.new(ImagesInMemory(x[valid], y[valid]), shuffle=False)), BalanceCallback(o, seed=0)))
        assert rows_of(told['images'][0]) == rows_of(x[train])
        told['images'].clear()

@pytest.mark.parametrize('kind', ['memory','files'])
def test_sampler_callback(kind, tmp_path):
    runs = []
    for noise in (False, True):
        spy = Spy()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            learn = fit(learner(memory(noise) if kind == 'memory' else files(noise, tmp_path), BalancedSamplerCallback(seed=0), spy), 2)
        assert not any(has_mark(x) for e in spy.epochs for x,_ in e)
        runs.append([weights(learn.model), *[t for e in spy.epochs for b in e for t in b]])
    assert all(a.equal(b) for a,b in zip(*runs, strict=True))

@pytest.mark.parametrize('name,kwargs', [('CentroidLossCallback',dict(layer=None, weights=(1.,1.))), ('CentroidLossCallback',dict(weights=(1.,1.), centroid='epoch')), ('LatentSMOTECallback',dict(seed=0)), ('LatentSMOTECallback',dict(seed=0, memory=4))])
def test_feature_callbacks(name, kwargs, monkeypatch):
    "Validation and predictions between and after epochs leave no trace in the weights, centroids or memories"
    from deepclsmote import features
    runs = []
    for noise,look in ((False,False), (True,False), (False,True)):
        dls,given = memory(noise),[]
        cb = getattr(features, name)(**kwargs)
        monkeypatch.setattr(type(cb), 'extra_loss', lambda self, z, y, *a, f=type(cb).extra_loss: given.append((z.detach().clone(), y.clone())) or f(self, z, y, *a))
        learn = learner(dls, cb)
        body,trained = learn.model.body,[]
        body.register_forward_hook(lambda m, i, out: trained.append(torch.relu(out).detach().clone()) if m.training else None)
        if look: learn.add_cb(Callback(after_epoch=lambda self: [self.model.eval(), self.model(to_signed(held_out(False)[0])), self.model.train()]))
        fit(learn, 2)
        monkeypatch.undo()
        assert given and len(given) == len(trained) and all(z.equal(t) for (z,_),t in zip(given, trained))
        runs.append([weights(learn.model), *[t for g in given for t in g]])
    for other in runs[1:]: assert all(a.equal(b) for a,b in zip(runs[0], other, strict=True))

def test_memory_of_features_is_of_training_images():
    from deepclsmote.features import LatentSMOTECallback
    cb = LatentSMOTECallback(seed=0)
    learn = fit(learner(memory(False), cb), lr=0)
    with torch.no_grad(): known = {c: torch.relu(learn.model.body(to_signed(x))) for c in range(3) for x in [learn.dls.train_ds.images[learn.dls.train_ds.labels == c]]}
    assert sorted(cb._memory) == [0,1,2]
    for c,z in cb._memory.items():
        assert len(z) and torch.cdist(z, known[c]).min(1).values.max() < 1e-5

# Without fastai -------------------------------------------------------------------------------------

@pytest.mark.parametrize('memory', [True, False])
def test_synthetic_dataset(memory, told):
    "Of a part of a data set, the other part is never read"
    mine,runs = marked_images(counts),[]
    rows = torch.randperm(sum(counts)+15, generator=new_generator(0))
    for noise in (False, True):
        theirs = held_out(noise)
        x,y = (torch.cat([a, b])[rows.argsort()] for a,b in zip(mine, theirs))  # row i of `mine` lies at rows[i]
        class Watched(TensorDataset):
            def __getitem__(self, i): assert i in own; return super().__getitem__(i)
        own = set(rows[:sum(counts)].tolist())
        part = ImagesInMemory(x[rows[:sum(counts)]], y[rows[:sum(counts)]]) if memory else Subset(Watched(x, y), rows[:sum(counts)].tolist())
        ds = SyntheticDataset(part, deep(), 16, seed=0)
        batches = [t for _ in range(2) for b in ds for t in b]
        assert not any(has_mark(t) for t in told['images']+batches[::2]) and rows_of(told['images'][0]) == rows_of(mine[0])
        runs.append([weights(ds.oversampler.autoencoder_), ds.oversampler.codes_, *batches])
        for v in told.values(): v.clear()
    assert all(a.equal(b) for a,b in zip(*runs, strict=True))

# scikit-learn ---------------------------------------------------------------------------------------

class Keeper(ClassifierMixin, BaseEstimator):
    "Keeps what it is given"
    log = []
    def fit(self, X, y): self.classes_ = np.unique(y); Keeper.log.append(('fit', X.copy(), y.copy())); return self
    def predict(self, X): Keeper.log.append(('predict', X.copy(), None)); return np.zeros(len(X), int)

@pytest.mark.parametrize('cls', [DeepCLSMOTE, DeepSMOTE])
def test_pipeline_under_cross_validation(cls, told):
    "Each fold trains on its own rows; test rows are neither resampled nor seen; with noise in their place nothing changes"
    x,y = marked_images((24,12,9))
    X,y = x.flatten(1).numpy(),y.numpy()
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    Keeper.log = []
    pipe = Pipeline([('balance', deep(cls)), ('keep', Keeper())])
    result = cross_validate(pipe, X, y, cv=folds, error_score='raise', return_estimator=True)
    fits,predictions = ([l for l in Keeper.log if l[0] == w] for w in ('fit','predict'))
    given = [t for t in told['images'] if t.dtype == torch.uint8 and len(t) == 30]
    for (train,test),(_,A,b),(_,P,_),images,est in zip(folds, fits, predictions, given, result['estimator'], strict=True):
        assert (A[:len(train)] == X[train]).all() and (P == X[test]).all() and np.bincount(b).tolist() == [16]*3
        assert rows_of(images) == rows_of(x[train])
        held = {bytes(r) for r in X[test]}
        assert not any(bytes(r) in held for r in A)
        o = est['balance']
        table = o.provenance_
        assert table.parent_a.between(0, len(train)-1).all() and table.parent_b.between(0, len(train)-1).all()
    told['images'].clear()
    train,test = folds[0]
    noisy = X.copy()
    noisy[test] = np.random.RandomState(0).randint(0, 256, noisy[test].shape)
    Keeper.log = []
    again = cross_validate(pipe, noisy, y, cv=folds[:1], error_score='raise', return_estimator=True)
    assert (Keeper.log[0][1] == fits[0][1]).all() and (Keeper.log[0][2] == fits[0][2]).all()
    assert weights(again['estimator'][0]['balance'].autoencoder_).equal(weights(result['estimator'][0]['balance'].autoencoder_))

def test_scaling_in_a_pipeline():
    "Images in [0, 1] whose held-out rows go down to -1: the fold reads its own rows as [0, 1]"
    x,y = marked_images((24,12,9))
    X,y = (x.flatten(1).float()/255).numpy(),y.numpy()
    train,test = next(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    X[test] = -X[test]
    pipe = Pipeline([('balance', deep()), ('keep', Keeper())])
    est, = cross_validate(pipe, X, y, cv=[(train,test)], error_score='raise', return_estimator=True)['estimator']
    assert est['balance'].format_.low == 0 and Keeper.log[-2][1].min() >= 0
