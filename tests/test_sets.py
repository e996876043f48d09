"Data sets by name: small files made in each true form, their faults, and the real files where they are at hand."
import functools, gzip, hashlib, io, os, pickle, warnings
from pathlib import Path
import numpy as np
import pytest, torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as tv
from deepclsmote import sets
from deepclsmote.core import InputError
from deepclsmote.files import *
from deepclsmote.sets import *

real = os.environ.get('DEEPCLSMOTE_DATA')
needs_data = pytest.mark.skipif(not real, reason='DEEPCLSMOTE_DATA does not name the folder of the real data sets')

def listing(folder): return sorted((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in Path(folder).rglob('*'))

def idx(values):
    head = bytes([0,0,8,values.ndim]) + b''.join(int(n).to_bytes(4, 'big') for n in values.shape)
    return head + values.astype(np.uint8).tobytes()

@pytest.fixture
def mnist(tmp_path):
    "A small MNIST in torchvision's layout, images packed and labels not"
    raw = tmp_path/'MNIST'/'raw'
    raw.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for part,n in (('train',30), ('t10k',12)):
        (raw/f'{part}-images-idx3-ubyte.gz').write_bytes(gzip.compress(idx(rng.randint(0, 256, (n,28,28)))))
        (raw/f'{part}-labels-idx1-ubyte').write_bytes(idx(np.arange(n)%10))
    return raw

# Digits and MNIST ---------------------------------------------------------------------------------------

def test_digits():
    d = load_dataset('digits')
    assert d.images.shape == (1797,28,28) and d.images.dtype == np.uint8 and d.labels.dtype == np.int64
    assert d.images.min() == 0 and d.images.max() >= 250 and len(d) == 1797 and d.classes[3] == '3'
    images,labels = d.tensors()
    assert images.shape == (1797,1,28,28) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert len(repr(d)) < 100 and '1797' in repr(d)

def test_tensors_of_color_images_share_nothing():
    d = ImageSet(np.arange(2*4*5*3, dtype=np.uint8).reshape(2,4,5,3), np.array([0,1]), ['a','b'], 'x')
    images,_ = d.tensors()
    assert images.shape == (2,3,4,5) and images[1,2,3,4] == d.images[1,3,4,2]
    images.zero_()
    assert d.images.any()

@pytest.mark.parametrize('where', ['', 'MNIST', 'MNIST/raw'])
def test_idx_files_are_read_and_nothing_is_written(mnist, tmp_path, where):
    before = listing(tmp_path)
    train,test = (load_dataset('mnist', tmp_path/where, s) for s in ('train','test'))
    assert listing(tmp_path) == before
    assert len(train) == 30 and len(test) == 12 and test.labels.tolist() == [*range(10),0,1]
    assert (train.images == np.random.RandomState(0).randint(0, 256, (30,28,28))).all()

def test_root_from_environment(mnist, tmp_path, monkeypatch):
    monkeypatch.setenv('DEEPCLSMOTE_DATA', str(tmp_path))
    assert len(load_dataset('mnist')) == 30
    monkeypatch.delenv('DEEPCLSMOTE_DATA')
    with pytest.raises(InputError, match='DEEPCLSMOTE_DATA'): load_dataset('mnist')

def test_another_sets_folder_is_not_mistaken(mnist):
    "MNIST's raw folder must not be read as Fashion-MNIST, though the files have the same names"
    for where in (mnist, mnist.parent, mnist.parent.parent):
        with pytest.raises(InputError, match='FashionMNIST'): load_dataset('fashion_mnist', where)

def test_unknown_name_and_split():
    with pytest.raises(InputError, match='digits, mnist, fashion_mnist, emnist_aj, emnist_letters, svhn, gtsrb10, gtsrb, cifar10, celeba_hair'): load_dataset('MNIST')
    with pytest.raises(InputError, match="'train', 'test' or 'all'"): load_dataset('digits', split='valid')
    with pytest.raises(InputError, match='one part'): load_dataset('digits', split='test')

def test_absent_files(tmp_path):
    with pytest.raises(InputError, match='train-images-idx3-ubyte and train-labels-idx1-ubyte.*download=True'): load_dataset('mnist', tmp_path)
    assert not list(tmp_path.iterdir())

def test_a_download_that_fails_and_one_that_works(tmp_path, monkeypatch):
    calls = []
    class MNIST:
        def __init__(self, root, download):
            calls.append(Path(root))
            if len(calls) == 1: raise RuntimeError('no way out')
            raw = Path(root)/'MNIST'/'raw'
            raw.mkdir(parents=True)
            (raw/'train-images-idx3-ubyte').write_bytes(idx(np.zeros((5,28,28))))
            (raw/'train-labels-idx1-ubyte').write_bytes(idx(np.arange(5)))
    monkeypatch.setitem(DATASETS, 'mnist', lambda *a: sets.read_mnist(MNIST, '0123456789', 'mnist', *a))
    with pytest.raises(InputError, match='the download failed: no way out'): load_dataset('mnist', tmp_path, download=True)
    assert len(load_dataset('mnist', tmp_path/'MNIST', download=True)) == 5
    assert len(load_dataset('mnist', tmp_path, download=True)) == 5 and calls == [tmp_path]*2

@pytest.mark.parametrize('cut', [0, 1, 3, 9, 15, 40, 500])
def test_spoilt_files_are_named(mnist, tmp_path, cut):
    labels,images = mnist/'train-labels-idx1-ubyte', mnist/'train-images-idx3-ubyte.gz'
    whole = {f: f.read_bytes() for f in (labels, images)}
    for f in whole:
        f.write_bytes(whole[f][:cut] if cut < len(whole[f]) else whole[f][:-1])
        with pytest.raises(InputError, match=f.name): load_dataset('mnist', tmp_path)
        f.write_bytes(whole[f])

def test_corrupt_inside(mnist, tmp_path):
    images = mnist/'train-images-idx3-ubyte.gz'
    b = bytearray(images.read_bytes())
    for at in range(10, len(b), 997):
        c = b.copy()
        c[at] ^= 0x55
        images.write_bytes(c)
        with pytest.raises(InputError, match=images.name): load_dataset('mnist', tmp_path)

@pytest.mark.parametrize('name,content,match', [
    ('train-labels-idx1-ubyte', idx(np.zeros((30,1))), 'begins with 00 00 08 02'),
    ('train-labels-idx1-ubyte', idx(np.arange(29)%10), '30 images.*29 labels'),
    ('train-labels-idx1-ubyte', idx(np.arange(30)), 'label 29'),
    ('train-labels-idx1-ubyte', idx(np.arange(30)%10)+b'x', '39 bytes; expected 38'),
    ('train-images-idx3-ubyte.gz', gzip.compress(idx(np.zeros((30,20,28)))), r'\(20, 28\)'),
    ('train-images-idx3-ubyte.gz', b'not gzip at all', 'cannot be read'),
    ('train-images-idx3-ubyte.gz', gzip.compress(b'\0\0\x0d\x03' + bytes(30)), 'begins with 00 00 0d 03')],
    ids=['shape of labels', 'too few labels', 'no such class', 'one byte more', 'shape of images', 'not gzip', 'type of images']) # the bytes of gzip hold the time: no name for a test
def test_wrong_content(mnist, tmp_path, name, content, match):
    (mnist/name).write_bytes(content)
    with pytest.raises(InputError, match=match) as e: load_dataset('mnist', tmp_path)
    assert name in str(e.value)

def test_both_parts_and_another_size(mnist, tmp_path):
    s = load_dataset('mnist', tmp_path, 'all', size=(14,10))
    assert len(s) == 42 and s.images.shape == (42,14,10) and s.labels[30:].tolist() == [*range(10),0,1]
    assert (s.images[33] == resize_image(load_dataset('mnist', tmp_path, 'test').images[3], (14,10))).all()
    assert len(load_dataset('digits', split='all')) == 1797
    with pytest.raises(InputError, match='size='): load_dataset('digits', size=0)

# EMNIST ------------------------------------------------------------------------------------------

@pytest.fixture
def emnist(tmp_path):
    raw = tmp_path/'EMNIST'/'raw'
    raw.mkdir(parents=True)
    for part,n in (('train',52), ('test',26)):
        (raw/f'emnist-letters-{part}-images-idx3-ubyte').write_bytes(idx(np.random.RandomState(n).randint(0, 256, (n,28,28))))
        (raw/f'emnist-letters-{part}-labels-idx1-ubyte.gz').write_bytes(gzip.compress(idx(np.arange(n)%26+1)))
    return raw

def test_emnist(emnist, tmp_path):
    before = listing(tmp_path)
    s,aj = (load_dataset(n, tmp_path) for n in ('emnist_letters','emnist_aj'))
    stored = np.random.RandomState(52).randint(0, 256, (52,28,28))
    assert (s.images[7] == stored[7].T).all() and s.labels.tolist() == [*range(26)]*2 and s.classes[25] == 'z'
    assert aj.labels.tolist() == [*range(10)]*2 and (aj.images[10] == stored[26].T).all() and aj.classes == list('abcdefghij')
    assert len(load_dataset('emnist_letters', emnist, 'test')) == 26 and listing(tmp_path) == before
    (emnist/'emnist-letters-train-labels-idx1-ubyte.gz').write_bytes(gzip.compress(idx(np.arange(52)%26)))
    with pytest.raises(InputError, match='expected 1 to 26'): load_dataset('emnist_aj', tmp_path)

def test_emnist_agrees_with_torchvision(emnist, tmp_path):
    (emnist/'emnist-letters-train-labels-idx1-ubyte').write_bytes(idx(np.arange(52)%26+1))
    theirs,s = tv.EMNIST(tmp_path, split='letters', train=True), load_dataset('emnist_letters', tmp_path)
    assert theirs.classes[1:] == s.classes
    for i in (0,30): assert (np.asarray(theirs[i][0]).T == s.images[i]).all() and theirs[i][1]-1 == s.labels[i]

def test_emnist_offline(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (6,28,28), np.uint8)
    np.savez(tmp_path/'emnist_aj.npz', images=x, labels=np.arange(6), split=np.array([0,0,0,0,1,1]), index=np.array([3,0,2,1,0,1]), classes=np.array(list('abcdefghij')))
    s = load_dataset('emnist_aj', tmp_path)
    assert s.labels.tolist() == [1,3,2,0] and (s.images[0] == x[1]).all() and s.name == 'emnist_aj'
    assert '500 of 800' in load_dataset('emnist_aj', tmp_path, 'test').name and len(load_dataset('emnist_aj', tmp_path, 'all')) == 6
    with pytest.raises(InputError, match='emnist-letters-train-images-idx3-ubyte'): load_dataset('emnist_letters', tmp_path)

# SVHN --------------------------------------------------------------------------------------------

def test_svhn(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (12,32,32,3), np.uint8)
    y = np.array([10,1,2,3,4,5,6,7,8,9,10,1], np.uint8)
    savemat(tmp_path/'test_32x32.mat', dict(X=x.transpose(1,2,3,0), y=y[:,None]))
    before = listing(tmp_path)
    s = load_dataset('svhn', tmp_path, 'test')
    assert (s.images == x).all() and s.labels.tolist() == [*range(10),0,1] and s.classes == list('0123456789') and s.name == 'svhn' and listing(tmp_path) == before
    with pytest.raises(InputError, match='svhn needs train_32x32.mat in .*or .*svhn.npz.*download=True'): load_dataset('svhn', tmp_path)

@pytest.mark.parametrize('arrays', [dict(X=np.zeros((32,32,3,2), np.uint8)), dict(X=np.zeros((2,32,32,3), np.uint8), y=[[1],[2]]), dict(X=np.zeros((32,32,3,2)), y=[[1],[2]]),
    dict(X=np.zeros((32,32,3,2), np.uint8), y=[[1]]), dict(X=np.zeros((32,32,3,2), np.uint8), y=[[0],[1]]), None])
def test_svhn_spoilt(tmp_path, arrays):
    f = tmp_path/'train_32x32.mat'
    savemat(f, arrays or dict(X=np.zeros((32,32,3,2), np.uint8), y=[[1],[2]]))
    if not arrays: f.write_bytes(f.read_bytes()[:4000])
    with pytest.raises(InputError, match='train_32x32.mat cannot be read'): load_dataset('svhn', tmp_path)

def test_svhn_offline(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (4,32,32,3), np.uint8)
    np.savez(tmp_path/'svhn.npz', images=x, labels=np.array([5,2,1,0]), split=np.ones(4, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        s = load_dataset('svhn', tmp_path, 'test')
    with pytest.warns(UserWarning, match='no training part.*10,000 test images.*peerj-small') as w: t = load_dataset('svhn', tmp_path)
    assert s.name == t.name == 'SVHN (first 10,000 test images)' and (s.images == t.images).all() and w[0].filename == __file__
    with pytest.warns(UserWarning): assert len(load_dataset('svhn', tmp_path, 'all')) == 4  # not twice

# GTSRB -------------------------------------------------------------------------------------------

@pytest.fixture
def gtsrb(tmp_path):
    "Classes 2, 9 and 14: two tracks of two frames each, the box filled with a value of its own"
    for c in (2,9,14):
        d = tmp_path/'gtsrb'/'GTSRB'/'Training'/f'{c:05}'
        d.mkdir(parents=True)
        lines = ['Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId']
        for t in (0,1):
            for f in (0,1):
                a = np.zeros((40,36,3), np.uint8)
                a[6:34,5:29] = 10*c+2*t+f
                Image.fromarray(a).save(d/f'{t:05}_{f:05}.ppm')
                lines.append(f'{t:05}_{f:05}.ppm;36;40;5;6;29;34;{c}')
        (d/f'GT-{c:05}.csv').write_text('\n'.join(lines)+'\n')
    return tmp_path

@pytest.mark.parametrize('where', ['', 'gtsrb', 'gtsrb/GTSRB', 'gtsrb/GTSRB/Training'])
def test_gtsrb(gtsrb, where):
    before = listing(gtsrb)
    s,ten = load_dataset('gtsrb', gtsrb/where), load_dataset('gtsrb10', gtsrb/where)
    assert s.images.shape == (12,32,32,3) and s.labels.tolist() == [2]*4+[9]*4+[14]*4 and s.groups.tolist() == [0,0,1,1,2,2,3,3,4,4,5,5]
    assert [int(o.min()) for o in s.images] == [int(o.max()) for o in s.images] == [10*c+2*t+f for c in (2,9,14) for t in (0,1) for f in (0,1)]  # nothing of the border
    assert len(s.classes) == 43 and s.classes[14] == 'stop' and s.name == 'gtsrb'
    assert ten.labels.tolist() == [0]*4+[9]*4 and ten.groups.tolist() == [0,0,1,1,2,2,3,3] and ten.classes[0] == 'speed limit 50' and ten.classes[9] == 'no overtaking'
    assert load_dataset('gtsrb', gtsrb, size=(8,9)).images.shape == (12,8,9,3) and listing(gtsrb) == before

def test_gtsrb_is_read_in_torchvisions_order(gtsrb):
    theirs = tv.GTSRB(gtsrb, split='train')
    s = load_dataset('gtsrb', gtsrb)
    values = [int(np.asarray(im)[10,10,0]) for im,_ in theirs]
    assert values == [int(o[0,0,0]) for o in s.images]

def test_gtsrb_faults(gtsrb):
    with pytest.raises(InputError, match='one part.*long_tail_split'): load_dataset('gtsrb10', gtsrb, 'test')
    d = gtsrb/'gtsrb'/'GTSRB'/'Training'/'00009'
    f,whole = d/'GT-00009.csv', (d/'GT-00009.csv').read_text()
    for text,match in ((whole.replace(';29;', ';37;'), 'box'), (whole.replace(';5;6;', ';-1;6;'), 'box'), (whole.replace(';5;6;29;', ';29;6;29;'), 'box'), (whole.replace(';', ','), 'cannot be read'), (whole.replace('ClassId', 'Class'), 'cannot be read'),
        (whole.replace(';9\n', ';43\n'), 'class 43'), (whole.replace(';5;', ';x;'), 'cannot be read'), ('', 'cannot be read')):
        f.write_text(text)
        with pytest.raises(InputError, match=match) as e: load_dataset('gtsrb', gtsrb)
        assert f.name in str(e.value)
    f.write_text(whole)
    (d/'00001_00000.ppm').write_bytes(b'P6 40')
    with pytest.raises(InputError, match='00001_00000.ppm'): load_dataset('gtsrb', gtsrb)
    (d/'00001_00000.ppm').unlink()
    with pytest.raises(InputError, match='00001_00000.ppm'): load_dataset('gtsrb', gtsrb)
    f.unlink()
    with pytest.raises(InputError, match='GT-00009.csv'): load_dataset('gtsrb', gtsrb)

def test_gtsrb_offline_and_empty(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (4,32,32,3), np.uint8)
    np.savez(tmp_path/'gtsrb.npz', images=x, labels=np.array([2,2,3,9]), tracks=np.array([0,1,0,0]))
    s,ten = load_dataset('gtsrb', tmp_path), load_dataset('gtsrb10', tmp_path)
    assert s.groups.tolist() == [0,1,2,3] and len(s.classes) == 43 and ten.labels.tolist() == [0,0,9] and ten.groups.tolist() == [0,1,3] and (ten.images == x[[0,1,3]]).all()
    (tmp_path/'gtsrb'/'GTSRB'/'Training').mkdir(parents=True)
    with pytest.raises(InputError, match='no class folder with images'): load_dataset('gtsrb', tmp_path)

# CIFAR-10 ----------------------------------------------------------------------------------------

@pytest.fixture
def cifar(tmp_path, monkeypatch):
    "Three images a batch, and torchvision told their md5 sums"
    folder = tmp_path/tv.CIFAR10.base_folder
    folder.mkdir()
    def write(name, content):
        (folder/name).write_bytes(pickle.dumps(content, 2))
        return hashlib.md5((folder/name).read_bytes()).hexdigest()
    batch = lambda i: dict(data=np.random.RandomState(i).randint(0, 256, (3,3072), np.uint8), labels=[i,9,0])
    monkeypatch.setattr(tv.CIFAR10, 'train_list', [[f'data_batch_{i}', write(f'data_batch_{i}', batch(i))] for i in range(1,6)])
    monkeypatch.setattr(tv.CIFAR10, 'test_list', [['test_batch', write('test_batch', batch(6))]])
    names = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    monkeypatch.setattr(tv.CIFAR10, 'meta', dict(filename='batches.meta', key='label_names', md5=write('batches.meta', dict(label_names=names))))
    return folder

def test_cifar10(cifar, tmp_path):
    before = listing(tmp_path)
    s = load_dataset('cifar10', tmp_path)
    assert s.labels.tolist() == [1,9,0,2,9,0,3,9,0,4,9,0,5,9,0] and s.images.shape == (15,32,32,3) and s.classes[9] == 'truck' and s.name == 'cifar10'
    assert s.images[4,2,3,1] == np.random.RandomState(2).randint(0, 256, (3,3072), np.uint8)[1].reshape(3,32,32)[1,2,3]
    assert load_dataset('cifar10', cifar, 'test').labels.tolist() == [6,9,0] and len(load_dataset('cifar10', tmp_path, 'all')) == 18
    assert listing(tmp_path) == before

class Trap:
    def __reduce__(self): return (os.mkdir, (os.environ['TRAP'],))

@pytest.mark.parametrize('name', ['data_batch_3', 'test_batch', 'batches.meta'])
def test_a_tampered_pickle_is_never_opened(cifar, tmp_path, monkeypatch, name):
    monkeypatch.setenv('TRAP', str(tmp_path/'sprung'))
    (cifar/name).write_bytes(pickle.dumps(Trap()))
    for part in ('train','test'):
        with pytest.raises(InputError, match=f'{name} has another md5 sum'): load_dataset('cifar10', tmp_path, part)
    assert not (tmp_path/'sprung').exists()
    pickle.loads((cifar/name).read_bytes())  # the trap does work
    assert (tmp_path/'sprung').exists()

def test_cifar10_offline(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (4,32,32,3), np.uint8)
    files = [io.BytesIO() for _ in x]
    for a,f in zip(x, files): Image.fromarray(a).save(f, format='jpeg')
    b = [f.getvalue() for f in files]
    np.savez(tmp_path/'cifar10_jpeg.npz', bytes=np.frombuffer(b''.join(b), np.uint8), offsets=np.cumsum([0]+[len(o) for o in b]), labels=np.array([3,1,2,0]), split=np.array([0,0,1,0]))
    s = load_dataset('cifar10', tmp_path, size=16)
    assert s.name == 'CIFAR-10 (JPEG copy)' and s.labels.tolist() == [3,1,0] and s.images.shape == (3,16,16,3)
    assert load_dataset('cifar10', tmp_path, 'test').labels.tolist() == [2] and load_dataset('cifar10', tmp_path, 'all').labels.tolist() == [3,1,0,2]

# CelebA ------------------------------------------------------------------------------------------

@pytest.fixture
def celeba(tmp_path):
    folder = tmp_path/'celeba'
    (folder/'img_align_celeba').mkdir(parents=True)
    columns = ['5_o_Clock_Shadow','Bald','Black_Hair','Blond_Hair','Brown_Hair','Gray_Hair','Young']
    rows = [('Black_Hair',),('Brown_Hair',),('Blond_Hair','Young'),('Gray_Hair',),('Bald',),('Black_Hair','Brown_Hair'),(),('Gray_Hair',),('Bald','Young')]
    part = [0,0,0,0,0,0,0,2,1]
    text = [str(len(rows)), ' '.join(columns)+' ']
    for i,own in enumerate(rows):
        text.append(f'{i+1:06}.jpg ' + ' '.join(' 1' if c in own else '-1' for c in columns))
        a = np.zeros((218,178,3), np.uint8)
        a[20:198] = 20*i+30
        Image.fromarray(a).save(folder/'img_align_celeba'/f'{i+1:06}.jpg', quality=95)
    (folder/'list_attr_celeba.txt').write_text('\n'.join(text)+'\n')
    (folder/'list_eval_partition.txt').write_text(''.join(f'{i+1:06}.jpg {p}\n' for i,p in enumerate(part)))
    return folder

def test_celeba(celeba, tmp_path):
    before = listing(tmp_path)
    s = load_dataset('celeba_hair', tmp_path)
    assert s.labels.tolist() == [0,1,2,3,4] and s.classes == ['black hair','brown hair','blond hair','gray hair','bald'] and s.images.shape == (5,32,32,3)
    assert all(abs(o.astype(int)-(20*i+30)).max() <= 2 for i,o in enumerate(s.images))  # the middle square alone
    assert load_dataset('celeba_hair', celeba, 'test', size=64).images.shape == (1,64,64,3) and len(load_dataset('celeba_hair', tmp_path, 'all')) == 6
    assert listing(tmp_path) == before

def test_celeba_faults(celeba, tmp_path):
    attr,part = celeba/'list_attr_celeba.txt', celeba/'list_eval_partition.txt'
    for f,change in ((attr, lambda t: t.replace('Bald','Bold')), (attr, lambda t: ''), (attr, lambda t: t[:-30]), (part, lambda t: t[:-60]), (part, lambda t: t.replace(' ',','))):
        whole = f.read_text()
        f.write_text(change(whole))
        with pytest.raises(InputError, match='list_attr_celeba.txt and list_eval_partition.txt'): load_dataset('celeba_hair', tmp_path)
        f.write_text(whole)
    (celeba/'img_align_celeba'/'000003.jpg').unlink()
    with pytest.raises(InputError, match='000003.jpg'): load_dataset('celeba_hair', tmp_path)
    part.write_text(part.read_text().replace('.jpg 2', '.jpg 1'))
    with pytest.raises(InputError, match='no image of the test part'): load_dataset('celeba_hair', tmp_path, 'test')
    part.unlink()
    with pytest.raises(InputError, match='celeba_hair needs list_attr_celeba.txt and list_eval_partition.txt and img_align_celeba.*download=True'): load_dataset('celeba_hair', tmp_path)

# Absent files and downloads ----------------------------------------------------------------------

@pytest.mark.parametrize('name', [n for n in DATASETS if n != 'digits'])
def test_absent(tmp_path, name, monkeypatch):
    with pytest.raises(InputError, match=f'{name} needs .*absent.*load_dataset\\({name!r}, root, download=True\\)'): load_dataset(name, tmp_path)
    monkeypatch.delenv('DEEPCLSMOTE_DATA', raising=False)
    with pytest.raises(InputError, match='DEEPCLSMOTE_DATA'): load_dataset(name)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('name,kind,expected', [('emnist_aj','EMNIST',dict(split='letters')), ('svhn','SVHN',dict(split='train')), ('gtsrb10','GTSRB',dict(split='train')), ('cifar10','CIFAR10',{}), ('celeba_hair','CelebA',dict(split='train'))])
def test_torchvision_is_asked_to_download(tmp_path, monkeypatch, name, kind, expected):
    "Into the right folder, with its checksums; a failure says why, also where an offline copy lies"
    calls = []
    class Fake(getattr(tv, kind)):
        def __init__(self, root, split=None, download=False): calls.append((Path(root), split, download)); raise RuntimeError('no way out')
    monkeypatch.setattr(sets, kind, Fake)
    with pytest.raises(InputError, match='the download failed: no way out. Put the files there by hand'): load_dataset(name, tmp_path, download=True)
    assert calls == [(tmp_path, expected.get('split'), True)] and not list(tmp_path.iterdir())

# Real files --------------------------------------------------------------------------------------

@needs_data
def test_real_mnist():
    before = listing(real)
    m,f = (load_dataset(n) for n in ('mnist','fashion_mnist'))
    assert np.bincount(m.labels).tolist() == [5923,6742,5958,6131,5842,5421,5918,6265,5851,5949]
    assert np.bincount(f.labels).tolist() == [6000]*10 and f.classes[9] == 'Ankle boot'
    assert np.bincount(load_dataset('mnist', split='test').labels).tolist() == [980,1135,1032,1010,982,892,958,1028,974,1009]
    assert np.bincount(load_dataset('fashion_mnist', split='all').labels).tolist() == [7000]*10
    assert m.images.shape == (60000,28,28) and hashlib.md5(idx(m.images)).hexdigest() == '6bbc9ace898e44ae57da46a324031adb'
    assert listing(real) == before

@needs_data
def test_real_emnist_aj():
    train,test = (load_dataset('emnist_aj', split=s) for s in ('train','test'))
    assert np.bincount(train.labels).tolist() == [4800]*10 and np.bincount(test.labels).tolist() == [500]*10
    assert train.images.shape == (48000,28,28) and train.classes == list('abcdefghij')
    with np.load(Path(real)/'emnist_aj.npz') as z:
        own = z['split'] == 0
        assert (z['images'][own][z['index'][own].argmin()] == train.images[0]).all() and (train.labels == z['labels'][own][np.argsort(z['index'][own])]).all()
    rows = lambda o: o.images[o.labels == 8].mean(0).sum(1)  # an i stands upright: narrow, and ink in most rows
    assert (train.images[train.labels == 8].mean(0).sum(0) > 400).sum() < (rows(train) > 400).sum()

@needs_data
def test_real_svhn():
    s = load_dataset('svhn', split='test')
    assert np.bincount(s.labels).tolist() == [684,1968,1590,1104,964,909,773,767,621,620] and s.labels[:5].tolist() == [5,2,1,0,6] and s.images.shape == (10000,32,32,3)

@needs_data
def test_real_gtsrb():
    s = load_dataset('gtsrb')
    counts = [210,2220,2250,1410,1980,1860,420,1440,1410,1470,2010,1320,2100,2160,780,630,420,1110,1200,210,360,330,390,510,270,1500,600,240,540,270,450,780,240,689,420,1200,390,210,2070,300,360,240,240]
    assert np.bincount(s.labels).tolist() == counts and len(set(s.groups)) == len(set(zip(s.labels, s.groups))) == 1307
    assert sorted(np.bincount(s.groups))[:2] == [29,30] and np.bincount(s.groups).max() == 30
    ten = load_dataset('gtsrb10')
    assert np.bincount(ten.labels).tolist() == [2250,2220,2160,2100,2070,2010,1980,1860,1500,1470] and len(ten) == 19620
    assert ten.classes == ['speed limit 50','speed limit 30','yield','priority road','keep right','no overtaking for lorries','speed limit 70','speed limit 80','road works','no overtaking']
    assert (ten.images[ten.labels == 0] == s.images[s.labels == 2]).all() and (ten.groups[ten.labels == 9] == s.groups[s.labels == 9]).all()

@needs_data
def test_real_cifar10():
    s = load_dataset('cifar10', split='all')
    assert np.bincount(s.labels[:50000]).tolist() == [5000]*10 and np.bincount(s.labels[50000:]).tolist() == [1000]*10 and s.name == 'CIFAR-10 (JPEG copy)' and s.classes[0] == 'airplane'
