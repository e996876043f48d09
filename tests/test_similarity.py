"Structural similarity against torchmetrics; pairs, tables, and what is said about odd images."
import math
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure
from deepclsmote.core import new_generator
from deepclsmote.similarity import at_most_64, common_alarms, look_at, ssim, ssim_pairs, ssim_table

@settings(deadline=None, max_examples=25)
@given(st.integers(11, 40), st.integers(11, 40), st.sampled_from([1,3,4]), st.floats(0, 1), st.integers(0, 100))
def test_ssim_is_torchmetrics(h, w, c, mix, seed):
    g = new_generator(seed)
    x,y = torch.rand(3, c, h, w, generator=g),torch.rand(3, c, h, w, generator=g)
    y = mix*x + (1-mix)*y
    theirs = structural_similarity_index_measure(x, y, data_range=1., reduction='none')
    torch.testing.assert_close(ssim(x*2-1, y*2-1), theirs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ssim_table(x*2-1, y*2-1, at_once=2*c*h*w*3).diagonal(), theirs, atol=2e-5, rtol=1e-4)

def test_pairs():
    x = torch.rand(40, 1, 16, 16, generator=new_generator(0))*2-1
    table = ssim_table(x, x)
    every = float((table.sum()-40)/(40*39))
    assert abs(ssim_pairs(x, new_generator(1), most=10_000) - every) < 1e-5
    some = [ssim_pairs(x, new_generator(s), most=200) for s in range(8)]
    assert abs(np.mean(some) - every) < .01 and max(some) < .5  # never a picture with itself

def test_look_at_large_and_odd_images():
    g = new_generator(0)
    for shape in ((3,64,64), (1,16,200), (4,70,130)):
        own,made = (torch.rand(n, *shape, generator=g)*2-1 for n in (1,3))
        seen = look_at(made, own, g)
        assert seen['parents'] == 1 and math.isnan(seen['ssim_real']) and common_alarms(seen) == ''
    assert at_most_64(torch.zeros(1, 3, 256, 256)).shape == (1,3,32,32) and at_most_64(torch.zeros(1, 1, 32, 63)).shape == (1,1,32,63)
    bad = made.clone(); bad[1,0,0,0] = math.inf
    assert common_alarms(look_at(bad, own, g)) == 'not finite'

def test_pairs_of_few():
    g = new_generator(0)
    x = torch.rand(1, 1, 16, 16, generator=g)*2-1
    assert math.isnan(ssim_pairs(x, g)) and ssim_pairs(x.repeat(3,1,1,1), g) == pytest.approx(1, abs=1e-5)
    assert abs(ssim_pairs(torch.rand(30, 1, 16, 16, generator=g)*2-1, g)) < .1
