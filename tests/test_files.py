"Folders, tables, data set objects, .npz and idx files, and reading inside a DataBlock: properties and faults."
import io, struct, subprocess, sys, warnings, zipfile, zlib
from pathlib import Path
import numpy as np
import pandas as pd
import pytest, torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, parent_label
from fastai.vision.augment import Resize
from PIL import Image
from deepclsmote.core import InputError
from deepclsmote.files import *

def listing(folder): return sorted((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in Path(folder).rglob('*'))

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

def test_class_image_files(folder):
    assert [f.relative_to(folder).as_posix() for f in class_image_files(str(folder))] == [p.as_posix() for p in load_folder(folder).paths]
    (folder/'c').mkdir()
    with pytest.raises(InputError, match='c has no images'): class_image_files(folder)

# Trees, and images that stay in their files ------------------------------------------------------

def test_a_tree_of_any_depth(tmp_path):
    "A class is a folder that holds images; its name is its path"
    for c in ('b','a/robin','a/jay/young','a/jay/old'):
        (tmp_path/c).mkdir(parents=True)
        picture().save(tmp_path/c/'0.png')
    (tmp_path/'a'/'.cache').mkdir(); (tmp_path/'a'/'notes.txt').write_text('x'); (tmp_path/'top.png').write_bytes(b'beside the classes')
    (tmp_path/'b'/'empty').mkdir(); (tmp_path/'b'/'words').mkdir(); (tmp_path/'b'/'words'/'x.txt').write_text('x')
    s = load_folder(tmp_path)
    assert s.classes == ['a/jay/old','a/jay/young','a/robin','b'] and s.labels.tolist() == [0,1,2,3] and s.paths[1] == Path('a/jay/young/0.png')
    (tmp_path/'a'/'wren'/'young').mkdir(parents=True)
    with pytest.raises(InputError, match='a/wren/young has no images'): load_folder(tmp_path)
    picture().save(tmp_path/'a'/'jay'/'1.png')
    with pytest.raises(InputError, match="a/jay holds images and a folder of images, 'old'"): load_folder(tmp_path)

def test_one_branch_is_a_tree(tmp_path):
    "All classes below one folder, as Aves/... of a larger set"
    for c in ('Aves/jay','Aves/robin'):
        (tmp_path/c).mkdir(parents=True)
        picture().save(tmp_path/c/'0.png')
    assert load_folder(tmp_path).classes == ['Aves/jay','Aves/robin']
    (tmp_path/'Aves'/'robin'/'0.png').unlink(); (tmp_path/'Aves'/'robin').rmdir()
    with pytest.raises(InputError, match='1 class folders'): load_folder(tmp_path)

def test_links(folder, tmp_path_factory):
    "Links to folders and files are followed; one that leads in a circle is named"
    far = tmp_path_factory.mktemp('far')
    picture().save(far/'0.png')
    (folder/'c').symlink_to(far); (folder/'b'/'z.png').symlink_to(far/'0.png'); (folder/'b'/'gone.png').symlink_to(far/'absent.png')
    assert load_folder(folder).classes == ['a','b','c'] and len(load_folder(folder)) == 8
    (folder/'d').mkdir(); (folder/'d'/'up').symlink_to(folder)
    with pytest.raises(InputError, match='d/up leads back'): load_folder(folder)

@pytest.mark.parametrize('size', [None, (8,30)])
def test_items_are_those_of_the_set(folder, size):
    (folder/'b'/'2.bmp').unlink(); picture(mode='L').save(folder/'b'/'2.png')
    if size: picture(9, 9, seed=7).save(folder/'a'/'0.png')
    before = listing(folder)
    some,whole = folder_images(str(folder), size),load_folder(folder, size)
    images,labels = whole.tensors()
    assert len(some) == 6 and some.shape == (3, *(size or (20,24))) and some.color and some.suffix == '.png' and some.classes == ['a','b'] and some.targets.equal(labels) and some.targets.dtype == torch.int64
    assert some.paths == [p.as_posix() for p in whole.paths] and all(type(p) is str for p in some.paths)
    for i in (0, 5, -1): assert some[i][0].equal(images[i]) and some[i][0].dtype == torch.uint8 and some[i][1] == labels[i] and type(some[i][1]) is int
    with pytest.raises(IndexError): some[6]
    x,y = zip(*torch.utils.data.DataLoader(some, batch_size=4, num_workers=2))
    assert torch.cat(x).equal(images) and torch.cat(y).equal(labels) and listing(folder) == before
    assert repr(some) == f'ImageFiles({folder.name}: 6 color images of {some.shape[1]} x {some.shape[2]}, 2 classes)'

def test_grey_and_what_new_images_shall_be(tmp_path):
    for c in 'ab':
        (tmp_path/c).mkdir()
        picture(mode='L').save(tmp_path/c/'0.JPEG'); picture(mode='L', seed=1).save(tmp_path/c/'1.jpg')
    s = folder_images(tmp_path)
    assert s.shape == (1,20,24) and not s.color and s.suffix == '.jpg' and s[1][0].shape == (1,20,24)
    picture(mode='1').save(tmp_path/'a'/'2.png')
    assert folder_images(tmp_path).suffix == '.png' and not folder_images(tmp_path).color
    (tmp_path/'a'/'2.png').unlink(); picture(mode='L').save(tmp_path/'a'/'2.jpg', format='PNG')  # what it is, not what it is called
    assert folder_images(tmp_path).suffix == '.png'
    picture(mode='P').save(tmp_path/'b'/'2.png')
    assert folder_images(tmp_path).shape == (3,20,24)

@pytest.mark.parametrize('ext', ['jpg','png','webp','tif'])
@pytest.mark.parametrize('turn', range(1, 9))
def test_a_header_knows_which_way_is_up(tmp_path, ext, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    picture(20, 24).save(tmp_path/f'x.{ext}', exif=exif)
    assert read_header(tmp_path/f'x.{ext}')[:2] == read_image(tmp_path/f'x.{ext}').size[::-1] == ((24,20) if turn > 4 else (20,24))

def test_headers_refuse_what_images_do(folder, monkeypatch):
    "Without a look at any pixel"
    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', lambda self: pytest.fail('pixels were read'))
    assert len(folder_images(folder)) == 6
    f = folder/'b'/'1.JPG'
    monkeypatch.undo()
    for match,write in {'mode RGBA': lambda: picture(mode='RGBA').save(f, format='PNG'), 'mode CMYK': lambda: picture(mode='CMYK').save(f), 'more than 8 bits': lambda: Image.fromarray(np.zeros((20,24), np.uint16)).save(f, format='PNG'),
                        'with transparency': lambda: picture(mode='P').save(f, format='PNG', transparency=1), '1.JPG is 5 x 24': lambda: picture(5, 24).save(f), '1.JPG cannot be read': lambda: f.write_bytes(b'x')}.items():
        write()
        with pytest.raises(InputError, match=match): folder_images(folder)

def test_a_file_that_changes_later(folder):
    s = folder_images(folder)
    picture(9, 8).save(folder/'a'/'0.png')
    with pytest.raises(InputError, match='0.png is 9 x 8 .*header said, 20 x 24'): s[0]
    (folder/'a'/'0.png').unlink()
    with pytest.raises(InputError, match='0.png cannot be read'): s[0]

def test_eight_thousand_classes(tmp_path):
    "A tree and a table of them; what is kept of each image is its name"
    import tracemalloc
    picture(16, 16).save(tmp_path/'x.png')
    one,root = (tmp_path/'x.png').read_bytes(),tmp_path/'tree'
    for i in range(8000):
        (root/f'{i%20:02d}'/f'{i:05d}').mkdir(parents=True)
        (root/f'{i%20:02d}'/f'{i:05d}'/'image.png').write_bytes(one)
    tracemalloc.start()
    s = folder_images(root)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(s.classes) == len(s) == 8000 and s.classes == sorted(s.classes) and s[7999][1] == 7999 and kept/8000 < 400, kept  # a class and a path each
    t = pd.DataFrame(dict(path=s.paths, label=np.arange(8000)[::-1]))
    t.to_csv(root/'train.csv', index=False)
    t = table_images(root/'train.csv')
    assert len(t.classes) == 8000 and t[0][1] == 7999 and t.paths == s.paths

# Tables ------------------------------------------------------------------------------------------

@pytest.fixture
def table(folder): return pd.DataFrame([(f.relative_to(folder).as_posix(), 10-len(f.parent.name)*i) for i,f in enumerate(class_image_files(folder))], columns=['path','label'])

def test_table(folder, table):
    s = load_table(table, root=folder)
    assert s.classes == ['5','6','7','8','9','10'] and s.labels.tolist() == [5,4,3,2,1,0] and s.labels.dtype == np.int64
    assert (s.images == load_folder(folder).images).all() and s.paths[1] == Path('a/1.JPG')
    table.rename(columns={'path':'file','label':'kind'}).to_csv(folder/'my.csv', index=False)
    t = load_table(folder/'my.csv', 'file', 'kind', size=(8,9))
    assert t.name == 'my' and t.images.shape == (6,8,9,3) and t.classes == s.classes
    assert (load_table(table.assign(path=[str(folder/p) for p in table.path])).images == s.images).all()

@pytest.mark.parametrize('change,match', [
    (dict(label=None), "no label in row 0.*6 missing"), (dict(label=[1,2,None,1,2,1]), 'no label in row 2'), (dict(label=[1,'a',2,1,2,1]), 'several kinds'), (dict(label=1), '1 classes'),
    (dict(path=['a/0.png','a/9.png']+['b/0.png']*4), 'row 1: .*9.png is no file'), (dict(path=['a/0.png',None]+['b/0.png']*4), 'row 1: the path is missing'), (dict(path='a'), 'row 0: .*is no file')])
def test_table_refuses(folder, table, change, match):
    with pytest.raises(InputError, match=match): load_table(table.assign(**change), root=folder)

def test_table_columns_and_files(folder, table):
    with pytest.raises(InputError, match="no column 'y'.*'path', 'label'"): load_table(table, label='y', root=folder)
    with pytest.raises(InputError, match='absent.csv cannot be read'): load_table(folder/'absent.csv')
    (folder/'empty.csv').write_text('')
    with pytest.raises(InputError, match='empty.csv cannot be read'): load_table(folder/'empty.csv')
    (folder/'head.csv').write_text('path,label\n')
    with pytest.raises(InputError, match='0 classes'): load_table(folder/'head.csv')
    (folder/'b'/'1.JPG').write_bytes(b'no image')
    with pytest.raises(InputError, match='1.JPG cannot be read'): load_table(table, root=folder)
    picture(9, 9).save(folder/'b'/'1.JPG')
    with pytest.raises(InputError, match='row 4.*9 x 9'): load_table(table, root=folder)

# Data set objects --------------------------------------------------------------------------------

class Own:
    "As torchvision's data sets are"
    def __init__(self, items, classes=None):
        self.items = items
        if classes: self.classes = classes
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]

grey,rgb = (np.random.RandomState(0).randint(0, 256, s, np.uint8) for s in ((6,5),(6,5,3)))
@pytest.mark.parametrize('image,expected', [
    (Image.fromarray(grey), grey), (grey, grey), (grey[...,None], grey), (torch.tensor(grey)[None], grey), (torch.tensor(grey), grey), (torch.tensor(grey)[None]/255, grey), (grey/255, grey),
    (Image.fromarray(rgb), rgb), (rgb, rgb), (torch.tensor(rgb).permute(2,0,1), rgb), (torch.tensor(rgb).permute(2,0,1)/255, rgb), (torch.tensor(rgb).permute(2,0,1).double()/255, rgb)])
def test_images_of_any_kind(image, expected):
    s = from_dataset(Own([(image, 0), (image, 1)]))
    assert (s.images == expected).all() and s.images.shape[1:] == expected.shape and s.images.dtype == np.uint8 and s.name == 'Own'

def test_labels_and_classes():
    items = [(grey, torch.tensor(2)), (grey, np.int64(0)), (grey, 2)]
    assert from_dataset(Own(items, ['x','y','z'])).labels.tolist() == [2,0,2] and from_dataset(Own(items, ['x','y','z'])).classes == ['x','y','z']
    assert from_dataset(Own(items)).labels.tolist() == [1,0,1] and from_dataset(Own(items)).classes == ['0','2']
    assert from_dataset(Own(items), classes='abc', name='n').classes == ['a','b','c']
    assert from_dataset(torch.utils.data.Subset(Own(items), [1,0]), size=8).images.shape == (2,8,8)
    mixed = from_dataset(Own([(grey,0),(rgb,1)]))
    assert mixed.images.shape == (2,6,5,3) and (mixed.images[0] == grey[...,None]).all()

@pytest.mark.parametrize('items,match', [
    ([], 'no items'), ([(grey,0),grey], r'Own\[1\] is no pair'), ([(grey,0),(grey[:3],1)], r'Own\[0\] is 6 x 5 pixels and Own\[1\] is 3 x 5'), ([(grey/255*2-1,0)], 'Normalize'), ([(grey/255*np.nan,0)], 'Normalize'),
    ([(grey.astype(int),0)], 'dtype int64'), ([(np.zeros((3,6,5), np.uint8),0)], r'shape \(3, 6, 5\)'), ([(torch.zeros(6,5,3),0)], r'shape \(6, 5, 3\)'), ([(Image.new('RGBA',(3,3)),0)], 'mode RGBA'),
    ([(grey,0),(grey,None)], 'no label in row 1'), ([(grey,0),(grey,0)], '1 classes')])
def test_data_sets_refused(items, match):
    with pytest.raises(InputError, match=match): from_dataset(Own(items))

def test_labels_outside_the_classes():
    for bad in (3, -1, 'x', .5):
        with pytest.raises(InputError, match=r'Own\[1\] has the label'): from_dataset(Own([(grey,0),(grey,bad)], ['a','b','c']))
    with pytest.raises(InputError, match='length'): from_dataset(iter([(grey,0)]))

# .npz --------------------------------------------------------------------------------------------

def encoded(images, kind):
    files = []
    for a in images:
        f = io.BytesIO()
        Image.fromarray(a).save(f, format=kind)
        files.append(f.getvalue())
    return dict(bytes=np.frombuffer(b''.join(files), np.uint8), offsets=np.cumsum([0]+[len(f) for f in files]))

rgbs = np.random.RandomState(1).randint(0, 256, (6,16,16,3), np.uint8)
plain = dict(images=rgbs, labels=np.array([0,1,2,0,1,2]))
coded = dict(encoded(rgbs, 'png'), labels=plain['labels'])
def save(path, **arrays): np.savez_compressed(path, **arrays); return path

def test_npz(tmp_path):
    f = save(tmp_path/'own.npz', **plain)
    before = listing(tmp_path)
    a,b = load_npz(f), load_npz(save(tmp_path/'b.npz', **coded))
    assert (a.images == rgbs).all() and (b.images == rgbs).all() and a.classes == ['0','1','2'] and a.labels.dtype == np.int64 and a.groups is None and a.name == 'own'
    assert listing(tmp_path)[-1] == before[-1]
    assert load_npz(f, size=(4,5)).images.shape == (6,4,5,3) and load_npz(tmp_path/'b.npz', size=4).images.shape == (6,4,4,3)
    for kind in ('jpeg','webp'): assert load_npz(save(tmp_path/'c.npz', **encoded(rgbs, kind), labels=plain['labels'])).images.shape == rgbs.shape

def test_npz_optional_arrays(tmp_path):
    f = save(tmp_path/'a.npz', **plain, split=np.array([1,0,0,0,1,0], np.uint8), tracks=np.array([0,0,0,5,5,0]), classes=np.array(['x','y','z']), index=np.array([1,9,8,7,0,6]), other=np.array([object()]))
    train,test,both = (load_npz(f, s) for s in ('train','test','all'))
    assert (train.images == rgbs[[5,3,2,1]]).all() and (test.images == rgbs[[4,0]]).all() and (both.images == rgbs[[5,3,2,1,4,0]]).all()
    assert train.classes == ['x','y','z'] and train.labels.tolist() == [2,0,2,1]
    assert len(set(zip(both.labels, both.groups))) == len(set(both.groups)) == 5 and both.groups[0] == both.groups[2]
    assert load_npz(save(tmp_path/'g.npz', **plain, groups=np.array([7,7,7,8,8,9]), tracks=np.arange(6))).groups.tolist() == [7,7,7,8,8,9]

@pytest.mark.parametrize('arrays,match', [
    (dict(images=rgbs), "no array 'labels'"), (dict(labels=plain['labels']), "no array 'images'"), ({k:v for k,v in coded.items() if k != 'offsets'}, "no array 'offsets'"), ({k:v for k,v in coded.items() if k != 'bytes'}, "no array 'bytes'"),
    (dict(plain, images=rgbs/255), 'images has dtype float64'), (dict(plain, images=rgbs[:,:,0,0]), r'images has dtype uint8 and shape \(6, 16\)'), (dict(plain, images=rgbs[...,:2]), 'images has dtype'),
    (dict(plain, labels=plain['labels']/1), 'labels has dtype float64'), (dict(plain, labels=plain['labels'][:,None]), 'labels has dtype'), (dict(plain, labels=plain['labels'][:5]), 'images has 6 entries and there are 5'),
    (dict(plain, labels=np.int64(3)), 'labels has dtype int64 and shape'), (dict(plain, labels=plain['labels']-1), 'labels from -1 to 1'), (dict(plain, classes=np.array(['a','b'])), 'labels from 0 to 2; expected 0 to 1'),
    (dict(plain, classes=np.arange(3)), 'classes has dtype'), (dict(plain, split=np.array([0,1,2,0,1,0])), 'split has the value 2'), (dict(plain, split=np.ones(6, int)), "no image of split 'train'"), (dict(plain, tracks=np.arange(5)), 'tracks has 5 entries'),
    (dict(images=rgbs[:0], labels=plain['labels'][:0]), 'of no image'), (dict(coded, offsets=coded['offsets'][:-1]), 'offsets has 6 entries and there are 6 labels; expected 7'), (dict(coded, offsets=coded['offsets'][::-1]), 'do not rise at row 0'),
    (dict(coded, offsets=coded['offsets'].astype(np.uint64)[[0,1,3,2,4,5,6]]), 'do not rise at row 2'), (dict(coded, offsets=coded['offsets']+1), 'offsets run from 1 to'), (dict(coded, offsets=coded['offsets']-1), 'offsets run from -1 to'),
    (dict(coded, offsets=coded['offsets']/1), 'offsets has dtype float64'), (dict(coded, bytes=coded['bytes'].astype(int)), 'bytes has dtype int64'), (dict(plain, labels=np.array([0,1,None,0,1,2], object)), 'cannot be read')])
def test_npz_refused(tmp_path, arrays, match):
    with pytest.raises(InputError, match=match) as e: load_npz(save(tmp_path/'w.npz', **arrays))
    assert 'w.npz' in str(e.value)

@pytest.mark.parametrize('kind', ['jpeg','png','webp'])
def test_a_spoilt_image_inside_is_named_by_its_row(tmp_path, kind):
    a = encoded(rgbs, kind)
    whole,(i,j) = a['bytes'].copy(), a['offsets'][[3,4]]
    whole[i:i+12] = 0
    with pytest.raises(InputError, match='w.npz, row 3 cannot be read'): load_npz(save(tmp_path/'w.npz', **{**a, 'bytes': whole}, labels=plain['labels']))
    short = {'bytes': np.delete(a['bytes'], np.s_[i+(j-i)//2:j]), 'offsets': np.where(np.arange(7) > 3, a['offsets']-(j-i)+(j-i)//2, a['offsets'])}
    with pytest.raises(InputError, match='w.npz, row 3 cannot be read'): load_npz(save(tmp_path/'w.npz', **short, labels=plain['labels']))

def test_files_that_are_no_npz(tmp_path):
    f = save(tmp_path/'w.npz', **plain)
    whole = f.read_bytes()
    for content in [b'', b'x', b'PK\x03\x04', whole[:50], whole[:len(whole)//2], whole[:-1], bytes(100)]:
        f.write_bytes(content)
        with pytest.raises(InputError, match='w.npz cannot be read'): load_npz(f)
    for at in range(60, len(whole)//2, 211):  # a flipped byte within the packed images
        b = bytearray(whole); b[at] ^= 0x55
        f.write_bytes(b)
        with pytest.raises(InputError, match='w.npz'): load_npz(f)
    np.save(tmp_path/'w.npy', rgbs)
    for absent in (tmp_path/'w.npy', tmp_path/'absent.npz'):
        with pytest.raises(InputError, match='cannot be read'): load_npz(absent)
    with pytest.raises(InputError, match="'train', 'test' or 'all'"): load_npz(f, 'valid')

# Inside a DataBlock ------------------------------------------------------------------------------

@pytest.fixture
def jpegs(tmp_path):
    "Two classes of eight files; of a, file 3 is cut short and file 5 is no image"
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(8): picture(seed=i).save(tmp_path/c/f'{i}.jpg')
    f = tmp_path/'a'/'3.jpg'
    f.write_bytes(f.read_bytes()[:300])
    (tmp_path/'a'/'5.jpg').write_bytes(b'hello')
    return tmp_path

def loaders(folder, valid=(0,8), color=True, workers=0, **kwargs):
    block = DataBlock(blocks=(ReadableImageBlock(color, **kwargs), CategoryBlock), get_items=class_image_files, get_y=parent_label, splitter=IndexSplitter(valid), item_tfms=Resize(16))
    return block.dataloaders(folder, bs=4, shuffle=False, drop_last=False, num_workers=workers)

@pytest.mark.parametrize('workers', [0, 2])
def test_stop_names_the_file(jpegs, workers):
    with pytest.raises(InputError, match='a/3.jpg cannot be read'): list(loaders(jpegs, workers=workers).train)

def test_skip_leaves_out_and_warns_once(jpegs):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        dls = loaders(jpegs, on_bad='skip')
        epochs = [torch.cat([y for _,y in dls.train]).tolist() for _ in range(3)]
        shown = dls.test_dl(class_image_files(jpegs))
        tested = sum(len(x) for x, in shown)
    assert epochs == [[0]*5 + [1]*7]*3 and tested == 14
    said = [str(w.message) for w in heard if 'left out' in str(w.message)]
    assert len(said) == 2 and 'a/3.jpg' in said[0] and 'a/5.jpg' in said[1]

def test_skip_in_worker_processes(jpegs):
    "In a process of its own, since workers speak on its standard error"
    code = f"""import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_files import *
dls = loaders(Path({str(jpegs)!r}), on_bad='skip', workers=2)
for _ in range(3): print(sorted(torch.cat([y for _,y in dls.train]).tolist()), sum(len(x) for x, in dls.test_dl(class_image_files(Path({str(jpegs)!r})))))"""
    r = subprocess.run([sys.executable, '-W', 'always::UserWarning', '-c', code], capture_output=True, text=True)
    assert r.stdout.splitlines() == [f'{[0]*5 + [1]*7} 14']*3, r.stderr
    assert r.stderr.count('3.jpg cannot be read') == r.stderr.count('5.jpg cannot be read') == 1

@pytest.mark.parametrize('first', [(3,5,8), (0,3)])
def test_the_first_item_may_be_the_bad_one(jpegs, first):
    "fastai tries item 0 of each part to learn its types"
    with pytest.warns(UserWarning, match='a/3.jpg'):
        dls = loaders(jpegs, valid=first, on_bad='skip')
        n = [sum(len(y) for _,y in dl) for dl in dls]
        dls.show_batch(max_n=2)
        test = dls.test_dl([jpegs/'a'/'3.jpg', jpegs/'b'/'1.jpg'])
        assert [len(x) for x, in test] == [1]
    assert sum(n) == 14
    with pytest.raises(InputError, match='3.jpg'): list(loaders(jpegs, valid=first).valid)

def test_pixels_are_those_of_an_image_set(jpegs):
    for f in ('3','5'): (jpegs/'a'/f'{f}.jpg').unlink()
    for color in (True, False):
        dls = loaders(jpegs, valid=(0,), color=color)
        x = torch.cat([x for x,_ in dls.valid])
        assert x.shape == (1, 3 if color else 1, 16, 16) and x.dtype == torch.float32 and 0 <= x.min() and .3 < x.max() <= 1
        assert type(dls.valid_ds[0][0]).__name__ == ('PILImage' if color else 'PILImageBW')
    assert (np.asarray(dls.valid_ds[0][0]) == np.asarray(picture(seed=0).convert('RGB').convert('L'))).mean() < 1  # JPEG
    whole = load_folder(jpegs)
    assert (np.asarray(loaders(jpegs, valid=(0,)).valid_ds[0][0]) == whole.images[0]).all()

def test_what_is_no_path_passes(jpegs):
    read = ReadableImageBlock().type_tfms[0]
    assert read(rgbs[0]).size == (16,16) and read(picture()).size == (24,20)

def test_on_bad_is_checked():
    with pytest.raises(InputError, match="'stop' or 'skip'"): ReadableImageBlock(on_bad='ignore')

def test_an_exported_learner_keeps_the_rule(jpegs):
    import pickle
    dls = pickle.loads(pickle.dumps(loaders(jpegs, on_bad='skip').new_empty()))
    with pytest.warns(UserWarning, match='a/5.jpg'): assert sum(len(x) for x, in dls.test_dl(class_image_files(jpegs))) == 14

@pytest.mark.parametrize('workers,bs', [(0,4), (2,4), (2,1), (3,2)])
def test_predictions_keep_their_order(jpegs, workers, bs):
    "fastai sorts the rows of get_preds by item number, whose last ones no longer exist"
    from fastai.learner import Learner
    dls = loaders(jpegs, valid=(0,3,5,9,15), on_bad='skip', workers=workers)
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2)), loss_func=torch.nn.functional.cross_entropy, model_dir=jpegs)
    files = class_image_files(jpegs)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        preds = learn.get_preds(dl=dls.test_dl(files, num_workers=workers, bs=bs))[0]
        valid,labels = learn.get_preds(ds_idx=1)
        good = learn.get_preds(dl=dls.test_dl([f for f in files if f.relative_to(jpegs).as_posix() not in ('a/3.jpg','a/5.jpg')], num_workers=workers))[0]
        twice = learn.get_preds(dl=dls.test_dl(files, num_workers=workers, bs=bs))[0]
    assert preds.shape == (14,2) and labels.tolist() == [0,1,1] and len(preds.unique()) > 12
    torch.testing.assert_close(preds, good); torch.testing.assert_close(preds, twice)
    torch.testing.assert_close(valid, preds[[0,7,13]])
