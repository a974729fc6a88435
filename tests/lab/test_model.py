import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from scta_lab.base.spec import METHODS, SAMPLED
from scta_lab.methods.cosines import cosines
from scta_lab.methods.model import LanguageModel
from scta_lab.methods.samplers import SAMPLERS, log_q, log_unigram
from scta_lab.run.loop import optimizers
from scta_lite.losses import uniform


def build(spec, seed=0):
    torch.manual_seed(seed)
    return LanguageModel(spec).double()


def test_ce_loss_is_the_softmax_of_its_scores(tiny):
    model = build(tiny("ce"))
    hidden, target = torch.randn(9, 8).double(), torch.arange(9)
    expected = F.cross_entropy(model.head.scores(hidden), target)
    assert model.head.loss(hidden, target).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("mask_hits", [False, True])
def test_semantic_loss_is_made_of_its_scores(tiny, mask_hits):
    """The sampled loss equals a softmax over the columns of the full scores that were drawn."""
    spec = tiny(vocab=7, mask_hits=mask_hits, negatives=5)
    model = build(spec)
    hidden, target = torch.randn(9, 8).double(), torch.arange(9) % 7
    loss = model.head.loss(hidden, target, torch.Generator().manual_seed(1))
    drawn = uniform((9, 5), 7, generator=torch.Generator().manual_seed(1))
    assert (drawn == target[:, None]).any()
    columns = torch.cat([target[:, None], drawn], dim=1)
    scores = model.head.scores(hidden).gather(1, columns)
    if mask_hits:
        scores[:, 1:][drawn == target[:, None]] = -torch.inf
    assert loss.item() == pytest.approx(F.cross_entropy(scores, torch.zeros(9).long()).item(), rel=1e-12)


def test_scores_are_cosines_over_temperature(tiny):
    model = build(tiny(temperature=0.5))
    hidden = torch.randn(3, 8).double()
    z, e = model.head.project(hidden), model.head.table.weight
    expected = F.cosine_similarity(z[:, None], e[None], dim=-1) / 0.5
    torch.testing.assert_close(model.head.scores(hidden), expected)
    assert model.head.scores(hidden).abs().max() <= 2


class LargestOutput(TorchDispatchMode):
    """Remembers the operations whose result has a dimension of a given size."""

    def __init__(self, size):
        super().__init__()
        self.size, self.operations = size, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and self.size in out.shape:
            self.operations.append(str(function))
        return out


def test_nothing_in_the_semantic_forward_pass_is_of_size_v(tiny):
    for method, expected in (("semantic", False), ("ce", True)):
        model = build(tiny(method, vocab=977))
        with LargestOutput(977) as watch:
            model.head.loss(torch.randn(9, 8).double(), torch.arange(9), torch.Generator())
        assert bool(watch.operations) is expected, watch.operations


def test_positions_are_predicted_from_what_came_before(tiny):
    model = build(tiny("ce"))
    ids = torch.randint(300, (2, 6))
    hidden, target = model.positions(ids)
    assert hidden.shape == (10, 8)
    assert torch.equal(target.view(2, 5), ids[:, 1:])
    changed = ids.clone()
    changed[:, 3] += 1  # what comes later changes no earlier hidden state
    again = model.positions(changed % 300)[0].view(2, 5, 8)
    torch.testing.assert_close(again[:, :3], hidden.view(2, 5, 8)[:, :3], rtol=0, atol=0)
    assert not torch.equal(again[:, 3], hidden.view(2, 5, 8)[:, 3])


def test_init_std_scales_the_semantic_table(tiny):
    tables = [build(tiny(init_std=std)).head.table.weight.std().item() for std in (1.0, 0.02)]
    assert tables == [pytest.approx(1.0, rel=0.1), pytest.approx(0.02, rel=0.1)]


@pytest.mark.parametrize("log_unigram", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_chunked_ce_is_ce(tiny, monkeypatch, own, log_unigram):
    """torch's linear_cross_entropy and, where torch has none, our chunks; loss and gradients."""
    if own:
        monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    hidden, target = torch.randn(300, 8), torch.arange(300)
    losses, grads = [], []
    for method in ("ce", "ce_chunked"):
        torch.manual_seed(0)
        model = LanguageModel(tiny(method, log_unigram=log_unigram), torch.arange(300))
        h = hidden.clone().requires_grad_()
        loss = model.head.loss(h, target)
        loss.backward()
        losses.append(loss.item())
        grads.append((h.grad, model.head.weight.grad))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for chunked, whole in zip(*reversed(grads), strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("own", [False, True])
def test_chunked_ce_of_bfloat16_states_is_in_float32(tiny, monkeypatch, own):
    """Its loss and the sum over chunks: at 5.7 bfloat16 moves in steps of 0.03."""
    if own:
        monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    head = LanguageModel(tiny("ce_chunked")).head
    hidden, target = torch.randn(300, 8).bfloat16(), torch.arange(300)
    exact = F.cross_entropy(hidden.double() @ head.weight.double().T, target)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.loss(hidden, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=3e-3)


def test_low_rank_ce_is_the_softmax_of_the_semantic_scores(tiny):
    exact, semantic = (build(tiny(method)) for method in ("ce_lowrank", "semantic"))
    hidden, target = torch.randn(9, 8).double(), torch.arange(9)
    torch.testing.assert_close(exact.head.scores(hidden), semantic.head.scores(hidden))
    expected = F.cross_entropy(semantic.head.scores(hidden), target)
    assert exact.head.loss(hidden, target).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("log_u", [False, True])
@pytest.mark.parametrize("scores", ["cosine", "dot"])
def test_low_rank_scores_by_their_formula(tiny, scores, log_u):
    torch.manual_seed(0)
    counts = torch.arange(300)
    head = LanguageModel(tiny("ce_lowrank", scores=scores, log_unigram=log_u, temperature=0.5), counts).double().head
    hidden, target = torch.randn(9, 8).double(), torch.arange(9)
    z, rows = head.project(hidden), head.table.weight
    if scores == "cosine":
        z, rows = z / z.norm(dim=1, keepdim=True), rows / rows.norm(dim=1, keepdim=True)
    expected = z @ rows.T / 0.5 + (log_unigram(counts).float().double() if log_u else 0)
    torch.testing.assert_close(head.scores(hidden), expected)
    assert head.loss(hidden, target).item() == pytest.approx(F.cross_entropy(expected, target).item(), rel=1e-9)


@pytest.mark.parametrize("clusters", [{}, {"cutoffs": (10, 40, 200), "div_value": 2.0}], ids=["torch's", "other"])
def test_adaptive_softmax_ranks_by_frequency(tiny, clusters):
    counts = torch.randint(1000, (300,), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    head = LanguageModel(tiny("adaptive", hidden=16, **clusters), counts).head
    widths = [(cluster[0].out_features, cluster[1].out_features) for cluster in head.softmax.tail]
    assert widths == ([(8, 30), (4, 160), (2, 100)] if clusters else [(4, 27), (1, 270)])
    hidden, target = torch.randn(50, 16), torch.arange(50)
    scores = head.scores(hidden)
    torch.testing.assert_close(scores.logsumexp(1), torch.zeros(50), atol=1e-5, rtol=0)
    assert head.loss(hidden, target).item() == pytest.approx(F.cross_entropy(scores, target).item(), rel=1e-5)
    assert counts[head.rank.argsort()].diff().max() <= 0  # the more frequent, the nearer to the head


@pytest.mark.parametrize("method", [m for m in METHODS if m != "backbone"])
def test_bfloat16_leaves_the_gru_and_the_loss_in_float32(tiny, method):
    """On a GPU an autocast GRU is in float16; a loss near 10.8 would move in steps of 0.06 in bfloat16."""
    model = LanguageModel(tiny(method, hidden=16), torch.arange(300))
    ids = torch.randint(300, (2, 6))
    plain = model.loss(ids, torch.Generator().manual_seed(0)).item()
    with torch.autocast("cpu", torch.bfloat16):
        hidden, loss = model(ids), model.loss(ids, torch.Generator().manual_seed(0))
    assert (hidden.dtype, loss.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(hidden, model(ids), rtol=0, atol=0)
    loss.backward()
    assert loss.item() == pytest.approx(plain, rel=2e-2)


@pytest.mark.parametrize("optimizer", ["dense", "rows"])
def test_narrow_input_embeddings_are_led_to_the_backbone(tiny, optimizer):
    """All parts learn, and reading token by token gives what reading at once does."""
    spec, ids = tiny(input_dim=3, optimizer=optimizer), torch.randint(300, (2, 6))
    model = LanguageModel(spec)
    assert model.embed.weight.shape == (300, 3)
    trained_by = optimizers(spec, model)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    model.loss(ids, torch.Generator().manual_seed(0)).backward()
    for each in trained_by:
        each.step()
    after = model.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in ("embed.weight", "widen.weight"))
    with torch.no_grad():
        state, at_once = None, model(ids)
        for t in range(6):
            hidden, state = model.advance(ids[:, t : t + 1], state)
            torch.testing.assert_close(hidden, at_once[:, t])


def test_the_backbone_alone_keeps_its_rows(tiny):
    model = build(tiny("backbone"))
    before = model.embed.weight.clone()
    model.loss(torch.randint(300, (2, 6))).backward()
    assert model.embed.weight.grad is None
    assert all(p.grad is not None for p in model.backbone.parameters())
    assert torch.equal(model.embed.weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cosines_own_gradient_is_autograds(dtype):
    q, v = torch.randn(5, 4, dtype=dtype), torch.randn(5, 3, 4, dtype=dtype)
    v[0, 0] = v[0, 1]
    grads = []
    for cosine in (cosines, lambda a, b: F.cosine_similarity(a.unsqueeze(1), b, dim=-1)):
        leaves = [x.clone().requires_grad_() for x in (q, v)]
        (cosine(*leaves) * torch.arange(15).view(5, 3)).sum().backward()
        grads.append([x.grad for x in leaves])
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


COUNTS = torch.tensor([0, 40, 30, 20, 6, 3, 1])


def sampling_head(tiny, **settings):
    torch.manual_seed(0)
    return LanguageModel(tiny(vocab=7, **settings), COUNTS).double().head


SCORED = [(method, scores, False) for method in SAMPLED for scores in ("cosine", "dot")]
SCORED += [("sampled_softmax", scores, True) for scores in ("cosine", "dot")]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shared", [0, 4])
@pytest.mark.parametrize(("method", "scores", "log_u"), SCORED)
def test_a_sampled_loss_is_made_of_its_scores(tiny, method, scores, log_u, shared, sampler):
    """Of the full scores the columns drawn, with what each of the three losses does to them."""
    settings = {"scores": scores, "log_unigram": log_u}
    head = sampling_head(tiny, method=method, sampler=sampler, shared=shared, negatives=5, **settings)
    hidden, target = torch.randn(9, 8).double(), torch.arange(9) % 7
    loss = head.loss(hidden, target, torch.Generator().manual_seed(1))
    drawn, left_out = head.draw(target, torch.Generator().manual_seed(1))
    drawn = drawn.expand(9, -1)
    scores = head.scores(hidden)
    if method == "semantic_prior":  # whose prior is added only where all tokens are scored
        scores = scores - head.draw.log_q
    rivals = scores.gather(1, drawn)
    hits = drawn == target[:, None]
    if method == "sampled_softmax":
        rivals = rivals - head.draw.log_q[drawn] - math.log(drawn.shape[1])
        assert torch.equal(left_out, hits)
        rivals[hits] = -torch.inf
    elif sampler == "in_batch":  # only hits at a position's own place
        assert (left_out <= hits).all()
        assert left_out.sum() < hits.sum()
        rivals[left_out] = -torch.inf
    else:
        assert left_out is None
    expected = F.cross_entropy(torch.cat([scores.gather(1, target[:, None]), rivals], 1), torch.zeros(9).long())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    loss.backward()


def test_only_the_prior_is_added_to_the_scores(tiny):
    hidden = torch.randn(3, 8).double()
    plain, corrected, prior = (sampling_head(tiny, method=m).scores(hidden) for m in SAMPLED)
    torch.testing.assert_close(plain, corrected)
    torch.testing.assert_close(prior - plain, log_unigram(COUNTS).expand(3, -1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_heads_draw_from_their_q(tiny, sampler):
    head = sampling_head(tiny, method="semantic_prior", sampler=sampler, shared=100_000)
    q = log_q(sampler, COUNTS).exp()
    target = torch.arange(7).repeat_interleave(COUNTS)  # a batch with exactly the counts
    q = COUNTS / COUNTS.sum() if sampler == "in_batch" else q
    drawn, left_out = head.draw(target, torch.Generator().manual_seed(0))
    possible = q > 0
    expected = (q * len(drawn))[possible]
    seen = torch.bincount(drawn, minlength=7)[possible]
    assert ((seen - expected) ** 2 / expected).sum() < 30  # at most 6 degrees of freedom
    assert (left_out is not None) is (sampler == "in_batch")
    if sampler == "in_batch":  # each draw left out by the position that it came from, and by no other
        assert left_out.sum(0).eq(1).all()
        assert (drawn == target[:, None])[left_out].all()


def test_the_step_of_a_sampling_head_reads_nothing_of_size_v(tiny):
    for method in SAMPLED:
        model = build(tiny(method, vocab=977))
        with LargestOutput(977) as watch:
            model.head.loss(torch.randn(9, 8).double(), torch.arange(9), torch.Generator())
        assert not watch.operations, watch.operations
