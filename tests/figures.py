"What holds for every figure: it is drawn where it is told, leaves the session alone, and its words lie neither on each other nor outside."
import itertools, random
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.text import Text

def states(): return dict(matplotlib.rcParams), random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def words(ax): return [t.get_text() for t in ax.texts]
def drawn(ax): return [np.asarray(i.get_array()) for i in ax.images]

def draws_where_told(draw):
    "With `ax` given: that Axes comes back, and no setting, generator, current figure, other Axes or open figure changes"
    fig,axs = plt.subplots(1, 2, layout='constrained')
    other = plt.figure()
    before,neighbor = states(),len(axs[1].get_children())
    assert draw(axs[0]) is axs[0] and states() == before
    assert plt.gcf() is other and len(plt.get_fignums()) == 2 and fig.axes == list(axs) and len(axs[1].get_children()) == neighbor and not other.axes

def makes_one_figure(draw, monkeypatch):
    monkeypatch.setattr(plt, 'show', lambda *a, **k: pytest.fail('plt.show was called'))
    before = states()
    assert isinstance(draw(None), Axes) and len(plt.get_fignums()) == 1 and states() == before

def sizes_do_not_follow_the_session(draw):
    "Font sizes are given in each call"
    def sizes(): return [t.get_fontsize() for t in draw(None).figure.findobj(Text) if t.get_text()]
    before = sizes()
    with plt.rc_context({'font.size': 30, 'axes.titlesize': 30, 'axes.labelsize': 30, 'xtick.labelsize': 30, 'ytick.labelsize': 30, 'legend.fontsize': 30}):
        assert sizes() == before and max(before) <= 10

def shown_words(fig):
    "All texts that are seen, children of Axes included, with their boxes"
    renderer = fig.canvas.get_renderer()
    fig.draw(renderer)
    texts = []
    for ax in [a for top in fig.axes for a in (top, *top.child_axes)]:
        for a in (ax.xaxis, ax.yaxis):
            if not ax.axison: continue
            texts += [t for minor in (False, True) for v,t in zip(a.get_ticklocs(minor=minor), a.get_ticklabels(minor=minor)) if min(a.get_view_interval()) <= v <= max(a.get_view_interval())]
        texts += [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label, *(ax.get_legend().get_texts() if ax.get_legend() else [])]
    texts = [t for t in texts if t.get_text() and t.get_visible()]
    return texts,[Text.get_window_extent(t, renderer).shrunk(.9, .9) for t in texts]  # of an annotation without its line

def no_words_on_words(fig, least=3):
    texts,boxes = shown_words(fig)
    assert len(texts) >= least
    for (a,s),(b,t) in itertools.combinations(zip(boxes, texts), 2): assert not a.overlaps(b), (s.get_text(), t.get_text())
    for box,t in zip(boxes, texts): assert fig.bbox.padded(1).contains(box.x0, box.y0) and fig.bbox.padded(1).contains(box.x1, box.y1), t.get_text()

@pytest.fixture(autouse=True)
def close_figures():
    plt.close('all')
    yield
    plt.close('all')
