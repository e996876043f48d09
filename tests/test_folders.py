"`deepclsmote balance` killed at every step, on full disks and with shards: what it leaves goes on, and ends with the same bytes."
import errno, io, json, os, re, resource, shutil, signal, subprocess, sys, tarfile
from pathlib import Path
import numpy as np
import pandas as pd
import pytest, torch
from PIL import Image
from deepclsmote import cli
from deepclsmote.cli import main

def noise(seed, *shape): return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)
def listing(folder): return sorted((str(f.relative_to(folder)), f.stat().st_mtime_ns, f.read_bytes() if f.is_file() else None) for f in Path(folder).rglob('*'))
def contents(folder): return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()}

def images(folder, counts={'birds/jay': 7, 'birds/owl': 3, 'fox': 1}, shape=(16,20), ext='png'):
    for j,(name,n) in enumerate(counts.items()):
        (folder/name).mkdir(parents=True)
        for i in range(n): Image.fromarray(noise(100*j+i, *shape)).save(folder/name/f'{i}.{ext}')
    return folder

@pytest.fixture
def src(tmp_path): return images(tmp_path/'in')

def forked(do):
    "How a child process that does it ends: its exit status, or minus the signal that killed it"
    pid = os.fork()
    if not pid:
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = do()
        finally: os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def kill(): os.kill(os.getpid(), signal.SIGKILL)

changes = {'open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.utime', 'os.chmod'}
def killed_at(step, folder, args):
    "The command in a child that is killed just before its `step`-th look at a file or change of one in `folder`"
    def do():
        seen = 0
        def watch(event, given):
            nonlocal seen
            if event not in changes or not str(given[0]).startswith(str(folder)): return
            seen += 1
            if seen == step: kill()
        sys.addaudithook(watch)
        return main(args)
    return forked(do)

@pytest.mark.parametrize('more', [[], ['--shards', '4']])
def test_killed_anywhere(more, src, tmp_path, monkeypatch):
    "Before every step that touches a file; the same command goes on and ends with the same bytes"
    if more: pytest.importorskip('webdataset')
    monkeypatch.setattr(os, 'sync', lambda: None)
    args = lambda out: ['balance', str(src), str(tmp_path/out), '--method', 'ros', '--to', '8', *more]
    assert main(args('whole')) == 0
    whole,before,stages = contents(tmp_path/'whole'),listing(src),set()
    for step in range(1, 1000):
        code = killed_at(step, tmp_path/'.out.partial', args('out'))
        if code == 0: break
        assert code == -signal.SIGKILL
        assert not (tmp_path/'out').exists() or contents(tmp_path/'out') == whole, "OUT was there before it was complete"
        stages.add(tuple(sorted(f.name for f in (tmp_path/'.out.partial').glob('*') if not f.name.startswith('.') and f.name != 'lock')))
        again = forked(lambda: main(args('out')))
        tidy = not (tmp_path/'.out.partial'/'settings.json').exists() and again == 2  # only an empty folder was left to remove
        assert again == 0 or tidy, step
        assert contents(tmp_path/'out') == whole, step
        shutil.rmtree(tmp_path/'out')
        if tidy: shutil.rmtree(tmp_path/'.out.partial', ignore_errors=True)
        assert not (tmp_path/'.out.partial').exists(), step
    assert step > 40 and len(stages) >= 5, (step, stages)
    assert listing(src) == before

def half_copy(a, b, **kwargs): Path(b).write_bytes(Path(a).read_bytes()[:50]); kill()
def half_write(self, data):
    with open(self, 'wb') as f: f.write(data[:50])
    kill()
def full_copy(a, b, **kwargs): shutil.copyfile(a, b); kill()

@pytest.mark.parametrize('where,patch', dict(copy=(cli.shutil, 'copy2', half_copy), time=(cli.shutil, 'copy2', full_copy), image=(Path, 'write_bytes', half_write)).items())
def test_killed_in_the_middle_of_a_file(where, patch, src, tmp_path):
    args = lambda out: ['balance', str(src), str(tmp_path/out), '--method', 'ros']
    def do(): setattr(*patch); return main(args('out'))
    assert forked(do) == -signal.SIGKILL and any((tmp_path/'.out.partial'/'tree').rglob('*.png'))
    assert main(args('out')) == main(args('whole')) == 0
    assert contents(tmp_path/'out') == contents(tmp_path/'whole')

def test_killed_in_the_middle_of_a_shard(src, tmp_path):
    wds = pytest.importorskip('webdataset')
    args = lambda out: ['balance', str(src), str(tmp_path/out), '--method', 'ros', '--shards', '8']
    def do():
        write,n = wds.TarWriter.write,iter(range(100))
        def some(self, o):
            write(self, o)
            if next(n) == 12: self.tarstream.fileobj.fileobj.flush(); kill()
        wds.TarWriter.write = some
        return main(args('out'))
    assert forked(do) == -signal.SIGKILL
    assert [f.name for f in (tmp_path/'.out.partial'/'tree').iterdir() if f.suffix == '.tar'] == ['train-000000.tar']
    assert main(args('out')) == main(args('whole')) == 0
    assert contents(tmp_path/'out') == contents(tmp_path/'whole')

def stopped_at_the_end(args):
    "All is done but the last rename"
    def do():
        replace = os.replace
        os.replace = lambda a,b: kill() if Path(a).name == 'tree' else replace(a, b)
        return main(args)
    assert forked(do) == -signal.SIGKILL

@pytest.mark.parametrize('cut', [lambda n: n//2, lambda n: n-10240, lambda n: n-1, lambda n: 0])
def test_a_shard_that_was_cut_is_made_again(cut, src, tmp_path):
    pytest.importorskip('webdataset')
    args = lambda out: ['balance', str(src), str(tmp_path/out), '--method', 'ros', '--shards', '8']
    stopped_at_the_end(args('out'))
    tree = tmp_path/'.out.partial'/'tree'
    times = {f.name: f.stat().st_mtime_ns for f in tree.glob('*.tar')}
    with open(tree/'train-000001.tar', 'r+b') as f: f.truncate(cut(os.path.getsize(f.name)))
    assert main(args('out')) == main(args('whole')) == 0
    assert contents(tmp_path/'out') == contents(tmp_path/'whole')
    assert {f.name for f in (tmp_path/'out').glob('*.tar') if f.stat().st_mtime_ns != times[f.name]} == {'train-000001.tar'}, "whole shards were made again"

@pytest.mark.parametrize('spoil', ['image', 'gone', 'table', 'original'])
def test_what_a_power_cut_may_leave(spoil, src, tmp_path):
    "An empty file, one that is missing, a table cut short, an original cut short: made again"
    args = lambda out: ['balance', str(src), str(tmp_path/out), '--method', 'ros']
    stopped_at_the_end(args('out'))
    tree,parts = tmp_path/'.out.partial'/'tree',tmp_path/'.out.partial'/'parts'
    f = dict(image=tree/'fox'/'synthetic-00002.png', gone=tree/'fox'/'synthetic-00002.png', table=parts/'000000.csv', original=tree/'fox'/'0.png')[spoil]
    if spoil == 'gone': f.unlink()
    else: f.write_bytes(f.read_bytes()[:100] if spoil != 'image' else b'')
    assert main(args('out')) == main(args('whole')) == 0
    assert contents(tmp_path/'out') == contents(tmp_path/'whole')

def refused(capsys, *args, says=()):
    capsys.readouterr()
    assert main([str(a) for a in args]) == 2
    err = capsys.readouterr().err
    assert err.startswith('deepclsmote balance: ') and len(err.strip().split('\n')) == 1 and all(str(w) in err for w in says), err

def test_other_settings_are_refused(src, tmp_path, capsys):
    args = ['balance', src, tmp_path/'out', '--method', 'ros', '--seed', '3']
    stopped_at_the_end([str(a) for a in args])
    before = listing(tmp_path/'.out.partial')
    work = tmp_path/'.out.partial'
    refused(capsys, *args[:-1], '4', '--to', '9', says=[work, '--seed 3 (now 4)', '--to 0 (now 9)', 'Remove it', 'another folder'])
    refused(capsys, *args[:3], '--method', 'smote', '--seed', '3', says=['--method ros (now smote)'])
    old = (src/'fox'/'0.png').stat()
    os.utime(src/'fox'/'0.png', ns=(0, 0))
    refused(capsys, *args, says=[work, 'other images'])
    os.utime(src/'fox'/'0.png', ns=(old.st_atime_ns, old.st_mtime_ns))
    Image.fromarray(noise(9, 16, 20)).save(src/'fox'/'1.png')
    refused(capsys, *args, says=[work, 'other images'])
    (src/'fox'/'1.png').unlink()
    assert listing(work) == before
    src.rename(tmp_path/'moved')  # the same images elsewhere are the same images
    assert main([str(a) for a in ('balance', tmp_path/'moved', *args[2:])]) == 0 and not work.exists()

def test_two_at_once(src, tmp_path, capsys):
    from filelock import FileLock
    args = ['balance', src, tmp_path/'out', '--method', 'ros']
    stopped_at_the_end([str(a) for a in args])
    with FileLock(tmp_path/'.out.partial'/'lock'): refused(capsys, *args, says=['in use'])
    assert main([str(a) for a in args]) == 0

# --- disks that fill up --------------------------------------------------------------------------------------------

small_disk = '''
import contextlib, io, json, subprocess, sys
from deepclsmote.cli import main
src,disk,more = sys.argv[1],sys.argv[2],sys.argv[3:]
subprocess.run(['mount','-t','tmpfs','-o','size=16k','tmpfs',disk], check=True)
ends = []
for kb in [*range(16, 420, 20), 65536]:
    subprocess.run(['mount','-o',f'remount,size={kb}k',disk], check=True)
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()): code = main(['balance', src, f'{disk}/out', '--method', 'ros', *more])
    files = subprocess.run(['find', disk, '-type', 'f'], capture_output=True, text=True).stdout.split()
    ends.append((kb, code, err.getvalue(), len(files), f'{disk}/out/provenance.csv' in files))
    if code != 1: break
subprocess.run(['cp','-r',f'{disk}/out',sys.argv[2]+'.copy'], check=True)
print(json.dumps(ends))
'''

@pytest.mark.parametrize('more', [[], ['--shards', '4']])
def test_a_disk_that_fills_up(more, src, tmp_path):
    "A real one, of growing size: each time a clear error and more that is kept, at last the same bytes"
    if more: pytest.importorskip('webdataset')
    (tmp_path/'disk').mkdir()
    alone = ['unshare','-m'] if os.geteuid() == 0 else ['unshare','-Urm']
    try: subprocess.run([*alone, 'mount','-t','tmpfs','-o','size=16k','tmpfs', str(tmp_path/'disk')], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError): pytest.skip('no disk can be mounted here')
    run = subprocess.run([*alone, sys.executable, '-c', small_disk, str(src), str(tmp_path/'disk'), *more], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    *full,last = json.loads(run.stdout)
    assert len(full) >= 4 and last[1] == 0 and last[4], run.stdout
    for kb,code,err,n,there in full:
        assert code == 1 and err.startswith('deepclsmote balance: [Errno 28] No space left on device') and err.count('\n') == 1 and not there, err
    assert sum('.out.partial. Make room and start the same command again' in e[2] for e in full) >= len(full)-1
    assert len({e[3] for e in full}) >= 3, "nothing was kept"
    assert main(['balance', str(src), str(tmp_path/'whole'), '--method', 'ros', *more]) == 0
    assert contents(tmp_path/'disk.copy') == contents(tmp_path/'whole')

@pytest.mark.parametrize('limit', [1000, 6000, 10000])
def test_a_file_that_may_not_grow(limit, src, tmp_path):
    "The sampler, a shard: nothing is half there under its name"
    pytest.importorskip('webdataset')
    args = lambda out: ['balance', str(src), str(tmp_path/out), '--method', 'ros', '--shards', '8']
    def do():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return main(args('out'))
    assert forked(do) == 1 and not list(tmp_path.rglob('*.tar'))
    assert main(args('out')) == main(args('whole')) == 0
    assert contents(tmp_path/'out') == contents(tmp_path/'whole')

# --- what is written -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('shape,ext,mode', [((16,20),'jpg','L'), ((16,20,3),'jpg','RGB'), ((16,20),'png','L'), ((16,20,3),'bmp','RGB')])
def test_formats_are_kept(shape, ext, mode, tmp_path):
    "JPEG stays JPEG, grey stays grey; the tree of folders is kept; IN is not touched"
    src = images(tmp_path/'in', shape=shape, ext=ext)
    before = listing(src)
    assert main(['balance', str(src), str(tmp_path/'out'), '--method', 'smote']) == 0
    assert listing(src) == before
    new = sorted((tmp_path/'out').rglob('synthetic-*'))
    assert [f.relative_to(tmp_path/'out').as_posix() for f in new[:2]] == [f'birds/owl/synthetic-0000{i}.{"jpg" if ext == "jpg" else "png"}' for i in (1,2)] and len(new) == 10
    for f in new:
        with Image.open(f) as im: assert im.format == ('JPEG' if ext == 'jpg' else 'PNG') and im.mode == mode and im.size == (20,16)
    assert contents(src).items() <= contents(tmp_path/'out').items()
    table = pd.read_csv(tmp_path/'out'/'provenance.csv')
    assert sorted(tmp_path/'out'/f for f in table.file) == new and all(f.startswith(f'{l}/') for f,l in zip(table.file, table.label))

def test_pixels_of_new_images(tmp_path):
    "PNG to the last bit; JPEG of a smooth image to a few levels"
    for ext in ('png','jpg'):
        src = tmp_path/ext
        for c,n in (('a',3), ('b',1)):
            (src/c).mkdir(parents=True)
            for i in range(n): Image.fromarray(np.add.outer(np.arange(16)*6, np.arange(16)*(3+i)).astype(np.uint8)).save(src/c/f'{i}.{ext}', quality=95)
        assert main(['balance', str(src), str(tmp_path/f'{ext}.out'), '--method', 'ros']) == 0
        off = np.abs(np.asarray(Image.open(tmp_path/f'{ext}.out'/'b'/f'synthetic-00001.{ext}')).astype(int) - np.asarray(Image.open(src/'b'/f'0.{ext}')))
        assert off.max() <= (0 if ext == 'png' else 3)

def test_upright(tmp_path):
    "Photographs that a camera has turned have one size with the others, and parents are used upright"
    src,exif = images(tmp_path/'in', dict(a=3, b=1), (16,20,3)),Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(9, 16, 20, 3)).transpose(Image.Transpose.ROTATE_90).save(src/'b'/'0.png', exif=exif)
    assert main(['balance', str(src), str(tmp_path/'out'), '--method', 'ros']) == 0
    assert (np.asarray(Image.open(tmp_path/'out'/'b'/'synthetic-00002.png')) == noise(9, 16, 20, 3)).all()

@pytest.mark.parametrize('mode,says', [('RGBA', 'mode RGBA'), ('I;16', 'more than 8 bits')])
def test_refused_before_the_work(mode, says, src, tmp_path, capsys):
    im = Image.fromarray(np.zeros((16,20), np.uint16)) if mode == 'I;16' else Image.new(mode, (20,16))
    im.save(src/'fox'/'last.png')
    refused(capsys, 'balance', src, tmp_path/'out', says=['last.png', says])
    assert [f.name for f in tmp_path.iterdir()] == ['in']

@pytest.mark.parametrize('method', ['smote', 'deepclsmote(epochs=1, decoder="compact")'])
def test_shards(method, tmp_path):
    "Read back by webdataset: every original to the byte and every new image once, with class, name and parents"
    wds = pytest.importorskip('webdataset')
    src = images(tmp_path/'in', shape=(16,20,3))
    (src/'fox'/'0.png').unlink(); Image.fromarray(noise(0, 16, 20, 3)).save(src/'fox'/'a.b.jpeg')
    args = ['balance', str(src), str(tmp_path/'out'), '--method', method]
    assert main([*args, '--shards', '5']) == main([*args[:2], str(tmp_path/'folder'), *args[3:]]) == 0
    out,folder = tmp_path/'out',contents(tmp_path/'folder')
    names = sorted(f.name for f in out.iterdir())
    assert names == ['classes.txt','provenance.csv', *[f'train-{i:06d}.tar' for i in range(5)]]  # 21 images
    classes = (out/'classes.txt').read_text().splitlines()
    assert classes == ['birds/jay','birds/owl','fox'] and (out/'provenance.csv').read_bytes() == folder['provenance.csv']
    parents = pd.read_csv(out/'provenance.csv', keep_default_na=False).set_index('file')
    urls = [str(out/n) for n in names[2:]]
    raw = list(wds.WebDataset(urls, shardshuffle=False))
    assert [s['__key__'] for s in raw] == [f'{i:08d}' for i in range(21)]
    found = {}
    for s in raw:
        about = json.loads(s['json'])
        assert classes[int(s['cls'])] == about['label'] == str(Path(about['file']).parent)
        found[about['file']] = s.get('png') or s['jpg']
        if 'synthetic' in about['file']: assert {k: about[k] for k in ('parent_a','parent_b','weight')} == parents.loc[about['file'], ['parent_a','parent_b','weight']].to_dict()
        else: assert 'parent_a' not in about
    assert found == {k: v for k,v in folder.items() if k != 'provenance.csv'} and len(found) == 21
    first = [int(s['cls']) for s in raw[:7]]
    assert first != sorted(first) and len(set(first)) > 1, "the shards are not mixed"
    for f in urls:
        with tarfile.open(f) as tar: assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, '', '')}
    data = wds.WebDataset(urls, shardshuffle=False).decode('torchrgb8').to_tuple('jpg;png', 'cls')
    batches = list(torch.utils.data.DataLoader(data, batch_size=4, num_workers=2))
    assert torch.cat([x for x,_ in batches]).shape == (21,3,16,20) and torch.cat([y for _,y in batches]).bincount().tolist() == [7,7,7]

def test_shards_need_their_package(src, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'webdataset', None)
    refused(capsys, 'balance', src, tmp_path/'out', '--shards', '9', says=['webdataset', "pip install 'deepclsmote[shards]'"])
    assert [f.name for f in tmp_path.iterdir()] == ['in']

def test_progress(src, tmp_path, capsys, monkeypatch):
    "A line a stage in a file; a bar with the time left on a terminal"
    args = lambda out: ['balance', str(src), str(tmp_path/out), '--method', 'ros']
    assert main(args('a')) == 0
    lines = capsys.readouterr().out.split('\n')
    for what in ('Reading images to see that they are whole: 11', 'Copying originals: 11', 'Making parts of new images: 2'): assert what in lines
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    assert main(args('b')) == 0
    assert re.search(r'\[\d+/11 \d\d:\d\d<\d\d:\d\d\.\.\. Copying originals\]', capsys.readouterr().out)

def test_nothing_to_make(tmp_path):
    "A balanced set, and --to below all classes: originals alone"
    src = images(tmp_path/'in', dict(a=3, b=3))
    assert main(['balance', str(src), str(tmp_path/'out')]) == main(['balance', str(src), str(tmp_path/'two'), '--to', '2']) == 0
    for out in ('out','two'): assert contents(tmp_path/out) == {**contents(src), 'provenance.csv': b'file,label,parent_a,parent_b,weight\n'}

def test_many_classes_with_one_image(tmp_path, capsys):
    "Five of them by name, the rest counted"
    src = images(tmp_path/'in', {'big': 3, **{f'c{i}': 1 for i in range(8)}})
    assert main(['balance', str(src), str(tmp_path/'out'), '--method', 'ros']) == 0
    out = capsys.readouterr().out
    assert out.count('has one image') == 5 and 'and so have 3 other classes' in out
