"Transforms: any size and channels, seeds of their own, no global state, labels that stay, one augmentation for all."
import io, pickle, random
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision.transforms import v2
from deepclsmote.classifiers import train_classifier
from deepclsmote.core import InputError, class_counts, conformance, new_generator, to_signed
from deepclsmote.loaders import ImagesInMemory, MemoryLoader
from deepclsmote.rivals import transforms as room
from deepclsmote.rivals.transforms import ImageTransforms, augment_images, augmentation, borrowed_generators, read_transforms, transform_images, transform_set, transform_sets

pytestmark = pytest.mark.filterwarnings('ignore:ImageTransforms')
each_set = pytest.mark.parametrize('name', transform_sets)
def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def pictures(n, shape, seed=0): return torch.randint(256, (n,*shape), dtype=torch.uint8, generator=new_generator(seed))

@pytest.mark.parametrize('promise', conformance)
def test_contract(promise): conformance[promise](ImageTransforms)

@pytest.mark.parametrize('name', ['modern-grey','stronger-colour'])
def test_contract_of_another_set(name):
    for promise in ('originals_come_first','layout_comes_back','seed_decides','saving_keeps_all'): conformance[promise](lambda **s: ImageTransforms(transforms=name, **s))

@given(name=st.sampled_from(transform_sets), c=st.sampled_from([1,3,4]), h=st.integers(16, 70), w=st.integers(16, 70), seed=st.integers(0, 2**62))
@settings(max_examples=60, deadline=None)
def test_any_size(name, c, h, w, seed):
    x = pictures(1, (c,h,w))
    before = states()
    new = transform_images(x, transform_set(name, (c,h,w)), torch.tensor([seed]))
    assert new.shape == x.shape and new.dtype == torch.uint8 and states() == before

@each_set
@pytest.mark.parametrize('shape', [(1,256,256), (4,256,16), (3,16,256)])
def test_extremes(name, shape):
    assert transform_images(pictures(1, shape), transform_set(name, shape), torch.tensor([1])).shape == (1,*shape)

@each_set
@pytest.mark.parametrize('channels', [1,3,4])
def test_batch_does_not_matter(name, channels):
    x,t = pictures(12, (channels,20,18)),transform_set(name, (channels,20,18))
    seeds = torch.randint(2**62, (12,), generator=new_generator(1))
    whole,rows = transform_images(x, t, seeds),[7,3,11]
    assert transform_images(x[rows], t, seeds[rows]).equal(whole[rows])
    assert not transform_images(x, t, seeds+1).equal(whole)

@each_set
def test_is_torchvision(name):
    "The images are the library's under the same seed"
    x,t = pictures(6, (3,24,24)),transform_set(name, (3,24,24))
    with torch.random.fork_rng(devices=[]):
        want = []
        for i in range(6): torch.manual_seed(100+i); want.append(t(x[i]))
    assert transform_images(x, t, torch.arange(100, 106)).equal(torch.stack(want))

def test_all_three_globals_are_borrowed():
    def fickle(image): return image + int(random.random()*9) + int(np.random.rand()*9) + torch.randint(9, ()).to(torch.uint8)
    x = pictures(5, (1,16,16))
    random.seed(1); np.random.seed(1); before = states()
    a = transform_images(x, fickle, torch.arange(5))
    random.seed(2); np.random.seed(2)
    assert a.equal(transform_images(x, fickle, torch.arange(5)))
    def breaks(image): torch.rand(1); np.random.rand(); random.random(); raise KeyError('broken')
    before = states()
    with pytest.raises(KeyError): transform_images(x, breaks, torch.arange(5))
    assert states() == before

def test_opacity_moves_and_is_not_shaded():
    "The fourth channel: shading leaves it, moving takes it along as any other channel"
    x = pictures(1, (4,24,24))[0]
    with borrowed_generators() as seed:
        for s in range(40):
            seed(s); new = room._Jitter(.4, .4, .4, .1)(x)
            assert new[3].equal(x[3]) and not new[:3].equal(x[:3])
    names = ('ShearX','TranslateY','Rotate','Brightness','Color','Contrast','Sharpness','Posterize','Solarize','AutoContrast','Equalize')
    for cls in (room._TrivialAugment, room._RandAugment):
        t,fill = cls(interpolation=v2.InterpolationMode.BILINEAR),cls()._fill
        for name in names:
            m = dict(Posterize=3., Solarize=.3, TranslateY=4., Rotate=20.).get(name, .3)
            new = t._apply_image_or_video_transform(x, name, m, t.interpolation, fill)
            rgb = t._apply_image_or_video_transform(x[:3], name, m, t.interpolation, fill)
            assert new[:3].equal(rgb)
            if names.index(name) < 3: assert new[3].equal(t._apply_image_or_video_transform(x[3:], name, m, t.interpolation, fill)[0])
            else: assert new[3].equal(x[3])
        assert set(cls._AUGMENTATION_SPACE) == {'Identity','ShearX','ShearY','TranslateX','TranslateY','Rotate','Brightness','Color','Contrast','Sharpness','Posterize','Solarize','AutoContrast','Equalize'}

@pytest.mark.parametrize('h,w', [(16,40), (28,28), (256,256)])
def test_shift_of_trivial_augment(h, w):
    space = room._TrivialAugment._AUGMENTATION_SPACE
    for name,side in (('TranslateX',w), ('TranslateY',h)): assert float(space[name][0](31, h, w).max()) == pytest.approx(min(32, .45*side))

def test_library_space_is_untouched():
    assert float(v2.TrivialAugmentWide._AUGMENTATION_SPACE['TranslateX'][0](31, 28, 28).max()) == 32

@pytest.mark.parametrize('name', ['fmnist','cifar10','modern-colour','stronger-colour'])
def test_flips(name):
    def flips(t): return sum(isinstance(p, v2.RandomHorizontalFlip) for p in t.transforms)
    assert flips(transform_set(name, (3,32,32))) == 1 and flips(transform_set(name, (3,32,32), False)) == 0
    for c in (1,3,4): assert flips(read_transforms('auto', (c,32,32))) == 0 and flips(read_transforms('auto', (c,32,32), True)) == 1
    for grey in ('modern-grey','stronger-grey'): assert flips(transform_set(grey, (1,28,28))) == 0

def test_paddings_at_the_usual_sizes():
    t = transform_set('modern-colour', (3,32,32)).transforms[0]
    assert t.padding == [4]*4 and t.padding_mode == 'reflect' and tuple(t.size) == (32,32)
    assert transform_set('modern-grey', (1,28,28)).transforms[0].padding == [3]*4 and transform_set('cifar10', (3,32,32)).transforms[0].padding == [4,4]

def test_elastic_moves_by_three_percent():
    "Standard deviation of the displacement at the center, in shares of the side; grid coordinates run over 2"
    with borrowed_generators() as seed:
        seed(0)
        t,x = room._elastic(28, 28),pictures(1, (1,28,28))[0]
        d = torch.stack([t.make_params([x])['displacement'][0,14,14] for _ in range(400)])
    assert abs(float(d.std())/2 - .03) < .003

def test_what_cannot_be_used():
    X,y = np.zeros((6,16,16), 'uint8'),[0,0,0,0,1,1]
    for bad in ('modern', 7, [], [3]):
        with pytest.raises(ValueError): ImageTransforms(transforms=bad).fit_resample(X, y)
        with pytest.raises(InputError): augmentation(bad)
    with pytest.raises(InputError, match='flip=None'): augmentation(lambda x: x, flip=True)
    with pytest.raises(InputError, match='expected the same'): ImageTransforms(transforms=v2.Resize(20)).fit(X, y)
    with pytest.raises(InputError, match='ToImage'): ImageTransforms(transforms=v2.ToPILImage()).fit(X, y)
    with pytest.raises(InputError, match='Normalize'): ImageTransforms(transforms=lambda x: x.float()).fit(X+9, y)

def test_own_functions():
    X,y = pictures(9, (3,18,20)).numpy(),np.array([0]*6+[1]*3)
    invert = ImageTransforms(transforms=lambda image: 255-image, random_state=0)
    X1,_ = invert.fit_resample(X, y)
    assert (X1[9:] == 255-X[invert.provenance_.parent_a]).all()
    pil = [v2.ToPILImage(), v2.RandomRotation(20), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    o = ImageTransforms(transforms=pil, random_state=0)
    assert class_counts(o.fit_resample(X.astype('float32')/255, y)[1]) == {0: 6, 1: 6}
    with pytest.raises(InputError, match='cannot be written'): o.save('never')

def test_float_images_go_by_256_levels():
    X,y = np.random.RandomState(0).rand(9,16,16).astype('float32'),np.array([0]*6+[1]*3)
    o = ImageTransforms(transforms=v2.Identity(), random_state=0)
    new = o.fit_resample(X, y)[0][9:]
    assert new.dtype == np.float32 and np.abs(new-X[o.provenance_.parent_a]).max() <= .5/255+1e-6

def test_report_and_judge():
    rng = np.random.RandomState(0)
    y = np.repeat([0,1], [30,4]); X = (rng.rand(34,16,16)*100 + 100*y[:,None,None]).astype('uint8')
    with pytest.warns(UserWarning, match='class 1: mostly copies'):
        o = ImageTransforms(transforms=v2.Identity(), random_state=0); o.fit_resample(X, y)
    assert o.report_.unchanged[1] == 1 and o.report_.change[1] == 0 and o.report_.parents[1] == 4 and np.isnan(o.report_.agreement[1])
    judge = lambda images: (images.mean((1,2,3)) > 0).long()
    with pytest.warns(UserWarning, match='class 1: wrong class'):
        o = ImageTransforms(transforms=lambda x: x//4, judge=judge, random_state=0); o.fit_resample(X, y)
    assert o.report_.agreement[1] == 0
    with pytest.warns(UserWarning, match='100% of the images are of one color'): ImageTransforms(transforms=lambda x: x*0, random_state=0).fit_resample(X, y)
    o = ImageTransforms(transforms=lambda x: x//2*2+1, judge=lambda x: torch.ones(len(x)), random_state=0)
    o.fit_resample(X, y)
    assert o.report_.agreement[1] == 1 and o.report_.alarm[1] == ''

@pytest.mark.parametrize('name', ['auto','fmnist',v2.RandomRotation(10)])
def test_augmentation(name):
    x = to_signed(pictures(8, (1,28,28)))
    f,before = augmentation(name),states()
    a,b = f(x, new_generator(0)),f(x, new_generator(0))
    assert a.equal(b) and a.shape == x.shape and a.dtype == torch.float32 and a.abs().max() <= 1 and not a.equal(f(x, new_generator(1))) and states() == before
    same = f(x[:1].expand(8,-1,-1,-1), new_generator(0))
    assert len({tuple(v.flatten().tolist()) for v in same}) > 1
    assert f(x[:0], new_generator(0)).shape == (0,1,28,28)
    seeds = room.image_seeds(8, new_generator(0))
    assert a.equal(to_signed(transform_images(pictures(8, (1,28,28)), read_transforms(name, (1,28,28)), seeds)))

def test_augmentation_can_be_pickled():
    f,x = augmentation('stronger-grey', flip=False),to_signed(pictures(3, (1,28,28)))
    assert pickle.loads(pickle.dumps(f))(x, new_generator(0)).equal(f(x, new_generator(0)))

def test_training_takes_it():
    x,y = pictures(40, (3,16,16)),torch.arange(40) % 2
    dl = MemoryLoader(ImagesInMemory(x, y), bs=16, shuffle=True, generator=new_generator(0), augment=augmentation('modern-colour'))
    assert [tuple(b[0].shape) for b in dl] == [(16,3,16,16), (16,3,16,16), (8,3,16,16)]
    a,b = (train_classifier(x, y, 2, steps=3, batch_size=8, seed=0, augment=augmentation('cifar10'), device='cpu', progress=False).model.state_dict() for _ in range(2))
    assert all(a[k].equal(b[k]) for k in a)

def test_no_global_generator_in_torchvision():
    "The installed transforms draw from torch alone: none of their sources imports random or NumPy's random"
    import pathlib, re, torchvision.transforms.v2 as package
    for f in pathlib.Path(package.__file__).parent.rglob('*.py'): assert not re.search(r'^\s*(import random\b|from random\b)|np\.random|numpy\.random', f.read_text(), re.M), f.name
