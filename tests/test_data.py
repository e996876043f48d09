"Data sets, splits and folders: properties, faults and real files."
import gzip, hashlib, os, random, sys, types
from pathlib import Path
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from deepclsmote.core import InputError, new_generator, to_signed
from deepclsmote import data
from deepclsmote.data import *
from deepclsmote.files import *

real = os.environ.get('DEEPCLSMOTE_DATA')
needs_data = pytest.mark.skipif(not real, reason='DEEPCLSMOTE_DATA does not name the folder of MNIST and FashionMNIST')

def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
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

# Data sets ---------------------------------------------------------------------------------------

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
    with pytest.raises(InputError, match='digits, mnist, fashion_mnist'): load_dataset('MNIST')
    with pytest.raises(InputError, match="'train' or 'test'"): load_dataset('digits', split='valid')
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
    monkeypatch.setitem(DATASETS, 'mnist', lambda *a: data.idx_set(MNIST, '0123456789', 'mnist', *a))
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
    ('train-images-idx3-ubyte.gz', gzip.compress(b'\0\0\x0d\x03' + bytes(30)), 'begins with 00 00 0d 03')])
def test_wrong_content(mnist, tmp_path, name, content, match):
    (mnist/name).write_bytes(content)
    with pytest.raises(InputError, match=match) as e: load_dataset('mnist', tmp_path)
    assert name in str(e.value)

@needs_data
def test_real_sets():
    before = listing(Path(real)/'MNIST') + listing(Path(real)/'FashionMNIST')
    m,f = (load_dataset(n) for n in ('mnist','fashion_mnist'))
    assert np.bincount(m.labels).tolist() == [5923,6742,5958,6131,5842,5421,5918,6265,5851,5949]
    assert np.bincount(f.labels).tolist() == [6000]*10 and f.classes[9] == 'Ankle boot'
    assert np.bincount(load_dataset('mnist', split='test').labels).tolist() == [980,1135,1032,1010,982,892,958,1028,974,1009]
    assert m.images.shape == (60000,28,28) and hashlib.md5(idx(m.images)).hexdigest() == '6bbc9ace898e44ae57da46a324031adb'
    assert listing(Path(real)/'MNIST') + listing(Path(real)/'FashionMNIST') == before

# Splits ------------------------------------------------------------------------------------------

def slow_split(labels, counts, fold, n_folds, seed):
    "Section 1 of the methods, written a second time without NumPy's help except for the permutation"
    rows = {}
    for i,y in enumerate(labels): rows.setdefault(y, []).append(i)
    t = min(map(len, rows.values()))//n_folds
    train,test = [],[]
    for j,y in enumerate(sorted(rows)):
        p = np.random.RandomState(seed*1000003+j).permutation(rows[y]).tolist()
        ahead = p[fold*t:]
        test += ahead[:t]
        train += (ahead[t:] + p[:fold*t])[:counts[j]]
    return sorted(train), sorted(test)

@needs_data
def test_peerj_on_mnist():
    y = load_dataset('mnist').labels
    train,test = long_tail_split(y)
    assert len(train) == 7290 and np.bincount(y[train]).tolist() == list(PROTOCOLS['peerj'])
    assert np.bincount(y[test]).tolist() == [1084]*10
    assert split_sha256(train, test) == '1efe50941847848c293cbfba3d568cd962c379dbe41755c78802b28bec34dbab'
    for fold,seed in ((0,0), (4,0), (2,3)):
        fast,slow = long_tail_split(y, fold=fold, seed=seed), slow_split(y.tolist(), PROTOCOLS['peerj'], fold, 5, seed)
        assert [o.tolist() for o in fast] == list(slow)

def test_fingerprint_of_digits():
    "Pinned without files: another value means that old records name other images"
    y = load_dataset('digits').labels
    train,test = long_tail_split(y, 'digits')
    assert split_sha256(train, test) == '197d6c1b72edc3d08c4ca5fdcea0b43f9e0477cce95c71161914bc4c2fc211bf'
    both = b''.join(int(i).to_bytes(8, 'little') for i in [*train, *test])
    assert split_sha256(train.astype('>i8'), test) == hashlib.sha256(both).hexdigest()

@st.composite
def problems(draw):
    "Labels in mixed order, and settings that fit them"
    n_folds,C = draw(st.integers(2, 6)), draw(st.integers(2, 5))
    own = [draw(st.integers(n_folds, 40)) for _ in range(C)]
    t = min(own)//n_folds
    counts = [draw(st.integers(1, n-t)) for n in own]
    names = draw(st.sampled_from([np.arange(C), np.arange(C)*7-9, np.array(list('abcde')[:C])]))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(names, own))
    return labels, counts, n_folds, draw(st.integers(0, 4294))

@settings(max_examples=100, deadline=None)
@given(problems())
def test_split_properties(problem):
    labels,counts,n_folds,seed = problem
    before,kept = states(),labels.copy()
    C,own = np.unique(labels, return_counts=True)
    tested = []
    for fold in range(n_folds):
        train,test = long_tail_split(labels, counts, fold, n_folds, seed)
        assert [o.tolist() for o in (train,test)] == [o.tolist() for o in long_tail_split(labels.tolist(), tuple(counts), fold, n_folds, seed)]
        assert (train.tolist(), test.tolist()) == slow_split(labels.tolist(), counts, fold, n_folds, seed)
        assert train.dtype == test.dtype == np.int64 and (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
        assert not set(train) & set(test)
        assert [(labels[train] == c).sum() for c in C] == counts and [(labels[test] == c).sum() for c in C] == [min(own)//n_folds]*len(C)
        tested.append(test)
    assert len(np.unique(np.concatenate(tested))) == sum(map(len, tested))
    assert states() == before and (labels == kept).all()

y3 = np.repeat([0,1,2], [20,12,8])
@pytest.mark.parametrize('args,match', [
    (('peer',), 'peerj, peerj-small, digits'), (([5,4],), '3 classes and protocol has 2'), (([5,4,0],), 'above 0'), (([5,4,1.5],), 'above 0'), (([3],), 'at least two'), ((7,), 'expected a name'),
    (([5,12,1],), 'class 1 has 12 images; expected at least 13: 12 to train and 1 to test'), (([5,4,3],5), '0 to 4'), (([5,4,3],-1), '0 to 4'), (([5,4,3],.5), '0 to 4'),
    (([5,4,3],0,1), 'n_folds=1'), (([5,4,3],0,9), 'class 2 has 8 images; expected at least 9'), (([5,4,3],0,5,-1), 'seed=-1'), (([5,4,3],0,5,4295), '0 to 4294'), (([5,4,3],0,5,None), 'seed=None')])
def test_split_refuses(args, match):
    with pytest.raises(InputError, match=match): long_tail_split(y3, *args)

def test_largest_seed(): assert len(long_tail_split(y3, [5,4,3], seed=4294)[0]) == 12

# Folders -----------------------------------------------------------------------------------------

def picture(h=20, w=24, mode='RGB', seed=0):
    a = np.random.RandomState(seed).randint(0, 256, (h,w,3), np.uint8)
    return Image.fromarray(a).convert(mode)

@pytest.fixture
def folder(tmp_path):
    for c in ('b','a'):
        (tmp_path/c).mkdir()
        for i,ext in enumerate(('png','JPG','bmp')): picture(seed=i).save(tmp_path/c/f'{i}.{ext}')
    return tmp_path

def test_folder(folder):
    (folder/'.git').mkdir(); (folder/'a'/'.hidden.png').write_bytes(b''); (folder/'a'/'notes.txt').write_text('x'); (folder/'readme.md').write_text('x')
    before = listing(folder)
    s = load_folder(folder)
    assert s.classes == ['a','b'] and s.images.shape == (6,20,24,3) and s.labels.tolist() == [0,0,0,1,1,1] and s.labels.dtype == np.int64
    assert [p.as_posix() for p in s.paths] == ['a/0.png','a/1.JPG','a/2.bmp','b/0.png','b/1.JPG','b/2.bmp']
    assert (s.images[0] == np.asarray(picture(seed=0))).all() and s.name == folder.name
    assert listing(folder) == before

@pytest.mark.parametrize('ext', ['png','bmp','webp','tif','tiff','jpeg'])
def test_extensions(folder, ext):
    picture().save(folder/'a'/f'z.{ext}')
    assert load_folder(folder).paths[3].name == f'z.{ext}'

def test_grey_and_color(tmp_path):
    for c,modes in (('a',('L','1')), ('b',('L',))):
        (tmp_path/c).mkdir()
        for m in modes: picture(mode=m).save(tmp_path/c/f'{m}.png')
    s = load_folder(tmp_path)
    assert s.images.shape == (3,20,24) and set(np.unique(s.images[0])) == {0,255}
    picture(mode='P').save(tmp_path/'a'/'p.png')
    s = load_folder(str(tmp_path))
    assert s.images.shape == (4,20,24,3) and (s.images[0,...,0] == s.images[0,...,2]).all()
    assert (s.images[2] == np.asarray(picture(mode='P').convert('RGB'))).all()

def test_exif_turns_upright(folder):
    upright = picture(20, 24)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(folder/'a'/'0.png', exif=exif)
    assert (load_folder(folder).images[0] == np.asarray(upright)).all()

def test_sizes(folder):
    picture(10, 12).save(folder/'b'/'2.bmp')
    with pytest.raises(InputError, match='0.png is 20 x 24.*2.bmp is 10 x 12.*size='): load_folder(folder)
    assert load_folder(folder, size=16).images.shape == (6,16,16,3)
    assert load_folder(folder, size=(8,30)).images.shape == (6,8,30,3)
    for bad in (0, (3,), (4,4,4), (4,-1), 2.5, 'big'):
        with pytest.raises(InputError, match='size='): load_folder(folder, size=bad)

def test_shrinking_is_antialiased(tmp_path):
    for c in 'ab':
        (tmp_path/c).mkdir()
        Image.fromarray(np.tile(np.array([[0,255],[255,0]], np.uint8), (32,32))).save(tmp_path/c/'0.png')
    small = load_folder(tmp_path, size=16).images
    assert abs(small.astype(int)-127).max() <= 2

def test_modes_that_are_refused(folder):
    f = folder/'a'/'0.png'
    def clear(): im = picture(mode='P'); im.save(f, transparency=3)
    deep = {'RGBA': lambda: picture(mode='RGBA').save(f), 'LA': lambda: picture(mode='L').convert('LA').save(f), 'with transparency': clear,
            'more than 8 bits': lambda: Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20,24)*99).save(f)}
    for match,write in deep.items():
        write()
        with pytest.raises(InputError, match=match) as e: load_folder(folder)
        assert str(f) in str(e.value)
    picture(seed=0).save(f)
    picture(mode='CMYK').save(folder/'b'/'1.JPG')
    with pytest.raises(InputError, match='1.JPG has mode CMYK'): load_folder(folder)

def test_sixteen_bit_color_is_not_cut_silently(folder):
    import struct, zlib
    def chunk(kind, body): return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind+body))
    lines = b''.join(b'\0' + bytes(24*6) for _ in range(20))
    png = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 24, 20, 16, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(lines)) + chunk(b'IEND', b'')
    (folder/'a'/'0.png').write_bytes(png)
    with pytest.raises(InputError, match='0.png has more than 8 bits'): load_folder(folder)

def test_several_images_in_a_file(folder):
    picture().save(folder/'a'/'z.tif', save_all=True, append_images=[picture(seed=1)])
    with pytest.raises(InputError, match='z.tif holds 2 images'): load_folder(folder)

@pytest.mark.parametrize('ext', ['jpg','png','bmp','webp','tif'])
def test_truncated_files_are_named(folder, ext):
    f = folder/'a'/f'z.{ext}'
    picture(64, 64).save(f)
    whole = f.read_bytes()
    for cut in (0, 1, 10, 30, len(whole)//3, len(whole)//2, len(whole)-200):
        f.write_bytes(whole[:cut])
        with pytest.raises(InputError) as e: load_folder(folder, size=16)
        assert f'z.{ext}' in str(e.value) and 'cannot be read' in str(e.value)

def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match='is no folder'): load_folder(tmp_path/'absent')
    (tmp_path/'file').write_text('x')
    with pytest.raises(InputError, match='is no folder'): load_folder(tmp_path/'file')
    with pytest.raises(InputError, match='0 class folders'): load_folder(tmp_path)
    (tmp_path/'a').mkdir()
    with pytest.raises(InputError, match='1 class folders'): load_folder(tmp_path)
    (tmp_path/'b').mkdir()
    picture().save(tmp_path/'b'/'0.png')
    with pytest.raises(InputError, match='a has no images'): load_folder(tmp_path)
