"The command as its users run it: balanced folders to the last byte, faults in one line, kills and full disks."
import errno, os, re, signal, subprocess, sys, time, warnings
from collections import Counter
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from PIL import Image
import deepclsmote
from deepclsmote import cli
from deepclsmote.cli import main
from deepclsmote.core import load_tensors

real = os.environ.get('DEEPCLSMOTE_DATA')
needs_data = pytest.mark.skipif(not real, reason='DEEPCLSMOTE_DATA does not name the folder of MNIST and FashionMNIST')
command = [str(Path(sys.executable).with_name('deepclsmote'))]
if not Path(command[0]).exists(): command = [sys.executable, '-c', 'import sys; from deepclsmote.cli import main; sys.exit(main())']
few = ['--epochs', '2', '--decoder', 'compact']

def ran(*args, **kwargs): return subprocess.run([*command, *map(str, args)], capture_output=True, text=True, timeout=300, **kwargs)
def listing(folder): return sorted((str(f.relative_to(folder)), f.stat().st_mtime_ns, f.read_bytes() if f.is_file() else None) for f in Path(folder).rglob('*'))
def contents(folder): return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()}
def noise(seed, *shape): return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)

def images(folder, counts=dict(cat=9, dog=4, eel=1), shape=(16,20)):
    "Class folders of noise, in two formats"
    for j,(name,n) in enumerate(counts.items()):
        (folder/name).mkdir(parents=True)
        for i in range(n): Image.fromarray(noise(100*j+i, *shape)//(j+1)).save(folder/name/f'{name}{i}.{("png","jpg")[i%2]}')
    return folder

@pytest.fixture
def src(tmp_path): return images(tmp_path/'in')

def refused(capsys, *args, says=(), code=2):
    "The message, after checking that it is short, on stderr and that nothing was printed before it"
    assert main([str(a) for a in args]) == code
    out,err = capsys.readouterr()
    assert 'Traceback' not in err and 'Exception occured' not in err and len(err.strip().split('\n')) == 1 and len(err) < 600, err
    assert err.startswith(f'deepclsmote {args[0]}: ') and not out, (out, err)
    for word in says: assert str(word) in err, err
    return err

# --- the command itself --------------------------------------------------------------------------------------------

def test_version():
    run = ran('--version')
    assert (run.returncode,run.stdout,run.stderr) == (0,f'deepclsmote {deepclsmote.__version__}\n','')

def test_unknown_command():
    run = ran('balanec', 'a', 'b')
    assert run.returncode == 2 and not run.stdout and 'Traceback' not in run.stderr
    assert "'balanec'" in run.stderr and all(name in run.stderr for name in cli.commands)

def test_help(capsys):
    assert main(['--help']) == main(['-h']) == main(['help']) == 0
    out,err = capsys.readouterr()
    assert not err and all(f'\n  {name} ' in out for name in cli.commands)
    assert main([]) == 2
    out,err = capsys.readouterr()
    assert not out and err.startswith('usage: deepclsmote')

@pytest.mark.parametrize('name', cli.commands)
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as e: main([name, '--help'])
    out = capsys.readouterr().out
    assert not e.value.code and f'deepclsmote {name}' in out and '--pdb' not in out
    for line in (l for l in out.split('\n') if l.startswith('  --')): assert len(line.split()) > 1

@pytest.mark.parametrize('args', [['balance'], ['balance','a'], ['balance','a','b','--epochs','many'], ['demo','--no-such-thing','3'], ['bench','x']])
def test_wrong_arguments(args, capsys):
    with pytest.raises(SystemExit) as e: main(args)
    out,err = capsys.readouterr()
    assert e.value.code == 2 and not out and err.startswith('usage: ') and 'error:' in err

# --- balance -------------------------------------------------------------------------------------------------------

def check_folder(src, out, want, size, mode):
    "Everything that `balance` promises about a folder"
    old,new = contents(src),contents(out)
    kept = {k: v for k,v in old.items() if Path(k).suffix in ('.png','.jpg')}
    assert all(new[k] == v for k,v in kept.items()), "an original is not the same, byte for byte"
    made = sorted(set(new) - set(kept) - {'provenance.csv'})
    assert all(re.fullmatch(r'[^/]+/x*synthetic-\d{5}\.png', f) for f in made), made
    assert Counter(Path(f).parts[0] for f in new if f != 'provenance.csv') == Counter(want)
    table = pd.read_csv(out/'provenance.csv', keep_default_na=False)
    assert list(table) == ['file','label','parent_a','parent_b','weight'] and sorted(table.file) == made
    for row in table.itertuples():
        assert {Path(f).parts[0] for f in (row.file, row.parent_a, row.parent_b)} == {row.label}, row
        assert row.parent_a in kept and row.parent_b in kept and (out/row.parent_a).is_file() and 0 <= row.weight <= 1
        with Image.open(out/row.file) as im: assert im.size == size and im.mode == mode
    assert not [f for f in out.parent.iterdir() if f.name.startswith(f'.{out.name}')], "a temporary folder is left"
    assert out.stat().st_mode & 0o777 == 0o755
    return table

def test_balance(src, tmp_path):
    "As a process: counts, originals, parents; IN is not touched; the same seed gives the same bytes"
    (src/'cat'/'notes.txt').write_text('no image')
    (src/'.hidden').mkdir()
    before = listing(src)
    run = ran('balance', src, tmp_path/'out', *few)
    assert run.returncode == 0 and 'Traceback' not in run.stderr, run.stderr
    assert '14 images of 20 x 16 pixels in 3 classes, from 1 to 9 a class' in run.stdout and '14 originals and 13 synthetic' in run.stdout
    table = check_folder(src, tmp_path/'out', dict(cat=9, dog=9, eel=9), (20,16), 'L')
    assert table.label.value_counts().to_dict() == dict(dog=5, eel=8) and set(table.parent_a[table.label == 'eel']) == {'eel/eel0.png'}
    assert listing(src) == before, "IN was touched"
    assert main(['balance', str(src), str(tmp_path/'deep'/'er'), *few]) == 0
    assert contents(tmp_path/'deep'/'er') == contents(tmp_path/'out')
    assert main(['balance', str(src), str(tmp_path/'other'), '--seed', '1', *few]) == 0
    assert contents(tmp_path/'other') != contents(tmp_path/'out')

def test_balance_names_donors_of_style(src, tmp_path):
    "Two other files of the largest class; no second parent"
    assert main(['balance', str(src), str(tmp_path/'out'), '--method', "deepclsmote(generation='style', donors=1)", *few]) == 0
    table = pd.read_csv(tmp_path/'out'/'provenance.csv', keep_default_na=False)
    assert list(table) == ['file','label','parent_a','parent_b','weight','donor_i','donor_j'] and len(table) == 13
    assert set(table.parent_b) == {''} and all(Path(p).parts[0] == l for p,l in zip(table.parent_a, table.label))
    assert (table.donor_i != table.donor_j).all() and all(p.startswith('cat/') and (src/p).is_file() for p in [*table.donor_i, *table.donor_j])

@pytest.mark.parametrize('method', ['deepclsmote','deepsmote'])
def test_balance_color(method, tmp_path):
    "RGB; names with spaces, dots and other letters; an empty OUT that exists; names that are taken"
    src = images(tmp_path/'in', {'a b': 6, 'ü.1': 3}, (16,16,3))
    os.rename(src/'ü.1'/'ü.10.png', src/'ü.1'/'synthetic-00001.png')
    (tmp_path/'out').mkdir()
    assert main(['balance', str(src), str(tmp_path/'out'), '--method', method, *few]) == 0
    table = check_folder(src, tmp_path/'out', {'a b': 6, 'ü.1': 6}, (16,16), 'RGB')
    assert len(table) == 3

def test_balance_grey_and_color_together(tmp_path):
    src = images(tmp_path/'in', dict(a=4, b=2))
    Image.fromarray(noise(7, 16, 20, 3)).save(src/'a'/'color.png')
    assert main(['balance', str(src), str(tmp_path/'out'), *few]) == 0
    check_folder(src, tmp_path/'out', dict(a=5, b=5), (20,16), 'RGB')

def test_balance_sizes(tmp_path, capsys):
    "Different sizes are refused, with the way out; with --size originals stay as they are and new images have that size"
    src = images(tmp_path/'in')
    Image.fromarray(noise(7, 40, 30)).save(src/'dog'/'large.png')
    refused(capsys, 'balance', src, tmp_path/'out', *few, says=['large.png','size'])
    assert not (tmp_path/'out').exists()
    assert main(['balance', str(src), str(tmp_path/'out'), '--size', '18', *few]) == 0
    check_folder(src, tmp_path/'out', dict(cat=9, dog=9, eel=9), (18,18), 'L')

@pytest.mark.parametrize('to,want', [(12, dict(cat=12, dog=12, eel=12)), (3, dict(cat=9, dog=4, eel=3)), (1, dict(cat=9, dog=4, eel=1))])
def test_balance_to(to, want, src, tmp_path):
    assert main(['balance', str(src), str(tmp_path/'out'), '--to', str(to), *few]) == 0
    check_folder(src, tmp_path/'out', want, (20,16), 'L')

def cut(src):
    "Cut a JPEG short"
    path = src/'cat'/'cat1.jpg'
    path.write_bytes(path.read_bytes()[:-60])

def one_class(src):
    for name in ('dog','eel'):
        for f in (src/name).iterdir(): f.unlink()
        (src/name).rmdir()

faults = dict(cut=(cut, [], ['cat1.jpg']), empty=(lambda s: (s/'fox').mkdir(), [], ['fox']), one_class=(one_class, [], ['two']),
    gone=(lambda s: s.rename(s.with_name('was')), [], ['in']), file=(lambda s: (s.rename(s.with_name('was')), s.write_text('x')), [], ['in']),
    epochs=(None, ['--epochs','0'], ['epochs']), method=(None, ['--method','smot'], ['smot','deepsmote']), trains=(None, ['--method','smote+ldam'], ['makes no images']), none=(None, ['--method','none'], ['makes no images']),
    lacks=(None, ['--method','smote','--epochs','3'], ['--epochs 3']), unknown=(None, ['--method','smote(k=3)'], ['no setting k']), decoder=(None, ['--decoder','big'], ['decoder']),
    schedule=(None, ['--schedule','cosine'], ['schedule']), to=(None, ['--to','-1'], ['to=-1']), size=(None, ['--size','-8'], ['size']), small=(None, ['--size','8'], ['8 x 8','16']),
    seed=(None, ['--seed','-1'], ['random_state']), shards=(None, ['--shards','-2'], ['shards=-2']), text=(lambda s: (s/'dog'/'a.png').write_text('x'), [], ['a.png']))
@pytest.mark.parametrize('fault', faults)
def test_balance_refuses(fault, src, tmp_path, capsys, monkeypatch):
    "In one line, before any work; nothing is written"
    monkeypatch.chdir(tmp_path)
    spoil,args,says = faults[fault]
    if spoil: spoil(src)
    before = listing(tmp_path)
    assert main(['balance', str(src), str(tmp_path/'out'), *args]) == 2
    out,err = capsys.readouterr()
    assert 'Epoch' not in out and 'epoch' not in out.replace('epochs', ''), "training began"
    assert err.startswith('deepclsmote balance: ') and len(err.strip().split('\n')) == 1 and 'Exception occured' not in err, err
    assert all(word in err for word in says), err
    assert listing(tmp_path) == before

def test_fault_in_a_process(src, tmp_path):
    cut(src)
    run = ran('balance', src, tmp_path/'out')
    assert run.returncode == 2 and 'poch' not in run.stdout and 'cat1.jpg' in run.stderr and run.stderr.count('\n') == 1, run.stderr

@pytest.mark.parametrize('where', ['full', 'file', 'inside', 'same', 'link'])
def test_balance_refuses_out(where, src, tmp_path, capsys):
    out = dict(full=tmp_path/'out', file=tmp_path/'out', inside=src/'out', same=src, link=tmp_path/'alias'/'out')[where]
    if where == 'full': out.mkdir(); (out/'mine.txt').write_text('mine')
    if where == 'file': out.write_text('mine')
    if where == 'link': (tmp_path/'alias').symlink_to(src)
    before = listing(tmp_path)
    refused(capsys, 'balance', src, out, *few, says=[out])
    assert listing(tmp_path) == before

def test_balance_into_a_folder_that_cannot_be_made(src, tmp_path, capsys):
    "A file where a folder should be, seen before the long work"
    (tmp_path/'file').write_text('x')
    start = listing(tmp_path)
    assert main(['balance', str(src), str(tmp_path/'file'/'out'), *few]) in (1,2)
    out,err = capsys.readouterr()
    assert err.startswith('deepclsmote balance: ') and len(err.strip().split('\n')) == 1
    assert listing(tmp_path) == start

@pytest.mark.parametrize('what', ['image', 'copy', 'table', 'rename'])
def test_full_disk(what, src, tmp_path, capsys, monkeypatch):
    "While OUT is written: one line, no OUT, IN as it was; with room again it goes on without learning anew"
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    before = listing(src)
    with monkeypatch.context() as m:
        m.setattr(*dict(image=(Path, 'write_bytes', full), copy=(cli.shutil, 'copy2', full), table=(cli, 'write_atomic', full), rename=(os, 'replace', full))[what])
        assert main(['balance', str(src), str(tmp_path/'out'), *few]) == 1
    err = capsys.readouterr().err
    assert 'No space left' in err and '.out.partial. Make room' in err and 'Traceback' not in err and len([l for l in err.split('\n') if l.startswith('deepclsmote balance:')]) == 1
    assert listing(src) == before and not (tmp_path/'out').exists()
    assert main(['balance', str(src), str(tmp_path/'out'), *few]) == 0
    assert ('poch' in capsys.readouterr().out) == (what in ('table','rename')), "it did not go on"
    assert main(['balance', str(src), str(tmp_path/'whole'), *few]) == 0
    assert contents(tmp_path/'out') == contents(tmp_path/'whole') and {f.name for f in tmp_path.iterdir()} == {'in','out','whole'}

def test_ctrl_c(src, tmp_path, capsys, monkeypatch):
    def stop(*args, **kwargs): raise KeyboardInterrupt
    before = listing(src)
    with monkeypatch.context() as m:
        m.setattr(Path, 'write_bytes', stop)
        assert main(['balance', str(src), str(tmp_path/'out'), *few]) == 130
    assert 'stopped' in capsys.readouterr().err and listing(src) == before and not (tmp_path/'out').exists()
    assert main(['balance', str(src), str(tmp_path/'out'), *few]) == 0 and 'poch' not in capsys.readouterr().out

def test_one_image_is_told_by_the_name_of_its_class(src, tmp_path, capsys):
    "The class is called 'eel', not 2"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        assert main(['balance', str(src), str(tmp_path/'out'), *few]) == 0
    said = ' '.join(str(w.message) for w in seen if 'one image' in str(w.message)) + ''.join(capsys.readouterr())
    assert 'eel' in said and 'Class 2' not in said, said

# --- killed --------------------------------------------------------------------------------------------------------

def killed_after(epochs, checkpoint, *args):
    "Run the command and kill it when the checkpoint holds some epochs"
    run = subprocess.Popen([*command, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(6000):
            if run.poll() is not None: pytest.fail('it ended before it could be killed')
            if checkpoint.exists() and load_tensors(checkpoint, 'Checkpoint', 1)[1]['epoch'] >= epochs-1: break
            time.sleep(.01)
    finally: run.kill(); run.wait()
    return run.returncode

def test_killed_in_training(src, tmp_path):
    "No OUT; run again it goes on, and ends with the bytes of the run that nobody killed"
    before,n,checkpoint = listing(src),150,tmp_path/'.out.partial'/'checkpoint.safetensors'
    args = lambda out: ['balance', src, tmp_path/out, '--epochs', n, '--decoder', 'compact', '--schedule', 'one-cycle']
    assert killed_after(20, checkpoint, *args('out')) == -signal.SIGKILL
    assert not (tmp_path/'out').exists() and listing(src) == before
    done = load_tensors(checkpoint, 'Checkpoint', 1)[1]['epoch']+1
    assert 20 <= done < n
    run = ran(*args('out'))
    assert run.returncode == 0, run.stderr
    epochs = [int(e) for e in re.findall(rf'Training: epoch (\d+) of {n}, ', run.stdout)]
    assert epochs[-10:] == [done + -(-(n-done)*k//10) for k in range(1, 11)] and epochs[0] > done, "it did not go on where it stopped"  # tenths of what was left
    assert main([str(a) for a in args('whole')]) == 0
    assert contents(tmp_path/'whole') == contents(tmp_path/'out') and {f.name for f in tmp_path.iterdir()} == {'in','out','whole'}

# --- demo ----------------------------------------------------------------------------------------------------------

methods = ['none','ros','deepsmote','deepclsmote']

def check_demo(out, folder, seeds):
    "Table on the screen, table in the file, pictures, records"
    table = pd.read_csv(folder/'scores.csv', index_col=0)
    assert list(table.index) == methods and {'accuracy','f1_macro','few'} <= set(table)
    for name in methods: assert re.search(rf'^{name} .*\d\.\d{{3}} ± \d\.\d{{3}}', out, re.M), name
    records = list((folder/'records').rglob('*.json'))
    assert len(records) == 4*seeds and {r.parts[-3] for r in records} == set(methods)
    for name in ('deepsmote.png','deepclsmote.png','classes.png'):
        with Image.open(folder/name) as im: im.load(); assert min(im.size) > 100
    assert not [f for f in folder.rglob('.*')]

def test_demo(tmp_path):
    run = ran('demo', '--epochs', '2', '--steps', '20', '--seeds', '2', cwd=tmp_path)
    assert run.returncode == 0 and 'Traceback' not in run.stderr, run.stderr
    check_demo(run.stdout, tmp_path/'demo_out', 2)
    assert [f.name for f in tmp_path.iterdir()] == ['demo_out']
    assert '2 epochs' in run.stdout and '20 steps' in run.stdout and 'Highest macro F1' in run.stdout

def test_demo_without_data(tmp_path, capsys, monkeypatch):
    "What to put where, in one line"
    for name,folder in (('mnist','MNIST'), ('fashion_mnist','FashionMNIST')):
        refused(capsys, 'demo', '--dataset', name, '--data', tmp_path, says=[tmp_path/folder/'raw', 'train-images-idx3-ubyte'])
    monkeypatch.delenv('DEEPCLSMOTE_DATA', raising=False)
    refused(capsys, 'demo', '--dataset', 'mnist', says=['DEEPCLSMOTE_DATA'])
    assert not list(tmp_path.iterdir())

def test_way_out_is_one_of_the_command(tmp_path, capsys):
    "On the command line the way out is an option, not a call in Python"
    assert '--download' in refused(capsys, 'demo', '--dataset', 'mnist', '--data', tmp_path)

@pytest.mark.parametrize('args', [['--seeds','0'], ['--steps','-1'], ['--epochs','-1'], ['--decoder','big'], ['--dataset','letters'], ['--seed','-1']])
def test_demo_refuses(args, tmp_path, capsys, monkeypatch):
    "Before any work"
    monkeypatch.chdir(tmp_path)
    def work(*args, **kwargs): raise AssertionError('work began')
    monkeypatch.setattr(cli, 'compare', work)
    assert main(['demo', *args]) == 2
    out,err = capsys.readouterr()
    assert err.startswith('deepclsmote demo: ') and len(err.strip().split('\n')) == 1 and args[0][2:] in err.replace('name=', 'dataset'), err
    assert not list(tmp_path.iterdir())

def test_demo_out_is_a_file(tmp_path, capsys):
    "Seen before the long work"
    (tmp_path/'out').write_text('mine')
    assert main(['demo', '--epochs', '1', '--steps', '1', '--seeds', '1', '--out', str(tmp_path/'out')]) in (1,2)
    out,err = capsys.readouterr()
    assert err.startswith('deepclsmote demo: ') and 'CNN' not in out and (tmp_path/'out').read_text() == 'mine'

@needs_data
def test_demo_mnist(tmp_path, capsys):
    before = sorted((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in Path(real).rglob('*'))
    assert main(['demo', '--dataset', 'mnist', '--epochs', '1', '--steps', '5', '--seeds', '1', '--out', str(tmp_path/'out')]) == 0
    check_demo(capsys.readouterr().out, tmp_path/'out', 1)
    assert sorted((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in Path(real).rglob('*')) == before
