"""`helpers.models.load_model`: the three kinds of source, and a hub that misbehaves in every way.

The hub is a small server on 127.0.0.1. What depends on the environment at import (HF_ENDPOINT,
HF_HUB_OFFLINE, the cache) runs in a fresh Python, several names at a time: each start costs the
seconds that importing the libraries takes.
"""

import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from helpers import models
from helpers.models import EMBEDDED_DIRECTORY, load_model

TEXT = "The Eiffel Tower is in the city of"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_model_chosen(monkeypatch):
    monkeypatch.delenv("TUTORIAL_MODEL", raising=False)


@pytest.fixture(scope="module")
def embedded():
    return load_model("tutorial-4l")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A GPT-2 of two layers with random weights, none of its biases zero."""
    path = tmp_path_factory.mktemp("models") / "random"
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def copy(directory, tmp_path):
    """The random model again, to be damaged."""
    return shutil.copytree(directory, tmp_path / "copy")


def log_probs(model, tokens):
    with torch.no_grad():
        output = model(tokens)
    return getattr(output, "logits", output).log_softmax(-1)


# The model itself


def test_the_embedded_model_is_ready_for_analysis(embedded):
    assert embedded.cfg.model_name == "tutorial-4l"
    assert embedded.cfg.n_layers == embedded.cfg.n_heads == 4
    assert embedded.cfg.d_model == embedded.cfg.n_ctx == 128
    assert not embedded.training and not embedded.original_model.training
    assert torch.get_num_threads() == 1


def test_bos_comes_first_and_once(embedded, directory):
    for model in (embedded, load_model(directory)):
        tokens = model.to_tokens(TEXT)[0]
        bos = model.tokenizer.bos_token_id
        assert model.tokenizer.bos_token == "<|endoftext|>"
        assert tokens[0] == bos and bos not in tokens[1:]


@pytest.mark.parametrize("which", ["embedded", "random"])
def test_log_probs_are_those_of_plain_transformers(which, directory):
    path = EMBEDDED_DIRECTORY if which == "embedded" else directory
    model = load_model("tutorial-4l" if which == "embedded" else directory, device="cpu")
    original = GPT2LMHeadModel.from_pretrained(path).eval()
    tokens = model.to_tokens([TEXT, "a b c d e f g h"])
    torch.testing.assert_close(
        log_probs(model, tokens), log_probs(original, tokens), atol=1e-4, rtol=0
    )


def test_weights_are_processed(directory):
    model = load_model(directory, device="cpu")
    assert model.compatibility_mode
    assert model.W_U.mean(-1).abs().max() < 1e-5  # unembedding centred over the vocabulary
    assert model.W_out.mean(-1).abs().max() < 1e-5  # writing weights centred over d_model
    _, cache = model.run_with_cache(TEXT)
    normalised = cache["blocks.0.ln1.hook_normalized"]  # its weight and bias are folded away
    torch.testing.assert_close(
        normalised.mean(-1), torch.zeros(normalised.shape[:2]), atol=1e-5, rtol=0
    )


def test_parameters_are_frozen_and_activations_are_not(embedded):
    assert not any(parameter.requires_grad for parameter in embedded.parameters())
    assert not embedded(TEXT).requires_grad
    seen = []

    def start_graph(activation, hook):
        seen.append(activation.clone().requires_grad_(True))
        return seen[0]

    hooks = [("blocks.1.hook_resid_pre", start_graph)]
    logits = embedded.run_with_hooks(TEXT, fwd_hooks=hooks)
    (gradient,) = torch.autograd.grad(logits[0, -1, 0], seen)
    assert gradient.shape == seen[0].shape and gradient.abs().sum() > 0


def test_a_renamed_model_still_generates(embedded):
    tokens = embedded.to_tokens(TEXT)
    longer = embedded.generate(tokens, max_new_tokens=2, do_sample=False, verbose=False)
    assert longer.shape == (1, tokens.shape[1] + 2)


def test_two_loads_share_nothing(directory):
    first, second = load_model(directory), load_model(directory)
    before = second(TEXT)
    for parameter in first.parameters():
        parameter.data.zero_()
    first.cfg.model_name = "changed"
    assert torch.equal(second(TEXT), before)
    assert second.cfg.model_name == str(directory)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype(dtype, directory):
    model = load_model(directory, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(TEXT).dtype == dtype
    assert model.cfg.dtype == dtype


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_device(device, directory):
    model = load_model(directory, device=device)
    assert model.cfg.device == "cpu" == model(TEXT).device.type


# Which model a name means


def test_tutorial_model_chooses(monkeypatch, directory):
    monkeypatch.setenv("TUTORIAL_MODEL", str(directory))
    assert load_model().cfg.model_name == str(directory)
    assert load_model("tutorial-4l").cfg.model_name == "tutorial-4l"  # a name goes before it
    monkeypatch.setenv("TUTORIAL_MODEL", "")
    assert load_model().cfg.model_name == "tutorial-4l"


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("random", "./random"),
        ("./random", "./random"),
        ("../models/random", "../models/random"),
        ("~/random", "~/random"),
        (Path("random"), "./random"),
        (Path("gpt2"), "./gpt2"),
        ("./gpt2", "./gpt2"),
        ("./tutorial-4l", "./tutorial-4l"),
        (Path("tutorial-4l"), "./tutorial-4l"),
        (Path("gpt2-small"), "./gpt2-small"),
        ("owner/gpt2", "./owner/gpt2"),
    ],
)
def test_a_directory_is_known_by_its_path(name, identity, monkeypatch, directory, tmp_path):
    """It never passes for the embedded model or for gpt2, whatever it is called."""
    here = tmp_path / "models"
    for link in ("random", "gpt2", "gpt2-small", "tutorial-4l", "owner/gpt2"):
        (here / link).parent.mkdir(parents=True, exist_ok=True)
        (here / link).symlink_to(directory, target_is_directory=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    assert models._locate(name)[0] == identity
    assert models._locate(name)[1].resolve() == directory.resolve()
    if name == Path("random"):  # one of them all the way
        assert load_model(name).cfg.model_name == identity


def test_a_directory_does_not_take_the_embedded_models_name(monkeypatch, directory, tmp_path):
    (tmp_path / "tutorial-4l").symlink_to(directory, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert load_model("tutorial-4l").cfg.n_layers == 4


# Errors without a hub


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"name": 3}, TypeError, ["name", "3", "string"]),
        ({"name": b"gpt2"}, TypeError, ["name", "b'gpt2'", "string"]),
        ({"name": ""}, ValueError, ["empty", "tutorial-4l"]),
        ({"name": "owner/a--b"}, ValueError, ["owner/a--b"]),
        ({"device": 0}, TypeError, ["device", "0", "string"]),
        ({"device": "banana"}, ValueError, ["banana", 'device="cpu"']),
        ({"device": "cuda:99"}, ValueError, ["cuda:99", 'device="cpu"']),
        ({"device": "meta"}, ValueError, ["meta", 'device="cpu"']),
        ({"dtype": "float32"}, TypeError, ["'float32'", "torch.float32"]),
        ({"dtype": torch.int64}, ValueError, ["torch.int64", "torch.float32"]),
        ({"dtype": None}, TypeError, ["None", "torch.float32"]),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error) as raised:
        load_model(**arguments)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize("name", ["./models/foo", "models/foo/bar/baz", "~/no/such", "no such"])
def test_a_missing_directory_is_named(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for form in (name, Path(name), tmp_path / name.removeprefix("~/")):
        with pytest.raises(FileNotFoundError) as raised:
            load_model(form)
        assert str(tmp_path) in str(raised.value)  # where it looked
        assert "TUTORIAL_MODEL=path/to/dir" in str(raised.value)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(lost, copy):
    (copy / lost).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {lost}") as raised:
        load_model(copy)
    assert str(copy) in str(raised.value)


def test_a_file_is_not_a_directory(copy):
    with pytest.raises(FileNotFoundError, match="is no directory"):
        load_model(copy / "config.json")


def test_pickled_weights_are_refused(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors.*[Pp]ickled"):
        load_model(copy)


def test_sharded_weights_are_complete_or_refused(directory, copy):
    (copy / "model.safetensors").unlink()
    GPT2LMHeadModel.from_pretrained(directory).save_pretrained(copy, max_shard_size="100KB")
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 1
    tokens = load_model(directory).to_tokens(TEXT)
    assert torch.equal(load_model(copy)(tokens), load_model(directory)(tokens))
    for lost in (shards[0], copy / "model.safetensors.index.json"):
        content = lost.read_bytes()
        lost.unlink()
        with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors"):
            load_model(copy)
        lost.write_bytes(content)


def test_weights_that_do_not_fit_are_refused(copy):
    """transformers would fill the gap with random numbers, and say so only in a log."""
    weights = load_file(copy / "model.safetensors")
    renamed = {name.replace("h.1.", "layer.1."): value for name, value in weights.items()}
    save_file(renamed, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="do not fit") as raised:
        load_model(copy)
    assert "h.1.mlp" in str(raised.value) and str(copy) in str(raised.value)


def test_an_unreadable_file_is_reported_with_its_directory(copy):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SafetensorError) as raised:
        load_model(copy)
    assert str(copy) in "".join(raised.value.__notes__)


def test_library_settings_are_left_as_they_were(directory, copy):
    def settings():
        loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
        state = [(lg.handlers, lg.level, lg.propagate) for lg in loggers]
        return state, transformers_logging.is_progress_bar_enabled()

    transformers_logging.enable_progress_bar()
    before = settings()
    load_model(directory)
    assert settings() == before
    (copy / "config.json").write_text("{")
    with pytest.raises(OSError, match=r"config\.json"):
        load_model(copy)
    assert settings() == before


# A fresh Python

DRIVER = """
import json, sys, time
from helpers import hub, models

models.load_model("tutorial-4l")  # the libraries' late imports are not what is timed
results = {}

def attempt(label, name):
    start = time.monotonic()
    try:
        outcome = models.load_model(name).cfg.model_name
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    results[label] = [time.monotonic() - start, outcome]

%s
print(json.dumps(results))
"""


def fresh_python(code, home, **environment):
    """Run `code` in a new interpreter with an empty hub cache, or the one in `home`."""
    unwanted = ("HF_", "HUGGINGFACE", "TRANSFORMERS_", "TUTORIAL_MODEL", "XDG_CACHE_HOME")
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(unwanted) and not key.lower().endswith("_proxy")
    }
    root = str(Path(models.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean | {"HF_HOME": str(home), "PYTHONPATH": root} | environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def attempts(steps, home, **environment):
    """`{label: (seconds, model name or error)}` of the calls of `attempt` in `steps`."""
    run = fresh_python(DRIVER % steps, home, **environment)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    *said, results = run.stdout.splitlines()
    assert all(line.startswith("Downloading ") for line in said)
    return json.loads(results)


def assert_helpful(outcome, kind, *words):
    """The error is of this kind, and says what was tried and what works without a network."""
    assert outcome.startswith(kind), outcome
    for word in (*words, 'load_model("tutorial-4l")', "load_model()", 'load_model("path/to/dir")'):
        assert word in outcome


def test_the_embedded_model_is_silent_and_uses_no_network(tmp_path):
    code = """
import socket
tried = []
def refuse(*arguments, **options):
    tried.append(arguments)
    raise OSError("this test allows no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from helpers.models import load_model
load_model()("a b c")
assert not tried, tried
"""
    run = fresh_python(code, tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# A hub


def put_in_cache(home, name, lost=()):
    """Lay a model into a hub cache by hand, less the files in `lost`."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = shutil.copytree(EMBEDDED_DIRECTORY, repository / "snapshots" / COMMIT)
    for file in lost:
        (snapshot / file).unlink()


class Hub(BaseHTTPRequestHandler):
    """The two routes that matter, `/api/models/NAME` and `/NAME/resolve/main/FILE`.

    How it answers depends on the name: "t/good" serves the embedded model.
    """

    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    requests = []  # noqa: RUF012 - one list for all connections, read by the tests
    closing = threading.Event()

    def do_GET(self):
        path = self.path.removeprefix("http://hub.invalid").partition("?")[0]
        self.requests.append((self.command, path))
        owner_and_name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        if path.startswith("/api/models/"):
            self.describe(owner_and_name)
        elif "/resolve/" in path:
            self.serve(owner_and_name, path.rpartition("/")[2])
        else:
            self.send(b"", status=404)

    do_HEAD = do_GET

    def describe(self, name):
        listing = [*self.files, "README.md", "pytorch_model.bin", "onnx/model.safetensors"]
        if name == "t/silent":
            self.closing.wait()
        elif name == "t/drip":
            self.send(b" " * 10_000, pause=0.2)
        elif name == "t/portal":
            self.send(b"<html>Log in to the airport's network</html>")
        elif name == "t/broken":
            self.send(b"", status=503)
        elif name == "t/private":
            self.send(b"", status=401)
        elif name in ("t/good", "t/stalls", "t/pickled"):
            if name == "t/pickled":
                listing.remove("model.safetensors")
            siblings = [{"rfilename": file} for file in listing]
            self.send(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        else:
            self.send(b"", status=404, **{"X-Error-Code": "RepoNotFound"})

    def serve(self, name, file):
        content = (EMBEDDED_DIRECTORY / file).read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        stalls = name == "t/stalls" and file == "model.safetensors"
        self.send(content, pause=1 if stalls else 0, **headers)

    def send(self, content, status=200, pause=0, **headers):
        """Answer; with a `pause`, byte by byte."""
        self.send_response(status)
        for key, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        pieces = [bytes([byte]) for byte in content] if pause else [content]
        try:
            for piece in pieces:
                self.wfile.write(piece)
                if pause and self.closing.wait(pause):
                    break
        except ConnectionError:
            pass  # the other side gave up, as it should

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    Hub.closing.set()
    server.shutdown()
    server.server_close()


def test_answers_of_a_hub(hub, tmp_path):
    """A download, unknown names, and a server that answers badly, slowly or never."""
    steps = """
for name in ("good", "unknown", "private", "pickled", "portal", "broken", "silent"):
    attempt(name, f"t/{name}")
hub.PROBE_SECONDS = hub.STALL_SECONDS = 2
for name in ("drip", "stalls"):
    attempt(name, f"t/{name}")
"""
    results = attempts(steps, tmp_path, HF_ENDPOINT=hub)
    seconds = {label: took for label, (took, _) in results.items()}
    outcome = {label: text for label, (_, text) in results.items()}
    assert all(took < 10 for took in seconds.values()), seconds

    assert outcome["good"] == "t/good"
    fetched = {path.rpartition("/")[2] for _, path in Hub.requests if "t/good/resolve" in path}
    assert fetched == set(Hub.files)  # no pickle, nothing from subdirectories
    for name, status in {"unknown": 404, "private": 401}.items():
        assert_helpful(outcome[name], "ValueError", f"t/{name}", f"HTTP {status}", hub)
    assert_helpful(outcome["pickled"], "ValueError", "lacks model.safetensors", hub)
    for name in ("portal", "broken", "silent", "drip", "stalls"):
        assert_helpful(outcome[name], "ConnectionError", f"t/{name}", hub)
    assert "nothing arrived in 6 s" in outcome["silent"]
    assert "503" in outcome["broken"]


def test_a_hub_whose_name_cannot_be_looked_up(hub, tmp_path):
    """Look-up fails; look-up hangs; and a proxy that knows the way is used."""
    steps = f"""
import os, socket, huggingface_hub
attempt("fails", "t/good")
look_up = socket.getaddrinfo
hub.PROBE_SECONDS = 2
socket.getaddrinfo = lambda *arguments, **options: time.sleep(60)
attempt("hangs", "t/good")
socket.getaddrinfo = look_up
hub.PROBE_SECONDS = 6
os.environ["HTTP_PROXY"] = {hub!r}
huggingface_hub.close_session()  # the next one reads the environment again
attempt("proxy", "t/good")
"""
    results = attempts(steps, tmp_path, HF_ENDPOINT="http://hub.invalid")
    assert all(took < 10 for took, _ in results.values()), results
    assert_helpful(results["fails"][1], "ConnectionError", "t/good", "http://hub.invalid")
    assert_helpful(results["hangs"][1], "ConnectionError", "t/good", "2 s")
    assert results["proxy"][1] == "t/good"


@pytest.fixture
def closed_port():
    """An address that refuses: bound, so that nobody else takes it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("offline", [False, True])
def test_what_is_cached_needs_no_hub(offline, closed_port, tmp_path):
    put_in_cache(tmp_path, "t/cached")
    put_in_cache(tmp_path, "gpt2")
    put_in_cache(tmp_path, "t/partial", lost=["model.safetensors"])
    steps = """
for name in ("t/cached", "gpt2-small", "t/partial", "t/absent"):
    attempt(name, name)
"""
    environment = {"HF_HUB_OFFLINE": "1"} if offline else {}
    results = attempts(steps, tmp_path, HF_ENDPOINT=closed_port, **environment)
    assert all(took < 5 for took, _ in results.values()), results
    assert results["t/cached"][1] == "t/cached"
    assert results["gpt2-small"][1] == "gpt2"
    reason = "HF_HUB_OFFLINE" if offline else closed_port
    for name in ("t/partial", "t/absent"):
        assert_helpful(results[name][1], "ConnectionError", name, reason)
