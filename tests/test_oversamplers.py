"The oversamplers keep the contract, pass the checks of two libraries, and refuse what cannot be used."
import os
import numpy as np
import pytest
import torch
from imblearn.utils.estimator_checks import parametrize_with_checks as imblearn_checks
from sklearn.utils.estimator_checks import parametrize_with_checks as sklearn_checks
from deepclsmote.core import ImageOversampler, class_counts, conformance, toy_images
from deepclsmote.oversamplers import DeepCLSMOTE, DeepSMOTE

fast = dict(epochs=1, batch_size=64, latent_dim=2, decoder='compact', progress=False, device='cpu')
both = pytest.mark.parametrize('cls', [DeepCLSMOTE, DeepSMOTE])
pytestmark = pytest.mark.filterwarnings('ignore:Class .* has one image')

@both
@pytest.mark.parametrize('promise', conformance)
def test_contract(cls, promise):
    conformance[promise](lambda **settings: cls(**{**fast, **settings}))

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

def test_a_subclass_must_define_both_hooks():
    "The contract's two abstract methods: a class that lacks one says which"
    X,y = toy_images()
    class Nothing(ImageOversampler): pass
    class Half(ImageOversampler):
        def _fit_images(self, images, labels, seed): pass
    with pytest.raises(NotImplementedError, match='Nothing must define _fit_images'): Nothing().fit(X, y)
    with pytest.raises(NotImplementedError, match='Half must define _sample_images'): Half().fit_resample(X, y)
