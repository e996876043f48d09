"The oversamplers keep the contract, pass the checks of two libraries, and refuse what cannot be used."
import os, warnings
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from imblearn.utils.estimator_checks import parametrize_with_checks as imblearn_checks
from sklearn.utils.estimator_checks import parametrize_with_checks as sklearn_checks
from deepclsmote import oversamplers
from deepclsmote.core import ImageOversampler, InputError, check_oversampler, class_counts, conformance, new_generator, to_signed, toy_images
from deepclsmote.loaders import augment_shift
from deepclsmote.oversamplers import DeepCLSMOTE, DeepSMOTE, donor_rows
from deepclsmote.registry import parse
from deepclsmote.smote import add_residual, draw_donors, interpolate, smote, transfer

fast = dict(epochs=1, batch_size=64, latent_dim=2, decoder='compact', progress=False, device='cpu')
both = pytest.mark.parametrize('cls', [DeepCLSMOTE, DeepSMOTE])
pytestmark = pytest.mark.filterwarnings('ignore:Class .* has one image')

@both
@pytest.mark.parametrize('promise', conformance)
def test_contract(cls, promise):
    conformance[promise](lambda **settings: cls(**{**fast, **settings}))

# --- three ways to generate -----------------------------------------------------------------------------------------

X_,y_ = toy_images((30,22,5,1), dtype='float32', low=-1)
def fitted(cls=DeepCLSMOTE, generation='style', **s): return cls(**{**fast, 'latent_dim': 3, 'random_state': 0, 'generation': generation, **s}).fit(X_, y_)
def coded(o): return torch.no_grad()(o._coder().decode),o.codes_,to_signed(o.images_)

@both
@pytest.mark.parametrize('generation', ['residual','style'])
def test_contract_of_generations(cls, generation): check_oversampler(lambda **settings: cls(**{**fast, 'generation': generation, **settings}))

@both
@pytest.mark.parametrize('generation', ['smote','residual'])
@pytest.mark.parametrize('label', [2,3])
def test_smote_and_residual_are_what_the_functions_make(cls, generation, label):
    "Byte for byte, from the same draws, sampled and drawn"
    o,own = fitted(cls, generation),torch.from_numpy(np.flatnonzero(y_ == label))
    decode,z,images = coded(o)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        _,parents,w = smote(z[own], 9, 5, new_generator(7))
        new,made = o.sample(9, label, random_state=7)
    a,b = own[parents].T
    x = decode(interpolate(z, a, b, w))
    assert len(images) == (0 if generation == 'smote' else len(X_))
    if generation == 'residual': x = add_residual(x, images[a], images[b], decode(z[a]), decode(z[b]), w)
    assert made.columns.tolist() == ['label','parent_a','parent_b','weight']
    assert made.parent_a.tolist() == a.tolist() and made.parent_b.tolist() == b.tolist() and (made.weight.to_numpy() == w.numpy()).all()
    assert new.tobytes() == o.format_.write(x).tobytes() and o.draw(torch.full((9,), label), new_generator(7)).equal(x)

@both
@pytest.mark.parametrize('label,donors,alpha,classes', [(3,'head',1.,{0}), (2,2,.3,{0,1}), (0,1,2.5,{0}), (3,99,1,{0,1,2})])
def test_style_from_its_provenance(cls, label, donors, alpha, classes):
    "Each image again from its parent, its donors, its weight, the codes and the decoder"
    o = fitted(cls, donors=donors, alpha=alpha)
    decode,z,images = coded(o)
    new,made = o.sample(40, label, random_state=7)
    assert made.columns.tolist() == ['label','parent_a','parent_b','weight','donor_i','donor_j']
    a,i,j,u = (torch.tensor(made[k].to_numpy(copy=True)) for k in ('parent_a','donor_i','donor_j','weight'))
    assert (y_[a] == label).all() and (made.parent_b == -1).all() and 0 <= u.min() and u.max() < 1 and u.max() > .8
    assert (i != j).all() and (y_[i] == y_[j]).all() and set(y_[i].tolist()) == classes
    for n in range(40):
        z_new = z[a[n]] + alpha*u[n]*(z[j[n]] - z[i[n]])
        x = decode(z_new[None])[0] + images[a[n]] - decode(z[a[n]][None])[0]
        torch.testing.assert_close(torch.from_numpy(new[n]), x.clamp(-1, 1)[0], atol=2e-5, rtol=0)
    assert new.tobytes() == o.format_.write(o.draw(torch.full((40,), label), new_generator(7))).tobytes()
    assert len(np.unique(new.round(3), axis=0)) == 40

def test_style_draws_each_class_of_a_batch():
    "Base, donors, weights: class after class from one generator"
    o,g = fitted(donors=2),new_generator(3)
    labels = torch.tensor([3,0,2,0,3])
    x = o.draw(labels, new_generator(3))
    for c in (0,2,3):
        own,at = torch.from_numpy(np.flatnonzero(y_ == c)),labels == c
        n = int(at.sum())
        a,(i,j),u = own[torch.randint(len(own), (n,), generator=g)],draw_donors(donor_rows(o.labels_, 2), n, g),torch.rand(n, generator=g)
        decode,z,images = coded(o)
        new = (decode(transfer(z[a], z, i, j, u)) + images[a] - decode(z[a])).clamp(-1, 1)
        torch.testing.assert_close(x[at], new, atol=2e-5, rtol=0)

@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(1, 130), min_size=1, max_size=6), donors=st.one_of(st.just('head'), st.integers(1, 8)), seed=st.integers(0, 999))
def test_donor_rows(counts, donors, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=new_generator(seed))]
    order = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    if donors == 'head': chosen = [c for c in order if counts[c] > 100] or order[:1]
    else: chosen = [c for c in order[:donors] if counts[c] > 1]
    if max(counts) == 1:
        with pytest.raises(InputError, match='at least two'): donor_rows(labels, donors)
    else: assert [r.tolist() for r in donor_rows(labels, donors)] == [[i for i,l in enumerate(labels.tolist()) if l == c] for c in chosen]

def test_one_image_is_no_copy_with_style():
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        new,_ = fitted().sample(20, 3)
    original = X_[y_ == 3][0]
    assert np.abs(new - original).max((1,2)).min() > 0 and new.std(0).max() > 1e-3
    with pytest.warns(UserWarning, match='decoded copies'): assert fitted(generation='residual').sample(20, 3)[0].std(0).max() < 1e-6

def test_restyled_is_the_share_that_moves():
    "The others are their parents byte for byte, and who is moved moves as without the setting"
    whole,half = fitted(),fitted(restyled=.5)
    (every,_),(some,made) = (o.sample(60, 2, random_state=5) for o in (whole, half))
    still = made.weight.to_numpy() == 0
    assert 15 < still.sum() < 45
    assert some[still].tobytes() == X_[made.parent_a[still]].tobytes()
    torch.testing.assert_close(torch.from_numpy(some[~still]), torch.from_numpy(every[~still]), atol=2e-5, rtol=0)
    assert np.abs(every[still] - some[still]).max((1,2)).min() > 1e-4
    assert fitted(restyled=0).sample(9, 2, random_state=5)[1].weight.tolist() == [0]*9
    mirror = fitted(restyled=.5, augment_parents=lambda x, g: x.flip(3))
    new,made = mirror.sample(60, 2, random_state=5)
    assert new[still].tobytes() == X_[made.parent_a[still]][:,:,::-1].tobytes()

def test_parents_are_augmented_before_they_are_encoded():
    "With next to no step left, the augmented image itself comes out; and an augmentation that does nothing changes nothing"
    o = fitted(augment_parents=True, alpha=1e-9)
    new,made = o.sample(6, 2, random_state=5)
    g = new_generator(5)
    own = torch.from_numpy(np.flatnonzero(y_ == 2))
    a = own[torch.randint(len(own), (6,), generator=g)]
    draw_donors(donor_rows(o.labels_), 6, g), torch.rand(6, generator=g)
    assert made.parent_a.tolist() == a.tolist()
    moved = augment_shift(o.images_[a], g)
    torch.testing.assert_close(torch.from_numpy(new), moved[:,0], atol=1e-4, rtol=0)
    assert not moved.equal(o.images_[a])
    mirror = fitted(augment_parents=lambda x, g: x.flip(3))
    new,made = mirror.sample(6, 2, random_state=5)
    a,i,j,u = (torch.tensor(made[k].to_numpy(copy=True)) for k in ('parent_a','donor_i','donor_j','weight'))
    x,(decode,z,_) = mirror.images_[a].flip(3),coded(mirror)
    z_a = torch.no_grad()(mirror._coder().encode)(x)
    torch.testing.assert_close(torch.from_numpy(new)[:,None], (decode(transfer(z_a, z, i, j, u)) + x - decode(z_a)).clamp(-1, 1), atol=2e-5, rtol=0)
    assert (z_a - z[a]).abs().max() > .01
    plain,(still,again) = fitted(),(fitted(augment_parents=lambda x, g: x).sample(6, 2, random_state=5) for _ in range(2))
    torch.testing.assert_close(*(torch.from_numpy(s[0]) for s in (still, plain.sample(6, 2, random_state=5))), atol=1e-3, rtol=0)
    assert still[0].tobytes() == again[0].tobytes()

@both
@pytest.mark.parametrize('wrong,match', [(dict(generation='styles'),'generation'), (dict(generation='style', donors='tail'),'donors'), (dict(generation='style', donors=0),'donors'),
    (dict(generation='style', alpha=0),'alpha'), (dict(generation='style', restyled=1.1),'restyled'), (dict(generation='style', alpha=float('inf')),'alpha'), (dict(augment_parents=True),"expected generation='style'"),
    (dict(generation='residual', augment_parents=True),"expected generation='style'"), (dict(generation='style', augment_parents=3),'augment_parents'), (dict(residual=True),'residual')])
def test_wrong_generation_is_refused_before_work(cls, wrong, match, monkeypatch):
    monkeypatch.setattr(oversamplers, 'autoencoder_learner', lambda *a: pytest.fail('work began'))
    with pytest.raises((ValueError,TypeError), match=match): cls(**{**fast, **wrong}).fit(X_, y_)

def test_no_difference_to_borrow(monkeypatch):
    monkeypatch.setattr(oversamplers, 'autoencoder_learner', lambda *a: pytest.fail('work began'))
    with pytest.raises(InputError, match='one image a class'): DeepCLSMOTE(generation='style', **fast).fit(*toy_images((1,1,1)))

def test_generation_may_change_after_fit_where_images_were_kept(tmp_path):
    style,plain = fitted(donors=2, alpha=.5),fitted(generation='smote')
    back = DeepCLSMOTE.load(style.save(tmp_path/'style.safetensors'))
    assert (back.generation,back.donors,back.alpha,back.augment_parents) == ('style',2,.5,False)
    assert back.draw(torch.tensor([3,2,0]), new_generator(1)).equal(style.draw(torch.tensor([3,2,0]), new_generator(1)))
    for generation in ('smote','residual'):
        assert back.set_params(generation=generation).sample(4, 2, random_state=1)[0].tobytes() == fitted(generation=generation).sample(4, 2, random_state=1)[0].tobytes()
        if generation == 'residual': continue
        with pytest.raises(InputError, match='Fit again'): plain.set_params(generation='style').sample(4, 2)
    with pytest.raises(InputError, match='Fit again'): plain.set_params(generation='residual').draw(torch.tensor([2]))

@both
def test_style_in_a_string(cls):
    o = parse(f"{cls.__name__.lower()}(generation='style', donors=3, alpha=.5)+augment").make(**fast)
    assert type(o) is cls and (o.generation,o.donors,o.alpha) == ('style',3,.5)

# --- the checks of imbalanced-learn and scikit-learn ---------------------------------------------------------------
# They feed tables of any width and range, which are no images. `Tabular` is the sampler behind a lossy door: a table is
# drawn as one row of brightness a feature, and what comes back is read off those rows. So the checks reach our code.

class _Door:
    "Accept any numeric table: squash it into [0, 1] and spread it over a 16 x 16 image"
    def _check(self, X, y):
        from sklearn.utils.validation import check_X_y
        if y is None: return super()._check(X, y)
        X_,_ = check_X_y(X, np.asarray(y) if not hasattr(y, 'to_numpy') else y, multi_output=True, dtype='numeric')
        self._scale = float(np.abs(X_).max()) or 1.
        flat = np.resize(np.zeros(256), (len(X_), 256)).astype('float32')
        flat[:,:X_.shape[1]] = (np.asarray(X_, 'float32')/self._scale+1)/2
        super()._check(flat, np.argmax(y, 1) if np.ndim(y) == 2 and np.shape(y)[1] > 1 else np.ravel(y))
        self._width = X_.shape[1]
        return X, y

    def _fit(self, X, y):
        flat = np.zeros((len(X), 256), 'float32')
        flat[:,:X.shape[1]] = (X/self._scale+1)/2
        super()._fit(flat, y)

    def _draw(self, wanted, generator, flat=False):
        images,table = super()._draw(wanted, generator, flat)
        return (images.reshape(len(images), 256)[:,:self._width]*2-1)*self._scale, table

    def _is_table(self, X): return True

class TabularCLSMOTE(_Door, DeepCLSMOTE): pass
class TabularSMOTE(_Door, DeepSMOTE): pass

no_image = """check_samplers_one_label check_samplers_fit check_samplers_fit_resample check_samplers_sampling_strategy_fit_resample
check_samplers_pandas check_samplers_pandas_sparse check_samplers_list check_samplers_multiclass_ova check_samplers_preserve_dtype
check_samplers_sample_indices check_samplers_2d_target check_sampler_get_feature_names_out check_sampler_get_feature_names_out_pandas
check_fit_score_takes_y check_estimators_overwrite_params check_dont_overwrite_parameters check_estimators_fit_returns_self
check_readonly_memmap_input check_n_features_in_after_fitting check_positive_only_tag_during_fit check_estimators_dtypes check_complex_data
check_dtype_object check_estimators_empty_data_messages check_pipeline_consistency check_estimators_nan_inf check_estimators_pickle
check_f_contiguous_array_estimator check_methods_sample_order_invariance check_methods_subset_invariance check_fit2d_1sample
check_fit2d_1feature check_dict_unchanged check_fit_idempotent check_fit_check_is_fitted check_n_features_in check_fit2d_predict1d""".split()

def expected_raw(estimator):
    "What fails without the door: the check's table is not an image and is refused"
    return {name: 'the table of this check is not a set of images' for name in no_image}

def expected(estimator):
    "What fails behind the door"
    return {'check_samplers_pandas_sparse': 'images are dense'}

@imblearn_checks([DeepCLSMOTE(random_state=0, **fast), DeepSMOTE(random_state=0, **fast)], expected_failed_checks=expected_raw)
def test_imblearn_raw(estimator, check): check(estimator)

@imblearn_checks([TabularCLSMOTE(random_state=0, **fast), TabularSMOTE(random_state=0, **fast)], expected_failed_checks=expected)
def test_imblearn(estimator, check): check(estimator)

@sklearn_checks([DeepCLSMOTE(random_state=0, **fast), DeepSMOTE(random_state=0, **fast)], expected_failed_checks=expected_raw)
def test_sklearn_raw(estimator, check): check(estimator)

@sklearn_checks([TabularCLSMOTE(random_state=0, **fast), TabularSMOTE(random_state=0, **fast)], expected_failed_checks=expected)
def test_sklearn(estimator, check): check(estimator)

# --- the real long tail ---------------------------------------------------------------------------------------------

def mnist_tail():
    "MNIST with PeerJ's counts, fold 0, seed 0"
    from deepclsmote.data import load_dataset, long_tail_split
    if not os.environ.get('DEEPCLSMOTE_DATA'): pytest.skip('DEEPCLSMOTE_DATA does not name a folder with MNIST')
    mnist = load_dataset('mnist')
    train,test = long_tail_split(mnist.labels, 'peerj', fold=0, seed=0)
    return mnist.images[train], mnist.labels[train]

def test_mnist_is_balanced_to_the_image():
    "30,000 images, 3,000 a class, originals first; twice the same bytes; parents of the same class; no global generator moved"
    import random
    X,y = mnist_tail()
    states = lambda: (random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist())
    before,made = states(),[]
    for _ in range(2):
        o = DeepCLSMOTE(epochs=1, decoder='compact', random_state=0, progress=False, device='cpu')
        made.append(o.fit_resample(X, y))
    (X1,y1),(X2,y2) = made
    assert X1.tobytes() == X2.tobytes() and (y1 == y2).all() and states() == before
    assert X1.shape == (30000, 28, 28) and X1.dtype == np.uint8 and class_counts(y1) == dict.fromkeys(range(10), 3000)
    assert (X1[:len(X)] == X).all() and (y1[:len(y)] == y).all()
    p = o.provenance_
    assert len(p) == 30000-7290 and (y[p.parent_a] == p.label).all() and (y[p.parent_b] == p.label).all()
    assert ((p.parent_a != p.parent_b) | (p.weight == 0)).all()

@pytest.mark.parametrize('precision', ['float32','bfloat16'])
@pytest.mark.parametrize('cls,shape,settings', [(DeepCLSMOTE, (28,28), {}), (DeepCLSMOTE, (3,35,50), dict(centroid='head', loss_weights=(1, .01, .01))), (DeepSMOTE, (32,32), dict(decoder='papers'))])
def test_recompute_changes_nothing_but_memory(cls, shape, settings, precision, tmp_path):
    X,y = toy_images((20,12), shape=shape)
    a,b = (cls(**{**fast, 'epochs': 2, 'batch_size': 16, 'random_state': 0, 'precision': precision, **settings}, recompute=r).fit(X, y) for r in (False,True))
    for (k,v),w in zip(a.autoencoder_.state_dict().items(), b.autoencoder_.state_dict().values()): assert v.equal(w), k
    new = [o.sample({1: 8})[0] for o in (a,b)]
    np.testing.assert_array_equal(*new)
    b.save(tmp_path/'b')
    assert not cls.load(tmp_path/'b').recompute  # of a machine, not of what was learned

@both
def test_recompute_keeps_less(cls):
    "What autograd keeps, counted by another hook than the benchmark's; a run again in the backward pass is not kept"
    kept = {}
    for r in (False,True):
        net = cls(**fast, recompute=r).fit(*toy_images((6,4), shape=(64,64))).autoencoder_.train()
        sizes = {}
        def pack(t): sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes(); return t
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): out = net(torch.zeros(50, 1, 64, 64)).sum()
        kept[r] = sum(sizes.values())
        out.backward()
    assert kept[True] < .7*kept[False]

def test_a_subclass_must_define_both_hooks():
    "The contract's two abstract methods: a class that lacks one says which"
    X,y = toy_images()
    class Nothing(ImageOversampler): pass
    class Half(ImageOversampler):
        def _fit_images(self, images, labels, seed): pass
    with pytest.raises(NotImplementedError, match='Nothing must define _fit_images'): Nothing().fit(X, y)
    with pytest.raises(NotImplementedError, match='Half must define _sample_images'): Half().fit_resample(X, y)
