"Oversamplers that learn from streams: bit for bit what they learn from arrays, and told when a stream is not what it was."
import errno, os, subprocess, sys
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler
from deepclsmote.core import InputError, new_generator, toy_images
from deepclsmote.loaders import MemoryLoader
from deepclsmote.oversamplers import DeepCLSMOTE, DeepSMOTE
from deepclsmote.streams import ImageStream, LoaderStream, as_stream

pytestmark = pytest.mark.filterwarnings('ignore:Class .* has one image')
X,y = toy_images((30,22,9,3))
fast = dict(epochs=2, batch_size=16, latent_dim=3, decoder='compact', progress=False, device='cpu', random_state=4, precision='float32')

class Items(Dataset):
    "Pairs that a test can spoil"
    def __init__(self, images=X, labels=y, as_image=lambda a: a, **kept): self.images,self.labels,self.as_image = images,labels,as_image; vars(self).update(kept)
    def __len__(self): return len(self.images)
    def __getitem__(self, i): return self.as_image(self.images[i]),self.labels[i]

class Passes(IterableDataset):
    "Gives what `each(number of the pass)` says"
    def __init__(self, each=lambda k: range(len(X)), labels=y): self.each,self.labels,self.k = each,labels,-1
    def __iter__(self):
        self.k += 1
        return iter([(torch.from_numpy(X[i])[None],int(self.labels[i])) for i in self.each(self.k)])

def weights(o): return torch.cat([p.detach().flatten().double() for p in o.autoencoder_.state_dict().values()])
def same(a, b):
    assert weights(a).equal(weights(b)), 'the weights differ'
    assert (a.history_ == b.history_).all(axis=None) and a.classes_.tolist() == b.classes_.tolist() and a.sampling_strategy_ == b.sampling_strategy_

# --- the same as from arrays ----------------------------------------------------------------------------------------

kinds = dict(arrays=lambda a: a, bytes_=lambda a: torch.from_numpy(a)[None], pil=Image.fromarray, floats=lambda a: torch.from_numpy(a)[None].float()/255)

@pytest.mark.parametrize('workers', [0, 1, 2])
@pytest.mark.parametrize('kind', kinds)
def test_same_weights_as_from_arrays(kind, workers):
    "And the same images of the classes to be oversampled, in the form of the items"
    whole = kinds[kind](X[0]) if kind != 'pil' else X[0]
    stacked = np.stack([np.asarray(kinds[kind](a)) for a in X]) if kind in ('arrays','pil') else torch.stack([kinds[kind](a) for a in X])
    a,b = DeepCLSMOTE(**fast).fit(stacked, y),DeepCLSMOTE(**fast).fit(ImageStream(Items(as_image=kinds[kind]), workers))
    same(a, b)
    (new_a,made_a),(new_b,made_b) = (o.sample({1: 5, 3: 4}, random_state=1) for o in (a, b))
    assert type(new_a) is type(new_b) and new_a.dtype == new_b.dtype and new_a.shape == new_b.shape == (9, *whole.shape)
    assert made_a.equals(made_b), 'parents are told by their rows in the data set'
    np.testing.assert_allclose(np.asarray(new_a, float), np.asarray(new_b, float), atol=1 if kind != 'floats' else 1e-5)
    assert b.codes_.shape == (34,3) and b.rows_.tolist() == np.flatnonzero(y > 0).tolist(), 'codes of a class that is not oversampled were kept'

@pytest.mark.parametrize('cls,settings', [(DeepCLSMOTE, dict(centroid='epoch')), (DeepCLSMOTE, dict(centroid='head', balanced=.5, augment=True)), (DeepSMOTE, {}), (DeepCLSMOTE, dict(generation='residual')),
    (DeepCLSMOTE, dict(generation='style', donors=2, augment_parents=True)), (DeepSMOTE, dict(penalty='paper', sampling_strategy={2: 20}))], ids=str)
def test_same_for_every_setting(cls, settings):
    a,b = cls(**{**fast, **settings}).fit(X, y),cls(**{**fast, **settings}).fit(Items())
    same(a, b)
    (new_a,made_a),(new_b,made_b) = (o.sample(6, 2, random_state=1) for o in (a, b))
    assert made_a.equals(made_b)
    np.testing.assert_allclose(new_a.astype(float), new_b.astype(float), atol=1)

def test_a_loader_s_own_order():
    "Passed through in its batches: the same weights as arrays trained in that order"
    a = DeepCLSMOTE(**fast).fit(DataLoader(Passes(), 16))
    class InOrder(MemoryLoader):
        def get_idxs(self): return torch.arange(len(self.dataset))
    from deepclsmote import training
    with pytest.MonkeyPatch.context() as m:
        m.setattr(training, 'MemoryLoader', InOrder)
        b = DeepCLSMOTE(**fast).fit(X, y)
    same(a, b)
    assert a.rows_.tolist() == np.flatnonzero(y > 0).tolist() and a.sample(3, 3)[0].shape == (3,1,16,16)

@pytest.mark.parametrize('make', [lambda: Items(), lambda: DataLoader(Items(), 16), lambda: DataLoader(Items(), 16, shuffle=True, num_workers=2), lambda: ImageStream(Items(), half=True)])
def test_data_sets_and_loaders(make): same(DeepCLSMOTE(**fast).fit(X, y), DeepCLSMOTE(**fast).fit(make()))

def test_checkpoint_of_a_stream(tmp_path):
    "Killed after an epoch and gone on with: the weights of an undisturbed run; another data set is refused"
    whole = DeepCLSMOTE(**{**fast, 'epochs': 4}).fit(Items())
    file = tmp_path/'c.st'
    DeepCLSMOTE(**fast, checkpoint=file).fit(Items())
    same(DeepCLSMOTE(**{**fast, 'epochs': 4}, checkpoint=file).fit(Items()), whole)
    with pytest.raises(InputError, match='other settings or data'): DeepCLSMOTE(**fast, checkpoint=file).fit(Items(images=X[::-1].copy()))

# --- what is kept ---------------------------------------------------------------------------------------------------

def test_codes_in_a_file_and_in_half(tmp_path):
    plain = DeepCLSMOTE(**fast).fit(Items())
    filed = DeepCLSMOTE(**fast).fit(ImageStream(Items(), codes_file=tmp_path/'codes'))
    assert filed.codes_.equal(plain.codes_) and np.fromfile(tmp_path/'codes', 'float32').tobytes() == plain.codes_.numpy().tobytes()
    half = DeepCLSMOTE(**fast).fit(ImageStream(Items(), half=True, codes_file=tmp_path/'half'))
    assert half.codes_.dtype == torch.float16 and half.codes_.equal(plain.codes_.half()) and (tmp_path/'half').stat().st_size == plain.codes_.numel()*2
    for o in (filed, half):
        o.save(tmp_path/'o.safetensors')
        assert o.sample(5, 2, random_state=0)[0].tobytes() == DeepCLSMOTE.load(tmp_path/'o.safetensors').sample(5, 2, random_state=0)[0].tobytes()
    with pytest.raises(InputError, match='exists'): DeepCLSMOTE(**fast).fit(ImageStream(Items(), codes_file=tmp_path/'codes'))
    with pytest.raises(InputError, match='no folder'): DeepCLSMOTE(**fast).fit(ImageStream(Items(), codes_file=tmp_path/'absent'/'codes'))

def test_no_room_for_the_codes(tmp_path, monkeypatch):
    "A full disk is told before anything is written, and leaves no file"
    def full(*a): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(OSError, match='No space'): ImageStream(Items(), codes_file=tmp_path/'codes').code_store(10, 3)
    assert not list(tmp_path.iterdir())

def test_a_class_that_was_not_to_be_oversampled():
    o = DeepCLSMOTE(**fast, sampling_strategy={2: 12}).fit(Items())
    assert len(o.codes_) == 9 and o.sample(2, 2)[0].shape == (2,16,16)
    with pytest.raises(InputError, match='class 1 was not to be oversampled'): o.sample(2, 1)
    every = DeepCLSMOTE(**fast, sampling_strategy={2: 12}).fit(ImageStream(Items(), all_classes=True))
    assert len(every.codes_) == len(Items()) and all(len(every.sample(3, c)[0]) == 3 for c in (0,1,2)) and np.array_equal(every.sample(4, 2, 5)[0], o.sample(4, 2, 5)[0])
    with pytest.raises(InputError, match='not in y'): o.sample(2, 7)

def test_balanced_already():
    "Nothing to keep, nothing to make"
    o = DeepCLSMOTE(**fast).fit(Items(*toy_images((6,6))))
    assert o.codes_.shape == (0,3) and list(o.sample_parts({})) == []

def test_labels_with_gaps():
    o = DeepCLSMOTE(**fast).fit(Items(labels=y*7+2))
    assert o.classes_.tolist() == [2,9,16,23] and set(o.sample({23: 2, 9: 1})[1].label) == {9,23}
    assert all((y*7+2)[r] == l for r,l in zip(o.sample(9, 16)[1].parent_a, [16]*9))

def test_images_are_forgotten():
    "A process that learns from 3,000 images of 64 x 64 in color, 37 MB as bytes, needs no more memory than one that learns from 500"
    code = '''
import resource, sys, torch
from deepclsmote.oversamplers import DeepCLSMOTE
torch.set_num_threads(1)
class Made(torch.utils.data.Dataset):
    def __init__(self, n): self.targets = [int(i % 10 == 0) for i in range(n)]
    def __len__(self): return len(self.targets)
    def __getitem__(self, i): return torch.full((3,64,64), i % 251, dtype=torch.uint8),self.targets[i]
n = int(sys.argv[1])
DeepCLSMOTE(epochs=1, batch_size=50, latent_dim=4, decoder='compact', progress=False, device='cpu', random_state=0, sampling_strategy={1: n}).fit(Made(n))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
'''
    peak = lambda n: float(subprocess.run([sys.executable, '-W', 'ignore', '-c', code, str(n)], capture_output=True, text=True, check=True, timeout=500).stdout)
    assert peak(3000) - peak(500) < 15

# --- what is refused ------------------------------------------------------------------------------------------------

nan = X.astype('float32')/255; nan[7,3,3] = np.nan
bad = dict(nan=(lambda: Items(images=nan), r'Items\[7\]: X has NaN'), beyond=(lambda: Items(classes=['a','b','c']), r'has the label 3; expected 0 to 2'),
    word=(lambda: Items(labels=np.array(['a','b','c','d'])[y]), 'expected a class number'), negative=(lambda: Items(labels=y-1), 'has the label -1'), one=(lambda: Items(labels=y*0), 'one class'),
    empty=(lambda: Subset(Items(), []), 'without items'), single=(lambda: TensorDataset(torch.from_numpy(X)), 'expected \\(image, label\\)'),
    small=(lambda: Items(images=X[:,:8,:8]), '8 x 8 pixels'), shape=(lambda: Items(images=[*X[:5], X[5][:,:15].repeat(2, 1), *X[6:]]), r'Items\[5\] is uint8 of shape'),
    dtype=(lambda: Items(images=[*X[:5], X[5].astype('float32')/255, *X[6:]]), r'Items\[5\] is float32'), short=(lambda: Items(targets=list(y[:-1])), 'keeps 63 labels'),
    disagree=(lambda: Items(targets=[*y[:-1], (y[-1]+1) % 4]), 'the data set keeps'), words=(lambda: Items(as_image=str), 'a str of shape'), iterable=(lambda: Passes(), 'DataLoader\\(data'),
    once=(lambda: iter(DataLoader(Items(), 8)), 'passed through once'), triple=(lambda: DataLoader(Passes(), 8, collate_fn=lambda b: (1,2,3)), 'a tuple of 3'), nothing=(lambda: DataLoader(Passes(lambda k: []), 8), 'no batch'))

@pytest.mark.parametrize('name', bad)
def test_bad_data_is_refused(name):
    "With the row, what was expected and what to do; workers or none"
    make,message = bad[name]
    with pytest.raises(InputError, match=message) as e: DeepCLSMOTE(**fast).fit(make())
    assert 'xpected' in str(e.value) and 'Traceback' not in str(e.value)
    if name in ('nan','shape','disagree'):
        with pytest.raises(InputError, match=message) as e: DeepCLSMOTE(**fast).fit(ImageStream(make(), 2))
        assert 'Traceback' not in str(e.value)

changing = dict(vanishes=(lambda k: [i for i in range(len(X)) if not (k and y[i] == 3)], 'class 3 had 3 images in the first pass over the loader and 0'), worn_out=(lambda k: [] if k else range(len(X)), 'none in a later one'),
    grows=(lambda k: [*range(len(X)), 0][:len(X)+(k > 0)], f'class {y[0]} had'), appears=(lambda k: [i for i in range(len(X)) if k or y[i] < 3], 'gives the label 3, which the first pass'))

@pytest.mark.parametrize('name', changing)
def test_a_pass_that_differs(name):
    each,message = changing[name]
    with pytest.raises(InputError, match=message): DeepCLSMOTE(**fast).fit(DataLoader(Passes(each), 16))

def test_what_needs_images_by_number():
    loader = DataLoader(Passes(), 16)
    for o in (DeepSMOTE(**fast), DeepCLSMOTE(**fast, balanced=.5), DeepCLSMOTE(**fast, generation='residual'), DeepCLSMOTE(**fast, generation='style')):
        with pytest.raises(InputError, match='map-style'): o.fit(loader)
    same(DeepSMOTE(**fast, penalty='none').fit(loader), DeepSMOTE(**fast, penalty='none').fit(DataLoader(Passes(), 16)))

def test_arrays_without_labels_are_still_refused():
    for data in (X, torch.from_numpy(X), X.tolist(), None):
        with pytest.raises((ValueError, TypeError), match='y'): DeepCLSMOTE(**fast).fit(data)

def test_a_sampler_is_respected():
    "What a sampler leaves out is not learned from"
    some = torch.zeros(len(X)); some[:40] = 1
    stream = as_stream(DataLoader(Items(), 8, sampler=torch.utils.data.SubsetRandomSampler(range(40))))
    assert isinstance(stream, LoaderStream) and len(stream) == 40
    assert isinstance(as_stream(DataLoader(Items(), 8, sampler=WeightedRandomSampler(some, 60))), LoaderStream)

def test_a_last_batch_of_one():
    "Joins the one before it, also where it comes first"
    for sizes in ((16,16,1), (1,16), (1,1,1), (5,1,4)):
        batches = [(torch.from_numpy(X[:n])[:,None],torch.from_numpy(y[:n])) for n in sizes]
        stream = LoaderStream(batches)
        assert [len(y) for _,y in stream.batches(())] == {(16,16,1): [16,17], (1,16): [17], (1,1,1): [3] , (5,1,4): [6,4]}[sizes]

def test_random_transforms_are_the_same_again():
    "Draws in worker processes follow from the order of the rows: the same run twice, another one with another seed"
    noisy = lambda a: torch.from_numpy(a)[None] ^ torch.randint(0, 64, (1,16,16), dtype=torch.uint8)
    stream = ImageStream(Items(as_image=noisy), 2)
    run = lambda seed: [x for x,_ in MemoryLoader(stream, 16, True, new_generator(seed))]
    before = torch.random.get_rng_state()
    a,b,c = run(0),run(0),run(1)
    assert all(p.equal(q) for p,q in zip(a, b)) and not a[0].equal(c[0]) and torch.random.get_rng_state().equal(before)
