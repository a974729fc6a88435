import math

import pytest
import reference
import torch
import torch.nn.functional as F

from scta_lab.methods.samplers import log_q, log_unigram, weighted
from scta_lite import contrastive_loss, cross_entropy, semantic_loss
from scta_lite.losses import log_uniform, uniform

N, V, d, D, K = 7, 23, 5, 6, 4


def tensors(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, N, 100])
def test_cross_entropy_chunked_is_the_plain_one(chunk):
    hidden, weight = tensors((N, d), (V, d))
    target = torch.arange(N) * 3 % V
    plain = cross_entropy(hidden, weight, target)
    chunked = cross_entropy(hidden, weight, target, chunk=chunk)
    assert chunked.item() == pytest.approx(plain.item(), abs=1e-13)
    assert plain.item() == pytest.approx(reference.cross_entropy(hidden, weight, target), abs=1e-12)
    for a, b in zip(gradients(plain, hidden, weight), gradients(chunked, hidden, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_cross_entropy_gradcheck():
    hidden, weight = tensors((3, d), (V, d))
    target = torch.tensor([0, 5, 22])
    assert torch.autograd.gradcheck(lambda h, w: cross_entropy(h, w, target, chunk=2), (hidden, weight))


@pytest.mark.parametrize("chunk", [0, -1])
def test_cross_entropy_bad_chunk(chunk):
    with pytest.raises(ValueError, match=f"chunk={chunk}: expected"):
        cross_entropy(*tensors((N, d), (V, d)), torch.zeros(N, dtype=torch.long), chunk=chunk)


@pytest.mark.parametrize("shape", [(N, K, D), (N, 1, D), (11, D), (1, D)])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_semantic_loss_is_its_slow_twin(shape, corrected, masked, temperature):
    query, positive, negatives = tensors((N, D), (N, D), shape)
    rivals = shape[-2]
    log_q = (torch.rand(N).double().log(), torch.rand(shape[:-1]).double().log()) if corrected else None
    hits = (torch.rand(N, rivals, generator=torch.Generator().manual_seed(1)) < 0.3) if masked else None
    ours = semantic_loss(query, positive, negatives, temperature=temperature, log_q=log_q, hits=hits)
    twin = reference.semantic_loss(query, positive, negatives, temperature, log_q, hits)
    assert ours.item() == pytest.approx(twin, rel=1e-12, abs=1e-12)


def test_semantic_loss_with_duplicates_and_collisions():
    query, table = tensors((N, D), (V, D))
    target = torch.arange(N)
    negatives = torch.tensor([[t, t, 5, 5] for t in range(N)])  # the target itself, twice, and another token twice
    ours = semantic_loss(query, table[target], table[negatives])
    assert ours.item() == pytest.approx(reference.semantic_loss(query, table[target], table[negatives]), rel=1e-12)
    hits = negatives == target[:, None]
    masked = semantic_loss(query, table[target], table[negatives], hits=hits)
    assert masked.item() < ours.item()
    assert masked.item() == pytest.approx(reference.semantic_loss(query, table[target], table[negatives], hits=hits))


@pytest.mark.parametrize("shape", [(3, K, D), (5, D)])
def test_semantic_loss_gradcheck(shape):
    inputs = tensors((3, D), (3, D), shape)
    hits = torch.zeros(3, shape[-2], dtype=torch.bool)
    hits[0, 1] = True
    assert torch.autograd.gradcheck(lambda q, p, n: semantic_loss(q, p, n, temperature=0.5, hits=hits), inputs)


def test_all_other_tokens_as_negatives_give_cross_entropy():
    """K = V - 1 without replacement: the same loss and the same gradients as the softmax over all of V."""
    query, table = tensors((N, D), (V, D))
    target = torch.arange(N) * 3 % V
    others = torch.stack([torch.tensor([i for i in range(V) if i != y]) for y in target.tolist()])  # (N, V-1)
    sampled = semantic_loss(query, table[target], table[others])
    exact = F.cross_entropy(F.normalize(query, dim=-1) @ F.normalize(table, dim=-1).T / 0.07, target)
    assert sampled.item() == pytest.approx(exact.item(), rel=1e-13)
    for a, b in zip(gradients(sampled, query, table), gradients(exact, query, table), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_every_hit_masked_leaves_no_loss_and_finite_gradients():
    inputs = tensors((N, D), (N, D), (N, K, D))
    loss = semantic_loss(*inputs, hits=torch.ones(N, K, dtype=torch.bool))
    assert loss.item() == 0
    assert all(torch.isfinite(g).all() for g in gradients(loss, *inputs))


def test_zero_vectors_have_cosine_zero_and_finite_gradients():
    inputs = [torch.zeros(shape, requires_grad=True) for shape in ((N, D), (N, D), (N, K, D))]
    loss = semantic_loss(*inputs)
    assert loss.item() == pytest.approx(math.log(K + 1))
    assert all(torch.isfinite(g).all() for g in gradients(loss, *inputs))


def test_log_q_equal_on_both_sides_cancels_and_is_subtracted():
    positive, negatives = tensors((N,), (N, K))
    plain = contrastive_loss(positive, negatives)
    same = contrastive_loss(positive, negatives, log_q=(torch.full((N,), -3.0), torch.full((N, K), -3.0)))
    assert same.item() == pytest.approx(plain.item(), rel=1e-13)
    rarer = contrastive_loss(positive, negatives, log_q=(torch.full((N,), -3.0), torch.full((N, K), -1.0)))
    assert rarer.item() < plain.item()  # a rarer positive counts for more


@pytest.mark.parametrize("seed", range(5))
def test_float32_is_no_worse_than_plain_float32(seed):
    """The error against float64 may not exceed that of the formula written plainly in float32, plus a little."""
    query, positive, negatives = tensors((64, D), (64, D), (64, 32, D), dtype=torch.float32, seed=seed)
    exact = semantic_loss(query.double(), positive.double(), negatives.double()).item()
    z, e, n = (x / x.norm(dim=-1, keepdim=True) for x in (query, positive, negatives))
    top = ((z * e).sum(-1) / 0.07).exp()
    plain = -(top / (top + ((z[:, None] * n).sum(-1) / 0.07).exp().sum(-1))).log().mean().item()
    assert abs(semantic_loss(query, positive, negatives).item() - exact) <= abs(plain - exact) + 2e-6


@pytest.mark.parametrize(("sampler", "q"), [
    (uniform, lambda i, V: 1 / V),
    (log_uniform, lambda i, V: math.log((i + 2) / (i + 1)) / math.log(V + 1)),
])  # fmt: skip
def test_samplers_draw_from_their_distribution(sampler, q):
    n, vocab = 200_000, 50
    ids = sampler((n // 8, 8), vocab, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([q(i, vocab) for i in range(vocab)], dtype=torch.float64) * n
    assert expected.sum().item() == pytest.approx(n)
    chi_squared = ((torch.bincount(ids.flatten(), minlength=vocab) - expected) ** 2 / expected).sum().item()
    assert chi_squared < 100  # 49 degrees of freedom: mean 49, standard deviation 10


@pytest.mark.parametrize("sampler", [uniform, log_uniform])
def test_samplers_repeat_with_the_generator(sampler):
    draws = [sampler((4, 5), 1000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (4, 5)


def test_weighted_draws_follow_their_weights():
    counts = torch.tensor([0, 900, 30, 0, 70])
    for sampler in ("unigram", "unigram^0.75", "log_uniform", "uniform"):
        q = log_q(sampler, counts).exp()
        assert q.sum().item() == pytest.approx(1)
        ids = weighted((50_000, 4), q.cumsum(0), generator=torch.Generator().manual_seed(0))
        expected = q * ids.numel()
        chi_squared = ((torch.bincount(ids.flatten(), minlength=5) - expected) ** 2 / expected).sum().item()
        assert chi_squared < 25, sampler  # 4 degrees of freedom: once in 20,000


def test_what_each_q_is():
    counts = torch.tensor([0, 900, 30, 0, 70])
    unigram = (counts + 0.1) / 1000.5
    torch.testing.assert_close(log_unigram(counts).exp(), unigram.double())
    torch.testing.assert_close(log_q("unigram", counts), log_unigram(counts))
    torch.testing.assert_close(log_q("in_batch", counts), log_unigram(counts))
    torch.testing.assert_close(log_q("unigram^0.75", counts).exp(), (unigram**0.75 / (unigram**0.75).sum()).double())
    by_rank = torch.tensor([math.log((r + 2) / (r + 1)) / math.log(6) for r in (3, 0, 2, 4, 1)]).double()
    torch.testing.assert_close(log_q("log_uniform", counts).exp(), by_rank)


def test_a_weight_of_zero_is_never_drawn():
    ids = weighted((10_000,), torch.tensor([0.0, 1, 0, 1, 0]).double().cumsum(0))
    assert set(ids.tolist()) == {1, 3}


LANGUAGE = torch.tensor([[0.5, 0.3, 0.1, 0.06, 0.04], [0.02, 0.08, 0.2, 0.3, 0.4]]).double()  # p(y | x), two contexts
Q = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).double()


def learnt(estimator, S):
    """p(y | x) that scores s(x, y), one free number each, arrive at with S shared negatives a step."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    average = torch.zeros_like(scores.detach())
    x = torch.arange(2).repeat_interleave(512)
    for step in range(1500):
        target = torch.multinomial(LANGUAGE, 512, replacement=True, generator=generator).flatten()
        drawn = weighted((S,), Q.cumsum(0), generator=generator)
        hits = drawn == target[:, None] if estimator != "PMI" else None
        correction = (torch.zeros(len(target)), (S * Q[drawn]).log()) if estimator == "sampled softmax" else None
        loss = contrastive_loss(scores[x, target], scores[x][:, drawn], log_q=correction, hits=hits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average += scores.detach() / 1000 * (step >= 500)
    return (average if correction else average + Q.log()).softmax(1)


@pytest.mark.parametrize(("estimator", "S", "recovers"), [
    ("PMI", 16, True),
    ("sampled softmax", 256, True),
    ("masked PMI", 16, False),
])  # fmt: skip
def test_a_toy_language_is_recovered(estimator, S, recovers):
    """Within 2%: of both consistent estimators, and not of the third that one might think of."""
    worst = (learnt(estimator, S) - LANGUAGE).abs().max().item()
    assert (worst < 0.02) is recovers, worst


def test_the_sampled_softmaxs_mean_gradient_tends_to_cross_entropys():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 40, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.arange(6)
    q = torch.rand(40, generator=generator, dtype=torch.float64) + 0.2
    q /= q.sum()
    exact = gradients(F.cross_entropy(scores, target), scores)[0]

    def error(S, sign=1, draws=3000):
        x = torch.arange(6).repeat_interleave(draws)
        drawn = weighted((len(x), S), q.cumsum(0), generator=generator)
        correction = (torch.zeros(len(x)), sign * (S * q[drawn]).log())
        loss = contrastive_loss(scores[x, target[x]], scores[x].gather(1, drawn), log_q=correction,
                                hits=drawn == target[x, None])  # fmt: skip
        return ((gradients(loss, scores)[0] - exact).norm() / exact.norm()).item()

    errors = [error(S) for S in (4, 32, 256)]
    assert errors[0] > 2 * errors[1] > 6 * errors[2]
    assert errors[2] < 0.015
    assert error(256, sign=-1) > 0.1


def plainly(query, positive, negatives, temperature=0.07):
    """The loss by plain operations, of which autograd knows every derivative."""
    z, p, n = (F.normalize(x, dim=-1) for x in (query, positive, negatives))
    rivals = torch.einsum("nd,nkd->nk", z, n) if n.dim() == 3 else z @ n.T
    scores = torch.cat([(z * p).sum(1, keepdim=True), rivals], dim=1) / temperature
    return F.cross_entropy(scores, torch.zeros(len(z), dtype=torch.long))


@pytest.mark.parametrize("shape", [(N, K, D), (11, D)])
def test_a_gradient_penalty_has_the_right_gradient(shape):
    """The second derivative with respect to every argument; it was wrong without a word for negatives of one's own."""
    inputs = tensors((N, D), (N, D), shape)
    found = []
    for loss in (semantic_loss, plainly):
        first = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
        found.append(gradients(sum(g.square().sum() for g in first), *inputs))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradgradcheck(lambda *x: semantic_loss(*x, temperature=0.5), inputs)


def test_transforms_of_functions():
    query, positive, negatives = (x.detach() for x in tensors((3, N, D), (N, D), (3, N, K, D)))
    for i in range(3):
        grad = torch.func.grad(semantic_loss, argnums=(0, 1, 2))(query[i], positive, negatives[i])
        inputs = [x.clone().requires_grad_() for x in (query[i], positive, negatives[i])]
        for ours, expected in zip(grad, gradients(plainly(*inputs), *inputs), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    mapped = torch.func.vmap(semantic_loss, in_dims=(0, None, 0))(query, positive, negatives)
    expected = [semantic_loss(query[i], positive, negatives[i]) for i in range(3)]
    torch.testing.assert_close(mapped, torch.stack(expected))
    whole = torch.func.vmap(torch.func.grad(semantic_loss), in_dims=(0, None, None))(query, positive, negatives[0])
    torch.testing.assert_close(whole[1], torch.func.grad(plainly)(query[1], positive, negatives[0]))


@pytest.mark.parametrize("shape", [(N, K, D), (11, D)])
def test_compiled_without_a_break(shape):
    inputs = tensors((N, D), (N, D), shape)
    compiled = torch.compile(semantic_loss, fullgraph=True, backend="aot_eager")
    ours = gradients(compiled(*inputs), *inputs)
    for a, b in zip(ours, gradients(semantic_loss(*inputs), *inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_negatives_that_outweigh_the_positive_in_float64():
    """By more than e^20, where torch's softplus takes x for log(1 + e^x) and is off by up to 2e-9."""
    for gap in (19.0, 20.5, 25.0, 45.0, 800.0):
        loss = contrastive_loss(torch.zeros(1).double(), torch.full((1, 1), gap).double()).item()
        assert loss == pytest.approx(gap + math.log1p(math.exp(-gap)), rel=1e-15)
    query, positive, negatives = tensors((200, D), (200, D), (200, K, D))
    exact = reference.semantic_loss(query, positive, negatives)
    assert semantic_loss(query, positive, negatives).item() == pytest.approx(exact, abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_chunks_of_half_precision_are_summed_in_float32(dtype):
    hidden, weight = torch.zeros(9000, 4, dtype=dtype), torch.randn(2000, 4).to(dtype)
    loss = cross_entropy(hidden, weight, torch.arange(9000) % 2000, chunk=64)
    assert loss.item() == pytest.approx(math.log(2000), rel=1e-6)


@pytest.mark.parametrize("chunk", [None, 2, 3, 100])
def test_ignored_targets_count_for_nothing(chunk):
    hidden, weight = tensors((N, d), (V, d))
    target = torch.tensor([1, -100, 3, -100, -100, 8, 0])
    kept = target != -100
    loss = cross_entropy(hidden, weight, target, chunk=chunk)
    assert loss.item() == pytest.approx(reference.cross_entropy(hidden[kept], weight, target[kept]), abs=1e-12)
    expected = F.cross_entropy(hidden @ weight.T, target)
    for a, b in zip(gradients(loss, hidden, weight), gradients(expected, hidden, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    none = torch.full((N,), -100)
    assert math.isnan(F.cross_entropy(hidden @ weight.T, none))  # torch's mean over nothing
    assert math.isnan(cross_entropy(hidden, weight, none, chunk=chunk))


def test_sums_of_half_precision_are_in_float32():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=generator) for n in (512, 3000))
    target = torch.randint(3000, (512,), generator=generator)
    half = [x.bfloat16() for x in (hidden, weight)]
    exact = cross_entropy(*(x.double() for x in half), target)
    for chunk in (None, 100):
        loss = cross_entropy(*half, target, chunk=chunk)
        assert loss.dtype == torch.float32
        assert abs(loss - exact) < 5e-3
    many = contrastive_loss(torch.zeros(1).half(), torch.zeros(1, 70_000).half())
    assert many.item() == pytest.approx(math.log(70_001), rel=1e-6)


def test_a_positive_that_is_never_drawn_is_refused():
    log_q = (torch.tensor([0.0, -math.inf]), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"^log_q\[0\] with -inf: expected a sampler that may draw every positive"):
        contrastive_loss(torch.zeros(2), torch.zeros(2, 3), log_q=log_q)
