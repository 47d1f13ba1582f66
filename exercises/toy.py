"""Toy models whose circuit is built by hand, so that the right answer is known without a method."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

# The induction network

BOS, WORDS, LONGEST = 0, 16, 12  # tokens 1 .. 16 are words; a block has at most 12 of them
N_TOKENS, N_CTX = WORDS + 1, 2 * LONGEST + 1

PREVIOUS, OWN = (0, 1), (0, 2)  # (layer, head)
DUPLICATE, INDUCTION = (1, 0), (1, 2)

CERTAIN = 40.0  # a score so much above the others takes all the attention
LOGIT = 12.0  # of the token that the network predicts; all others have 0

# The residual stream is four one-hot codes side by side.
TOKEN = slice(0, N_TOKENS)  # the token here
POSITION = slice(N_TOKENS, N_TOKENS + N_CTX)  # the position
BEFORE = slice(N_TOKENS + N_CTX, 2 * N_TOKENS + N_CTX)  # the token before, written in layer 0
NEXT = slice(2 * N_TOKENS + N_CTX, 3 * N_TOKENS + N_CTX)  # the prediction, written in layer 1
D_MODEL, D_HEAD = 3 * N_TOKENS + N_CTX, N_TOKENS + N_CTX


def induction_network() -> TransformerBridge:
    """Two layers of attention that continue what has been said once, and nothing else.

    Layer 0: head 0.1 attends to the previous position and copies its token into `BEFORE`. Layer 1:
    head 1.2 looks for positions whose `BEFORE` is the present token, and copies the token there
    into `NEXT`, which is all that the unembedding reads.

    Decoys, which write nothing: 0.0, 1.1 attend evenly, 0.2 to its own position, 1.0 to the earlier
    occurrence of the same token.
    """
    model = boot(n_layers=2, n_heads=3, d_model=D_MODEL, d_head=D_HEAD, d_vocab=N_TOKENS)
    q, k, v = (torch.zeros(2, 3, D_MODEL, D_HEAD) for _ in range(3))
    o = torch.zeros(2, 3, D_HEAD, D_MODEL)
    certain = CERTAIN * D_HEAD**0.5  # attention divides scores by that root
    words, places = slice(0, N_TOKENS), slice(N_TOKENS, D_HEAD)  # the two parts of a head

    q[PREVIOUS][POSITION, places] = certain * torch.eye(N_CTX).roll(-1, 1)  # asks for one back
    q[PREVIOUS][POSITION.start, places] = 0  # position 0 has none before it
    k[PREVIOUS][POSITION, places] = torch.eye(N_CTX)
    v[PREVIOUS][TOKEN, words] = torch.eye(N_TOKENS)
    o[PREVIOUS][words, BEFORE] = torch.eye(N_TOKENS)

    q[OWN][POSITION, places] = certain * torch.eye(N_CTX)
    k[OWN][POSITION, places] = torch.eye(N_CTX)

    q[DUPLICATE][TOKEN, words] = certain * torch.eye(N_TOKENS)
    k[DUPLICATE][TOKEN, words] = torch.eye(N_TOKENS)
    q[DUPLICATE][POSITION, places] = -2 * certain * torch.eye(N_CTX)  # but not to itself
    k[DUPLICATE][POSITION, places] = torch.eye(N_CTX)

    q[INDUCTION][TOKEN, words] = certain * torch.eye(N_TOKENS)
    k[INDUCTION][BEFORE, words] = torch.eye(N_TOKENS)
    v[INDUCTION][TOKEN, words] = torch.eye(N_TOKENS)
    o[INDUCTION][words, NEXT] = torch.eye(N_TOKENS)

    put(model, "tok_embed.weight", one_hot(N_TOKENS, TOKEN))
    put(model, "pos.weight", one_hot(N_CTX, POSITION))
    put(model, "head.weight", LOGIT * one_hot(N_TOKENS, NEXT))
    for layer in range(2):
        put_attention(model, layer, q[layer], k[layer], v[layer], o[layer])
    return model


def blocks_twice(n: int, batch: int, seed: int = 0) -> Int[Tensor, "batch 2n+1"]:
    """BOS and a block of n different words, twice."""
    generator = torch.Generator().manual_seed(seed)
    rows = [1 + torch.randperm(WORDS, generator=generator)[:n] for _ in range(batch)]
    return torch.stack([torch.cat([torch.tensor([BOS]), row, row]) for row in rows])


def habitual_network(first: int) -> TransformerBridge:
    """The induction network, whose embedding row names a token, too: for the words `first` - 1 to
    `first` + 3 themselves, for all others word `first`; block 0 adds the token before, but for
    those five. What was said before weighs more; only word `first` - 1, of which the embedding row
    is sure, it makes less sure."""
    model = induction_network()
    named = torch.full((N_TOKENS,), first)
    named[first - 1 : first + 4] = torch.arange(first - 1, first + 4)
    habit = torch.eye(N_TOKENS)[named].T @ one_hot(N_TOKENS, TOKEN)  # (token named, d_model)
    logits = LOGIT * one_hot(N_TOKENS, NEXT) + LOGIT / 3 * habit
    logits[first - 1, NEXT] /= -9  # at best 0.47; its embedding row has 0.77
    before = one_hot(N_TOKENS, BEFORE)
    before[first - 1 : first + 4] = 0
    logits += LOGIT / 2 * before
    put(model, "head.weight", logits)
    return model


# A gate: two places that hold the same fact

FACTS = FACT, RIVAL = 1, 2  # tokens; the answer to a fact is the fact itself
NO_FACT, RELAY, ASK = 3, 4, 5
SUBJECT_AT, RELAY_AT, LAST = 1, 2, 3  # positions
READ_SUBJECT, READ_RELAY = (1, 0), (1, 1)  # (layer, head)


def gate(alone: float = 1.0, relay: float | None = None, turns: bool = False) -> TransformerBridge:
    """A fact in two places that the last token reads, by two heads: an OR or an AND of them.

    The prompt is `gate_prompt(fact)`. Head 0.0 copies the fact from the subject to the relay. So
    entering layer 1 both places hold it. There head 1.0 reads the subject and head 1.1 the relay,
    from the last position, and two neurons a fact join what they read: both places give the whole
    answer, and one alone the share `alone` of it (the relay `relay`, where it is given): 1 is an
    OR, 0 an AND, 0.6 and 0.4 are nearly neither. Entering layer 1, against a prompt with `NO_FACT`:

              patch clean into one place    patch no fact into one place
        or    suffices                      breaks nothing: neither is needed
        and   does not suffice              breaks the answer: both are needed

    With `turns` the last token says which: it is an AND at `ASK` and an OR at any other.

    Logits are `LOGIT` for the answer and 0 for all else.

    Source: Heimersheim & Nanda 2024 (arXiv 2404.15255), section 3.
    """
    token, position = slice(0, 6), slice(6, 10)
    copied, seen, also_seen, said = (slice(10 + 2 * i, 12 + 2 * i) for i in range(4))
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": 18, "d_head": 4, "d_vocab": 6, "d_mlp": 4}
    model = boot(**sizes, n_ctx=4, attn_only=False)
    for parameter in model.parameters():
        parameter.zero_()
    q, k, v = (torch.zeros(2, 2, 18, 4) for _ in range(3))
    o = torch.zeros(2, 2, 4, 18)
    facts, two = torch.eye(6)[:, list(FACTS)], torch.eye(2)
    moves = [((0, 0), RELAY_AT, SUBJECT_AT, copied), (READ_SUBJECT, LAST, SUBJECT_AT, seen)]
    for head, query, key, into in [*moves, (READ_RELAY, LAST, RELAY_AT, also_seen)]:
        attends_to = torch.zeros(4, 4)
        attends_to[:, 0] = CERTAIN * 4**0.5  # everybody else rests on BOS
        attends_to[query] = CERTAIN * 4**0.5 * torch.eye(4)[key]
        q[head][position], k[head][position] = attends_to, torch.eye(4)
        if head == READ_RELAY:
            v[head][copied, :2] = two
        else:
            v[head][token, :2] = facts
        o[head][:2, into] = two
    put(model, "tok_embed.weight", torch.eye(6, 18))
    put(model, "pos.weight", torch.eye(18)[position])
    put(model, "head.weight", LOGIT * facts @ torch.eye(18)[said])
    for layer in range(2):
        put_attention(model, layer, q[layer], k[layer], v[layer], o[layer])
    relay = alone if relay is None else relay
    one, other = torch.eye(18)[seen], torch.eye(18)[also_seen]  # (fact, d_model)
    reads = torch.cat([alone * one + relay * other, one + other])
    reads[:2, token][:, ASK] = -1.0 * turns
    put(model, "layers.1.mlp.fc_in.weight", reads)
    put(model, "layers.1.mlp.fc_in.bias", torch.tensor([0.0, 0.0, -1.0, -1.0]))
    rest = 0 if turns else 1 - alone - relay  # the last two neurons: both places say it
    gives = torch.tensor([1, 1, rest, rest])
    put(model, "layers.1.mlp.fc_out.weight", torch.eye(18)[said].T.repeat(1, 2) * gives)
    return model


def gate_prompt(fact: int) -> Int[Tensor, "1 4"]:
    """BOS, the fact (or `NO_FACT`), the relay, and the token at which the model answers."""
    return torch.tensor([[BOS, fact, RELAY, ASK]])


# A name mover

NAMES, TO = 8, 9  # tokens 1 .. 8 are names
REPEATED, INHIBITOR = (0, 0), (1, 0)  # (layer, head)
NAME_MOVER, NEGATIVE, FOR_BOTH = (2, 0), (2, 1), (2, 2)


def name_mover_network() -> TransformerBridge:
    """Three layers of attention that name who was mentioned once, by a circuit of four heads.

    Prompts are those of `name_prompts`: BOS, two names, one of them again (the giver), `TO`. Head
    0.0 attends from a name to its earlier mention and writes "said before". Head 1.0 fetches that
    for the last position. There 2.0, the name mover, attends to the names, but not to the one said
    before, and writes it: `LOGIT` for the name over the giver. Head 2.1 attends like it and writes
    minus half of that: a negative name mover. Head 2.2, a decoy, writes both names alike, three
    times as loud. No other head writes anything that the unembedding reads.

    Source: after Wang et al. 2022 (arXiv 2211.00593).
    """
    tokens, length = TO + 1, 5
    width = tokens + length  # of a head: first the token, then the position
    token, position = slice(0, tokens), slice(tokens, width)
    repeated, inhibited, said = (
        slice(width + NAMES * i, width + NAMES * (i + 1)) for i in range(3)
    )
    d_model = width + 3 * NAMES
    sizes = {"n_layers": 3, "n_heads": 3, "d_vocab": tokens, "n_ctx": length}
    model = boot(**sizes, d_model=d_model, d_head=width)
    q, k, v = (torch.zeros(3, 3, d_model, width) for _ in range(3))
    o = torch.zeros(3, 3, width, d_model)
    certain = CERTAIN * width**0.5
    names, one = slice(1, NAMES + 1), torch.eye(NAMES)
    bos = slice(tokens, tokens + 1)  # of a head: position 0, where a head rests

    k[REPEATED][token, token] = torch.eye(tokens)
    k[REPEATED][position, position] = torch.eye(length)
    q[REPEATED][token, token] = certain * torch.eye(tokens)
    q[REPEATED][token, bos] = certain / 2
    q[REPEATED][position, position] = -2 * certain * torch.eye(length)  # but not to itself
    v[REPEATED][names, names] = o[REPEATED][names, repeated] = one

    k[INHIBITOR][position, position] = torch.eye(length)
    q[INHIBITOR][position, bos] = certain
    q[INHIBITOR][tokens + 4, tokens + 3] = 2 * certain  # the last position to the one before
    v[INHIBITOR][repeated, names] = o[INHIBITOR][names, inhibited] = one

    for head, loud in ((NAME_MOVER, 1.0), (NEGATIVE, -0.5), (FOR_BOTH, 3.0)):
        k[head][position, position] = torch.eye(length)
        v[head][names, names] = one
        o[head][names, said] = loud * one
        if head == FOR_BOTH:
            q[head][TO, tokens + 1 : tokens + 3] = certain  # the first mentions, evenly
        else:
            k[head][names, names] = one
            q[head][TO, names] = certain
            q[head][inhibited, names] = -2 * certain * one

    put(model, "tok_embed.weight", torch.eye(tokens, d_model))
    put(model, "pos.weight", torch.eye(d_model)[position])
    put(model, "head.weight", LOGIT * torch.eye(tokens)[:, names] @ torch.eye(d_model)[said])
    for layer in range(3):
        put_attention(model, layer, q[layer], k[layer], v[layer], o[layer])
    model.enable_compatibility_mode()  # the library's own attribution asks for it; changes nothing
    return model


def name_prompts() -> tuple[Int[Tensor, "batch 5"], Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """Four prompts of the name mover network, the names it answers, and the givers."""
    answer, giver = torch.tensor([[1, 2, 3, 4], [2, 1, 5, 6]])
    first = torch.tensor([1, 1, 5, 4])  # who is named first: the answer, the giver, …
    tokens = [torch.full((4,), BOS), first, answer + giver - first, giver, torch.full((4,), TO)]
    return torch.stack(tokens, dim=1), answer, giver


# A network that is linear, and one whose parts are known numbers


def linear_network() -> TransformerBridge:
    """Random weights without norm or MLP, and attention that is even whatever the input.

    Nothing in it is not linear, so a first-order estimate is exact.
    """
    model = boot(n_layers=2, n_heads=2, d_model=8, d_head=4, d_vocab=10, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if plain_name(name).split(".")[-2] in ("q", "k"):
            parameter.zero_()
        else:
            torch.nn.init.normal_(parameter, generator=generator)
    return model


def random_network(n_heads: int, seed: int) -> TransformerBridge:
    """Three layers of attention, a LayerNorm before each and at the end, and weights N(0, 1)."""
    sizes = {"n_layers": 3, "n_heads": n_heads, "d_model": 8, "d_head": 4, "d_vocab": 40}
    model = boot(**sizes, normalization_type="LN")
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return model


def constant_network(norm: str) -> TransformerBridge:
    """One layer whose every part writes the same numbers at the last position of any input.

    The stream has ten coordinates, taken in pairs. A part writes +a and -a into a pair: the token
    a = 1, position 1, heads 2 and 3, attention bias 4, MLP neurons 0.5 * 5 and 2 * 6 (the third is
    shut). The token adds 1 everywhere too, which a norm that centres does not see. Token 1 is read
    from the first of each pair, twice, and token 2 from the second; so the difference of their
    logits is 3 a / scale, and 10 ones make another 5 / scale.
    """
    model = boot(
        n_layers=1,
        n_heads=2,
        d_model=10,
        d_head=1,
        d_vocab=3,
        d_mlp=3,
        normalization_type=norm,
        attn_only=False,
        dtype=torch.float64,
    )
    for parameter in model.parameters():
        parameter.zero_()
    first = torch.tensor([1.0, 0.0] * 5)  # the first of each pair
    put(model, "tok_embed.weight", (1 + in_pair(0, 1)).expand(3, -1))
    put(model, "pos.weight", in_pair(1, 1).expand(N_CTX, -1))
    put(model, "layers.0.attn.v.bias", torch.ones(2))
    put(model, "layers.0.attn.o.weight", torch.stack([in_pair(2, 2), in_pair(3, 3)], 1))
    put(model, "layers.0.attn.o.bias", in_pair(1, 4))
    put(model, "layers.0.mlp.fc_in.bias", torch.tensor([0.5, 2.0, -1.0]))
    put(model, "layers.0.mlp.fc_out.weight", torch.stack([in_pair(4, a) for a in (5, 6, 7)], 1))
    put(model, "head.weight", torch.stack([torch.zeros(10), 2 * first, 1 - first]))
    return model


def in_pair(i: int, a: float) -> Float[Tensor, "d_model"]:
    """+a and -a in the i-th pair of coordinates."""
    stream = torch.zeros(10)
    stream[2 * i], stream[2 * i + 1] = a, -a
    return stream


# Attention patterns


def pattern_to(key_of: list[int]) -> Float[Tensor, "query key"]:
    """All attention of query i goes to key `key_of[i]`."""
    return torch.nn.functional.one_hot(torch.tensor(key_of), len(key_of)).float()


def motif(name: str, n: int) -> Float[Tensor, "query key"]:
    """A perfect specimen on BOS and a block of n twice; where it has nothing to do it rests on BOS.

    Written out query by query, with no diagonal taken.
    """
    length = 2 * n + 1
    if name == "uniform":
        return torch.tril(torch.ones(length, length)) / torch.arange(1, length + 1)[:, None]
    second = range(n + 1, length)
    keys = {
        "induction": [q - n + 1 if q in second else 0 for q in range(length)],
        "duplicate": [q - n if q in second else 0 for q in range(length)],
        "previous": [max(q - 1, 0) for q in range(length)],
        "bos": [0] * length,
    }
    return pattern_to(keys[name])


# Building


def boot(**sizes) -> TransformerBridge:
    """A network of transformer_lens' own kind, with frozen parameters; no file, no network."""
    dtype = sizes.pop("dtype", torch.float32)
    defaults = {"n_ctx": N_CTX, "attn_only": True, "normalization_type": None, "act_fn": "relu"}
    defaults["device"] = "cpu"  # where it is; the library would write "cuda" where there is one
    config = TransformerBridgeConfig(
        **{**defaults, **sizes}, positional_embedding_type="standard", seed=0
    )
    model = TransformerBridge.boot_native(config, dtype=dtype)
    return model.requires_grad_(False).eval()


def plain_name(name: str) -> str:
    return name.replace("._original_component", "")


def put(model: TransformerBridge, name: str, value: Tensor) -> None:
    """Set the one parameter of that name, whose shape must be that of `value`."""
    (parameter,) = [p for known, p in model.named_parameters() if plain_name(known) == name]
    assert parameter.shape == value.shape, f"{name}: {parameter.shape}, not {value.shape}"
    parameter.copy_(value)


def put_attention(model, layer: int, q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> None:
    """Set a layer's matrices, given a head at a time: `[head, d_model, d_head]`, o transposed."""
    for name, matrix in (("q", q), ("k", k), ("v", v)):
        rows = matrix.transpose(1, 2).flatten(0, 1)  # (head d_head, d_model)
        put(model, f"layers.{layer}.attn.{name}.weight", rows)
        put(model, f"layers.{layer}.attn.{name}.bias", torch.zeros(len(rows)))
    put(model, f"layers.{layer}.attn.o.weight", o.flatten(0, 1).T)  # (d_model, head d_head)
    put(model, f"layers.{layer}.attn.o.bias", torch.zeros(o.shape[-1]))


def one_hot(rows: int, where: slice) -> Float[Tensor, "rows d_model"]:
    """Row i has its one at the i-th coordinate of the part `where` of the residual stream."""
    table = torch.zeros(rows, D_MODEL)
    table[:, where] = torch.eye(rows)
    return table
