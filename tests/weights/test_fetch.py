"""Weights from elsewhere: downloaded once, whole, over https alone, and what their name says."""

from __future__ import annotations

import hashlib
import http.client
import io
import ssl
import types
import urllib.error
import urllib.request

import huggingface_hub
import pytest
from huggingface_hub import errors
from safetensors.numpy import save

from helpers.foreign import state
from jcls.weights import imported
from jcls.weights.fetch import fetch, is_remote

CONTENT = bytes(range(256)) * 9
HASH = hashlib.sha256(CONTENT).hexdigest()
URL = 'https://example.org/models/net.pth'


class Answer(io.BytesIO):
    """What urlopen gives: the content, and then perhaps an error instead of its end."""

    def __init__(self, content, length, error, url):
        super().__init__(content)
        self.headers = {} if length is None else {'Content-Length': str(length)}
        self.error, self.url = error, url

    def geturl(self):
        return self.url

    def read(self, size=-1):
        part = super().read(size)
        if self.error and not part:
            raise self.error
        return part


class Web:
    """In the place of urlopen: gives `content`, or raises `error` before or after it."""

    def __init__(self):
        self.content, self.length, self.url = CONTENT, None, None
        self.refusal = self.error = None
        self.asked = []

    def __call__(self, url, timeout):
        assert timeout > 0
        self.asked.append(url)
        if self.refusal:
            raise self.refusal
        return Answer(self.content, self.length, self.error, self.url or url)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, in a folder that is not there yet."""
    monkeypatch.setenv('JCLS_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def web(monkeypatch, cache):  # noqa: ARG001
    found = Web()
    monkeypatch.setattr(urllib.request, 'urlopen', found)
    return found


def files(folder):
    return [path for path in folder.rglob('*') if not path.is_dir()]


# Downloads


@pytest.mark.parametrize('length', [None, len(CONTENT), 'many'])
def test_a_file_is_downloaded_once(web, cache, length):
    """Under its name, whole, alone in the cache, said its length or not; then without network."""
    web.length = length
    path = fetch(URL)
    assert (path.name, path.read_bytes()) == ('net.pth', CONTENT)
    assert files(cache) == [path]
    web.refusal = urllib.error.URLError('no network')
    assert fetch(URL) == path
    assert web.asked == [URL]


def test_nothing_is_printed_where_results_are(web, capsys):
    """The bar of progress goes to stderr: stdout is the result's, as of `jcls train`."""
    fetch(URL)
    assert web.asked == [URL]
    assert capsys.readouterr().out == ''


def test_equal_names_stay_apart(web):
    """Another address or query of the same file name is another file."""
    paths = []
    for i, url in enumerate([URL, f'{URL}?v=2', 'https://example.com/models/net.pth']):
        web.content = bytes([i])
        paths.append(fetch(url))
    assert [path.name for path in paths] == ['net.pth'] * 3
    assert [path.read_bytes() for path in paths] == [b'\0', b'\1', b'\2']


def test_quoted_names(web, cache):
    """%20 is a space; a quoted slash does not lead out of the cache."""
    assert fetch('https://example.org/my%20net.pth').name == 'my net.pth'
    path = fetch('https://example.org/..%2f..%2f..%2fnet.pth').resolve()
    assert path.is_relative_to(cache.resolve())
    assert len(web.asked) == 2


NAMES = ['net-{}.pth', 'net_8xb32-{}.safetensors', 'a-b-{}.pdparams', 'net-{}.pth.tar']


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('length', [8, 64])
def test_the_hash_in_the_name(web, cache, name, length):
    """A file that has it is kept; another is not, and the message says both hashes."""
    good = f'https://example.org/{name.format(HASH[:length])}?download=1'
    assert fetch(good).read_bytes() == CONTENT
    wrong = ('0' if HASH[0] != '0' else '1') + HASH[1:length]
    kept = files(cache)
    for _ in range(2):
        with pytest.raises(ValueError, match=f'{HASH[:length]}, not {wrong}. It was not kept'):
            fetch(f'https://example.org/{name.format(wrong)}')
    assert files(cache) == kept
    assert len(web.asked) == 3  # a file that was refused is not taken from the cache


@pytest.mark.parametrize('name', ['net.pth', 'resnet50-v2.pth', 'net-1234567.pth', 'x-deadbeef'])
def test_names_without_a_hash(web, name):
    """What is no hash of at least eight digits, and a suffix, is not taken for one."""
    assert fetch(f'https://example.org/{name}').read_bytes() == CONTENT
    assert len(web.asked) == 1


@pytest.mark.parametrize('date', ['20240115', '19991231', '202401150930', '20240115093059'])
def test_a_date_is_no_hash(web, date):
    """A name that ends in a day, perhaps with the time, says nothing about the content."""
    assert fetch(f'https://example.org/resnet18-{date}.pth').read_bytes() == CONTENT
    assert len(web.asked) == 1


@pytest.mark.parametrize('digits', ['20241315', '20240132', '12345678', '2024011525'])
def test_digits_that_are_no_date_are_a_hash(web, digits):
    """Torch's names have eight hexadecimal digits, which may all be decimal."""
    with pytest.raises(ValueError, match=f'not {digits}'):
        fetch(f'https://example.org/resnet18-{digits}.pth')
    assert len(web.asked) == 1


WRONG = '0' * 8 if HASH[0] != '0' else '1' * 8


def test_a_hash_is_insisted_on(web, cache):
    """At the end of the address; the file that the cache has is checked, too."""
    for length in (8, 64):
        assert fetch(f'{URL}#sha256={HASH[:length].upper()}').read_bytes() == CONTENT
    assert web.asked == [URL]  # without the end, and once
    for _ in range(2):
        with pytest.raises(
            ValueError, match=f'the one that was asked for.*not {WRONG}. It was not'
        ):
            fetch(f'{URL}#sha256={WRONG}')
    assert [path.read_bytes() for path in files(cache)] == [CONTENT]
    assert len(web.asked) == 3


def test_the_hash_of_a_name_gives_way_to_the_one_asked_for(web):
    """The message about the wrong one says how to go on."""
    url = f'https://example.org/net-{WRONG}.pth'
    with pytest.raises(ValueError, match='that its name ends in') as refused:
        fetch(url)
    asked = str(refused.value).rpartition(' ')[2]
    assert asked == f'{url}#sha256={HASH}'
    assert fetch(asked).read_bytes() == CONTENT
    assert len(web.asked) == 2


@pytest.mark.parametrize(
    'end', ['sha256=', 'sha256=1234567', 'sha256=xyzw5678', 'md5=12345678', 'x']
)
def test_an_end_that_is_no_hash(web, end):
    """It is refused before anything is asked."""
    with pytest.raises(ValueError, match='after the # stands sha256='):
        fetch(f'{URL}#{end}')
    assert web.asked == []


FAILURES = [
    urllib.error.HTTPError(URL, 404, 'Not Found', {}, None),
    urllib.error.URLError('Name or service not known'),
    TimeoutError('timed out'),
    ConnectionResetError('reset'),
    ssl.SSLError('record'),
    http.client.IncompleteRead(b'', 9),
    http.client.BadStatusLine('x'),
]


@pytest.mark.parametrize('when', ['refusal', 'error'])
@pytest.mark.parametrize('error', FAILURES, ids=lambda error: type(error).__name__)
def test_a_failure_keeps_nothing(web, cache, error, when):
    """Whatever fails, at first or half-way: the address is named, and the cache has no file."""
    setattr(web, when, error)
    with pytest.raises(ValueError, match=f'^{URL}'):
        fetch(URL)
    assert files(cache) == []
    setattr(web, when, None)
    assert fetch(URL).read_bytes() == CONTENT


def test_messages(web):
    """The server's answer is passed on; without a network it is said what to do."""
    web.refusal = FAILURES[0]
    with pytest.raises(ValueError, match='404 Not Found'):
        fetch(URL)
    web.refusal = FAILURES[1]
    with pytest.raises(ValueError, match=r'not known.*copy the file here and name its path'):
        fetch(URL)


@pytest.mark.parametrize('content', [b'<!DOCTYPE html><p>Sign in', b'', b'\x80\x02N', b'else'])
def test_what_is_no_weights_is_not_kept(web, cache, content):
    """A page of a sign-in, say; later the address gives the weights."""
    web.content = content
    for _ in range(2):
        with pytest.raises(ValueError, match='It was not kept: the next try fetches it again'):
            imported.read(URL)
        assert files(cache) == []
    web.content = save(state())
    for _ in range(2):
        assert imported.read(URL).metadata['architecture']['num_classes'] == 3
    assert len(web.asked) == 3


@pytest.mark.parametrize('length', [len(CONTENT) + 1, 10**15])
def test_an_early_end_keeps_nothing(web, cache, length):
    """Fewer bytes than the server announced are no file."""
    web.length = length
    with pytest.raises(ValueError, match=f'^{URL}'):
        fetch(URL)
    assert files(cache) == []


def test_an_interrupt_keeps_nothing(web, cache):
    """Ctrl-C half-way is passed on, and the next call begins anew."""
    web.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch(URL)
    assert files(cache) == []
    web.error = None
    assert fetch(URL).read_bytes() == CONTENT


@pytest.mark.parametrize(
    'url',
    [
        'http://example.org/net.pth',
        'https://example.org',
        'https://example.org/',
        'https://example.org/?net.pth',
        'https://example.org/models/..',
        'https://example.org/%2e%2e',
        'https://example.org/' + 'a' * 300,
    ],
)
def test_addresses_that_are_refused(web, cache, url):
    """Without encryption, or without the name of a file: nothing is asked or written."""
    for _ in range(2):
        with pytest.raises(ValueError, match=r'https://|names no file'):
            fetch(url)
    assert web.asked == []
    assert not cache.exists() or files(cache) == []


@pytest.mark.parametrize('url', ['https://h.invalid:x/net.pth', 'https://h.invalid/my net.pth'])
def test_addresses_that_are_none(cache, url):
    """What urlopen itself refuses is named, before anything is asked."""
    with pytest.raises(ValueError, match=url):
        fetch(url)
    assert files(cache) == []


def test_a_redirection_to_http_is_refused(web, cache):
    """Encryption is not given up on the way."""
    web.url = 'http://example.org/net.pth'
    with pytest.raises(ValueError, match='https'):
        fetch(URL)
    assert files(cache) == []


# Local files, and the Hub


def test_local_files(tmp_path, monkeypatch):
    """A path is what it is, with ~ for the home; what is not there is an error."""
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'net.pth').touch()
    assert fetch(str(tmp_path)) == tmp_path
    assert fetch('~/net.pth') == tmp_path / 'net.pth'
    for path in ('~/other.pth', '~nobody-here/net.pth', 'a' * 300, 'ftp://example.org/net.pth'):
        with pytest.raises(ValueError, match='no such file or folder'):
            fetch(path)


def test_what_is_remote():
    """Addresses and names on the Hub are; paths are not, whatever they look like."""
    assert all(map(is_remote, (URL, 'http://example.org/net.pth', 'hf:timm/resnet50')))
    assert not any(map(is_remote, ('net.pth', '/https://x', './hf:a', 'hf')))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """In the place of snapshot_download: notes what it is called with, gives or raises `answer`."""
    found = types.SimpleNamespace(calls=[], answer=tmp_path)

    def snapshot_download(name, *, revision, allow_patterns):
        found.calls.append((name, revision))
        assert {'model.safetensors', 'config.json'} <= {*allow_patterns}
        assert not any('*' in pattern for pattern in allow_patterns)
        if isinstance(found.answer, Exception):
            raise found.answer
        return str(found.answer)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
    return found


@pytest.mark.parametrize('revision', [None, 'main', 'refs/pr/1', '0a1b2c3'])
def test_a_name_on_the_hub(hub, tmp_path, revision):
    """Its folder is had, at the revision after the @; only weights and their description are."""
    source = 'hf:timm/resnet50.a1_in1k' + (f'@{revision}' if revision else '')
    assert fetch(source) == tmp_path
    assert hub.calls == [('timm/resnet50.a1_in1k', revision)]


@pytest.mark.parametrize('name', ['', 'resnet50', 'a/b/c', '/a', 'a/', 'a b/c', '@main', 'a/b\n'])
def test_names_that_are_none_on_the_hub(hub, name):
    """They are refused before the Hub is asked."""
    with pytest.raises(ValueError, match='hf:owner/name'):
        fetch(f'hf:{name}')
    assert hub.calls == []


def hub_error(name):
    answer = types.SimpleNamespace(headers={}, request=None, status_code=404)
    return getattr(errors, name)('the reason\nand more', response=answer)


class TransportError(Exception):
    """As the Hub's client raises them: none of its own, nor the system's."""


HUB_ERRORS = [
    (hub_error('RepositoryNotFoundError'), 'is not on the Hub.*the reason$'),
    (hub_error('GatedRepoError'), 'not for you to read: the reason$'),
    (hub_error('RevisionNotFoundError'), 'is not on the Hub.*the reason$'),
    (hub_error('HfHubHTTPError'), 'the reason.*no network, copy'),
    (errors.LocalEntryNotFoundError('the reason'), 'the reason.*no network, copy'),
    (errors.OfflineModeIsEnabled('the reason'), 'the reason.*no network, copy'),
    (errors.HFValidationError('the reason'), 'the reason'),
    (TransportError('the reason'), 'the reason.*no network, copy'),
    (OSError('the reason'), 'the reason.*no network, copy'),
]


@pytest.mark.parametrize(('error', 'message'), HUB_ERRORS, ids=lambda case: type(case).__name__)
def test_failures_of_the_hub(hub, error, message):
    """Each is one line that names the source and the reason."""
    hub.answer = error
    with pytest.raises(ValueError, match=message) as found:
        fetch('hf:timm/resnet50')
    assert str(found.value).startswith('hf:timm/resnet50')
    assert '\n' not in str(found.value)


def test_a_name_without_weights(hub, tmp_path):
    """Where nothing that is wanted is there, the Hub's client gives a folder that is not there."""
    hub.answer = tmp_path / 'none'
    with pytest.raises(ValueError, match='hf:timm/resnet50'):
        fetch('hf:timm/resnet50')
